"""A network -> the table of its layers.

The network runs once on the `meta` device (shapes, no arithmetic) while a dispatch mode sees every ATen
operation, so functional operations (`F.relu`, `+`, `torch.cat`, `index_add`) become rows like modules do
and nothing is dropped silently: an operation this file does not know is a row of kind "other" with its
memory traffic. MACs of convolutions and matrix products come from fvcore, which counts one multiply-
accumulate as one "flop"; they are held against the closed formula on the seen geometry, and a
disagreement is an error. Geometry cannot come from fvcore: its graph no longer knows stride and padding.

The pass is made in evaluation mode: auxiliary heads that only exist in training are not seen.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import Any

from hw_models.aten import KIND, MADE, VIEWS, geometry, has_bias
from hw_models.errors import WorkloadError
from hw_models.layer import CONTRACTIONS, INPUT, Layer


def trace(model: Any, input_shape: tuple[int, ...], *, check: bool = True) -> list[Layer]:
    """The rows of `model` for one image of `input_shape` (C, H, W), a "loss" row at the end.

    `check` compares every layer's MACs with fvcore's count (about a second for 100 layers).
    Raises `WorkloadError` if the network does not run on that shape or the two counts differ.
    """
    shape = tuple(int(n) for n in input_shape)
    try:
        network = _blank(model, "meta")
        rows = _recorder().run(network, shape)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AssertionError):
        network = copy.deepcopy(model).cpu().eval()  # forwards that read values need real tensors
        try:
            rows = _recorder().run(network, shape)
        except Exception as error:
            raise WorkloadError(
                f"the network does not run on one image of shape {shape}: {error}") from error
    if check:
        _check(rows, fvcore_macs(model, shape))
    return rows


def _blank(model: Any, device: str) -> Any:
    """A copy in evaluation mode on `device` whose parameters are zeros: no weights are copied."""
    import torch

    memo: dict[int, Any] = {
        id(p): torch.nn.Parameter(torch.zeros_like(p, device=device), requires_grad=False)
        for p in model.parameters()}
    memo |= {id(b): b.detach().to(device) for b in model.buffers()}
    return copy.deepcopy(model, memo).eval()


def _probe(network: Any, shape: tuple[int, ...]) -> Any:
    """One image of zeros that fits the network's device and number type."""
    import torch

    first = next(network.parameters(), torch.zeros(0))
    return torch.zeros((1, *shape), device=first.device, dtype=first.dtype)


def fvcore_macs(model: Any, input_shape: tuple[int, ...]) -> dict[str, int]:
    """fvcore's MACs by module name, convolutions and matrix products only (the only use of fvcore)."""
    from fvcore.nn import FlopCountAnalysis

    loggers = [logging.getLogger(n) for n in ("fvcore.nn.jit_analysis", "fvcore")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        network = _blank(model, "cpu")  # its jit trace cannot use the meta device
        analysis = FlopCountAnalysis(network, _probe(network, input_shape))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        by_module = analysis.by_module_and_operator()
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
    wanted = ("conv", "addmm", "linear", "matmul", "bmm", "baddbmm", "mm")
    own = {name: sum(int(ops.get(op, 0)) for op in wanted) for name, ops in by_module.items()}
    children = Counter[str]()
    for name in own:  # by_module totals include the children; a row belongs to the innermost module
        if name:
            children[_parent(name, own)] += own[name]
    return {name: own[name] - children[name] for name in own if own[name] - children[name]}


def _parent(name: str, known: dict[str, int]) -> str:
    while "." in name:
        name = name.rpartition(".")[0]
        if name in known:
            return name
    return ""


def _check(rows: list[Layer], fvcore: dict[str, int]) -> None:
    seen = Counter[str]()
    for row in rows:
        if row.kind in CONTRACTIONS:
            seen[row.op] += row.macs
    for name in seen | Counter(fvcore):
        if seen[name] != fvcore.get(name, 0):
            raise WorkloadError(
                f"layer {name or '(root)'!r}: {seen[name]} MACs by shape, {fvcore.get(name, 0)} by fvcore. "
                "Trace with check=False to go on with the count by shape, and report the layer.")


def _recorder() -> Any:
    """A dispatch mode that turns each ATen operation into a `Layer` (a closure: torch stays lazy)."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Recorder(TorchDispatchMode):
        def run(self, model: Any, shape: tuple[int, ...]) -> list[Layer]:
            image = _probe(model, shape)
            self.rows: list[Layer] = []
            self.path = [""]
            self.used = Counter[str]()
            self.source: dict[int, str] = {id(image): INPUT}
            self.trained: dict[str, bool] = {INPUT: False}  # has a parameter upstream
            self.alive = [image, *model.parameters()]  # keep tensors, so that an id is never reused
            self.leaves = {n for n, m in model.named_modules() if n and not any(m.children())}
            self.parameters = {id(p): p.numel() for p in model.parameters()}
            self.owner = {i: i for i in self.parameters}
            self.counted: set[int] = set()
            hooks = []
            for name, module in model.named_modules():
                hooks += [module.register_forward_pre_hook(lambda m, a, name=name: self.path.append(name)),
                          module.register_forward_hook(self.leave)]
            try:
                with torch.no_grad(), self:
                    out = model(image)
            finally:
                for hook in hooks:
                    hook.remove()
            last = next((t for t in tree_leaves(out) if isinstance(t, torch.Tensor)), None)
            if last is not None:
                n = last.numel()
                self.rows.append(Layer("loss", "loss", inputs=n, outputs=n, channels=(n, n),
                                       sources=tuple(s for s in [self.source.get(id(last))] if s)))
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
            if not flowing:  # a view of a parameter, or a weight computed from one, is still that parameter
                for t in made if held else ():
                    self.owner[id(t)] = self.owner[id(held[0])]
            elif made and name not in MADE:
                origin = self.source[id(flowing[0])]
                if name not in VIEWS:
                    self.rows.append(self.row(name, args, held, flowing, made[0]))
                    origin = self.rows[-1].name
                for t in made:
                    self.source[id(t)] = origin
            return result

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
            if kind == "matmul" and held:
                kind = "linear"
            self.trained[label] = trained or bool(held)
            return Layer(label, kind, inputs=sum(t.numel() for t in flowing), outputs=out.numel(),
                         weights=fresh, first=not trained, sources=sources,
                         bias=kind in CONTRACTIONS and has_bias(name, args),
                         op=path if kind in CONTRACTIONS else name, **shape)

        def unique(self, path: str, name: str) -> str:
            """The path of a leaf module; functional calls get their operation's name after the path."""
            if path in self.leaves and not self.used[path]:
                label = path
            else:
                label = f"{path}.{name}" if path else name
            self.used[label] += 1
            return label if self.used[label] == 1 else f"{label}#{self.used[label]}"

    return Recorder()
