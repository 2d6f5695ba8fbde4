"""How far `plan` is from the run: planned seconds and joules over those of the run, for three jobs.

    python benchmarks/plan.py [--trial] [JOB...]

Each job is planned and then run, in processes of their own and in a fresh folder; the run's seconds are of the whole
command, start and report included. On an idle machine `wall` is the ratio that counts. Where other work takes the CPU,
`cpu` (planned over the CPU seconds of the run, for jobs of one thread) says the same with less noise. The energy ratio
is at the epochs where tickets really emerged, which the plan could not know: it assumes the earliest, or --emergence.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JOBS = {
    "main": ["experiments/preresnet101.toml"],
    "low-precision": [
        "experiments/precision.toml", "--set", "grid={}", "--set", "precision.low=fp8", "--set", "train.epochs=12",
        "--set", "train.milestones=[6,9]", "--set", "train.threads=1",
    ],
    "vgg16": ["experiments/vgg16.toml", "--set", "train.epochs=8", "--set", "train.milestones=[4,6]"],
}  # fmt: skip
TRIAL = ["--set", "train.epochs=4", "--set", "train.milestones=[2,3]", "--set", "prune.window=2",
         "--set", "prune.threshold=0.9"]  # fmt: skip


def command(words: list[str]) -> tuple[dict[str, object], float, float]:
    """The JSON that a command prints, its wall-clock and its CPU seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *words, "--json"], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return json.loads(done.stdout), wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(name: str, words: list[str]) -> str:
    """One line: planned and taken seconds, their ratios, and the ratio of the energies."""
    with tempfile.TemporaryDirectory() as folder:
        where = ["--runs-dir", folder]
        plan, planning, _ = command(["plan", *words, *where])
        run, wall, cpu = command(["run", *words, *where])
        again, *_ = command(["plan", *words, *where])
    seconds = float(str(plan["seconds"]))
    joules = [sum(row["joules"] for row in one["rows"]) for one in (plan, again)]  # type: ignore[attr-defined]
    ran = sum(row["energy"]["joules"] for row in run["rows"])  # type: ignore[attr-defined]
    return (
        f"{name:14} {seconds:9.1f} {wall:9.1f} {cpu:9.1f} {seconds / wall:7.2f} {seconds / cpu:7.2f} "
        f"{joules[0] / ran:9.3f} {joules[1] / ran:14.12f} {planning:9.1f}  {'yes' if plan['disturbed'] else 'no'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trial", action="store_true", help="four epochs of each job")
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=", ".join(JOBS))
    chosen = parser.parse_args()
    print(
        f"{'job':14} {'planned':>9} {'wall':>9} {'cpu':>9} {'wall':>7} {'cpu':>7} {'energy':>9} {'energy after':>14} "
        f"{'plan took':>9}  machine busy"
    )
    print(f"{'':14} {'s':>9} {'s':>9} {'s':>9} {'ratio':>7} {'ratio':>7} {'ratio':>9} {'ratio':>14} {'s':>9}")
    for name in chosen.jobs or JOBS:
        print(compare(name, [*JOBS[name], *(TRIAL if chosen.trial else [])]), flush=True)


if __name__ == "__main__":
    main()
