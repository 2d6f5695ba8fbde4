"""An ONNX model with every shape known for one image: sizes computed inside the graph are evaluated.

Exporters write reshapes as small graphs over `Shape` nodes. onnx's inference follows some; the rest are evaluated
on their constant inputs by onnx's reference implementation, and inference is repeated until nothing new is known.
"""

from __future__ import annotations

from math import prod
from typing import Any

SMALL = 64  # elements: a list of sizes, an index
ROUNDS = 40


def with_shapes(model: Any) -> Any:
    """The model after shape inference, small constant nodes turned into initializers."""
    import onnx
    import onnx.reference

    opsets = {o.domain: o.version for o in model.opset_import}
    for _ in range(ROUNDS):
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        if not _evaluate(model, opsets, onnx):
            break
        open_ones = [v for v in model.graph.value_info if not known(v)]
        for value in open_ones:  # else inference keeps what it said before
            model.graph.value_info.remove(value)
    return model


def known(value: Any) -> bool:
    """Whether every size of a value is a number."""
    kind = value.type.tensor_type
    return bool(kind.HasField("shape")) and all(d.HasField("dim_value") for d in kind.shape.dim)


def _evaluate(model: Any, opsets: dict[str, int], onnx: Any) -> int:
    """Turns nodes on small constants, and `Shape` of known tensors, into initializers; how many."""
    graph = model.graph
    values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if prod(t.dims) <= SMALL and _filled(t)}
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.input, *graph.value_info)
        if known(v)
    }
    shapes |= {t.name: list(t.dims) for t in graph.initializer}
    done = []
    for node in graph.node:
        if len(node.output) != 1 or node.op_type in ("If", "Loop", "Scan"):
            continue
        if node.op_type == "Shape" and node.input[0] in shapes and not node.attribute:
            import numpy as np

            result = np.array(shapes[node.input[0]], dtype=np.int64)
        elif node.input and all(n in values for n in node.input if n):
            result = onnx.reference.ReferenceEvaluator(node, opsets=opsets).run(
                None, {n: values[n] for n in node.input if n}
            )[0]
        elif node.op_type == "Constant":
            result = onnx.reference.ReferenceEvaluator(node, opsets=opsets).run(None, {})[0]
        else:
            continue
        if getattr(result, "size", SMALL + 1) > SMALL:
            continue
        values[node.output[0]] = result
        graph.initializer.append(onnx.numpy_helper.from_array(result, node.output[0]))
        done.append(node)
    for node in done:
        graph.node.remove(node)
    return len(done)


def _filled(tensor: Any) -> bool:
    """Whether the tensor's values are in the file."""
    return (
        bool(tensor.raw_data or tensor.float_data or tensor.int32_data or tensor.int64_data or tensor.double_data)
        or prod(tensor.dims) == 0
    )
