"""A network shrunk for one size, run at others: the masked network's function, or an error that names the size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebsim.errors import CompactError
from ebsim.tickets import apply_mask, channel_mask, compact
from tests.oracle.masked import copied, randomise
from tests.tickets.networks import Wired


def pooled(b: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(b, 1)


# what stands between the layers: each does nothing, or something simpler, at 8 x 8 or with two samples
BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "half of the batch": lambda b: torch.cat([b[:2] * 2, b[2:]], 0),
    "mean of two samples": lambda b: b + b[0:2].mean(0, keepdim=True),
    "crop": lambda b: b[:, :, :8, :8],
    "crop of some channels": lambda b: torch.cat([b[:, :6, :8], b[:, 6:, :8] * 2], 1),
    "crop from the end": lambda b: b[..., :8],
    "narrow": lambda b: b.narrow(2, 0, min(8, 8)),
    "first part": lambda b: b.split(8, 2)[0],
    "chunks": lambda b: sum(p.mean(2, keepdim=True) * i for i, p in enumerate(b.chunk(16, 2))) + b,
    "flip of one row": lambda b: b + F.max_pool2d(b, (8, 1)).flip(2).repeat_interleave(8, 2)[:, :, : b.shape[2]],
    "roll of one row": lambda b: b + F.max_pool2d(b, (8, 1)).roll(1, 2).amax(2, keepdim=True),
    "turned column": lambda b: b * F.max_pool2d(b, 8).transpose(2, 3).amax((2, 3), keepdim=True),
    "reshaped column": lambda b: (
        b + F.max_pool2d(b, 8).flatten(2).mT.reshape(b.shape[0], 12, -1).mean(2)[:, :, None, None]
    ),
    "squeezed": lambda b: b * pooled(b).squeeze().view(b.shape[0], -1, 1, 1),
    "shuffled column": lambda b: b + pooled(b).view(-1, 2, 6, 1, 1).transpose(1, 2).reshape(-1, 12, 1, 1),
    "cropped shuffle": lambda b: (
        b[:, :, :4, :4]
        + (
            b.view(-1, 2, 6, *b.shape[2:])[..., :8]
            .transpose(1, 2)[..., :8, :]
            .reshape(b.shape[0], 12, -1)
            .amax(2)[..., None, None]
        )
    ),
    "one part": lambda b: b.view(-1, 2, 6, *b.shape[2:]).split(8, 3)[0].flatten(1, 2),
    "group": lambda b: torch.cat([b.view(-1, 2, 6, *b.shape[2:])[:, 1], b[:, :6]], 1),
    "window": lambda b: F.pad(b.unfold(2, 8, 8).mean(-1), (0, 0, 0, 7)) + b[:, :, :8],
    "named by size": lambda b: {"8": b, "10": -b, "20": b * 2}[f"{b.shape[2]}"],
    "by text": lambda b: -b if str(b.size(3)) == "12" else b,
    "odd padding": lambda b: F.pad(b, (0, -b.shape[3] % 4, 0, -b.shape[2] % 8)),
    "pooled by size": lambda b: F.avg_pool2d(b, b.shape[2] // 4),
}
SIZES = [(2, 3, 8, 8), (6, 3, 8, 8), (1, 3, 8, 8), (3, 3, 10, 12), (2, 3, 20, 20), (2, 3, 5, 5)]


class Sized(Wired):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.step = between

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        return self.step(b)


def outcome(network: nn.Module, x: Tensor) -> Any:
    try:
        with torch.no_grad():
            return network(x)
    except Exception as error:
        return error


@pytest.mark.filterwarnings("ignore:not shrunk everywhere")
@pytest.mark.parametrize("batch", [2, 6])
@pytest.mark.parametrize("name", BETWEEN)
def test_other_sizes(name, batch):
    torch.manual_seed(0)
    model = randomise(Sized(BETWEEN[name]))
    mask = channel_mask(model, 0.5)
    shrunk = compact(model, mask, torch.randn(batch, 3, 8, 8)).eval()
    masked = copied(model)
    apply_mask(masked, mask)
    masked.eval()
    ran = 0
    for size in SIZES:
        x = torch.randn(size, dtype=torch.float64)
        expected, found = outcome(masked, x), outcome(shrunk, x)
        if isinstance(found, CompactError):
            assert "it was shrunk for" in str(found)
        elif isinstance(expected, Tensor):
            assert isinstance(found, Tensor) and found.shape == expected.shape, (size, found)
            assert (found - expected).abs().max() <= 1e-9 * expected.abs().max(), size
            ran += 1
    assert ran >= 1
