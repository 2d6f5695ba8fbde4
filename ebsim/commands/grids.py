"""The command ablate: a grid of experiments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ebsim.commands.app import (
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
    from ebsim.grid import GridPlan, GridState, Table


@main.command()
@click.argument("experiment", type=click.Path())
@click.option("--grid", "axes", multiple=True, metavar="KEY=V,V", help="An axis: seed=0..4, prune.ratio=0.3,0.5.")
@set_option
@click.option("--workers", type=click.IntRange(1, 1024), help="Cells run at a time on this machine.  [default: 1]")
@click.option(
    "--on",
    "engine",
    default="local",
    show_default=True,
    type=click.Choice(["local", "slurm", "submitit"]),
    help="Where cells run: here, or as tasks of a Slurm cluster ([cluster] says what they ask for).",
)
@click.option("--no-submit", is_flag=True, help="With --on slurm: write the scripts and submit nothing.")
@click.option("--collect", is_flag=True, help="Run nothing: the table of the cells that are done.")
@click.option("--retry-failed", is_flag=True, help="Run failed cells again.")
@click.option("--baseline", multiple=True, metavar="METHOD|KEY=VALUE", help="What is tested against. Default: dense.")
@click.option("--plan-only", is_flag=True, help="Say what it costs and run nothing.")
@click.option("--probe-steps", default=3, show_default=True, type=click.IntRange(0), help="Steps to time; 0: none.")
@paper_option
@runs_dir_option
@strict_option
@no_plugins_option
@json_option
def ablate(
    experiment: str, axes: tuple[str, ...], settings: tuple[str, ...], workers: int | None, engine: str,
    no_submit: bool, collect: bool, retry_failed: bool, baseline: tuple[str, ...], plan_only: bool, probe_steps: int,
    paper: bool, runs_dir: str, strict: bool, as_json: bool,
) -> None:  # fmt: skip
    """Run a grid over EXPERIMENT: plan, parallel cells, one table.

    The table has the spread over seeds and paired tests. Kill it at any time; the same command goes on. Finished
    cells are checked and skipped.
    """
    from ebsim import config, grid, stop

    if engine != "local" and workers is not None:
        raise click.UsageError(
            '--workers is for this machine; on a cluster the queue decides (see "sbatch" in [cluster]).'
        )
    if no_submit and engine != "slurm":
        raise click.UsageError("--no-submit goes with --on slurm.")
    against = grid.parse_baseline(baseline)
    grid_state = grid.open_grid(
        experiment, axes, config.parse_settings(settings), runs_dir=runs_dir, retry_failed=retry_failed
    )
    name_plugins()
    if collect:
        table = grid.collect(grid_state, against)
        plan = grid.draw_up(grid_state, Path(runs_dir), probe_steps=0) if as_json else None
        _end(grid_state, plan, table, runs_dir)
        return
    plan = grid.draw_up(grid_state, Path(runs_dir), probe_steps=probe_steps)
    for line in grid.lines(plan, grid_state.grid.axes, workers or 1):
        echo(line, err=True)
    if plan_only:
        if as_json:
            print_json(plan.as_json())
        return
    if engine != "local":
        grid.check_against(grid_state, against)
        flags = [f"--baseline={word}" for word in baseline]
        _submit(grid_state, plan, engine, runs_dir, flags, strict, as_json, write_only=no_submit)
        return
    from ebsim.grid.progress import GridProgress

    table = grid.ablate(
        grid_state, runs_dir=runs_dir, workers=workers or 1, baseline=against, watch=GridProgress(), check=stop.check,
        strict=strict, for_paper=paper,
    )  # fmt: skip
    _end(grid_state, plan if as_json else None, table, runs_dir)


def _end(grid_state: GridState, plan: GridPlan | None, table: Table | None, runs_dir: str) -> None:
    """Show a grid's table, or (with its plan) all of it as JSON; exit code 7 where a cell failed."""
    from ebsim import grid
    from ebsim.report import print_table

    if plan is not None:
        print_json(grid.as_json(grid_state, plan, runs_dir))
    elif table is not None:
        print_table(table)
        echo(
            f"{grid.counted(grid_state, runs_dir)}\nPage, table and figures: {grid_state.folder / 'report.html'}",
            err=True,
        )
    grid.raise_if_failed(grid_state)


def _submit(
    grid_state: GridState, plan: GridPlan, engine: str, runs_dir: str, flags: list[str], strict: bool, as_json: bool,
    *, write_only: bool,
) -> None:  # fmt: skip
    """Hand a grid to a cluster; the jobs of it on stdout."""
    from ebsim.grid import slurm

    name = grid_state.folder.name
    if engine == "submitit":
        from ebsim.grid import submitit_tasks

        script, jobs = None, submitit_tasks.submit(grid_state, plan, runs_dir, flags, strict=strict)
    else:
        if not write_only:
            slurm.require()
        script = slurm.write(grid_state, plan, runs_dir, flags, strict=strict)
        jobs = [] if write_only else slurm.submit(script)
    if as_json:
        print_json({"grid": str(grid_state.folder), "script": str(script) if script else None, "jobs": jobs})
    elif write_only:
        echo(f"Written; submit with:  bash {script}")
    else:
        echo(f"Submitted as {len(jobs)} jobs: {', '.join(jobs)}")
        echo(f"Follow:  python cli.py runs watch {name} --runs-dir {runs_dir}", err=True)
        echo(f"End all:  {slurm.cancel_command(name)}", err=True)
