"""Seeds: pure functions of the experiment's seed and a purpose, so that no random stream depends on another's use."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_of(seed: int, *purpose: object) -> int:
    """A seed for one purpose of an experiment, `seed_of(1, "init")`: 63 bits of a SHA-256."""
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def derive_seed(*parts: int | str) -> int:
    """A seed for one random stream of an epoch, `derive_seed(seed, epoch, "order")`: 63 bits of a BLAKE2b.

    Its results are part of every recorded training, as those of `seed_of` are, so the two hashes stay as they are.
    """
    text = "\0".join(map(repr, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator for one random stream; arguments as `derive_seed`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(*parts))
