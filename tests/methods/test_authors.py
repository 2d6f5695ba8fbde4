"""The authors' widths, and the paper's FLOPs columns from its epochs and widths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import hw_models
from ebsim import models, tickets
from ebsim.errors import ConfigError
from ebsim.experiment.result import MethodResult
from ebsim.pipeline import results
from ebsim.pricing import paper_widths
from ebsim.report.tables import paper
from hw_models.workload.layer import Layer
from hw_models.workload.op_counts import forward_count, paper_gflops, paper_pflops
from tests.methods.toy_context import context
from tests.training.toy import toy_network

LAWS = [
    pytest.param(law, cell, id=f"{law['network']}-{law['dataset']}-{name}")
    for law in paper.source()["law"]
    for name, cell in law["totals"].items()
]


@pytest.mark.parametrize(("law", "cell"), LAWS)
def test_the_papers_totals(law: dict, cell: dict) -> None:
    """ResNet18 to every printed digit; VGG16, whose epochs are fitted, to the printed unit."""
    total = paper_pflops(cell["phases"], law["images"]) * 1e15 / law["unit"]
    if law["unit"] == 1e15:
        assert round(total, 2) == pytest.approx(cell["printed"], abs=0.011)
    else:
        assert abs(total - cell["printed"]) < 1


def test_the_dense_networks_print_what_the_authors_print() -> None:
    for name, depth, classes, shape, printed in (
        ("vgg", 16, 100, (3, 32, 32), 0.63),
        ("preresnet", 101, 10, (3, 32, 32), 0.31),
        ("resnet", 18, 1000, (3, 224, 224), 3.64),
    ):
        model = models.build(name, classes=classes, input_shape=shape, depth=depth, seed=0)
        assert paper_gflops(hw_models.trace(model, shape)) == printed


def drawn(name: str, depth: int, ratio: float) -> tuple[torch.nn.Module, tickets.ChannelMask]:
    model = models.build(name, classes=10, input_shape=(3, 32, 32), depth=depth, seed=0)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.1, 1, generator=generator)
    return model, tickets.channel_mask(model, ratio)


def test_resnet18_by_the_blocks() -> None:
    """2 MAC + 2 BN + ReLU, block by block: inner width k, input selection s, everything else at full width."""
    model, mask = drawn("resnet", 18, 0.4)
    layers = paper_widths.layers("resnet", hw_models.trace(model, (3, 32, 32)), mask)
    assert layers is not None
    kept, side, wide = mask.kept(), 32, 64
    total = 2 * 27 * 64 * side**2 + 3 * 64 * side**2  # stem, its BatchNorm and ReLU; no pool in the small stem
    before = kept["bn1"]
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            if stage > 1 and block == 0:
                side //= 2
                total += 2 * wide * width * side**2 + 2 * width * side**2  # projection
            inner = kept[f"layer{stage}.{block}.bn1"]
            total += (2 * 9 * before * inner + 2 * 9 * inner * width) * side**2
            total += (3 * inner + 3 * width) * side**2
            before, wide = kept[f"layer{stage}.{block}.bn2"], width
    total += 2 * 512 * 10 + 10
    assert forward_count(layers, "paper") == total


def test_preresnet_by_the_blocks() -> None:
    model, mask = drawn("preresnet", 29, 0.5)
    layers = paper_widths.layers("preresnet", hw_models.trace(model, (3, 32, 32)), mask)
    assert layers is not None
    kept, side, wide = mask.kept(), 32, 16
    total = 2 * 27 * 16 * side**2
    for stage, width in enumerate((16, 32, 64), start=1):
        for block in range(3):
            a, b, c = (kept[f"layer{stage}.{block}.bn{number}"] for number in (1, 2, 3))
            total += (2 * wide + a + 2 * a * b) * side**2  # whole BatchNorm, selected ReLU, conv1
            total += 3 * b * side**2
            if stage > 1 and block == 0:
                total += 2 * wide * 4 * width * (side // 2) ** 2
                side //= 2
            elif block == 0:
                total += 2 * wide * 4 * width * side**2
            total += (2 * 9 * b * c + 3 * c + 2 * c * 4 * width) * side**2
            wide = 4 * width
    total += (2 * 256 + kept["bn"]) * side**2 + 2 * kept["bn"] * 10 + 10
    assert forward_count(layers, "paper") == total


def test_theirs_never_cost_less_than_ours() -> None:
    for name, depth in (("resnet", 18), ("preresnet", 29)):
        model, mask = drawn(name, depth, 0.5)
        theirs = paper_widths.layers(name, hw_models.trace(model, (3, 32, 32)), mask)
        ours = hw_models.trace(tickets.compact(model, mask, torch.zeros(2, 3, 32, 32)), (3, 32, 32))
        assert theirs is not None
        assert forward_count(ours, "paper") <= forward_count(theirs, "paper")


def test_vgg_is_as_ours_and_resnet50_is_refused() -> None:
    model, mask = drawn("vgg", 11, 0.5)
    assert paper_widths.layers("vgg", hw_models.trace(model, (3, 32, 32)), mask) is None
    model, mask = drawn("resnet", 50, 0.5)
    with pytest.raises(ConfigError, match="gating"):
        paper_widths.layers("resnet", hw_models.trace(model, (3, 32, 32)), mask)


def test_a_row_is_counted_by_the_law(tmp_path: Path) -> None:
    """VGG16's EB Train: 25 dense epochs and 135 of the ticket, scoring left out; too small a network has no count."""
    toy = context(tmp_path, prune={"gating": "authors"})
    model, mask = drawn("vgg", 16, 0.3)
    shrunk = tickets.compact(model, mask, torch.zeros(2, 3, 32, 32))
    toy.networks = {"dense": table(model, 32), "ticket": table(shrunk, 32)}
    small = paper_gflops([Layer.from_dict(row) for row in toy.networks["ticket"]])
    row = MethodResult("eb-train", "EB Train", 0.3, "fp32", "fp32")
    row.ledger = [
        {"stage": "search", "network": "dense", "epochs": 25, "images_per_epoch": 50_000},
        {"stage": "score", "network": "dense", "epochs": 7, "images_per_epoch": 128},
        {"stage": "retrain", "network": "ticket", "epochs": 135, "images_per_epoch": 50_000},
    ]
    assert results._paper_pflops(toy, row) == pytest.approx(3 * 50_000 * (25 * 0.63 + 135 * small) * 1e9 / 1e15)
    toy.networks["ticket"] = table(toy_network(), 6)
    assert results._paper_pflops(toy, row) is None


def table(model: torch.nn.Module, side: int) -> list[dict]:
    return [layer.to_dict() for layer in hw_models.trace(model, (3, side, side))]
