"""The command export: curves of runs for TensorBoard, Weights & Biases (offline), MLflow, or as JSON Lines."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from ebsim.commands.app import complete_runs, echo, main, runs_dir_option


@main.command()
@click.argument("run", shell_complete=complete_runs)
@click.option(
    "--to", "tool", required=True, type=click.Choice(["tensorboard", "wandb", "mlflow", "jsonl"]), help="Which format."
)
@click.option("--out", type=click.Path(file_okay=False), help="Folder. Default: exports/RUN/TOOL beside the runs.")
@runs_dir_option
def export(run: str, tool: str, out: str | None, runs_dir: str) -> None:
    """Write the curves of a RUN for another tool, the modelled energy among them.

    Of a run that is not finished, the trainings so far, without energy. Nothing is sent anywhere.
    """
    from ebsim.errors import ConfigError
    from ebsim.export import WRITERS, series_of, stage_series
    from ebsim.runs import inventory

    entry = inventory.take(Path(runs_dir)).run(run)
    if entry.state == inventory.DONE:
        series = series_of(entry.path)
    else:
        told = inventory.progress_lines(entry.path)
        stages = dict.fromkeys(line["stage"] for line in told if "stage" in line)
        series = [one for stage in stages if (one := stage_series(Path(runs_dir) / "stages" / stage)) is not None]
    if not series:
        raise ConfigError(f"{entry.path}: no epoch has been trained yet, so there is nothing to export.")
    seconds = max(point.seconds for one in series for point in one.points)
    start = (entry.path / "experiment.toml").stat().st_mtime  # written when a run begins
    if entry.finished:
        start = datetime.fromisoformat(entry.finished).timestamp() - seconds
    folder = Path(out) if out else Path(runs_dir) / "exports" / entry.name / tool
    echo(WRITERS[tool](series, folder, start=start))
    from ebsim.report.display.value import counted

    echo(f"{counted(len(series), 'curve')} in {folder}", err=True)
