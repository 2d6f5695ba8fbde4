"""compact on networks that do something behind a graph's back: exactly the masked network, or refused by name."""

from __future__ import annotations

import pytest
import torch

from ebsim.errors import CompactError
from ebsim.tickets import channel_mask, compact
from tests.oracle.masked import assert_same, randomise
from tests.tickets.hostile import EXACT, MAY_REFUSE, REFUSED, example

# parameters kept at p = 0.5, at most: what a rule saves must not be lost again
KEPT = {
    "FunctionalNorm": 583,
    "OwnNorm": 1068,
    "NormWithActivation": 1099,
    "SamePadded": 856,
    "ScalarGain": 941,
    "Focus": 1801,
    "Shuffles": 1258,
    "Moves": 1280,
    "SizeBranches": 1698,
    "DropPath": 865,
    "SizeArithmetic": 1815,
    "LinearChunks": 902,
    "Sequence": 109,
}
WITH_NOTES = {
    "Hooked", "PreHooked", "HookedConvolution", "HookedBlock", "HookedRoot", "InstanceForward", "WrappedForward",
    "RootForward", "MovingPart", "RandomInPart", "OldWeightNorm", "NewWeightNorm", "TorchPruned", "TemporalShift",
    "OwnDerivative", "Checkpointed",
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_exact(name):
    torch.manual_seed(3)
    model = randomise(EXACT[name]())
    shrunk = assert_same(model, channel_mask(model, 0.5), example(name))
    kept = sum(p.numel() for p in shrunk.parameters())
    assert kept <= KEPT.get(name, 1e9) and kept < sum(p.numel() for p in model.parameters())
    assert bool(shrunk.notes) == (name in WITH_NOTES), shrunk.notes


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    kind, message = REFUSED[name]
    model = randomise(kind())
    with pytest.raises(CompactError, match=message) as told:
        compact(model, channel_mask(model, 0.5), example(name), verify=False)
    assert len(str(told.value)) < 600 and "\n" not in str(told.value)


@pytest.mark.parametrize("name", MAY_REFUSE)
def test_verification_refuses_what_differs(name):
    model = randomise(MAY_REFUSE[name]())
    with pytest.raises(CompactError, match="differ from the masked network"):
        compact(model, channel_mask(model, 0.5), example(name))
