"""Torch dispatch mode that records every ATen operation of one forward pass as a `Layer`.

A tensor that depends on the image is "flowing"; its source is the row that made it. A tensor made from parameters
alone is still the parameter. Made by a function, so that torch is only imported when a network is traced.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hw_models.errors import WorkloadError
from hw_models.workload.aten_ops import KIND, MADE, PLAIN, VIEWS, geometry, has_bias
from hw_models.workload.layer import CONTRACTIONS, INPUT, Layer


def probe(network: Any, shapes: tuple[tuple[int, ...], ...]) -> tuple[Any, ...]:
    """One image of zeros per input, that fits the network's device and number type."""
    import torch

    first = next(network.parameters(), torch.zeros(0))
    return tuple(torch.zeros((1, *shape), device=first.device, dtype=first.dtype) for shape in shapes)


def recorder() -> Any:
    """A dispatch mode that turns each ATen operation into a `Layer` (a closure: torch stays lazy)."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry

    harmless = {torch.Tag.pointwise, torch.Tag.reduction}

    class Recorder(TorchDispatchMode):
        def run(self, model: Any, shapes: tuple[tuple[int, ...], ...], original: Any) -> list[Layer]:
            """Rows of `model` on one image; `original`, the same network, has the values of its buffers."""
            images = probe(model, shapes)
            self.rows: list[Layer] = []
            self.unknown: set[str] = set()
            self.apart: set[str] = set()
            self.values = {id(mine): real for mine, real in zip(model.buffers(), original.buffers(), strict=True)}
            self.unpadded: dict[int, Any] = {}  # a tensor padded at its ends only -> its shape before
            self.path = [""]
            self.used = Counter[str]()
            self.source: dict[int, str] = {id(image): INPUT for image in images}
            self.trained: dict[str, bool] = {INPUT: False}  # has a parameter upstream
            self.alive = [*images, *model.parameters()]  # keep tensors, so that an id is never reused
            self.leaves = {n for n, m in model.named_modules() if n and not any(m.children())}
            self.parameters = {id(p): p.numel() for p in model.parameters()}
            self.owner = {i: i for i in self.parameters}
            self.counted: set[int] = set()
            hooks = []
            for name, module in model.named_modules():
                hooks += [
                    module.register_forward_pre_hook(lambda m, a, name=name: self.path.append(name)),
                    module.register_forward_hook(self.leave),
                ]
            try:
                with torch.no_grad(), self:
                    out = model(*images)
            finally:
                for hook in hooks:
                    hook.remove()
            last = next((t for t in tree_leaves(out) if isinstance(t, torch.Tensor)), None)
            if last is not None:
                n = last.numel()
                self.rows.append(
                    Layer(
                        "loss",
                        "loss",
                        inputs=n,
                        outputs=n,
                        channels=(n, n),
                        sources=tuple(s for s in [self.source.get(id(last))] if s),
                    )
                )
            return self.rows

        def leave(self, module: Any, args: Any, output: Any) -> None:
            self.path.pop()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            name = func.overloadpacket.__name__
            name = name.removesuffix("_") if name != "_" else name
            tensors = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, torch.Tensor)]
            made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
            self.alive += made
            flowing = [t for t in tensors if id(t) in self.source]
            held = [t for t in tensors if id(t) in self.owner]
            if held and not flowing and KIND.get(name) in CONTRACTIONS:
                self.apart.add(f"{name} in {self.path[-1] or '(root)'}")
            if not flowing:  # a view of a parameter, or a weight computed from one, is still that parameter
                for t in made if held else ():
                    self.owner[id(t)] = self.owner[id(held[0])]
            elif made and name not in MADE:
                origin = self.source[id(flowing[0])]
                if name not in VIEWS:
                    self.learn(name, func)
                    self.rows.append(self.row(name, args, held, flowing, made[0]))
                    origin = self.rows[-1].name
                for t in made:
                    self.source[id(t)] = origin
            return result

        def learn(self, name: str, func: Any) -> None:
            """Refuse an operation whose MACs have no row, record one that is unknown."""
            if name in KIND or name in PLAIN or harmless & set(func.tags):
                return
            if func.overloadpacket in flop_registry:
                raise WorkloadError(
                    f"layer {self.path[-1] or '(root)'!r}: {name} has MACs that the layer table has no "
                    "form for; write it as convolutions, matrix products or attention"
                )
            self.unknown.add(f"{name} in {self.path[-1] or '(root)'}")

        def picked(self, name: str, args: Any, x: Any, out: Any) -> int:
            """Elements that a selection reads of its one input."""
            index = self.values.get(id(args[2])) if name == "index_select" else None
            if index is None or index.is_meta:
                return min(x.numel(), out.numel())
            there = self.unpadded.get(id(x), x.shape)[args[1]]
            return int((index < there).sum()) * (out.numel() // max(len(index), 1))

        def row(self, name: str, args: Any, held: Any, flowing: Any, out: Any) -> Layer:
            path = self.path[-1]
            kind = KIND.get(name, "other")
            own = {self.owner[id(t)] for t in held}
            fresh = sum(self.parameters[i] for i in own - self.counted)  # shared weights count once
            self.counted |= own
            sources = tuple(dict.fromkeys(self.source[id(t)] for t in flowing))
            trained = any(self.trained[s] for s in sources)
            label = self.unique(path, name)
            x = flowing[0]
            shape = geometry(name, kind, args, x, out)
            if kind in ("linear", "matmul"):  # two activations: both operands differ from image to image
                kind = "linear" if held or len(flowing) == 1 else "matmul"
            inputs = sum(t.numel() for t in flowing)
            if kind == "select" and len(flowing) == 1:
                inputs = self.picked(name, args, x, out)
                if name == "constant_pad_nd" and not any(args[1][::2]):
                    self.unpadded[id(out)] = x.shape
            self.trained[label] = trained or bool(held)
            return Layer(
                label,
                kind,
                inputs=inputs,
                outputs=out.numel(),
                weights=fresh,
                first=not trained,
                sources=sources,
                bias=kind in CONTRACTIONS and has_bias(name, args),
                op=path if kind in CONTRACTIONS else name,
                **shape,
            )

        def unique(self, path: str, name: str) -> str:
            """The path of a leaf module; functional calls get their operation's name after the path."""
            if path in self.leaves and not self.used[path]:
                label = path
            else:
                label = f"{path}.{name}" if path else name
            self.used[label] += 1
            return label if self.used[label] == 1 else f"{label}#{self.used[label]}"

    return Recorder()
