"""What stands behind `hw list|show|new|check|compare|calibrate`: plain functions, data in and data out.

None of them needs torch: the networks are the reference tables of `hw_models.reference`.
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw_models.accelerator import Accelerator, load
from hw_models.calibrate import Fit, fit, profile_text, read_steps
from hw_models.cost import training_cost
from hw_models.errors import ProfileError
from hw_models.formats import FORMATS, Bits, parse_precision
from hw_models.laws import SRAM_LAWS
from hw_models.reference import network
from hw_models.table import COMPONENTS, Cost
from hw_models.toml_source import SHIPPED, locate
from hw_models.units import show_joules

SHARE = (0.02, 0.90)  # a component outside this share of a training step deserves a second look
MAC_PJ = (0.01, 1000.0)


def list_profiles() -> list[dict[str, Any]]:
    """Name, kind, node, native format, absolute band and summary of every shipped profile."""
    chips = [load(path.stem) for path in sorted(SHIPPED.glob("*.toml"))]
    return [{"name": c.name, "kind": c.kind, "node_nm": c.node_nm, "format": c.widest, "band": c.absolute_band,
             "summary": c.summary} for c in chips]


def show(profile: str) -> dict[str, Any]:
    """Everything a profile says: geometry, and each constant with value, unit, band, source and whether derived."""
    chip = load(profile)
    return {"name": chip.name, "kind": chip.kind, "summary": chip.summary, "source": chip.source,
            "path": chip.path, "digest": chip.digest, "node_nm": chip.node_nm, "clock_ghz": chip.clock_hz / 1e9,
            "absolute_band": chip.absolute_band, "formats": list(chip.formats) or ["any"],
            "dims": list(chip.dims), "unroll": {p: list(names) for p, names in chip.unroll.items()},
            "fused": list(chip.fused), "calibrated_on": chip.calibrated_on, "rails": chip.rails,
            "tflops": {name: rate / 1e12 for name, rate in chip.peak.items()},
            "memories": [{"name": m.name, "kib": m.bits / 8192, "holds": list(m.holds)} for m in chip.memories],
            "gbytes_per_s": chip.dram_bits_per_s / 8e9,
            "constants": [{"key": key, "value": n.value, "unit": unit(key), "band": n.band, "derived": n.derived,
                           "source": n.source} for key, n in chip.constants.items()]}


def describe(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What `show` found, but for the constants, as (what, value with its unit)."""
    array = facts["kind"] == "array"
    memories = [(f"memory {m['name']}", f"{m['kib']:,.10g} KiB, holds {', '.join(m['holds'])} operands")
                for m in facts["memories"]]
    lines = [
        ("name", facts["name"]), ("kind", facts["kind"]), ("summary", facts["summary"]), ("source", facts["source"]),
        ("file", facts["path"]), ("digest", f"sha256 {facts['digest']}"),
        ("process node", f"{facts['node_nm']:g} nm"), ("clock", f"{facts['clock_ghz']:g} GHz"),
        ("array", " x ".join(map(str, facts["dims"])) + " multipliers" if array else ""),
        *((f"  {p.replace('_', ' ')}", f"unrolls {', '.join(names)}")
          for p, names in facts["unroll"].items() if array),
        ("reached at most", ", ".join(f"{f} {t:,.3g}" for f, t in facts["tflops"].items()) + " TFLOP/s"
         if facts["tflops"] else ""),
        ("formats", "any (priced by law)" if facts["formats"] == ["any"] else ", ".join(facts["formats"])),
        ("fused", ", ".join(facts["fused"])), *memories, ("DRAM", f"{facts['gbytes_per_s']:g} GB/s"),
        ("absolute band", f"x/÷ {facts['absolute_band']:g}: any energy may be off by that as a whole (90 % belief)"),
        ("calibrated on", facts["calibrated_on"]), ("measured rails", facts["rails"])]
    return [(what, value) for what, value in lines if value]


def unit(key: str) -> str:
    """The unit of a constant."""
    first = key.partition(".")[0]
    return {"mac": "pJ per MAC", "op": "pJ per operation", "static": "W"}.get(first, "pJ per bit")


def new(path: str | Path, start: str = "horowitz-45nm", *, sram_law: str | None = None) -> Path:
    """Write a commented profile to edit, a copy of `start` under the name of the file.

    `sram_law`: fill buffer energies from capacity and width by a CACTI fit. Raises `ProfileError` if the file exists
    or cannot be written, or if the law is unknown.
    """
    target, source = _target(path), locate(start, Path())
    load(source)
    text = source.read_text(encoding="utf-8")
    text = re.sub(r'(?m)^name = ".*"$', f'name = "{target.stem}"', text, count=1)
    if sram_law is not None:
        if sram_law not in SRAM_LAWS:
            near = difflib.get_close_matches(sram_law, SRAM_LAWS, 1)
            raise ProfileError(f"no SRAM law {sram_law!r}{f'; did you mean {near[0]}?' if near else ''} "
                               f"(known: {', '.join(SRAM_LAWS)})")
        text = re.sub(r'(?m)^(sram_law = )"[^"]*"', rf'\1"{sram_law}"', text)
        text = re.sub(r"(?m)^read_pj_per_bit = .*\n(write_pj_per_bit = .*)$", f'sram_law = "{sram_law}"', text)
    _write(target, text)
    return target


def _target(path: str | Path) -> Path:
    """A path that a profile can be written to; its stem is the profile's name."""
    target = Path(path)
    if target.suffix != ".toml":
        raise ProfileError(f"{target}: a profile's file ends in .toml")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", target.stem):
        raise ProfileError(f"{target}: the file's name is the profile's: letters, digits, . _ - only")
    return target


def _write(target: Path, text: str) -> None:
    """Write a new profile and load it once; a text that is no profile leaves no file."""
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ProfileError(f"{target}: exists already; choose another name or edit it") from error
    except OSError as error:
        raise ProfileError(f"{target}: cannot be written ({error.strerror})") from error
    try:
        load(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class Breakdown:
    """One training step of a network on an accelerator. Energies in J (modelled), band of 90 %."""

    accelerator: str
    network: str
    precision: str
    outputs: str  # format in which a layer's output is stored
    batch: int
    joules: float
    low: float
    high: float
    seconds: float
    pj_per_mac: float
    macs_only: float
    compulsory: float
    shares: dict[str, float]
    dram_busy: float  # of that time
    bound: str  # what most of that time waits for: compute, buffer, dram
    bound_share: float

    def row(self) -> dict[str, Any]:
        return {"accelerator": self.accelerator, "network": self.network, "precision": self.precision,
                "outputs": self.outputs, "batch": self.batch, "joules": self.joules, "low": self.low, "high": self.high,
                "joules_macs_only": self.macs_only, "joules_compulsory": self.compulsory, "seconds": self.seconds,
                "pj_per_mac": self.pj_per_mac, "dram_busy": self.dram_busy, "bound": self.bound, **self.shares}

    def column(self) -> dict[str, str]:
        """What -> value of a table with a column per accelerator; the unit stands with what or with the value."""
        ms = 1e3 * self.seconds
        return {"energy [90 % band]": show_joules(self.joules, self.low, self.high),
                "  macs only": show_joules(self.macs_only), "  + compulsory traffic": show_joules(self.compulsory),
                "all in, pJ per MAC": f"{self.pj_per_mac:.3g}",
                "time at least, ms": f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}",
                "  limited by": f"{100 * self.bound_share:.0f} % {self.bound}",
                "  DRAM busy, %": f"{100 * self.dram_busy:.0f}",
                **{f"{name}, % of energy": f"{100 * share:.1f}" for name, share in self.shares.items()}}


def breakdown(profile: str | Accelerator, name: str = "resnet18", bits: Bits = None, batch: int = 256,
              model: str = "closed", hypothetical: bool = False) -> Breakdown:
    """Energy of a training step by component, with the two simpler models as brackets."""
    chip = load(profile)
    layers, precision = network(name), parse_precision(FORMATS[chip.widest] if bits is None else bits)

    def cost(which: str) -> Cost:
        return training_cost(layers, chip, precision, batch, which, hypothetical=hypothetical)

    main = cost(model)
    low, high = main.band
    busy = float(main.dram_bits.sum()) / chip.dram_bits_per_s / main.seconds if main.seconds else 0.0
    return Breakdown(chip.name, name, main.precision, precision.default.output.name, batch, main.total, low, high,
                     main.seconds, main.total / main.macs * 1e12, cost("macs").total, cost("compulsory").total,
                     {c: main.components[c] / main.total for c in COMPONENTS}, busy, main.bound,
                     main.bounds[main.bound] / main.seconds if main.seconds else 0.0)


@dataclass(frozen=True)
class Check:
    """A profile that loads, what it gives on two networks beside the shipped ones, and what looks odd."""

    profile: str
    rows: list[Breakdown]
    beside: list[Breakdown]
    warnings: list[str]


def check(profile: str, networks: Sequence[str] = ("resnet18", "vgg16")) -> Check:
    """Validate a profile and look at it: shares on two networks, the shipped profiles beside it, warnings.

    Raises `ProfileError` with every problem of the file.
    """
    chip = load(profile)
    rows = [breakdown(chip, name) for name in networks]
    beside = [breakdown(path.stem, networks[0]) for path in sorted(SHIPPED.glob("*.toml"))
              if path.stem != chip.name and load(path.stem).kind == chip.kind]
    found = []
    for row in rows:
        for part in ("mac", "register", "buffer", "dram") if chip.kind == "array" else ("mac", "dram"):
            share = row.shares[part]
            if not SHARE[0] <= share <= SHARE[1]:
                found.append(f"{row.network}: {part} takes {share:.1%} of the energy, outside "
                             f"{SHARE[0]:.0%} to {SHARE[1]:.0%}; look at its constants once more")
    for key, number in chip.constants.items():
        if key.startswith("mac.") and not MAC_PJ[0] <= number.value <= MAC_PJ[1]:
            found.append(f"{key}: {number.value:g} pJ per MAC, outside {MAC_PJ[0]:g} to {MAC_PJ[1]:g}; is the unit pJ?")
    if beside:
        costs = sorted(b.pj_per_mac for b in beside)
        for row in rows[:1]:
            if not costs[0] / 10 <= row.pj_per_mac <= costs[-1] * 10:
                found.append(f"{row.network}: {row.pj_per_mac:.3g} pJ per MAC all in, far from the shipped profiles' "
                             f"{costs[0]:.3g} to {costs[-1]:.3g}")
    return Check(chip.name, rows, beside, found)


def compare(profiles: Sequence[str], name: str = "resnet50", bits: Bits = None, batch: int = 256,
            model: str = "closed", hypothetical: bool = False) -> list[Breakdown]:
    """One network's training step on several accelerators (each in its widest format unless `bits` is given)."""
    return [breakdown(p, name, bits, batch, model, hypothetical) for p in profiles]


def calibrate(profile: str, measurements: str | Path, out: str | Path | None = None) -> tuple[Fit, str]:
    """Fit a device profile to measured steps: the fit with its held-out error, and the TOML of the new profile.

    `out`: where to write it (must not exist). Raises `HardwareError` naming the line of a wrong measurement.
    """
    target, chip = None if out is None else _target(out), load(profile)
    steps = read_steps(measurements, chip)
    fitted = fit(steps, chip)
    name = f"{chip.name}-calibrated" if target is None else target.stem
    text = profile_text(fitted, chip, name, f"{len(steps)} steps of {Path(measurements).name}")
    try:
        with tempfile.TemporaryDirectory() as folder:  # proved before anything is written or shown
            _write(Path(folder) / "fitted.toml", text)
    except ProfileError as error:
        raise ProfileError(f"{measurements}: what fits these steps is no profile; are joules (J) and seconds those of "
                           f"one step?\n{str(error).replace(f'{folder}{os.sep}', '')}") from error
    if target is not None:
        _write(target, text)
    return fitted, text
