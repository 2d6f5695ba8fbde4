"""The functions of the commands `hw list|show|new|check|compare|calibrate`: plain data in and out.

None of them needs torch: the networks are the reference tables of `hw_models.workload.reference_networks`.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw_models.accelerator.loader import UNLIMITED, load, shipped
from hw_models.accelerator.sram_energy import SRAM_LAWS
from hw_models.accelerator.toml_reader import locate
from hw_models.errors import ProfileError, nearest
from hw_models.lazy import attach
from hw_models.units import BITS_PER_KIB, unit

if TYPE_CHECKING:
    from hw_models.analysis.calibration import Fit

_HOME = {
    "breakdown": "hw_models.analysis.breakdown",
    "compare": "hw_models.analysis.breakdown",
    "parts": "hw_models.analysis.breakdown",
    "check": "hw_models.analysis.sanity_checks",
}
__getattr__, __dir__, __all__ = attach(__name__, _HOME)  # not imported to list or show profiles
__all__ += ["calibrate", "describe", "list_profiles", "new", "show", "unit"]


def list_profiles() -> list[dict[str, Any]]:
    """Name, kind, node, native format, absolute band and summary of every shipped profile."""
    return [
        {
            "name": c.name,
            "kind": c.kind,
            "node_nm": c.node_nm,
            "format": c.widest,
            "band": c.absolute_band,
            "summary": c.summary,
        }
        for c in shipped()
    ]


def show(profile: str) -> dict[str, Any]:
    """The content of a profile: geometry, and each constant with value, unit, band, source and whether derived."""
    chip = load(profile)
    return {
        "name": chip.name,
        "kind": chip.kind,
        "summary": chip.summary,
        "source": chip.source,
        "path": chip.path,
        "digest": chip.digest,
        "node_nm": chip.node_nm,
        "clock_ghz": chip.clock_hz / 1e9,
        "absolute_band": chip.absolute_band,
        "formats": list(chip.formats) or ["any"],
        "dims": list(chip.dims),
        "unroll": {p: list(names) for p, names in chip.unroll.items()},
        "dataflow": {
            p: {level: fixed if isinstance(fixed, str) else list(fixed) for level, fixed in levels.items()}
            for p, levels in chip.dataflow.items()
        },
        "zero_skip": chip.zero_skip,
        "speedup": dict(chip.speedup),
        "registers": [
            {"name": name, "bits": r.bits, "shared_along": [d + 1 for d in r.shared_along]}
            for name, r in chip.registers.items()
        ],
        "fused": list(chip.fused),
        "eta_compute": chip.eta_compute,
        "efficiency": dict(chip.efficiency),
        "launch_us": chip.launch_s * 1e6,
        "half_batch": chip.half_batch,
        "calibrated_on": chip.calibrated_on,
        "rails": chip.rails,
        "tflops": {name: rate / 1e12 for name, rate in chip.peak.items()},
        "memories": [
            {
                "name": m.name,
                "kib": m.bits / BITS_PER_KIB,
                "bits_per_cycle": m.bits_per_cycle,
                "holds": list(m.holds),
                "slides": m.slides,
            }
            for m in chip.memories
        ],
        "gbytes_per_s": chip.dram_bits_per_s / 8e9,
        "constants": [
            {"key": key, "value": n.value, "unit": unit(key), "band": n.band, "derived": n.derived, "source": n.source}
            for key, n in chip.constants.items()
        ],
    }


def describe(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The result of `show` without the constants, as (label, value with its unit)."""
    array = facts["kind"] == "array"
    memories = [
        (
            f"memory {m['name']}",
            f"{m['kib']:,.10g} KiB"
            + (f", {m['bits_per_cycle']:,.10g} bits per cycle" if m["bits_per_cycle"] < UNLIMITED else "")
            + f", holds {', '.join(m['holds'])} operands"
            + ("" if m["slides"] else "; tiles do not slide"),
        )
        for m in facts["memories"]
    ]
    registers = [
        (
            f"  {r['name']} register",
            f"{r['bits']:,.10g} bits per multiplier"
            + (f", shared along dimension {', '.join(map(str, r['shared_along']))}" if r["shared_along"] else ""),
        )
        for r in facts["registers"]
    ]
    lines = [
        ("name", facts["name"]),
        ("kind", facts["kind"]),
        ("summary", facts["summary"]),
        ("source", facts["source"]),
        ("file", facts["path"]),
        ("digest", f"sha256 {facts['digest']}"),
        ("process node", f"{facts['node_nm']:g} nm"),
        ("clock", f"{facts['clock_ghz']:g} GHz"),
        ("array", " x ".join(map(str, facts["dims"])) + " multipliers" if array else ""),
        *((f"  {p.replace('_', ' ')}", f"unrolls {', '.join(names)}") for p, names in facts["unroll"].items() if array),
        *(
            (
                f"  dataflow, {p.replace('_', ' ')}",
                "; ".join(
                    f"{level}: {f'{fixed} stay' if isinstance(fixed, str) else ' '.join(fixed)}"
                    for level, fixed in levels.items()
                ),
            )
            for p, levels in facts["dataflow"].items()
        ),
        ("  inserted zeros", ("skipped" if facts["zero_skip"] else "multiplied") if array else ""),
        ("  faster formats", ", ".join(f"{f} x {n:g}" for f, n in facts["speedup"].items())),
        *registers,
        (
            "of the peak",
            ", ".join(f"{f} {100 * eta:.3g}" for f, eta in facts["efficiency"].items())
            + f" % at most, {facts['launch_us']:g} µs a row"
            + (f", half of it at {facts['half_batch']:g} images" if facts["half_batch"] else "")
            if facts["efficiency"]
            else "",
        ),
        (
            "reached at most",
            ", ".join(f"{f} {t:,.3g}" for f, t in facts["tflops"].items()) + " TFLOP/s" if facts["tflops"] else "",
        ),
        ("formats", "any (priced by law)" if facts["formats"] == ["any"] else ", ".join(facts["formats"])),
        ("fused", ", ".join(facts["fused"])),
        *memories,
        ("DRAM", f"{facts['gbytes_per_s']:g} GB/s"),
        (
            "absolute band",
            f"x/÷ {facts['absolute_band']:g}: any energy may be off by that as a whole (90 % credible interval)",
        ),
        ("calibrated on", facts["calibrated_on"]),
        ("measured rails", facts["rails"]),
    ]
    return [(what, value) for what, value in lines if value]


def new(path: str | Path, start: str = "horowitz-45nm", *, sram_law: str | None = None) -> Path:
    """Write a commented profile to edit, a copy of `start` under the name of the file.

    `sram_law`: fill buffer energies from capacity and width by a CACTI fit. Raises `ProfileError` if the file exists
    or cannot be written, or if the law is unknown.
    """
    target, source = profile_target(path), locate(start, Path())
    load(source)
    text = source.read_text(encoding="utf-8")
    text = re.sub(r"\A#:schema .*\n", "", text)  # where the schema lies as seen from the shipped file
    text = re.sub(r'(?m)^name = ".*"$', f'name = "{target.stem}"', text, count=1)
    if sram_law is not None:
        if sram_law not in SRAM_LAWS:
            near = nearest(sram_law, SRAM_LAWS)
            raise ProfileError(
                f"no SRAM law {sram_law!r}{f'; did you mean {near}?' if near else ''} (known: {', '.join(SRAM_LAWS)})"
            )
        text = re.sub(r'(?m)^(sram_law = )"[^"]*"', rf'\1"{sram_law}"', text)
        text = re.sub(r"(?m)^read_pj_per_bit = .*\n(write_pj_per_bit = .*)$", f'sram_law = "{sram_law}"', text)
    write_profile(target, text)
    return target


def profile_target(path: str | Path) -> Path:
    """A path that a profile can be written to; its stem is the profile's name."""
    target = Path(path)
    if target.suffix != ".toml":
        raise ProfileError(f"{target}: a profile's file ends in .toml")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", target.stem):
        raise ProfileError(f"{target}: the file's name is the profile's: letters, digits, . _ - only")
    return target


def write_profile(target: Path, text: str) -> None:
    """Write a new profile and load it once; if it does not load, the file is removed."""
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


def calibrate(profile: str, measurements: str | Path, out: str | Path | None = None) -> tuple[Fit, str]:
    """Fit a device profile to measured steps: the fit with its held-out error, and the TOML of the new profile.

    `out`: where to write it (must not exist). Raises `HardwareError` naming the line of a wrong measurement.
    """
    from hw_models.analysis.calibration import fit, profile_text, read_steps

    target, chip = None if out is None else profile_target(out), load(profile)
    steps = read_steps(measurements, chip)
    fitted = fit(steps, chip)
    name = f"{chip.name}-calibrated" if target is None else target.stem
    text = profile_text(fitted, chip, name, f"{len(steps)} steps of {Path(measurements).name}")
    try:
        with tempfile.TemporaryDirectory() as folder:  # loaded once before anything is written or shown
            write_profile(Path(folder) / "fitted.toml", text)
    except ProfileError as error:
        raise ProfileError(
            f"{measurements}: what fits these steps is no profile; are joules (J) and seconds those of "
            f"one step?\n{str(error).replace(f'{folder}{os.sep}', '')}"
        ) from error
    if target is not None:
        write_profile(target, text)
    return fitted, text
