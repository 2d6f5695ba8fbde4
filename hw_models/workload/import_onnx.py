"""An ONNX graph -> the table of its layers, for one image.

Shapes come from onnx's own shape inference with the batch set to 1; MACs, elements and weights follow from them as in
`trace`. Nodes that only name or reorder data are no rows; nodes on constants alone (a transposed weight) are still that
constant; an operation that multiplies in a way this table has no form for is an error, and one that is not known is a
row of kind "other" with its traffic and a warning. Needs `pip install 'ebsim[onnx]'`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from hw_models.errors import WorkloadError, WorkloadWarning
from hw_models.workload.layer import INPUT, Layer, conv_macs, fold_sizes
from hw_models.workload.onnx_operators import KIND, PLAIN, SILENT, UNREADABLE, VIEWS
from hw_models.workload.onnx_shapes import known, with_shapes

LARGE = 100_000  # elements of a weight, whose values no shape depends on
Shape = tuple[int, ...]


@dataclass
class _Graph:
    """What is known of every tensor name while the nodes are walked in order."""

    shapes: dict[str, Shape]
    weights: dict[str, int]  # constants: elements that are parameters and not yet counted
    source: dict[str, str]  # tensors of the image: the row that made them
    rows: list[Layer] = field(default_factory=list)
    trained: dict[str, bool] = field(default_factory=lambda: {INPUT: False})
    used: Counter[str] = field(default_factory=Counter)
    unknown: set[str] = field(default_factory=set)


def read_onnx(path: str | Path, input_shape: tuple[int, ...] | None = None) -> list[Layer]:
    """The rows of an ONNX network for one image, a "loss" row at the end.

    `input_shape` (C, H, W), needed where the file leaves sizes open. Raises `WorkloadError` naming the node, or the
    input whose size is open; warns (`WorkloadWarning`) of operations that it does not know.
    """
    try:
        import onnx
    except ImportError as error:
        raise WorkloadError(f"{path}: reading ONNX needs the package onnx; pip install 'ebsim[onnx]'") from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's DecodeError, whose class depends on the backend
        raise WorkloadError(f"{path}: is no ONNX file ({type(error).__name__})") from error
    if not model.graph.node:
        raise WorkloadError(f"{path}: is no ONNX file, or a graph without nodes")
    parameters = {t.name: prod(t.dims) for t in model.graph.initializer}
    images = [value for value in model.graph.input if value.name not in parameters]
    if not images:
        raise WorkloadError(f"{path}: the graph has no input")
    for value in images:
        _set_batch(value, input_shape if value is images[0] else None, path)
    for tensor in model.graph.initializer:
        if prod(tensor.dims) > LARGE:
            for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
                tensor.ClearField(name)
    try:
        inferred = with_shapes(model)
    except Exception as error:
        raise WorkloadError(f"{path}: shapes of one image cannot be inferred: {str(error)[:300]}") from error
    graph = _Graph(_shapes(inferred.graph), parameters, {value.name: INPUT for value in images})
    graph.shapes |= {t.name: tuple(t.dims) for t in inferred.graph.initializer}
    for node in inferred.graph.node:
        _node(node, graph, onnx.helper.get_attribute_value)
    if graph.unknown:
        warnings.warn(
            f"{', '.join(sorted(graph.unknown))}: not known to the layer table, counted as memory traffic without "
            "MACs; if they multiply, MACs and energies are too low",
            WorkloadWarning,
            stacklevel=2,
        )
    if last := next((o.name for o in inferred.graph.output if o.name in graph.source), None):
        n = prod(graph.shapes[last])
        graph.rows.append(Layer("loss", "loss", inputs=n, outputs=n, channels=(n, n), sources=(graph.source[last],)))
    return graph.rows


def _set_batch(value: Any, shape: tuple[int, ...] | None, path: str | Path) -> None:
    """One image, and `shape` behind it; every open size must be given."""
    dims = value.type.tensor_type.shape.dim
    if not dims:
        return
    dims[0].dim_value = 1
    if shape is not None:
        if len(shape) != len(dims) - 1:
            raise WorkloadError(
                f"{path}: input {value.name} has {len(dims) - 1} dimensions behind the batch, the input "
                f"shape {shape} has {len(shape)}"
            )
        for dim, size in zip(list(dims)[1:], shape, strict=True):
            dim.dim_value = size
    if any(dim.dim_value < 1 for dim in dims):
        raise WorkloadError(
            f"{path}: input {value.name} leaves sizes open; give its shape without the batch, such as 3,224,224"
        )


def _shapes(graph: Any) -> dict[str, Shape]:
    return {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if known(value)
    }


def _node(node: Any, graph: _Graph, value_of: Any) -> None:
    """Adds the row of one node, or what its outputs are where it is none."""
    flowing = list(dict.fromkeys(n for n in node.input if n in graph.source))
    outputs = [n for n in node.output if n]
    if node.op_type in UNREADABLE:
        raise WorkloadError(
            f"node {node.name or outputs[0]!r}: {node.op_type} has no form in the layer table; export the "
            "network in convolutions, matrix products and attention written out"
        )
    if node.op_type in SILENT:
        return
    if not flowing:  # still a constant: its parameters count where it is first used
        graph.weights |= {outputs[0]: sum(graph.weights.pop(n, 0) for n in dict.fromkeys(node.input))}
        return
    if node.op_type in VIEWS or (node.op_type == "Gather" and graph.shapes.get(node.input[1]) == ()):
        graph.source |= dict.fromkeys(outputs, graph.source[flowing[0]])
        return
    attributes = {a.name: value_of(a) for a in node.attribute}
    x, out = _shape(flowing[0], node, graph), _shape(outputs[0], node, graph)
    bias = _folded_bias(node, flowing, graph)
    if bias is not None:
        graph.source |= dict.fromkeys(outputs, graph.source[flowing[0]])
        return
    kind, shape = _geometry(node, flowing, x, out, attributes, graph)
    if kind == "other" and node.op_type not in PLAIN:
        graph.unknown.add(f"{node.op_type} at {node.name or outputs[0]}")
    sources = tuple(dict.fromkeys(graph.source[n] for n in flowing))
    fresh = _parameters(node, kind, shape, graph)
    trained = any(graph.trained[s] for s in sources)
    label = _unique(node.name or outputs[0], graph)
    graph.trained[label] = trained or fresh > 0
    read = sum(prod(_shape(n, node, graph)) for n in flowing)
    if kind == "select":
        read = min(read, prod(out))
    graph.rows.append(
        Layer(
            label,
            kind,
            inputs=read,
            outputs=prod(out),
            weights=fresh,
            first=not trained,
            sources=sources,
            op=node.op_type if kind not in ("conv", "linear", "matmul") else label,
            **shape,
        )
    )
    graph.source |= dict.fromkeys(outputs, label)


def _parameters(node: Any, kind: str, shape: dict[str, Any], graph: _Graph) -> int:
    """Parameters that the row brings. Exporters store equal vectors once: biases, scales and shifts always count."""
    if kind in ("bn", "norm"):
        return sum(prod(graph.shapes.get(n, (0,))) for n in node.input[1:3])
    if kind in ("conv", "linear"):
        fresh = sum(graph.weights.pop(n, 0) for n in node.input[:2])
        return fresh + shape["channels"][1] * bool(fresh and shape.get("bias"))
    if node.op_type in ("PRelu", "Add", "Mul", "Sub", "Div", "Concat"):
        return sum(graph.weights.pop(n, 0) for n in dict.fromkeys(node.input))
    return 0


def _folded_bias(node: Any, flowing: list[str], graph: _Graph) -> str | None:
    """The linear row that this Add of a constant vector is the bias of."""
    constants = [n for n in node.input if n not in graph.source]
    if node.op_type != "Add" or len(flowing) != 1 or len(constants) != 1 or not graph.rows:
        return None
    row, n = graph.rows[-1], prod(graph.shapes.get(constants[0], (0,)))
    if row.kind != "linear" or row.bias or graph.source[flowing[0]] != row.name or n != row.channels[1]:
        return None
    graph.rows[-1] = replace(row, bias=True, weights=row.weights + n)
    return row.name


def _shape(name: str, node: Any, graph: _Graph) -> Shape:
    if name not in graph.shapes:
        raise WorkloadError(
            f"node {node.name or node.output[0]!r} ({node.op_type}): the shape of {name!r} is not known; "
            "export the network with fixed sizes"
        )
    return graph.shapes[name]


def _unique(name: str, graph: _Graph) -> str:
    graph.used[name] += 1
    return name if graph.used[name] == 1 else f"{name}#{graph.used[name]}"


def _geometry(
    node: Any, flowing: list[str], x: Shape, out: Shape, a: dict[str, Any], graph: _Graph
) -> tuple[str, dict[str, Any]]:
    """(kind, channels, sizes, kernel, stride, MACs) of one node."""
    op = node.op_type
    shape: dict[str, Any] = {
        "channels": (_channels(x), _channels(out)),
        "size": fold_sizes(x[2:]),
        "out": fold_sizes(out[2:]),
    }
    if op in ("Conv", "ConvTranspose"):
        weight, groups = _shape(node.input[1], node, graph), int(a.get("group", 1))
        kernel = fold_sizes(weight[2:])
        macs = (
            conv_macs(prod(out), x[1], kernel, groups) if op == "Conv" else conv_macs(prod(x), out[1], kernel, groups)
        )
        stride = fold_sizes(a.get("strides") or [1] * len(weight[2:])) if op == "Conv" else (1, 1)
        return "conv", {
            **shape,
            "macs": macs,
            "kernel": kernel,
            "stride": stride,
            "dilation": fold_sizes(a.get("dilations") or [1] * len(weight[2:])),
            "groups": groups,
            "bias": len(node.input) > 2 and bool(node.input[2]),
        }
    if op in ("Gemm", "MatMul"):
        left = _shape(node.input[0], node, graph)
        inner = left[-2] if op == "Gemm" and a.get("transA") else left[-1]
        wide = out[-1]
        groups = prod(out[:-2]) if len(flowing) == 2 else 1
        rows = prod(out) // (wide * groups)
        kind = "matmul" if len(flowing) == 2 else "linear"
        return kind, {
            "channels": (groups * inner, groups * wide),
            "size": (rows, 1),
            "out": (rows, 1),
            "groups": groups,
            "macs": prod(out) * inner,
            "bias": op == "Gemm" and len(node.input) > 2 and bool(node.input[2]),
        }
    kind = KIND.get(op, "other")
    if kind in ("maxpool", "avgpool"):
        if "kernel_shape" in a:
            kernel = fold_sizes(a["kernel_shape"])
            return kind, {
                **shape,
                "kernel": kernel,
                "stride": fold_sizes(a.get("strides") or [1] * len(a["kernel_shape"])),
            }
        kernel = (max(1, shape["size"][0] // shape["out"][0]), max(1, shape["size"][1] // shape["out"][1]))
        return kind, {**shape, "kernel": kernel, "stride": kernel, "adaptive": len(x) == len(out)}
    return kind, shape


def _channels(shape: Shape) -> int:
    return shape[1] if len(shape) > 1 else 1
