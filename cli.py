"""The command line: each command is a few lines over the packages; nothing is computed here.

Results go to stdout, talk to stderr. Exit codes: 0 done, 2 usage or configuration, 3 dataset, 4 damaged file,
5 held by another process, 6 diverged, 7 cells failed or runs differ, 74 disk, 75 stopped (run again to go on),
130 second Ctrl-C, 1 our bug.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from ebsim.errors import EbsimError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
runs_dir_option = click.option(
    "--runs-dir", default="runs", show_default=True, type=click.Path(file_okay=False), help="Where run folders live."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout instead of a table.")
set_option = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key, for example train.epochs=40."
)


class Main(click.Group):
    """Turns every named error into its message on stderr and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EbsimError as error:
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)


@click.group(cls=Main, context_settings=CONTEXT)
@click.version_option(package_name="ebsim", prog_name="ebsim")
def main() -> None:
    """Early-Bird tickets: find, shrink and train a winning sub-network, and see its modelled energy.

    Start with:  python cli.py run experiments/preresnet101.toml
    """


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1, allow_nan=False))


@main.command()
@click.argument("experiment", type=click.Path())
@set_option
@runs_dir_option
@json_option
def run(experiment: str, settings: tuple[str, ...], runs_dir: str, as_json: bool) -> None:
    """Run an EXPERIMENT file: search, shrink, retrain, price, report.

    The same command continues an interrupted run, and says so of a finished one.
    """
    from ebsim import config, pipeline

    # Read and check the experiment before torch is loaded: a typo is answered at once.
    loaded = pipeline.load(experiment, config.parse_settings(settings))
    from ebsim.terminal import Terminal
    from ebsim.training import stop

    with stop.on_signals():
        done = pipeline.run_experiment(loaded, Path(runs_dir), Terminal())
    if done.reused:
        click.echo(f"Already done: {done.path}", err=True)
    _show_run(done.path, as_json)


def _show_run(folder: Path, as_json: bool) -> None:
    from ebsim import report

    if as_json:
        _print_json({"run": str(folder), **report.load_run(folder).results})
    else:
        report.print_summary(report.load_run(folder))
        click.echo(f"Report: {folder / 'report.html'}", err=True)


@main.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path())
@json_option
def report(folders: tuple[str, ...], as_json: bool) -> None:
    """Rebuild the tables, figures and page of finished runs from their files."""
    from ebsim import report as reports

    for folder in folders:
        reports.write_report(Path(folder))
        _show_run(Path(folder), as_json)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
