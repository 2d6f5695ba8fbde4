"""Counting conventions against the paper's printed totals, fvcore and torch."""

from __future__ import annotations

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch.utils.flop_counter import FlopCounterMode

import hw_models
from ebsim.models import build
from hw_models.workload import reference_networks
from hw_models.workload.op_counts import forward_count, paper_gflops, paper_pflops, step_macs, training_count

IMAGENET, CIFAR = 1_281_167, 50_000


def test_vgg16_totals_of_the_paper() -> None:
    """302.4 and (two dense runs) 604.8 in units of 0.05 P; the rounding of 0.627 to 0.63 G is part of them."""
    vgg = reference_networks.vgg16(100)
    assert forward_count(vgg, "paper") == pytest.approx(627.45e6, abs=5e3)
    assert training_count(vgg, 160 * CIFAR, "paper") / 5e13 == pytest.approx(302.4, abs=1e-9)
    assert training_count(vgg, 320 * CIFAR, "paper") / 5e13 == pytest.approx(604.8, abs=1e-9)
    assert 2 * 3 * forward_count(vgg) * 160 * CIFAR / 5e13 == pytest.approx(300.7, abs=0.05)


def test_the_six_resnet18_totals_of_the_paper() -> None:
    dense = paper_gflops(reference_networks.resnet18())
    assert dense == 3.64
    # the authors' model ends in AvgPool2d(7), 25,088 more; ours in an adaptive pool that their hooks skip
    assert forward_count(reference_networks.resnet18(), "paper") == pytest.approx(3637.26e6, abs=4e4)
    cells = {
        1259.131: [(90, dense)],
        2424.865: [(90, dense), (90, 3.37)],
        2168.888: [(90, dense), (90, 2.63)],
        1991.945: [(90, dense), (90, dense * (1 - 0.418))],
        1177.149: [(11, dense), (79, 3.37)],
        952.458: [(11, dense), (79, 2.63)],
    }
    for printed, phases in cells.items():
        assert round(paper_pflops(phases, IMAGENET), 3) == printed
    assert training_count(reference_networks.resnet18(), 90 * IMAGENET, "paper") / 1e15 == pytest.approx(
        1259.131, abs=5e-4
    )


def test_the_conventions_on_the_networks_of_this_project() -> None:
    vgg = hw_models.trace(build("vgg", classes=100, depth=16), (3, 32, 32))
    assert paper_gflops(vgg) == 0.63
    pre = hw_models.trace(build("preresnet", classes=100, depth=101), (3, 32, 32), check=False)
    assert paper_gflops(pre) == 0.31


def test_fvcore_and_torch_conventions_equal_their_tools() -> None:
    model = build("preresnet", classes=10, depth=29).eval()
    rows = hw_models.trace(model, (3, 16, 16))
    analysis = FlopCountAnalysis(model, torch.zeros(1, 3, 16, 16))
    analysis.unsupported_ops_warnings(False)
    assert forward_count(rows, "fvcore") == analysis.total()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 16, 16))
    assert forward_count(rows, "torch") == counter.get_total_flops()


def test_exact_step_skips_only_the_first_input_gradient() -> None:
    rows = reference_networks.resnet18()
    assert step_macs(rows) / forward_count(rows) == pytest.approx(2.935, abs=5e-4)
    assert training_count(rows, 7) == 7 * step_macs(rows)


def test_an_unknown_convention_is_named() -> None:
    with pytest.raises(hw_models.HardwareError, match=r"flops.*exact, fvcore, torch, paper"):
        forward_count([], "flops")
