"""The randomness of stochastic rounding: a pure function of (seed, step, layer, role, element index).

No generator state, so that eager and compiled runs, a resumed run and any number of threads draw the same numbers.
Python makes two 32-bit keys of (seed, step, layer, role); the tensor side hashes index and keys with two rounds of
xor-shift and multiply (constants of C. Wellons' "lowbias32", public domain), 24 bits of the result are the number.
"""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1
_M1, _M2 = 0x7FEB352D, 0x846CA68B - (1 << 32)


@functools.lru_cache(maxsize=65536)
def _stream(seed: int, layer: str, role: str) -> int:
    text = f"{seed}\0{layer}\0{role}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def keys(seed: int, step: int, layer: str, role: str) -> tuple[int, int]:
    """Two 32-bit keys (as signed integers) of one quantisation."""
    z = (_stream(seed, layer, role) + step * 0x9E3779B97F4A7C15) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    z ^= z >> 31
    return (z & 0xFFFFFFFF) - (1 << 31), (z >> 32) - (1 << 31)


def uniform(rows: Tensor, cols: Tensor, key: Tensor) -> Tensor:
    """Float32 in [0, 1), shape [rows, cols]; the element's logical index is rows[g] + cols[n], all int32."""
    h = (rows + key[0])[:, None] + cols[None, :]
    h.bitwise_xor_((h >> 16).bitwise_and_(0xFFFF)).mul_(_M1).add_(key[1])
    h.bitwise_xor_((h >> 15).bitwise_and_(0x1FFFF)).mul_(_M2)
    return h.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0**-24)
