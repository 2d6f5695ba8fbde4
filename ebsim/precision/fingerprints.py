"""Fingerprints of number formats and backends: a digest that changes when the arithmetic does, wherever the code is.

A training is found again by what defined it, and a name does not define a format: after an edit of a rounding function
the results of the old one must not be reused. So a format is known by its data and by what the quantizer makes of a
fixed tensor with it, to nearest and stochastically: scales, blocks, noise, rounding and saturation all have their part.
What is compared is cut to 16 significant bits, so that the last bit of some machine's logarithm changes nothing.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

from ebsim.errors import ConfigError
from ebsim.files import canonical_json, digest
from ebsim.precision.backends import Backend
from ebsim.precision.formats.number_format import ROUNDINGS, NumberFormat

if TYPE_CHECKING:
    from torch import Tensor

_ROW, _ROWS = 96, 64


@functools.lru_cache(maxsize=1024)
def fingerprint(fmt: NumberFormat) -> str:
    """12 hex digits of what a format is and does; a millisecond. ConfigError if its `round` cannot be used."""
    import torch

    from ebsim.precision.quantization.quantizer import quantize

    data = fmt.describe() | {"top": float(fmt.top), "scaling": fmt.scaling}
    state = hashlib.sha256(canonical_json(data).encode())
    for values in _probe(float(fmt.top)):
        for rounding in ROUNDINGS:
            try:
                result = quantize(values, fmt, rounding=rounding, layer="probe")
            except Exception as error:  # `round` may be a plug-in's code
                told = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                raise ConfigError(f"number format {fmt.name!r}: rounding to {rounding} fails: {told}") from error
            state.update(((result.view(torch.int32) + 64) & ~127).numpy().tobytes())
    return state.hexdigest()[:12]


def _probe(top: float) -> tuple[Tensor, Tensor]:
    """[64, 96]: rows that hold `top` (a scale of 1), then 40 octaves below it, halves and eighths (ties), both signs.

    And the same values without `top` in front, where scales are others. Divisions and bit patterns only, no library
    functions: the same bits on any machine.
    """
    import torch

    quarter = _ROW * _ROWS // 4
    index = torch.arange(quarter, dtype=torch.int32)
    bits = torch.tensor(top, dtype=torch.float32).view(torch.int32)
    octaves = (bits - index * ((40 << 23) // quarter | 1)).clamp_(min=0).view(torch.float32)
    values = torch.stack([octaves, index * (top / quarter), index / 2, index / 8]).clamp_(max=top)
    values[:, 1::2] *= -1
    free = values.t().reshape(_ROWS, _ROW)
    held = free.clone()
    held[:, ::32] = top  # at the start of every block that divides 32, and of every row
    return held, free * 0.37


def identity(backend: Backend) -> dict[str, Any]:
    """Plain JSON that is equal for backends which round alike: formats by fingerprint; without name and description."""
    return {
        "roles": _known(backend.roles),
        "rules": [{"layers": list(r.layers), "phase": r.phase, "roles": _known(r.roles)} for r in backend.rules],
        "one_dimensional": _known({"": backend.one_dimensional})[""],
        "accumulator": backend.accumulator,
        **({} if backend.partial_sums is None else {"partial_sums": backend.partial_sums.describe()}),
        "swa": None if backend.swa is None else dict(backend.swa),
        "allow_stalling": backend.allow_stalling,
    }


def digest_of(backend: Backend) -> str:
    """12 hex digits of a backend's identity."""
    return digest(identity(backend))[:12]


def _known(roles: Any) -> dict[str, str]:
    return {role: str(o) if o.untouched else f"{o} {fingerprint(o.format)}" for role, o in roles.items()}
