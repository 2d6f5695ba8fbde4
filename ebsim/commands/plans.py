"""The command plan: time, memory, disk and modelled energy of one run, before anything is trained."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ebsim.commands.app import echo, json_option, main, print_json, runs_dir_option, set_option

if TYPE_CHECKING:
    from ebsim.grid.run_plan import RunPlan


@main.command()
@click.argument("experiment", type=click.Path())
@set_option
@click.option("--probe-steps", default=3, show_default=True, type=click.IntRange(0), help="Steps to time; 0: none.")
@click.option("--emergence", type=click.IntRange(1), help="Epoch at which tickets are taken to emerge.")
@runs_dir_option
@json_option
def plan(
    experiment: str, settings: tuple[str, ...], probe_steps: int, emergence: int | None, runs_dir: str, as_json: bool
) -> None:
    """Tell what a run will take, training nothing.

    Time by real steps of each network, memory, disk, and modelled energy by stage. Tickets are taken to emerge where
    the store of stages says so, else as early as the rule allows. Exit code 74 if the disk has not the space.
    """
    from ebsim import config, pipeline
    from ebsim.errors import StorageError

    loaded = pipeline.load(experiment, config.parse_settings(settings))
    from ebsim.grid.run_plan import plan_run

    startup = time.process_time()  # torch is loaded by now, as it has to be for a run
    found = plan_run(loaded, Path(runs_dir), probe_steps=probe_steps, emergence=emergence, startup=startup)
    if as_json:
        print_json(found.as_json())
    else:
        _show(found)
    if found.disk > found.free:
        raise StorageError(
            f"{found.folder}: about {found.disk / 1e6:,.0f} MB will be written, {found.free / 1e6:,.0f} MB are free. "
            "Free some space, or use --runs-dir."
        )


def _parts(found: RunPlan) -> str:
    """Where the time goes."""
    from ebsim.report.display.value import duration

    trainings = sum(training.seconds for training in found.trainings)
    parts = {"training": trainings, "start and networks": found.setup_seconds, "report": found.report_seconds}
    return ", ".join(f"{what} {duration(seconds)}" for what, seconds in parts.items())


def _show(found: RunPlan) -> None:
    from ebsim.commands.progress import at_ratio
    from ebsim.report.display.terminal import print_rows
    from ebsim.report.display.value import counted, duration, fixed, quantity

    timed = any(training.step_seconds for training in found.trainings)
    rows = [
        [
            training.stage, f"{training.parameters:,}", training.precision,
            f"{training.last - training.first}", f"{training.trained}",
            *([f"{1000 * training.step_seconds:.1f}", str(duration(training.seconds))] if timed else []),
        ]
        for training in found.trainings
    ]  # fmt: skip
    headings = ["Training", "Parameters", "Precision", "Epochs", "Done", *(["Step (ms)", "Time"] if timed else [])]
    print_rows("Trainings", headings, rows)
    energies = [
        [
            f"{row.label}{at_ratio(row.ratio)}", str(row.epoch_drawn or "–"),
            "; ".join(f"{what} {counted(number, 'epoch')} {quantity(j, 'J')}" for what, number, j in row.stages),
            f"{row.joules:.3g}", "–" if row.saving is None else fixed(100 * row.saving, 1),
        ]
        for row in found.rows
    ]  # fmt: skip
    caption = f"Energies modelled on {found.hardware}"
    print_rows(caption, ["Row", "Drawn", "By stage", "Modelled energy (J)", "Saving (%)"], energies)
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    if found.seconds:
        echo(f"time      about {duration(found.seconds)} on {found.device}, {threads}; of it {_parts(found)}")
    if found.disturbed:
        echo("          (other work takes the CPU at present; this is the time without it)")
    echo(f"memory    about {found.memory / 1e9:.2f} GB at the peak")
    echo(f"disk      about {found.disk / 1e6:,.0f} MB of {found.free / 1e9:,.1f} GB free")
    echo(f"folder    {found.folder} ({found.state})")
