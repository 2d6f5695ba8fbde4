"""A network -> the table of its layers.

The network runs once on the `meta` device (shapes, no arithmetic) while a dispatch mode sees every ATen operation,
so functional operations (`F.relu`, `+`, `torch.cat`, `index_add`) become rows like modules do and nothing is dropped
silently: an operation this file does not know is a row of kind "other" with its memory traffic, and a warning names it
unless it is known to multiply nothing. Attention is traced as the two batched products and the softmax that define it.
MACs of convolutions and matrix products come from fvcore, which counts one multiply-accumulate as one "flop"; they are
held against the closed formula on the seen geometry, and a disagreement is an error. Geometry cannot come from fvcore:
its graph no longer knows stride and padding.

The pass is made in evaluation mode: auxiliary heads that only exist in training are not seen.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hw_models.aten import KIND, MADE, PLAIN, VIEWS, geometry, has_bias
from hw_models.errors import WorkloadError, WorkloadWarning
from hw_models.layer import CONTRACTIONS, INPUT, Layer


def trace(model: Any, input_shape: tuple[int, ...], *, check: bool = True) -> list[Layer]:
    """The rows of `model` for one image of `input_shape` (C, H, W), a "loss" row at the end.

    `check` compares every layer's MACs with fvcore's count (about a second for 100 layers).
    Raises `WorkloadError` if the network does not run on that shape, the two counts differ, or an operation has MACs
    that the table has no form for. Warns (`WorkloadWarning`) of operations that it does not know.
    """
    shape = tuple(int(n) for n in input_shape)
    with _plain_attention():
        try:
            network = _blank(model, "meta")
            recorder = _recorder()
            rows = recorder.run(network, shape, model)
        except WorkloadError:
            raise
        except (RuntimeError, NotImplementedError, ValueError, TypeError, AssertionError):
            network = copy.deepcopy(model).cpu().eval()  # forwards that read values need real tensors
            recorder = _recorder()
            try:
                rows = recorder.run(network, shape, model)
            except WorkloadError:
                raise
            except Exception as error:
                raise WorkloadError(
                    f"the network does not run on one image of shape {shape}: {error}") from error
        if recorder.unknown:
            warnings.warn(f"{', '.join(sorted(recorder.unknown))}: not known to the layer table, counted as memory "
                          "traffic without MACs; if they multiply, MACs and energies are too low", WorkloadWarning,
                          stacklevel=2)
        if recorder.apart:
            warnings.warn(f"{', '.join(sorted(recorder.apart))}: multiplies parameters with constants, once per step "
                          "and not per image; not in the layer table", WorkloadWarning, stacklevel=2)
        if check:
            _check(rows, fvcore_macs(model, shape))
    return _folded(rows)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention and transformer layers as the operations that define them, not as one fused kernel."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _folded(rows: list[Layer]) -> list[Layer]:
    """One row for "pad with a channel of zeros, then pick channels": the zeros are an address, not a copy."""
    readers = Counter(source for row in rows for source in row.sources)
    pads = {row.name: row for row in rows if row.op == "constant_pad_nd" and readers[row.name] == 1}
    renamed: dict[str, str] = {}
    out: list[Layer] = []
    for row in rows:
        pad = pads.get(row.sources[0]) if row.op == "index_select" and len(row.sources) == 1 else None
        row = replace(row, sources=tuple(renamed.get(s, s) for s in row.sources))
        if pad is not None:
            out.remove(pad)
            renamed[row.name] = pad.name
            row = replace(row, name=pad.name, sources=pad.sources, channels=(pad.channels[0], row.channels[1]),
                          size=pad.size, inputs=min(row.inputs, pad.inputs))
        out.append(row)
    return out


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
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
        by_module = analysis.by_module_and_operator()
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
    wanted = ("conv", "addmm", "linear", "matmul", "bmm", "baddbmm", "mm", "einsum", "scaled_dot_product_attention")
    own = {name: sum(int(ops.get(op, 0)) for op in wanted) for name, ops in by_module.items()}
    children = Counter[str]()
    for name in own:  # by_module totals include the children; a row belongs to the innermost module
        if name:
            children[_parent(name, own)] += own[name]
    return {name: own[name] - children[name] for name in own if own[name] - children[name]}


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """MACs of softmax(Q K^T) V from the sizes in fvcore's graph: each query meets every key, then every value."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    heads = 1
    for n in q[:-2]:
        heads *= n
    return heads * q[-2] * k[-2] * (q[-1] + v[-1])


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
    from torch.utils.flop_counter import flop_registry

    harmless = {torch.Tag.pointwise, torch.Tag.reduction}

    class Recorder(TorchDispatchMode):
        def run(self, model: Any, shape: tuple[int, ...], original: Any) -> list[Layer]:
            """Rows of `model` on one image; `original`, the same network, has the values of its buffers."""
            image = _probe(model, shape)
            self.rows: list[Layer] = []
            self.unknown: set[str] = set()
            self.apart: set[str] = set()
            self.values = {id(mine): real for mine, real in zip(model.buffers(), original.buffers(), strict=True)}
            self.unpadded: dict[int, Any] = {}  # a tensor padded at its ends only -> its shape before
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
            """Refuse an operation whose MACs have no row, remember one that nobody knows."""
            if name in KIND or name in PLAIN or harmless & set(func.tags):
                return
            if func.overloadpacket in flop_registry:
                raise WorkloadError(f"layer {self.path[-1] or '(root)'!r}: {name} has MACs that the layer table has no "
                                    "form for; write it as convolutions, matrix products or attention")
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
            return Layer(label, kind, inputs=inputs, outputs=out.numel(),
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
