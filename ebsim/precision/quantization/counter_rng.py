"""The randomness of stochastic rounding: a pure function of (seed, step, layer, role, element index).

No generator state, so that eager and compiled runs, a resumed run and any number of threads draw the same numbers.
Python makes two 32-bit keys of (seed, step, layer, role). A tensor is a matrix (`layout`); the number of an element is

    u = bits 7..30 of (h ^ h >> 15) * M        h = (R(row) * key_0 + key_1) ^ C(column)

R and C are full hashes (two rounds of xor-shift and multiply, constants of C. Wellons' "lowbias32", public domain),
made once per shape. A row is keyed once per call, which leaves one round for each element: half the time of a
stochastic quantizer used to be its noise. For two elements of a row h differs by a constant; the round that follows
must make that unrecognisable, which the tests check over pairs. Everything has 31 bits, so that shifts need no mask.
"""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

from ebsim.precision.formats.rounding import POSITIVE

_MASK64 = (1 << 64) - 1
_M1, _M2 = 0x7FEB352D, 0x846CA68B - (1 << 32)


@functools.lru_cache(maxsize=65536)
def _stream(seed: int, layer: str, role: str) -> int:
    text = f"{seed}\0{layer}\0{role}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def keys(seed: int, step: int, layer: str, role: str) -> tuple[int, int]:
    """Two 32-bit keys (as signed integers, the first one odd) of one quantization."""
    z = (_stream(seed, layer, role) + step * 0x9E3779B97F4A7C15) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    z ^= z >> 31
    return (z & 0xFFFFFFFF) - (1 << 31) | 1, (z >> 32) - (1 << 31)


def mixed(index: Tensor) -> Tensor:
    """int32 -> int32 in [0, 2^31): a hash of every element."""
    h = (index ^ ((index >> 16) & 0xFFFF)) * _M1
    h = (h ^ ((h >> 15) & 0x1FFFF)) * _M2
    return (h ^ ((h >> 16) & 0xFFFF)) & POSITIVE


def keyed(rows: Tensor, key: tuple[int, int]) -> Tensor:
    """The hashes of rows for one quantization."""
    return (rows * key[0]).add_(key[1]).bitwise_and_(POSITIVE)


def uniform(rows: Tensor, cols: Tensor) -> Tensor:
    """Float32 in [0, 1) with 24 bits, shape [rows, cols], of `keyed` rows and `mixed` columns."""
    h = rows[:, None] ^ cols[None, :]
    h.bitwise_xor_(h >> 15).mul_(_M2).bitwise_and_(0x7FFFFF80)
    return h.to(torch.float32).mul_(2.0**-31)
