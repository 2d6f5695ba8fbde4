"""Attention: two products per head, by torch's own counter, by hand, and with matrices of their own in every image."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import hw_models
from ebsim.torchvision_shim import import_torchvision
from hw_models import WorkloadError, training_cost
from hw_models.errors import WorkloadWarning
from hw_models.workload.shapes import shapes
from hw_models.workload.training_passes import passes

from .nets import forward_macs

HEADS, WIDTH = 4, 16


class Attention(nn.Module):
    """A projection to Q, K and V and their attention, on the pixels of an image as tokens."""

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.project, self.attend = nn.Linear(WIDTH, 3 * WIDTH), attend

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        parts = self.project(x).reshape(*x.shape[:2], 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        return self.attend(*parts)


def _written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1), -1) @ v


def _einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhqk,bhkd->bhqd", torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k), -1), v)


class Tokens(nn.Module):
    """A layer that takes tokens, on the pixels of an image."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        x = x.flatten(2).transpose(1, 2)
        return self.layer(x, x, x)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)


def _flops(model: nn.Module, shape: tuple[int, ...], device: str = "cpu") -> int:
    """torch's count, in training mode and without the fused kernels: its counter has no eye for those of a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.to(device).train()(torch.zeros(1, *shape, device=device))
    return counter.get_total_flops()


def _vision_transformer() -> nn.Module:
    kind = import_torchvision().models.VisionTransformer
    return kind(image_size=16, patch_size=4, num_layers=2, num_heads=HEADS, hidden_dim=WIDTH, mlp_dim=32, num_classes=5)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "fused": (lambda: Attention(F.scaled_dot_product_attention), (WIDTH, 3, 5)),
    "written out": (lambda: Attention(_written_out), (WIDTH, 3, 5)),
    "einsum": (lambda: Attention(_einsum), (WIDTH, 3, 5)),
    "multi-head": (lambda: Tokens(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)), (WIDTH, 3, 5)),
    "encoder layer": (lambda: Tokens(nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)), (WIDTH, 3, 5)),
    "vision transformer": (_vision_transformer, (3, 16, 16)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_are_those_of_torchs_counter(name: str) -> None:
    make, shape = NETWORKS[name]
    model = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error", WorkloadWarning)
        rows = hw_models.trace(model, shape)  # held against fvcore, layer by layer
    assert 2 * forward_macs(rows) == _flops(model, shape)
    assert sum(row.weights for row in rows) == sum(p.numel() for p in model.parameters())


@pytest.mark.slow
def test_the_base_vision_transformer() -> None:
    """17.56 G MACs is what torchvision publishes for it."""
    with torch.device("meta"):
        model = import_torchvision().models.vit_b_16(weights=None)
    rows = hw_models.trace(model, (3, 224, 224), check=False)
    assert sum(row.macs for row in rows if row.kind == "matmul") == 12 * 2 * 197 * 197 * 768
    assert 2 * forward_macs(rows) == _flops(model, (3, 224, 224), "meta")
    assert round(forward_macs(rows) / 1e9, 2) == 17.56


@pytest.mark.parametrize("name", ["fused", "written out", "einsum"])
def test_two_products_per_head_by_hand(name: str) -> None:
    make, shape = NETWORKS[name]
    rows = hw_models.trace(make(), shape)
    scores, values = (row for row in rows if row.kind == "matmul")
    tokens, inner = 15, WIDTH // HEADS
    assert scores.macs == values.macs == HEADS * tokens * tokens * inner
    for row, reads, makes in ((scores, inner, tokens), (values, tokens, inner)):
        assert (row.groups, row.channels, row.size) == (HEADS, (HEADS * reads, HEADS * makes), (tokens, 1))
        assert row.inputs == HEADS * tokens * reads + HEADS * reads * makes and row.weights == 0
        assert not row.first
    assert [row.kind for row in rows if row.op in ("_softmax", "_safe_softmax")] == ["activation"]


def test_every_image_has_matrices_of_its_own() -> None:
    """Keys cannot be reused by another image, so nothing per image falls with the batch, as it does for weights."""
    make, shape = NETWORKS["fused"]
    rows = hw_models.trace(make(), shape)
    for batch in (1, 6):
        p = passes(shapes(rows), batch)
        i = [rows[k].kind for k in p.index].index("matmul")
        q, k, scores = (batch * n for n in (HEADS * 15 * 4, HEADS * 4 * 15, HEADS * 15 * 15))
        assert [p.x[0, i], p.y[0, i], p.z[0, i]] == [q, k, scores]  # S = Q K
        assert [p.x[1, i], p.y[1, i], p.z[1, i]] == [scores, k, q]  # dQ = dS K
        assert [p.x[2, i], p.y[2, i], p.z[2, i]] == [q, scores, k]  # dK = Q dS
        assert (p.g1 * p.g2 * p.red * p.groups)[:, i].tolist() == pytest.approx([batch * HEADS * 15 * 15 * 4] * 3)
        assert p.groups[0, i] == batch * HEADS and p.g1[0, i] == 15
    products = [row for row in rows if row.kind == "matmul"]
    one, many = (training_cost(products, "horowitz-45nm", batch=n, model="compulsory") for n in (1, 6))
    assert many.bytes == pytest.approx(6 * one.bytes)
    assert many.macs == 6 * one.macs


def test_a_fixed_matrix_and_a_shared_weight_are_not_attention() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("basis", torch.eye(6))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.basis

    row = hw_models.trace(Fixed(), (3, 4, 6))[0]
    assert (row.kind, row.macs, row.channels) == ("linear", 3 * 4 * 6 * 6, (6, 6))


def test_what_multiplies_in_an_unknown_way_is_named() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Bilinear(16, 16, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = x.mean((2, 3))
            return self.mix(x, x)

    with pytest.warns(WorkloadWarning, match="_trilinear in mix"):
        rows = hw_models.trace(Pair(), (16, 3, 3))
    assert [(r.kind, r.macs) for r in rows if r.op == "_trilinear"] == [("other", 0)]


def test_products_that_no_image_enters_are_named() -> None:
    """A bias table computed from positions by a small network, as some transformers have."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("places", torch.zeros(9, 2))
            self.table = nn.Linear(2, 9)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table(self.places)

    with pytest.warns(WorkloadWarning, match=r"addmm in table: multiplies parameters with constants"):
        rows = hw_models.trace(Positions(), (3, 9, 9), check=False)
    assert forward_macs(rows) == 0 and [row.kind for row in rows] == ["add", "loss"]


def test_a_product_without_a_form_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from hw_models.workload import aten_ops

    monkeypatch.delitem(aten_ops.KIND, "bmm")
    with pytest.raises(WorkloadError, match=r"'layer\.self_attn': bmm has MACs"):
        hw_models.trace(NETWORKS["encoder layer"][0](), (WIDTH, 3, 5))


def test_tracing_leaves_torchs_settings_alone() -> None:
    before = torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()
    hw_models.trace(NETWORKS["fused"][0](), (WIDTH, 3, 5))
    with pytest.raises(WorkloadError):
        hw_models.trace(nn.Conv2d(3, 4, 9), (3, 2, 2))
    assert before == (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled())
