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
from math import prod
from typing import Any

from hw_models.errors import WorkloadError
from hw_models.layer import CONTRACTIONS, INPUT, Layer, conv_macs

# ATen name (without a trailing "_") -> kind of row
_KIND = {
    "convolution": "conv", "addmm": "linear", "mm": "matmul", "bmm": "matmul", "baddbmm": "matmul",
    "native_batch_norm": "bn", "cudnn_batch_norm": "bn", "_native_batch_norm_legit": "bn",
    "_native_batch_norm_legit_no_training": "bn", "_batch_norm_no_update": "bn",
    "native_layer_norm": "bn", "native_group_norm": "bn",
    "relu": "relu", "hardtanh": "relu", "leaky_relu": "relu", "threshold": "relu",
    "clamp": "relu", "clamp_min": "relu",
    "sigmoid": "activation", "silu": "activation", "gelu": "activation", "tanh": "activation",
    "elu": "activation", "hardswish": "activation", "hardsigmoid": "activation",
    "_softmax": "activation", "_log_softmax": "activation", "softplus": "activation",
    "max_pool2d_with_indices": "maxpool", "adaptive_max_pool2d": "maxpool",
    "max_pool3d_with_indices": "maxpool",
    "avg_pool2d": "avgpool", "avg_pool3d": "avgpool", "_adaptive_avg_pool2d": "avgpool",
    "mean": "avgpool", "sum": "avgpool",
    "add": "add", "sub": "add", "mul": "mul", "div": "mul", "cat": "concat", "stack": "concat",
    "index_select": "select", "index": "select", "index_add": "select", "index_copy": "select",
    "index_put": "select", "constant_pad_nd": "select", "gather": "select",
    "scatter_add": "select", "_unsafe_index": "select", "native_dropout": "dropout",
}
# operations that move no data of their own: views of their first tensor ...
_VIEWS = {
    "view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "squeeze", "unsqueeze",
    "select", "slice", "split", "split_with_sizes", "chunk", "unbind", "detach", "alias", "as_strided",
    "lift_fresh", "narrow", "diagonal", "_to_copy",
}
# ... and tensors made from nothing
_MADE = {
    "empty", "zeros", "ones", "full", "arange", "zeros_like", "ones_like", "empty_like", "full_like",
    "new_zeros", "new_empty", "new_full", "new_ones", "scalar_tensor", "empty_strided", "fill", "zero",
}


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
            self.alive = [image]  # keep tensors, so that an id is never reused
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
            if name in _VIEWS:
                for t in made:
                    if flowing:
                        self.source[id(t)] = self.source[id(flowing[0])]
                    elif tensors and id(tensors[0]) in self.parameters:  # still that parameter
                        self.parameters[id(t)] = self.parameters[id(tensors[0])]
                        self.owner[id(t)] = self.owner[id(tensors[0])]
            elif name in _MADE:
                pass
            elif flowing and made:
                row = self.row(name, args, tensors, flowing, made[0])
                self.rows.append(row)
                for t in made:
                    self.source[id(t)] = row.name
            return result

        def row(self, name: str, args: Any, tensors: Any, flowing: Any, out: Any) -> Layer:
            path = self.path[-1]
            kind = _KIND.get(name, "other")
            held = {self.owner[id(t)]: self.parameters[id(t)] for t in tensors if id(t) in self.owner}
            fresh = sum(n for i, n in held.items() if i not in self.counted)  # shared weights count once
            self.counted |= set(held)
            sources = tuple(dict.fromkeys(self.source[id(t)] for t in flowing))
            trained = any(self.trained[s] for s in sources)
            label = self.unique(path, name)
            x = flowing[0]
            shape = _geometry(name, kind, args, x, out)
            if kind == "matmul" and held:
                kind = "linear"
            self.trained[label] = trained or bool(held)
            return Layer(label, kind, inputs=sum(t.numel() for t in flowing), outputs=out.numel(),
                         weights=fresh, first=not trained, sources=sources,
                         bias=kind in CONTRACTIONS and _has_bias(name, args),
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


def _has_bias(name: str, args: Any) -> bool:
    return (name == "convolution" and args[2] is not None) or name == "addmm"


def _geometry(name: str, kind: str, args: Any, x: Any, out: Any) -> dict[str, Any]:
    """Channels, sizes, kernel, stride and MACs of one operation on a batch of one."""
    size, done = _size(x.shape), _size(out.shape)
    channels = (int(x.shape[1]) if x.dim() > 1 else 1, int(out.shape[1]) if out.dim() > 1 else 1)
    if name == "convolution":
        weight, stride, dilation, transposed, groups = args[1], args[3], args[5], args[6], int(args[8])
        kernel = _fold(weight.shape[2:])
        macs = (conv_macs(x.numel(), channels[1], kernel, groups) if transposed
                else conv_macs(out.numel(), channels[0], kernel, groups))
        return {"macs": macs, "channels": channels, "size": size, "out": done, "kernel": kernel,
                "stride": (1, 1) if transposed else _fold(stride), "dilation": _fold(dilation),
                "groups": groups}
    if kind in CONTRACTIONS:
        a = args[1] if name in ("addmm", "baddbmm") else args[0]
        inner, wide = int(a.shape[-1]), int(out.shape[-1])
        rows = out.numel() // wide  # a sequence: every position is one more row of the product
        return {"macs": out.numel() * inner, "channels": (inner, wide), "size": (rows, 1), "out": (rows, 1)}
    if kind in ("maxpool", "avgpool"):
        if name in ("mean", "sum") or name.endswith("adaptive_avg_pool2d") or "adaptive" in name:
            kernel = (max(1, size[0] // done[0]), max(1, size[1] // done[1]))
            return {"channels": channels, "size": size, "out": done, "kernel": kernel, "stride": kernel,
                    "adaptive": x.dim() == out.dim()}  # ATen runs a global adaptive pool as a mean
        kernel = _fold(args[1])
        stride = _fold(args[2]) if len(args) > 2 and args[2] else kernel
        return {"channels": channels, "size": size, "out": done, "kernel": kernel, "stride": stride}
    return {"channels": channels, "size": size, "out": done}


def _size(shape: Any) -> tuple[int, int]:
    """(height, width) of an N C ... tensor; further leading dimensions fold into the height."""
    return _fold(shape[2:])


def _fold(values: Any) -> tuple[int, int]:
    values = [int(v) for v in values]
    if not values:
        return (1, 1)
    return (prod(values[:-1]), values[-1])
