"""Traces a torch network into its layer table.

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

from hw_models.errors import WorkloadError, WorkloadWarning
from hw_models.workload.dispatch_recorder import probe, recorder
from hw_models.workload.layer import CONTRACTIONS, Layer


def trace(model: Any, input_shape: tuple[int, ...] | tuple[tuple[int, ...], ...], *, check: bool = True) -> list[Layer]:
    """The rows of `model` for one image of `input_shape` (C, H, W), a "loss" row at the end.

    For a network of several inputs give a shape for each. A compiled or parallel network is looked through.

    `check` compares every layer's MACs with fvcore's count (about a second for 100 layers).
    Raises `WorkloadError` if the network does not run on that shape, the two counts differ, or an operation has MACs
    that the table has no form for. Warns (`WorkloadWarning`) of operations that it does not know.
    """
    model = _bare(model)
    shapes = _shapes(input_shape)
    with _plain_attention():
        rows = _recorded(model, shapes)
        if check:
            _check(rows, fvcore_macs(model, shapes))
    return _folded(rows)


def _shapes(given: Any) -> tuple[tuple[int, ...], ...]:
    """A shape per input."""
    several = all(isinstance(part, tuple | list) for part in given)
    return tuple(tuple(int(n) for n in shape) for shape in (given if several and given else (given,)))


def _bare(model: Any) -> Any:
    """The network inside a torch.compile or DataParallel wrapper."""
    names = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
    while (held := names.get(type(model).__name__)) is not None:
        model = getattr(model, held)
    return model


def _recorded(model: Any, shapes: tuple[tuple[int, ...], ...]) -> list[Layer]:
    """The rows in order of execution; on real tensors where the forward pass reads values, which `meta` lacks."""
    seen = recorder()
    try:
        rows = seen.run(_blank(model, "meta"), shapes, model)
    except WorkloadError:
        raise
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AssertionError):
        seen = recorder()
        try:
            rows = seen.run(copy.deepcopy(model).cpu().eval(), shapes, model)
        except WorkloadError:
            raise
        except Exception as error:
            shape = shapes[0] if len(shapes) == 1 else shapes
            raise WorkloadError(f"the network does not run on one image of shape {shape}: {error}") from error
    for names, what in (
        (
            seen.unknown,
            "not known to the layer table, counted as memory traffic without MACs; if they multiply, "
            "MACs and energies are too low",
        ),
        (seen.apart, "multiplies parameters with constants, once per step and not per image; not in the table"),
    ):
        if names:
            warnings.warn(f"{', '.join(sorted(names))}: {what}", WorkloadWarning, stacklevel=3)
    return rows


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
            row = replace(
                row,
                name=pad.name,
                sources=pad.sources,
                channels=(pad.channels[0], row.channels[1]),
                size=pad.size,
                inputs=min(row.inputs, pad.inputs),
            )
        out.append(row)
    return out


def _blank(model: Any, device: str) -> Any:
    """A copy in evaluation mode on `device` whose parameters are zeros: no weights are copied."""
    import torch

    memo: dict[int, Any] = {
        id(p): torch.nn.Parameter(torch.zeros_like(p, device=device), requires_grad=False) for p in model.parameters()
    }
    memo |= {id(b): b.detach().to(device) for b in model.buffers()}
    return copy.deepcopy(model, memo).eval()


def fvcore_macs(model: Any, input_shape: tuple[Any, ...]) -> dict[str, int]:
    """fvcore's MACs by module name, convolutions and matrix products only (the only use of fvcore)."""
    with warnings.catch_warnings():  # fvcore scripts a loss at import, which newer torch warns of
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        from fvcore.nn import FlopCountAnalysis

    loggers = [logging.getLogger(n) for n in ("fvcore.nn.jit_analysis", "fvcore")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        network = _blank(model, "cpu")  # its jit trace cannot use the meta device
        analysis = FlopCountAnalysis(network, probe(network, _shapes(input_shape)))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit.trace, which fvcore calls
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
                "Trace with check=False to go on with the count by shape, and report the layer."
            )
