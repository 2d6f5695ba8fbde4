"""The commands run, compare, report and energy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ebsim.commands.app import (
    complete_runs,
    echo,
    json_option,
    main,
    name_plugins,
    no_plugins_option,
    paper_option,
    print_json,
    runs_dir_option,
    set_option,
    strict_option,
)

if TYPE_CHECKING:
    from ebsim.commands.progress import TerminalProgress
    from ebsim.config import Experiment


@main.command()
@click.argument("experiment", type=click.Path())
@set_option
@runs_dir_option
@strict_option
@no_plugins_option
@click.option("--search-only", is_flag=True, help="Train its dense networks only (what the cells of a grid share).")
@json_option
def run(
    experiment: str, settings: tuple[str, ...], runs_dir: str, strict: bool, search_only: bool, as_json: bool
) -> None:
    """Run an EXPERIMENT file: search, shrink, retrain, price, report.

    The same command continues an interrupted run, and says so of a finished one.
    """
    from ebsim import config, pipeline

    # Read and check the experiment before torch is loaded: a typo is answered at once.
    loaded = pipeline.load(experiment, config.parse_settings(settings))
    name_plugins()
    if loaded.train.devices > 1 and "RANK" not in os.environ:
        from ebsim.commands.launch import launch
        from ebsim.errors import ConfigError

        if loaded.train.devices > (cores := max(2, os.cpu_count() or 1)):
            raise ConfigError(
                f"train.devices = {loaded.train.devices}: this machine has {cores} CPUs; at most as many."
            )
        click.get_current_context().exit(launch(loaded.train.devices))
    from ebsim.commands.progress import TerminalProgress

    leads = os.environ.get("RANK", "0") == "0"  # of several processes that torchrun has started, one talks and writes
    progress = TerminalProgress() if leads else None
    if search_only:
        _search(loaded, Path(runs_dir), progress, strict, as_json)
        return
    done = pipeline.run_experiment(loaded, Path(runs_dir), progress, strict=strict)
    if not leads:
        return
    if done.reused:
        echo(f"Already done: {done.path}", err=True)
    _show_run(done.path, as_json)


def _search(
    experiment: Experiment, runs_dir: Path, progress: TerminalProgress | None, strict: bool, as_json: bool
) -> None:
    from ebsim.pipeline.search import train_dense
    from ebsim.report.display.value import counted

    epochs = train_dense(experiment, runs_dir, progress, strict=strict)
    if progress is not None and as_json:
        print_json({"stages": epochs})
    elif progress is not None:
        for stage, count in epochs.items():
            echo(f"{stage}  {counted(count, 'epoch')}")


def _show_run(folder: Path, as_json: bool) -> None:
    from ebsim import report

    if as_json:
        print_json({"run": str(folder), **report.load_run(folder).results})
    else:
        report.print_summary(report.load_run(folder))
        echo(f"Report: {folder / 'report.html'}", err=True)


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(), shell_complete=complete_runs)
@click.option("--baseline", multiple=True, metavar="METHOD|KEY=VALUE", help="Default: the settings of the first run.")
@click.option("--assert-equal", is_flag=True, help="Exit 7 and tell the first difference unless all results are equal.")
@paper_option
@runs_dir_option
@json_option
def compare(
    runs: tuple[str, ...], baseline: tuple[str, ...], assert_equal: bool, paper: bool, runs_dir: str, as_json: bool
) -> None:
    """Set finished runs side by side.

    A RUN is the path of its folder, its name, or a unique beginning of its name. First how their experiments differ,
    then their results. Runs that differ in the seed alone become one line with its spread.
    """
    from ebsim import grid
    from ebsim.report import print_table
    from ebsim.report.comparison import runs as comparing
    from ebsim.runs.inventory import folder_of

    folders = [folder_of(run, Path(runs_dir)) for run in runs]
    found = comparing.compare(folders, grid.parse_baseline(baseline) if baseline else None)
    if as_json:
        print_json(found.as_json())
    else:
        print_table(found.settings_table())
        print_table(found.table())
        folder = found.runs[0].path.parent / "comparisons" / found.folder_name
        write_page(folder, found.files(folder, for_paper=paper))
    if assert_equal:
        comparing.assert_equal(found.runs)


def write_page(folder: Path, contents: Mapping[str, bytes]) -> None:
    """The files of a page that belongs to no single run; where they cannot be written, the table stays the answer."""
    from ebsim.errors import StorageError
    from ebsim.files import write_atomic

    try:
        for name, data in contents.items():
            write_atomic(folder / name, data)
    except StorageError as error:
        echo(f"No page: {error}", err=True)
    else:
        echo(f"Page: {folder / 'report.html'}", err=True)


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(), shell_complete=complete_runs)
@paper_option
@runs_dir_option
@json_option
def report(runs: tuple[str, ...], paper: bool, runs_dir: str, as_json: bool) -> None:
    """Rebuild tables, figures and page of finished runs.

    A RUN is the path of its folder, its name, or a unique beginning of its name.
    """
    from ebsim import report as reports
    from ebsim.runs.inventory import folder_of
    from ebsim.runs.store import exclusive

    for folder in [folder_of(run, Path(runs_dir)) for run in runs]:
        reports.load_run(folder)  # before anything is made in a folder that is no run
        with exclusive(folder):
            reports.write_report(folder, for_paper=paper)
        _show_run(folder, as_json)


@main.command()
@click.argument("run", type=click.Path(), shell_complete=complete_runs)
@click.option("--hw", "profiles", multiple=True, help="A shipped name or the path of a TOML. Default: that of the run.")
@click.option("--reuse", help="Reuse model: macs, compulsory, closed, search. Default: that of the run.")
@click.option("--fuse", is_flag=True, help="Fuse layers depth-first within the memories, forward and backward.")
@click.option("--hypothetical", is_flag=True, help="Price formats that the device does not have.")
@click.option(
    "--split",
    is_flag=True,
    help="Also: energies by stage and component, where each saving comes from, and what it rests on.",
)
@paper_option
@runs_dir_option
@json_option
def energy(
    run: str,
    profiles: tuple[str, ...],
    reuse: str | None,
    fuse: bool,
    hypothetical: bool,
    split: bool,
    paper: bool,
    runs_dir: str,
    as_json: bool,
) -> None:
    """Price a finished run again, without training.

    On other accelerators, or by another reuse model. A RUN is the path of its folder, its name, or a unique beginning
    of its name.
    """
    from ebsim import report as reports
    from ebsim.pricing.reprice import reprice
    from ebsim.runs.inventory import folder_of

    finished = reports.load_run(folder_of(run, Path(runs_dir)))
    priced = [reprice(finished, name, model=reuse, hypothetical=hypothetical, fuse=fuse) for name in profiles or [None]]
    if as_json:
        print_json([item.results for item in priced])
    else:
        for item in priced:
            reports.print_summary(item, split=split)
        if len(priced) > 1:
            from ebsim.report.comparison import pricings

            folder = finished.path.parent / "comparisons" / pricings.folder_name(priced)
            write_page(folder, pricings.build(priced, for_paper=paper))
