"""compact on networks as public code writes them: exactly the masked network, both modes, with the same gradients."""

from __future__ import annotations

import pytest
import torch

from ebsim.tickets import channel_mask
from tests.oracle.masked import assert_same, randomise
from tests.tickets.field import NETWORKS, inputs

# operations without a rule, as notes name them; every other network has none
NOTES = {
    "ConvolutionalAttention": {"mean", "max"},
    "EfficientAttention": {"conv"},
    "ScaledDotProduct": {"reshape"},
    "GlobalContext": {"matmul"},
    "DynamicKernels": {"conv2d"},
    "Involution": {"unfold"},
    "UnfoldFold": {"unfold"},
    "FourierUnit": {"fft_rfftn", "complex"},
    "Aliasing": {"conv2d"},
    "OtherNorms": {"group", "layer", "instance"},
    "Recurrent": {"lstm"},
    "CheckpointedBlock": set(),
    "HalfPrecisionPart": {"mean"},
    "TensorMethods": {"lerp"},
    "BatchAxis": {"matmul"},
}
# parameters kept at p = 0.5, at most, where a rule of its own saves them
KEPT = {
    "Points": 165,
    "GridSample": 780,
    "Paddings": 1800,
    "Speech": 335,
    "CoordinateAttention": 600,
    "NoiseInside": 1600,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_the_field(name):
    torch.manual_seed(3)
    model = randomise(NETWORKS[name]())
    shrunk = assert_same(model, channel_mask(model, 0.5), *inputs(name))
    kept = sum(p.numel() for p in shrunk.parameters())
    assert kept <= KEPT.get(name, 1e9) and kept < sum(p.numel() for p in model.parameters())
    notes = {note.split(" ")[1].strip("():") for note in shrunk._notes if "no rule" in note}
    assert notes == NOTES.get(name, set())
    assert bool(shrunk._notes) == (name in NOTES)
