"""Commands on a folder of runs: runs list, show, watch, verify, rm, index."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from ebsim.commands.app import json_option, main, print_json, runs_dir_option, show_facts


@main.group()
def runs() -> None:
    """Runs on disk: where each stands, what it needs, removing it.

    A RUN is the path of its folder, its name, or a unique beginning of its name.
    """


def _described(entry: Any) -> dict[str, Any]:
    """A run in plain values, for tables and --json."""
    rows = entry.results.get("rows", [])
    accuracies = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    savings = [
        row["saving_vs_dense"] for row in rows if row["saving_vs_dense"] is not None and row["method"] != "dense"
    ]
    return {
        "run": entry.name,
        "state": entry.state,
        "network": entry.results.get("network", {}).get("label"),
        "dataset": entry.results.get("dataset", {}).get("label"),
        "rows": len(rows),
        "best_accuracy": max(accuracies, default=None),
        "best_saving": max(savings, default=None),
        "finished": entry.finished,
        "bytes": entry.size,
        "pid": entry.pid,
    }


@runs.command("list")
@runs_dir_option
@click.option("--check", is_flag=True, help="Also compare every file with its digest.")
@json_option
def runs_list(runs_dir: str, check: bool, as_json: bool) -> None:
    """List the runs of a folder and where each stands."""
    from ebsim.runs import inventory

    found = inventory.take(Path(runs_dir), check=check)
    described = [_described(entry) for entry in found.runs]
    if as_json:
        print_json({"runs": described, "stages": found.stages, "unused_stages": found.orphans})
        return
    from ebsim.report import Table, print_table
    from ebsim.report.display.table import Column

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    shown = [
        ("Run", False, 0, [item["run"] for item in described]),
        ("State", False, 0, [item["state"] for item in described]),
        ("Network", False, 3, [item["network"] or "–" for item in described]),
        ("Dataset", False, 4, [item["dataset"] or "–" for item in described]),
        ("Rows", True, 5, [str(item["rows"] or "–") for item in described]),
        ("Best accuracy (%)", True, 1, [percent(item["best_accuracy"]) for item in described]),
        ("Most energy saved (%)", True, 1, [percent(item["best_saving"]) for item in described]),
        ("Finished (UTC)", False, 2, [(item["finished"] or "–")[:16].replace("T", " ") for item in described]),
        ("MB", True, 2, [f"{item['bytes'] / 1e6:.1f}" for item in described]),
    ]
    columns = tuple(
        Column(heading, tuple((cell,) for cell in cells), numeric=numeric, priority=priority)
        for heading, numeric, priority, cells in shown
    )
    held = sum(found.stages.values()) / 1e6
    caption = f"{len(found.runs)} runs in {runs_dir}; {len(found.stages)} training stages, {held:.0f} MB"
    print_table(Table("", caption, columns))
    for entry in found.runs:
        if entry.problem:
            click.echo(f"{entry.name}: {entry.problem}", err=True)


@runs.command("show")
@click.argument("run")
@runs_dir_option
@json_option
def runs_show(run: str, runs_dir: str, as_json: bool) -> None:
    """Show one run: state, settings, size, and which stages it shares with whom."""
    from ebsim.runs import inventory

    found = inventory.take(Path(runs_dir))
    entry = found.run(run)
    stages: dict[str, dict[str, Any]] = {
        stage: {"bytes": found.stages.get(stage), "also_of": [n for n in found.needed_by(stage) if n != entry.name]}
        for stage in entry.stages
    }
    told = {**_described(entry), "grids": list(found.grids.get(entry.name, ())), "stages": stages}
    if as_json:
        print_json(told)
        return
    del told["stages"]
    show_facts({key: value for key, value in told.items() if value not in (None, [], "")}, False)
    for stage, facts in stages.items():
        size = "gone" if facts["bytes"] is None else f"{facts['bytes'] / 1e6:.1f} MB"
        others = ", ".join(facts["also_of"])
        click.echo(f"{'stage':16} {stage}, {size}{f'; also of {others}' if others else ''}")
    if entry.state == inventory.INTERRUPTED:
        click.echo(f"Go on with:  python cli.py run {entry.path}/experiment.toml --runs-dir {runs_dir}", err=True)
    if entry.problem:
        click.echo(entry.problem, err=True)


@runs.command("verify")
@click.argument("names", nargs=-1, metavar="[RUN]...")
@runs_dir_option
def runs_verify(names: tuple[str, ...], runs_dir: str) -> None:
    """Compare every file of finished runs with its digest. Exit code 4 if one differs."""
    from ebsim.errors import DamagedError
    from ebsim.runs import inventory

    found = inventory.take(Path(runs_dir), check=not names)
    chosen = [inventory.look(found.run(name).path, check=True) for name in names] or found.runs
    for entry in chosen:
        click.echo(f"{entry.name}  {'whole' if entry.state == inventory.DONE else entry.state}")
    if wrong := [entry.problem for entry in chosen if entry.problem]:
        raise DamagedError("\n".join(wrong))


@runs.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
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
        click.echo(f"{entry.path}, {entry.size / 1e6:.1f} MB" + (f"; a cell of {grids}" if grids else ""), err=True)
    size = sum(found.stages[stage] for stage in own) / 1e6
    kept = "" if stages else ", kept (--stages removes them)"
    click.echo(f"{len(own)} stages, {size:.1f} MB, that no other run needs{kept}", err=True)
    if not yes:
        click.confirm("Remove?", abort=True, err=True)
    for folder in inventory.remove(found, chosen, stages=stages):
        click.echo(f"removed {folder}", err=True)


@runs.command("watch")
@click.argument("run", required=False)
@runs_dir_option
@click.option("--once", is_flag=True, help="Show what there is and end.")
def runs_watch(run: str | None, runs_dir: str, once: bool) -> None:
    """Follow a run that another process trains (default: every one that is going on)."""
    from ebsim.commands.progress import described
    from ebsim.runs import inventory

    told: dict[str, int] = {}
    while True:
        found = inventory.take(Path(runs_dir))
        watched = [found.run(run)] if run else [entry for entry in found.runs if entry.state == inventory.RUNNING]
        for entry in watched:
            lines = inventory.progress_lines(entry.path)
            for line in lines[told.get(entry.name, 0) :]:
                if text := described(line):
                    click.echo(text if run else f"{entry.name}  {text}")
            told[entry.name] = len(lines)
        if once or not any(entry.state == inventory.RUNNING for entry in watched):
            for entry in watched if run else ():
                click.echo(f"{entry.name}: {entry.state}", err=True)
            return
        time.sleep(1.0)
