"""Observation of the quantizers on sampled steps: sums stay on the device until they are read, so nothing waits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ebsim.precision.formats.number_format import NumberFormat
from ebsim.precision.quantization.layout import as_matrix
from ebsim.precision.quantization.quantizer import absmax, chosen, overflows, scaler

_INF = float("inf")


class Statistics:
    """Running sums per (layer, role): count, non-finite, overflowed, underflowed, signal and noise energy, absmax."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.sums: dict[tuple[str, str], Tensor] = {}

    def due(self, step: int) -> bool:
        return self.every > 0 and step % self.every == 0

    @torch.no_grad()
    def add(self, layer: str, role: str, x: Tensor, y: Tensor, fmt: NumberFormat, axis: int) -> None:
        """Count one quantization x -> y."""
        new = observe(x.detach(), y, fmt, axis)
        old = self.sums.get((layer, role))
        if old is not None:
            new = torch.cat([old[:-1] + new[:-1], torch.maximum(old[-1:], new[-1:])])
        self.sums[layer, role] = new

    def take(self) -> dict[str, dict[str, dict[str, float]]]:
        """Read the sums (one transfer) and start anew; empty if nothing was sampled."""
        if not self.sums:
            return {}
        rows = torch.stack(list(self.sums.values())).tolist()
        found: dict[str, dict[str, dict[str, float]]] = {}
        for (layer, role), row in zip(self.sums, rows, strict=True):
            found.setdefault(layer, {})[role] = summary(row)
        self.sums.clear()
        return found


def observe(x: Tensor, y: Tensor, fmt: NumberFormat, axis: int) -> Tensor:
    """The seven sums of one quantization, float64, on the device of x."""
    m, q = as_matrix(x, fmt.block, axis), as_matrix(y, fmt.block, axis)
    s = chosen(fmt, m.x, scaler(fmt)(absmax(m.x)))
    finite = m.x.abs() < _INF
    overflow = overflows(fmt, m.x, s)
    underflow = (m.x != 0) & (q.x == 0)
    signal = torch.where(finite, m.x, 0.0).double()
    noise = torch.where(finite, q.x - m.x, 0.0).double()
    sums = (~finite, overflow, underflow, signal.square(), noise.square())
    count = torch.tensor(float(x.numel()), dtype=torch.float64, device=x.device)
    largest = signal.abs().max()
    return torch.stack([count, *(t.sum(dtype=torch.float64) for t in sums), largest])


def summary(row: list[float]) -> dict[str, float]:
    """Shares, SQNR in dB (inf where nothing was lost) and absmax from the seven sums."""
    count, nonfinite, overflow, underflow, signal, noise, largest = row
    return {
        "count": count,
        "nonfinite": nonfinite / count,
        "overflow": overflow / count,
        "underflow": underflow / count,
        "sqnr_db": 10 * math.log10(signal / noise) if signal and noise else math.inf,
        "absmax": largest,
    }
