"""ONNX graphs become the same layer tables as the networks they were made from."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hw_models import Layer, WorkloadError, reference
from hw_models.errors import WorkloadWarning
from hw_models.workload.import_onnx import read_onnx

onnx = pytest.importorskip("onnx", reason="reading ONNX needs the package onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


class _Graph:
    """A graph made node by node."""

    def __init__(self, shape: tuple[int | str, ...]) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(shape))]

    def weight(self, name: str, *dims: int) -> str:
        self.weights.append(helper.make_tensor(name, TensorProto.FLOAT, dims, bytes(4 * _count(dims)), raw=True))
        return name

    def ints(self, name: str, *values: int) -> str:
        import numpy as np

        self.weights.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def save(self, path: Path, out: str) -> Path:
        graph = helper.make_graph(
            self.nodes, "net", self.inputs, [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)], self.weights
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
        return path


def _count(dims: tuple[int, ...]) -> int:
    n = 1
    for d in dims:
        n *= d
    return n


def _written(rows: list[Layer], path: Path, batch: int | str = "N") -> Path:
    """A reference table as a graph, node by node."""
    graph = _Graph((batch, rows[0].channels[0], *rows[0].size))
    made = {"input": "image"}
    for row in rows[:-1]:
        x = [made[s] for s in row.sources]
        c, k = row.channels
        if row.kind == "conv":
            pad = row.kernel[0] // 2
            w = graph.weight(f"{row.name}.w", k, c // row.groups, *row.kernel)
            out = graph.node(
                "Conv", [*x, w], row.name, kernel_shape=row.kernel, strides=row.stride, group=row.groups, pads=[pad] * 4
            )
        elif row.kind == "bn":
            out = graph.node(
                "BatchNormalization", [*x, *(graph.weight(f"{row.name}.{i}", c) for i in range(4))], row.name
            )
        elif row.kind == "maxpool":
            out = graph.node(
                "MaxPool",
                x,
                row.name,
                kernel_shape=row.kernel,
                strides=row.stride,
                pads=[int(row.kernel[0] > row.stride[0])] * 2 + [0, 0],
            )
        elif row.kind == "avgpool":
            out = graph.node("GlobalAveragePool", x, row.name)
        elif row.kind == "linear":
            flat = graph.node("Flatten", x, f"{row.name}.flat")
            out = graph.node(
                "Gemm",
                [flat, graph.weight(f"{row.name}.w", k, c), graph.weight(f"{row.name}.b", k)],
                row.name,
                transB=1,
            )
        else:
            out = graph.node({"relu": "Relu", "add": "Add"}[row.kind], x, row.name)
        made[row.name] = out
    return graph.save(path, made[rows[-2].name])


def _facts(row: Layer) -> tuple[Any, ...]:
    return (
        row.name,
        row.kind,
        row.macs,
        row.inputs,
        row.outputs,
        row.weights,
        row.channels,
        row.size,
        row.out,
        row.kernel,
        row.stride,
        row.groups,
        row.bias,
        row.first,
        row.sources,
    )


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_network_comes_back_row_by_row(tmp_path: Path, name: str) -> None:
    rows = reference.network(name)
    found = read_onnx(_written(rows, tmp_path / "net.onnx"))
    assert [_facts(r) for r in found] == [_facts(r) for r in rows]


def test_a_fixed_batch_counts_one_image(tmp_path: Path) -> None:
    rows = reference.resnet18()
    assert sum(r.macs for r in read_onnx(_written(rows, tmp_path / "net.onnx", batch=8))) == sum(r.macs for r in rows)


def test_open_sizes_are_asked_for_and_taken(tmp_path: Path) -> None:
    graph = _Graph(("N", 3, "h", "w"))
    out = graph.node("Conv", ["image", graph.weight("w", 8, 3, 3, 3)], "conv", kernel_shape=[3, 3])
    path = graph.save(tmp_path / "open.onnx", out)
    with pytest.raises(WorkloadError, match="image leaves sizes open"):
        read_onnx(path)
    with pytest.raises(WorkloadError, match="3 dimensions"):
        read_onnx(path, (3, 8))
    assert read_onnx(path, (3, 10, 12))[0].macs == 8 * 8 * 10 * 3 * 9


def test_a_transformer_is_its_products(tmp_path: Path) -> None:
    """Self-attention over 6 positions of 8 channels in 2 heads, with the sizes computed in the graph."""
    graph = _Graph(("N", 6, 8))
    parts = []
    for name in "qkv":
        x = graph.node("MatMul", ["image", graph.weight(f"w{name}", 8, 8)], name)
        x = graph.node("Add", [x, graph.weight(f"b{name}", 8)], f"{name}.bias")
        shape = graph.node("Shape", [x], f"{name}.shape")
        n = graph.node("Gather", [shape, graph.ints(f"{name}.0", 0)], f"{name}.n", axis=0)
        sizes = graph.node("Concat", [n, graph.ints(f"{name}.heads", 6, 2, 4)], f"{name}.sizes", axis=0)
        x = graph.node("Reshape", [x, sizes], f"{name}.split")
        parts.append(graph.node("Transpose", [x], f"{name}.turn", perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]))
    scores = graph.node("Softmax", [graph.node("MatMul", parts[:2], "scores")], "softmax", axis=-1)
    out = graph.node("MatMul", [scores, parts[2]], "mix")
    rows = {r.name: r for r in read_onnx(graph.save(tmp_path / "t.onnx", out))}
    assert [(r.kind, r.macs, r.weights, r.bias) for n, r in rows.items() if n in "qkv"] == [
        ("linear", 384, 72, True)
    ] * 3
    assert (rows["scores"].kind, rows["scores"].macs, rows["scores"].groups) == ("matmul", 2 * 6 * 6 * 4, 2)
    assert (rows["mix"].macs, rows["mix"].groups, rows["softmax"].kind) == (2 * 6 * 6 * 4, 2, "activation")
    assert rows["scores"].sources == ("q", "k") and not {"q.bias", "q.split", "q.turn"} & set(rows)


def test_operations_without_a_form_are_named(tmp_path: Path) -> None:
    graph = _Graph((1, 4, 8))
    out = graph.node("LSTM", ["image", graph.weight("w", 1, 16, 8), graph.weight("r", 1, 16, 4)], "cell", hidden_size=4)
    with pytest.raises(WorkloadError, match=r"'cell': LSTM"):
        read_onnx(graph.save(tmp_path / "lstm.onnx", out))
    graph = _Graph((1, 4, 8, 8))
    out = graph.node("Hardmax", ["image"], "odd")
    with pytest.warns(WorkloadWarning, match="Hardmax at odd"):
        rows = read_onnx(graph.save(tmp_path / "odd.onnx", out))
    assert rows[0].kind == "other" and rows[0].inputs == 256


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a graph", bytes(range(256))])
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(WorkloadError, match=r"x\.onnx"):
        read_onnx(path)
    with pytest.raises(WorkloadError, match=r"missing\.onnx"):
        read_onnx(tmp_path / "missing.onnx")


def test_torchs_own_export_of_a_network_equals_its_trace(tmp_path: Path) -> None:
    import torch

    from hw_models import trace
    from tests.hw_models.nets import Mixed

    model, path = Mixed().eval(), tmp_path / "mixed.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(1, 3, 16, 16),), str(path), dynamo=False, do_constant_folding=False)

    def counted(rows: list[Layer]) -> Counter[tuple[Any, ...]]:
        return Counter(
            (r.kind, r.macs, r.inputs, r.outputs, r.weights, r.kernel, r.stride, r.groups, r.first) for r in rows
        )

    assert counted(read_onnx(path)) == counted(trace(model, (3, 16, 16)))
