"""The GPU path on a machine with a GPU and without a network: checked, timed, measured, and the results trained.

    python benchmarks/gpu.py --data DIR [--minutes 8] [--out OUT] [--phases checks,steps,trainings] [--resume ARCHIVE]

DIR has train/ and test/, one sub-folder of images per class (CIFAR-10 as JPEG files). The phases, in the order in which
a cut would lose the least: correctness against the CPU; times, memory and joules of the training step, with a
calibration of the `h100` profile from them; the experiments of experiments/results/, several at a time, for the rest of
the minutes. Everything is written as it comes: OUT/gpu.json (figures and provenance), OUT/gpu.md (the same as tables),
OUT/runs.tar.xz (run folders and the tables of the grids) and, with --stages, OUT/stages.tar.xz (to go on elsewhere).
`--quick` runs all of it at toy size, on a CPU too.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import gpu_checks
import gpu_steps
import gpu_trainings

from ebsim.files import write_atomic
from ebsim.runs import provenance

PHASES = ("checks", "steps", "trainings")
RESERVE = 20.0  # seconds at the end for writing the archives


class Report:
    """The result file and its tables, written again after every item."""

    def __init__(self, out: Path, device: torch.device) -> None:
        self.out = out
        self.content: dict[str, Any] = {"provenance": facts(device), **{phase: {} for phase in PHASES}}
        if (out / "gpu.json").exists():  # an earlier call's phases stay
            before = json.loads((out / "gpu.json").read_text())
            self.content |= {phase: before.get(phase, {}) for phase in PHASES}

    def write(self, phase: str, name: str, result: Any) -> None:
        self.content[phase][name] = result
        print(f"{phase}: {name}: {_short(result)}", flush=True)
        self.save()

    def save(self) -> None:
        write_atomic(self.out / "gpu.json", json.dumps(self.content, indent=1, default=str) + "\n")
        write_atomic(self.out / "gpu.md", markdown(self.content))


def facts(device: torch.device) -> dict[str, Any]:
    """Provenance, and what is particular to a GPU."""
    found = provenance.collect(str(device))
    found["started"] = provenance.now()
    found["cuda"], found["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    if device.type == "cuda":
        own = torch.cuda.get_device_properties(device)
        found["gpu"] = {"name": own.name, "memory_bytes": own.total_memory, "processors": own.multi_processor_count}
        found["gpu"]["capability"] = list(torch.cuda.get_device_capability(device))
    return found


def _short(result: dict[str, Any]) -> str:
    text = json.dumps(result, default=str)
    return text if len(text) < 220 else text[:217] + "..."


def markdown(content: dict[str, Any]) -> str:
    """The figures as tables."""
    made = content["provenance"]
    device = made.get("gpu", {}).get("name", made.get("device"))
    versions = f"torch {made.get('torch_build')}, CUDA {made.get('cuda')}, cuDNN {made.get('cudnn')}"
    head = f"{versions}, Python {made.get('python')}; commit {made.get('commit')}; {made.get('started')}."
    parts = [_checks(content["checks"]), _steps(content["steps"]), _trainings(content["trainings"])]
    return "\n".join([f"# GPU results: {device}", "", head, "", *(line for part in parts for line in part)])


def _checks(found: dict[str, Any]) -> list[str]:
    lines = ["## Checks", "", "| check | passed | figures |", "|---|---|---|"]
    for name, result in found.items():
        figures = "; ".join(f"{key} {_figure(value)}" for key, value in result.items() if key != "passed")
        lines.append(f"| {name} | {'yes' if result.get('passed') else '**no**'} | {_cell(figures)} |")
    return [*lines, ""] if found else []


def _steps(found: dict[str, Any]) -> list[str]:
    what = "One training step (forward, backward, L1 term, update) on a batch on the device."
    lines = ["## Steps", "", f"{what} Joules are measured (board power), not modelled.", ""]
    lines += ["| case | ms a step | images/s | over eager | peak GB | J a step |", "|---|---:|---:|---:|---:|---:|"]
    for name, row in found.items():
        if "step_ms" in row:
            figures = [f"{row['step_ms']:.3f}", f"{row['images_per_s']:,.0f}", _speedup(row, found)]
            figures += [_giga(row["peak_bytes"]), _figure(row["measured_joules_per_step"])]
            lines.append(f"| {name} | {' | '.join(figures)} |")
        elif name == "ceilings":
            lines.insert(
                3, f"Best of this machine: {', '.join(f'{key} {value:,.1f}' for key, value in row.items())}.\n"
            )
        elif name != "calibration":
            lines.append(f"| {name} | {_cell(row.get('error', row.get('skipped', '')))} | | | | |")
    if "calibration" in found:
        fitted = found["calibration"]
        lines += ["", f"Calibration of `h100`: {fitted.get('error') or json.dumps(fitted.get('fit'))}"]
    return [*lines, ""] if found else []


def _trainings(found: dict[str, Any]) -> list[str]:
    lines = ["## Trainings", "", "| experiment | cells done | seconds | remarks |", "|---|---|---:|---|"]
    for name, row in found.items():
        remarks = row.get("error") or "; ".join(f"cell {n}: {why}" for n, why in row.get("errors", {}).items())
        done = f"{row.get('done', 0)} of {row.get('cells', '?')}"
        lines.append(f"| {name} | {done} | {row.get('seconds', '')} | {_cell(remarks)} |")
    return [*lines, ""] if found else []


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else ("–" if value is None else str(value))


def _giga(value: Any) -> str:
    return "–" if value is None else f"{value / 1e9:.2f}"


def _speedup(row: dict[str, Any], every: dict[str, Any]) -> str:
    """How much faster than the eager step of the same network and arithmetic."""
    same = ("network", "depth", "batch", "arithmetic", "ratio", "low", "side", "classes")
    found = [o for o in every.values() if "step_ms" in o and o["mode"] == "eager" and all(o[k] == row[k] for k in same)]
    return f"{found[0]['step_ms'] / row['step_ms']:.2f}" if found and row["mode"] != "eager" else "–"


def calibrate(results: dict[str, Any], out: Path) -> dict[str, Any]:
    """Fit the `h100` profile to the measured steps: its constants, and its errors on networks left out."""
    from hw_models.analysis import calibration

    networks, rows = gpu_steps.calibration_rows(results)
    if not rows:
        return {"error": "no step was measured"}
    path = out / "measured_steps.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, calibration.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    steps = calibration.read_steps(path, "h100", networks)
    fitted = calibration.fit(steps, "h100")
    return {
        "steps": len(rows),
        "fit": fitted.to_dict(),
        "doubts": fitted.doubts,
        "held_out_error": fitted.held_out_error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="an image folder, or a folder that holds cifar10-jpeg")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu-results")))
    parser.add_argument("--minutes", type=float, default=8.0, help="all phases together")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--step-minutes", type=float, default=2.0, help="at most so long for the second phase")
    parser.add_argument(
        "--slots", type=int, default=max(2, (os.cpu_count() or 2) + 2), help="worker processes at a time"
    )
    parser.add_argument("--first-case", type=int, default=0, help="of the second phase: go on behind an earlier call")
    parser.add_argument("--step-seconds", type=float, default=0.6, help="time each case so long")
    parser.add_argument("--jobs", default="", help="names of experiments, in order; default: all")
    parser.add_argument("--runs-dir", type=Path, default=None, help="run folders and stages; default: beside OUT")
    parser.add_argument("--stages", action="store_true", help="also pack OUT/stages.tar.xz, to go on elsewhere")
    parser.add_argument("--resume", type=Path, default=None, help="stages.tar.xz of an earlier call")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="toy sizes: does all of it run")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    device = torch.device(options.device)
    torch.set_num_threads(4 if device.type == "cuda" else 1)  # many threads on busy cores wait for each other
    options.out.mkdir(parents=True, exist_ok=True)
    runs_dir = options.runs_dir or options.out.parent / "gpu-runs"
    data = next((path for path in (options.data / "cifar10-jpeg", options.data) if (path / "train").is_dir()), None)
    if data is None:
        parser.error(f"{options.data}: neither it nor its folder cifar10-jpeg has train/ and test/")
    report, phases = Report(options.out, device), options.phases.split(",")

    if "checks" in phases:
        gpu_checks.run_all(device, str(data), lambda name, result: report.write("checks", name, result))
    if "steps" in phases:
        stop = min(end - RESERVE, time.monotonic() + 60 * options.step_minutes)
        seconds = 0.05 if options.quick else options.step_seconds
        write = lambda name, result: report.write("steps", name, result)  # noqa: E731
        gpu_steps.run_all(device, seconds, options.quick, write, lambda: stop - time.monotonic(), options.first_case)
        report.write("steps", "calibration", _guarded(lambda: calibrate(report.content["steps"], options.out)))
    if "trainings" in phases:
        if options.resume is not None:
            gpu_trainings.unpack(options.resume, runs_dir)
        chosen = gpu_trainings.jobs(options.quick)
        if options.jobs:
            known = {job.name: job for job in chosen}
            chosen = [known[name] for name in options.jobs.split(",")]
        lock = threading.Lock()
        runner = gpu_trainings.Runner(data, runs_dir, str(device), options.slots, end - RESERVE)

        def finished(name: str, record: dict[str, Any]) -> None:
            with lock:
                report.write("trainings", name, record)
                gpu_trainings.pack_results(runs_dir, options.out / "runs.tar.xz")

        runner.run(chosen, finished)
        gpu_trainings.pack_results(runs_dir, options.out / "runs.tar.xz")
        if options.stages:
            gpu_trainings.pack_stages(runs_dir, options.out / "stages.tar.xz")
    report.save()


def _guarded(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except Exception as error:  # the figures that it was made from are written already
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
