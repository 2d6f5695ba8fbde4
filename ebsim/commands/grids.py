"""Commands on grids of runs: ablate."""

from __future__ import annotations

from pathlib import Path

import click

from ebsim.commands.app import (
    json_option,
    main,
    name_plugins,
    no_plugins_option,
    print_json,
    runs_dir_option,
    set_option,
)


@main.command()
@click.argument("experiment", type=click.Path())
@click.option("--grid", "axes", multiple=True, metavar="KEY=V,V", help="An axis: seed=0..4, prune.ratio=0.3,0.5.")
@set_option
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 1024), help="Cells run at a time.")
@click.option("--retry-failed", is_flag=True, help="Run failed cells again.")
@click.option("--baseline", multiple=True, metavar="METHOD|KEY=VALUE", help="What is tested against. Default: dense.")
@click.option("--plan-only", is_flag=True, help="Say what it costs and run nothing.")
@click.option("--probe-steps", default=3, show_default=True, type=click.IntRange(0), help="Steps to time; 0: none.")
@runs_dir_option
@no_plugins_option
@json_option
def ablate(
    experiment: str, axes: tuple[str, ...], settings: tuple[str, ...], workers: int, retry_failed: bool,
    baseline: tuple[str, ...], plan_only: bool, probe_steps: int, runs_dir: str, as_json: bool,
) -> None:  # fmt: skip
    """Run a grid over EXPERIMENT: plan, parallel cells, one table.

    The table has the spread over seeds and paired tests. Kill it at any time; the same command goes on. Finished
    cells are checked and skipped.
    """
    from ebsim import config, grid, stop

    against = grid.parse_baseline(baseline)
    grid_state = grid.open_grid(
        experiment, axes, config.parse_settings(settings), runs_dir=runs_dir, retry_failed=retry_failed
    )
    name_plugins()
    plan = grid.draw_up(grid_state, Path(runs_dir), probe_steps=probe_steps)
    for line in grid.lines(plan, grid_state.grid.axes, workers):
        click.echo(line, err=True)
    if plan_only:
        if as_json:
            print_json(plan.as_json())
        return
    from ebsim.grid.progress import GridProgress
    from ebsim.report import print_table

    table = grid.ablate(
        grid_state, runs_dir=runs_dir, workers=workers, baseline=against, watch=GridProgress(), check=stop.check
    )
    if as_json:
        print_json(grid.as_json(grid_state, plan, runs_dir))
    elif table is not None:
        print_table(table)
        click.echo(
            f"{grid.counted(grid_state, runs_dir)}\nPage, table and figures: {grid_state.folder / 'report.html'}",
            err=True,
        )
    grid.raise_if_failed(grid_state)
