"""The commands runs list, show, watch, verify, rm and index: run folders on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from ebsim.commands.app import (
    complete_runs,
    echo,
    echo_lines,
    json_option,
    main,
    print_json,
    runs_dir_option,
    show_facts,
)


@main.group()
def runs() -> None:
    """Runs on disk: where each stands, what it needs, removing it.

    A RUN is the path of its folder, its name, or a unique beginning of its name.
    """


@runs.command("list")
@runs_dir_option
@click.option("--check", is_flag=True, help="Also compare every file with its digest.")
@json_option
def runs_list(runs_dir: str, check: bool, as_json: bool) -> None:
    """List the runs of a folder and where each stands."""
    from ebsim.report import print_table, runs_index
    from ebsim.runs import inventory

    found = inventory.take(Path(runs_dir), check=check)
    if as_json:
        listed = [runs_index.described(entry) for entry in found.runs]
        print_json({"runs": listed, "stages": found.stages, "unused_stages": found.orphans})
    else:
        print_table(runs_index.table(found))


@runs.command("index")
@runs_dir_option
def runs_index_page(runs_dir: str) -> None:
    """Write a page of all runs with links to their reports."""
    from ebsim.report.runs_index import write_index
    from ebsim.runs import inventory

    echo(write_index(inventory.take(Path(runs_dir))))


@runs.command("show")
@click.argument("run", shell_complete=complete_runs)
@runs_dir_option
@json_option
def runs_show(run: str, runs_dir: str, as_json: bool) -> None:
    """Show one run: state, settings, size, and which stages it shares with whom."""
    from ebsim.report.runs_index import described, facts
    from ebsim.runs import inventory

    found = inventory.take(Path(runs_dir))
    entry = found.run(run)
    stages: dict[str, dict[str, Any]] = {
        stage: {"bytes": found.stages.get(stage), "also_of": [n for n in found.needed_by(stage) if n != entry.name]}
        for stage in entry.stages
    }
    grids = list(found.grids.get(entry.name, ()))
    if as_json:
        print_json({**described(entry), "grids": grids, "stages": stages})
        return
    show_facts({**facts(entry), **({"grids": ", ".join(grids)} if grids else {})}, False)
    for stage, own in stages.items():
        size = "gone" if own["bytes"] is None else f"{own['bytes'] / 1e6:.1f} MB"
        others = ", ".join(own["also_of"])
        echo_lines(f"{'stage':16} {stage}, {size}{f'; also of {others}' if others else ''}", under=17)
    if entry.state == inventory.INTERRUPTED:
        echo(f"Go on with:  python cli.py run {entry.path}/experiment.toml --runs-dir {runs_dir}", err=True)
    if entry.problem:
        echo(entry.problem, err=True)


@runs.command("verify")
@click.argument("names", nargs=-1, metavar="[RUN]...", shell_complete=complete_runs)
@runs_dir_option
def runs_verify(names: tuple[str, ...], runs_dir: str) -> None:
    """Compare every file of finished runs with its digest. Exit code 4 if one differs."""
    from ebsim.errors import DamagedError
    from ebsim.runs import inventory

    found = inventory.take(Path(runs_dir), check=not names)
    chosen = [inventory.look(found.run(name).path, check=True) for name in names] or found.runs
    for entry in chosen:
        echo(f"{entry.name}  {'whole' if entry.state == inventory.DONE else entry.state}")
    if wrong := [entry.problem for entry in chosen if entry.problem]:
        raise DamagedError("\n".join(wrong))


@runs.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="RUN...", shell_complete=complete_runs)
@runs_dir_option
@click.option("--stages", is_flag=True, help="Also the training stages that no other run needs.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def runs_rm(names: tuple[str, ...], runs_dir: str, stages: bool, yes: bool) -> None:
    """Remove runs, and say first what still needs them."""
    from ebsim.runs import inventory

    found = inventory.take(Path(runs_dir))
    chosen = [found.run(name) for name in names]
    own = found.only_of(chosen)
    for entry in chosen:
        grids = ", ".join(found.grids.get(entry.name, ()))
        echo(f"{entry.path}, {entry.size / 1e6:.1f} MB" + (f"; a cell of {grids}" if grids else ""), err=True)
    from ebsim.report.display.value import counted

    size = sum(found.stages[stage] for stage in own) / 1e6
    kept = "" if stages else ", kept (--stages removes them)"
    echo(f"{counted(len(own), 'stage')}, {size:.1f} MB, that no other run needs{kept}", err=True)
    if not yes:
        click.confirm("Remove?", abort=True, err=True)
    for folder in inventory.remove(found, chosen, stages=stages):
        echo(f"removed {folder}", err=True)


@runs.command("watch")
@click.argument("run", required=False, shell_complete=complete_runs)
@runs_dir_option
@click.option("--once", is_flag=True, help="Show what there is and end.")
def runs_watch(run: str | None, runs_dir: str, once: bool) -> None:
    """Follow a run that another process trains, or a grid (default: every run that is going on).

    A grid is its folder below grids/, its name or a unique beginning of that. Any machine that sees the folder will do.
    """
    from ebsim.commands.progress import event_line
    from ebsim.runs import grid_folder, inventory

    if run and (grid := grid_folder.find(run, Path(runs_dir))):
        _watch_grid(grid, once)
        return

    told: dict[str, int] = {}
    while True:
        found = inventory.take(Path(runs_dir))
        watched = [found.run(run)] if run else [entry for entry in found.runs if entry.state == inventory.RUNNING]
        for entry in watched:
            lines = inventory.progress_lines(entry.path)
            for line in lines[told.get(entry.name, 0) :]:
                if text := event_line(line):
                    echo(text if run else f"{entry.name}  {text}")
            told[entry.name] = len(lines)
        if once or not any(entry.state == inventory.RUNNING for entry in watched):
            for entry in watched if run else ():
                echo(f"{entry.name}: {entry.state}", err=True)
            return
        time.sleep(1.0)


def _watch_grid(folder: Path, once: bool) -> None:
    """Every cell as it stands, then what changes, until nothing of the grid is running or queued."""
    from ebsim.grid.slurm import queued
    from ebsim.runs import grid_folder

    told: dict[int, str] = {}
    while True:
        found = grid_folder.cells(folder)
        for cell in found:
            if told.get(cell.number) != cell.line:
                told[cell.number] = cell.line
                echo(cell.line)
        states = [cell.state for cell in found]
        alive = grid_folder.RUNNING in states or grid_folder.driven(folder) or bool(queued(folder.name))
        if once or not alive:
            order = (
                grid_folder.DONE,
                grid_folder.RUNNING,
                grid_folder.FAILED,
                grid_folder.STOPPED,
                grid_folder.WAITING,
            )
            counts = ", ".join(f"{states.count(state)} {state}" for state in order if state in states)
            tasks = queued(folder.name)
            echo(f"{folder.name}: {counts}{f'; {len(tasks)} tasks in the queue' if tasks else ''}", err=True)
            return
        time.sleep(2.0)
