"""The least squares behind `hw calibrate`: constants of time first, then of energy over that time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import least_squares, nnls

from hw_models.accelerator.description import Accelerator
from hw_models.analysis.calibrated_profile import Constants
from hw_models.analysis.measured_steps import MeasuredStep
from hw_models.precision.formats import FORMATS
from hw_models.workload.shapes import Array

Groups = Mapping[str, tuple[list[MeasuredStep], list[MeasuredStep]]]  # group -> the other steps, its own steps
EXTRAS = ("gbytes_per_s", "launch_us", "half_batch")  # constants of time that measured steps may or may not determine
STARTS = {"gbytes_per_s": (0.0,), "launch_us": (1.0, 30.0), "half_batch": (1.0, 30.0)}  # of the least squares
GAIN = 0.9  # a further constant must bring the left-out error to this share of it


def choose_time_constants(
    steps: Sequence[MeasuredStep],
    chip: Accelerator,
    groups: Groups,
) -> tuple[str, ...]:
    """The constants of time beside the efficiencies that predict left-out steps best, none without clear gain."""
    best: tuple[str, ...] = ()
    least = _time_error((), steps, chip, groups)
    for size in range(1, len(EXTRAS) + 1):
        for extras in itertools.combinations(EXTRAS, size):
            error = _time_error(extras, steps, chip, groups)
            if error < GAIN ** (size - len(best)) * least and error < GAIN * least:
                best, least = extras, error
    return best


def _time_error(
    extras: tuple[str, ...],
    steps: Sequence[MeasuredStep],
    chip: Accelerator,
    groups: Groups,
) -> float:
    formats = len({s.precision for s in steps})
    if any(len(seen) < formats + len(extras) for seen, _ in groups.values()) or (not groups and extras):
        return float("inf")
    cases = groups.values() or [(list(steps), list(steps))]
    errors = []
    for seen, unseen in cases:
        times = StepTimes(seen, chip, extras)
        values = times.solve()
        errors += list(np.abs(np.exp(StepTimes(unseen, chip, extras, times.formats).gap(values)) - 1))
    return float(np.mean(errors))


class StepTimes:
    """Predicted seconds of steps: functions of the fitted logarithms (efficiencies, bandwidth) and shares."""

    def __init__(
        self, steps: Sequence[MeasuredStep], chip: Accelerator, extras: tuple[str, ...], formats: Sequence[str] = ()
    ) -> None:
        self.chip, self.extras = chip, extras
        self.formats = list(formats) or sorted({s.precision for s in steps})
        # seconds that the array and the DRAM alone would take: [step, distinct rows], how often each occurs
        alike = [np.unique(s.cost.row_limits[[0, 2]].reshape(2, -1), axis=1, return_counts=True) for s in steps]
        longest = max(times.size for _, times in alike)
        self.alone = np.zeros((2, len(steps), longest))
        self.times = np.zeros((len(steps), longest))
        for i, (limits, times) in enumerate(alike):
            self.alone[:, i, : times.size], self.times[i, : times.size] = limits, times
        self.rows = np.array([np.count_nonzero(s.cost.dram_bits) for s in steps], dtype=float)
        self.batch = np.array([s.batch for s in steps], dtype=float)
        self.which = np.array([self.formats.index(s.precision) for s in steps])
        self.measured = np.log([s.seconds for s in steps])

    def gap(self, values: Array) -> Array:
        """ln(predicted / measured) of each step."""
        slower = np.exp(values[: len(self.formats)])[self.which][:, None]
        extra = dict(zip(self.extras, values[len(self.formats) :], strict=True))
        memory = np.exp(extra.get("gbytes_per_s", 0.0))
        launch = extra.get("launch_us", self.chip.launch_s * 1e6) * 1e-6
        half = extra.get("half_batch", self.chip.half_batch)
        rows = (np.maximum(self.alone[0] * slower, self.alone[1] * memory) * self.times).sum(axis=1)
        return np.log((rows + self.rows * launch) * (1 + half / self.batch)) - self.measured

    def solve(self) -> Array:
        """The best values: no format is faster than its peak, nothing is negative. From several starting points, since
        a launch and a half_batch that is too small hide behind each other."""
        count = len(self.formats)
        floor = {"gbytes_per_s": np.log(0.2), "launch_us": 0.0, "half_batch": 0.0}
        roof = {"gbytes_per_s": np.log(20.0), "launch_us": 1e4, "half_batch": 1e4}
        low = [np.log(self.chip.efficiency[f]) - 1e-9 for f in self.formats] + [floor[e] for e in self.extras]
        high = [np.log(1e3)] * count + [roof[e] for e in self.extras]
        scale = [1.0] * count + [{"gbytes_per_s": 1.0}.get(e, 10.0) for e in self.extras]
        found = [
            least_squares(
                self.gap,
                np.clip([0.2] * count + list(guess), low, high),
                bounds=(low, high),
                x_scale=scale,
                loss="soft_l1",
                f_scale=0.1,
                max_nfev=200,
            )
            for guess in itertools.product(*(STARTS[e] for e in self.extras))
        ]
        return min(found, key=lambda result: result.cost).x


def fit_constants(steps: Sequence[MeasuredStep], chip: Accelerator, extras: tuple[str, ...]) -> Constants:
    times = StepTimes(steps, chip, extras)
    values = times.solve()
    seconds = np.exp(times.gap(values)) * [s.seconds for s in steps]
    eta = {f: min(1.0, chip.efficiency[f] / float(np.exp(v))) for f, v in zip(times.formats, values, strict=False)}
    extra = dict(zip(extras, values[len(times.formats) :].tolist(), strict=True))
    watts, bit, flops, scale = _energy(steps, times.formats, seconds, chip)
    return Constants(
        eta,
        chip.dram_bits_per_s / 8e9 / float(np.exp(extra.get("gbytes_per_s", 0.0))),
        extra.get("launch_us", chip.launch_s * 1e6),
        extra.get("half_batch", chip.half_batch),
        watts,
        flops,
        bit,
        scale,
    )


def _energy(
    steps: Sequence[MeasuredStep], formats: Sequence[str], seconds: Array, chip: Accelerator
) -> tuple[float, float, dict[str, float], float]:
    """(watts, pJ per DRAM bit, pJ per FLOP by format, factor of the vector unit's energies).

    The vector unit keeps its proportion to the widest format that was measured.
    """
    widest = max(formats, key=lambda f: FORMATS[f].bits)
    table = []
    for step, t in zip(steps, seconds, strict=True):
        by = step.cost.by_constant
        vector = sum(j for key, j in by.items() if key.startswith("op."))
        macs = sum(j for key, j in by.items() if key.startswith("mac."))
        table.append(
            [
                t,
                by["dram.pj_per_bit"],
                *((macs + vector * (f == widest)) * (step.precision == f) or vector * (f == widest) for f in formats),
            ]
        )
    joules = np.array([s.joules for s in steps])
    matrix = np.array(table) / joules[:, None]
    size = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    solution, _ = nnls(matrix / size, np.ones(len(steps)))
    watts, dram, *factors = (solution / size).tolist()
    flops = {
        f: k * chip.mac(FORMATS[f], FORMATS[f], hypothetical=True).value / 2
        for f, k in zip(formats, factors, strict=True)
    }
    return watts, dram * chip.dram.value, flops, dict(zip(formats, factors, strict=True))[widest]
