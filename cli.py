"""The command line: each command is a few lines over the packages; nothing is computed here.

Results go to stdout, talk to stderr. Exit codes: 0 done, 2 usage or configuration, 3 dataset, 4 damaged file,
5 held by another process, 6 diverged, 7 cells failed or runs differ, 74 disk, 75 stopped (run again to go on),
130 second Ctrl-C, 1 our bug.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from ebsim.errors import EbsimError
from hw_models.errors import HardwareError

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
        except HardwareError as error:
            click.echo(str(error), err=True)
            ctx.exit(2)
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
    from ebsim.commands.progress import Terminal
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
@click.argument("experiment", type=click.Path())
@click.option("--grid", "axes", multiple=True, metavar="KEY=V,V", help="An axis: seed=0..4, prune.ratio=0.3,0.5.")
@set_option
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 1024), help="Cells run at a time.")
@click.option("--retry-failed", is_flag=True, help="Run failed cells again.")
@click.option("--baseline", multiple=True, metavar="METHOD|KEY=VALUE", help="What is tested against. Default: dense.")
@click.option("--plan-only", is_flag=True, help="Say what it costs and run nothing.")
@click.option("--probe-steps", default=3, show_default=True, type=click.IntRange(0), help="Steps to time; 0: none.")
@runs_dir_option
@json_option
def ablate(
    experiment: str, axes: tuple[str, ...], settings: tuple[str, ...], workers: int, retry_failed: bool,
    baseline: tuple[str, ...], plan_only: bool, probe_steps: int, runs_dir: str, as_json: bool,
) -> None:  # fmt: skip
    """Run a grid over EXPERIMENT: the plan, the cells in parallel, one table with spread and tests.

    Kill it at any time; the same command goes on. Finished cells are checked and skipped.
    """
    from ebsim import config, grid

    against = grid.parse_baseline(baseline)
    board = grid.open_grid(
        experiment, axes, config.parse_settings(settings), runs_dir=runs_dir, retry_failed=retry_failed
    )
    plan = grid.draw_up(board, Path(runs_dir), probe_steps=probe_steps)
    for line in grid.lines(plan, board.grid.axes, workers):
        click.echo(line, err=True)
    if plan_only:
        if as_json:
            _print_json(plan.as_json())
        return
    from ebsim.grid.progress import Lines
    from ebsim.report import print_table
    from ebsim.training import stop

    with stop.on_signals():
        table = grid.ablate(
            board, runs_dir=runs_dir, workers=workers, baseline=against, watch=Lines(), check=stop.check
        )
    if as_json:
        _print_json(grid.as_json(board, plan, runs_dir))
    elif table is not None:
        print_table(table)
        click.echo(f"{grid.counted(board, runs_dir)}\nTable and figures: {board.folder}", err=True)
    grid.raise_if_failed(board)


@main.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path())
@click.option("--baseline", multiple=True, metavar="METHOD|KEY=VALUE", help="Default: the settings of the first run.")
@click.option("--assert-equal", is_flag=True, help="Exit 7 and tell the first difference unless all results are equal.")
@json_option
def compare(folders: tuple[str, ...], baseline: tuple[str, ...], assert_equal: bool, as_json: bool) -> None:
    """Set finished runs side by side: first how their experiments differ, then their results.

    Runs that differ in the seed alone become one line with its spread.
    """
    from ebsim import grid
    from ebsim.report import print_table
    from ebsim.report.comparison import runs as comparing

    found = comparing.compare(folders, grid.parse_baseline(baseline) if baseline else None)
    if as_json:
        _print_json(found.as_json())
    else:
        print_table(found.settings_table())
        print_table(found.table())
    if assert_equal:
        comparing.assert_equal(found.runs)


@main.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path())
@json_option
def report(folders: tuple[str, ...], as_json: bool) -> None:
    """Rebuild the tables, figures and page of finished runs from their FOLDERS."""
    from ebsim import report as reports

    for folder in folders:
        reports.write_report(Path(folder))
        _show_run(Path(folder), as_json)


@main.command()
@click.argument("folder", type=click.Path())
@click.option("--hw", "profiles", multiple=True, help="A shipped name or the path of a TOML. Default: that of the run.")
@click.option("--reuse", help="Reuse model: macs, compulsory, closed, search. Default: that of the run.")
@click.option("--hypothetical", is_flag=True, help="Price formats that the device does not have.")
@click.option("--split", is_flag=True, help="Also: energies by stage and component, and what the savings rest on.")
@json_option
def energy(
    folder: str, profiles: tuple[str, ...], reuse: str | None, hypothetical: bool, split: bool, as_json: bool
) -> None:
    """Price the finished run in FOLDER again, without training: on other accelerators, or by another reuse model."""
    from ebsim import report as reports

    run = reports.load_run(folder)
    priced = [reports.reprice(run, name, model=reuse, hypothetical=hypothetical) for name in profiles or [None]]
    if as_json:
        _print_json([item.results for item in priced])
    else:
        for item in priced:
            reports.print_summary(item, split=split)


@main.group()
def data() -> None:
    """Datasets: which there are, fetching and checking them."""


root_option = click.option("--root", default="data", show_default=True, help="Folder that holds the data.")


@data.command("list")
@root_option
@json_option
def data_list(root: str, as_json: bool) -> None:
    """Every dataset, whether it is there, its augmentation and where it comes from."""
    from ebsim.data import list_datasets

    found = list_datasets(root)
    if as_json:
        _print_json(found)
        return
    for item in found:
        size = f"{item['train_images']:,} + {item['test_images']:,} images" if item["train_images"] else "any size"
        click.echo(f"{item['name']:12} {'found' if item['found'] else 'not found':10} {size:24} {item['source']}")


@data.command("fetch")
@click.argument("name")
@root_option
@click.option("--from", "from_file", type=click.Path(), help="An archive that you already have.")
@json_option
def data_fetch(name: str, root: str, from_file: str | None, as_json: bool) -> None:
    """Download (or unpack) dataset NAME, then check every file of it."""
    from ebsim.data import fetch

    _show_facts(fetch(name, root, from_file), as_json)


@data.command("verify")
@click.argument("name")
@root_option
@json_option
def data_verify(name: str, root: str, as_json: bool) -> None:
    """Check every file of dataset NAME: digests, labels, counts."""
    from ebsim.data import verify

    _show_facts(verify(name, root), as_json)


def _show_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(facts)
    else:
        for key, value in facts.items():
            click.echo(f"{key:16} {value}")


@main.group()
def hw() -> None:
    """Accelerators: which there are, what they assume, and making your own.

    PROFILE is a shipped name (see hw list) or the path of a TOML file. All energies are modelled.
    """


bits_option = click.option(
    "--format", "bits", metavar="NAME", help="A training's precision (fp32, bf16, fp8, int8, bfp8, mxfp8, "
    "eb2020), priced as trained; or one format for all operands and outputs: a width such as 8, e4m3, 'all int8'. "
    "Default: the widest format that each accelerator has."
)  # fmt: skip
batch_option = click.option(
    "--batch", default=256, show_default=True, type=click.IntRange(1, 10**7), help="Images per step."
)


@hw.command("list")
@json_option
def hw_list(as_json: bool) -> None:
    """List the shipped accelerators."""
    from hw_models.analysis import commands

    found = commands.list_profiles()
    if as_json:
        _print_json(found)
        return
    from ebsim.commands.progress import print_table

    headings = ["Name", "Kind", "Node (nm)", "Widest format", "Band x/÷", "Summary"]
    print_table(
        "Accelerators (band: the factor within which their absolute energies are believed, 90 %)", headings,
        [[f"{value:g}" if isinstance(value, float) else value for value in item.values()] for item in found],
    )  # fmt: skip


@hw.command("show")
@click.argument("profile")
@json_option
def hw_show(profile: str, as_json: bool) -> None:
    """Show what PROFILE assumes: each constant with its source."""
    from hw_models.analysis import commands

    facts = commands.show(profile)
    if as_json:
        _print_json(facts)
        return
    from ebsim.commands.progress import print_table

    constants = facts.pop("constants")
    _show_facts(dict(commands.describe(facts)), False)
    rows = [
        [item["key"], f"{item['value']:.4g}", item["unit"], f"{item['band']:g}", "yes" if item["derived"] else "no",
         item["source"]]
        for item in constants
    ]  # fmt: skip
    caption = "Constants (band: the factor within which each is believed, 90 %; derived: published by nobody as such)"
    print_table(caption, ["Constant", "Value", "Unit", "Band x/÷", "Derived", "Source"], rows)


@hw.command("new")
@click.argument("path", type=click.Path())
@click.option("--from", "start", default="horowitz-45nm", show_default=True, help="The profile to start from.")
@click.option("--sram-law", metavar="LAW", help="Fill buffer energies in by a CACTI fit, such as cacti-22lop.")
def hw_new(path: str, start: str, sram_law: str | None) -> None:
    """Write a commented profile to PATH (a new .toml), to edit."""
    from hw_models.analysis import commands

    written = commands.new(path, start, sram_law=sram_law)
    click.echo(f"{written}: edit it, then  python cli.py hw check {path}", err=True)


@hw.command("check")
@click.argument("profile")
@json_option
def hw_check(profile: str, as_json: bool) -> None:
    """Validate PROFILE and set it beside the shipped ones.

    Exit code 0 if it is accepted, with warnings for what looks odd; 2 with every problem, file and line, if not.
    """
    from hw_models.analysis import commands

    checked = commands.check(profile)
    _show_breakdowns([*checked.rows, *checked.beside], as_json, {"warnings": checked.warnings})
    for warning in checked.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{checked.profile}: accepted, {len(checked.warnings)} warning(s)", err=True)


@hw.command("compare")
@click.argument("profiles", nargs=-1, required=True)
@click.option(
    "--network", default="resnet50", show_default=True, metavar="NAME",
    help="vgg16, resnet18, resnet50, alexnet, vgg16-imagenet, preresnet101 (32 x 32) or preresnet101-digits (8 x 8)."
)  # fmt: skip
@bits_option
@batch_option
@click.option(
    "--reuse", default="closed", show_default=True, type=click.Choice(["macs", "compulsory", "closed", "search"]),
    help="How data reuse is modelled, from the simplest to an exhaustive search."
)  # fmt: skip
@click.option("--hypothetical", is_flag=True, help="Price formats that an accelerator does not have, as a what-if.")
@click.option(
    "--by", multiple=True, type=click.Choice(["pass", "layer"]),
    help="Break each step down by pass or by layer as well; given twice, by both."
)  # fmt: skip
@json_option
def hw_compare(
    profiles: tuple[str, ...],
    network: str,
    bits: str | None,
    batch: int,
    reuse: str,
    hypothetical: bool,
    by: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare PROFILES on one training step, by component."""
    from hw_models.analysis import commands

    wanted = int(bits) if bits is not None and bits.isdecimal() and len(bits) < 4 else bits
    found = commands.compare(profiles, network, wanted, batch, reuse, hypothetical)
    axes = sorted(set(by))  # layer before pass
    parts = [commands.parts(item.cost, *axes) for item in found] if axes else []
    _show_breakdowns(found, as_json, {f"by_{'_'.join(axes)}": parts} if axes else {})
    if as_json:
        return
    for item, rows in zip(found, parts, strict=False):
        unreal = f" (hypothetical: it has no {', '.join(item.hypothetical)})" if item.hypothetical else ""
        _show_parts(f"{item.accelerator}, {network}, {item.precision}: time, and energy in % of the step's{unreal}",
                    axes, rows)  # fmt: skip
    if axes:
        click.echo("others: what takes less than 0.5 % of the energy; --json has all", err=True)


def _show_parts(caption: str, axes: list[str], rows: list[dict[str, Any]]) -> None:
    """A step by pass, layer or both; what takes less than half a percent is shown as one."""
    from ebsim.commands.progress import print_table
    from hw_models.units import show_joules

    what = ", ".join(axes)
    figures = [name for name in rows[0] if name not in (*axes, "macs")]
    rows = [{**row, what: ", ".join(row[axis] for axis in axes)} for row in rows]

    def ms(seconds: float) -> str:
        return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"

    total = {name: sum(row[name] for row in rows) for name in figures}
    small = [row for row in rows if row["joules"] < 0.005 * total["joules"]]
    shown = [row for row in rows if row not in small]
    if small:
        shown.append({what: f"{len(small)} others", **{name: sum(row[name] for row in small) for name in figures}})
    used = [name for name in figures if name != "seconds" and any(row[name] >= 5e-4 * total["joules"] for row in shown)]
    shown.append({what: f"total {show_joules(total['joules'])}", **total})
    print_table(
        caption,
        [what, "ms", *(name.replace("joules", "all") for name in used)],
        [[row[what], ms(row['seconds']), *(f"{100 * row[name] / total['joules']:.1f}" for name in used)]
         for row in shown],
    )  # fmt: skip


@hw.command("calibrate")
@click.argument("profile")
@click.argument("measurements", type=click.Path())
@click.option("--out", type=click.Path(), help="Write the calibrated profile here (default: stdout).")
def hw_calibrate(profile: str, measurements: str, out: str | None) -> None:
    """Fit device PROFILE to a CSV of MEASUREMENTS.

    Columns: network, precision, batch (images), joules (J per step), seconds (s per step); a line per measured case.
    The error on networks left out of the fit is reported with it.
    """
    from hw_models.analysis import commands

    fitted, text = commands.calibrate(profile, measurements, out)
    if out is None:
        click.echo(text, nl=False)
    click.echo(f"mean error on the fitted steps {fitted.fitted_error:.1%}", err=True)
    for name, error in fitted.held_out.items():
        click.echo(f"  {name}, left out of the fit: {error:.1%}", err=True)
    for doubt in fitted.doubts:
        click.echo(f"warning: {doubt}", err=True)


def _show_breakdowns(found: list[Any], as_json: bool, extra: dict[str, Any]) -> None:
    """Training steps on accelerators, as a table: modelled energy with its band, and where it goes."""
    if as_json:
        _print_json({"modelled": [item.row() for item in found], **extra})
        return
    from ebsim.commands.progress import print_table

    fit = max(1, (shutil.get_terminal_size().columns - 28) // 21)  # accelerators side by side
    for group in (found[i : i + fit] for i in range(0, len(found), fit)):
        columns = [item.column() for item in group]
        shown = [what for what in columns[0] if any(column[what] != "0.0" for column in columns)]
        print_table(
            f"A training step on {found[0].batch} images, energies modelled",
            [
                "",
                *(
                    f"{b.accelerator}\n{b.network}\n{b.precision}\n({b.outputs} outputs)"
                    + (f"\nhypothetical:\nit has no {', '.join(b.hypothetical)}" if b.hypothetical else "")
                    for b in group
                ),
            ],
            [[what, *(column[what] for column in columns)] for what in shown],
        )


@main.group()
def precision() -> None:
    """Number formats and precision backends: what is rounded where."""


@precision.command("list")
@json_option
def precision_list(as_json: bool) -> None:
    """Every number format and backend, plug-ins included."""
    from ebsim.precision import listing

    if as_json:
        _print_json({"formats": listing.list_formats(), "backends": listing.list_backends()})
    else:
        click.echo(listing.listing())


@precision.command("show")
@click.argument("name")
def precision_show(name: str) -> None:
    """What number format or backend NAME does, and the record that the hardware model prices."""
    from ebsim.precision import listing

    click.echo(listing.show(name))


@precision.command("plan")
@click.argument("experiment", type=click.Path())
@click.option("--backend", help="Another backend than the experiment's.")
@set_option
def precision_plan(experiment: str, backend: str | None, settings: tuple[str, ...]) -> None:
    """The layer x role x pass table of an EXPERIMENT's network, with bit widths; nothing is trained."""
    from ebsim import config, pipeline

    for text in pipeline.precision_plans(pipeline.load(experiment, config.parse_settings(settings)), backend):
        click.echo(text)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
