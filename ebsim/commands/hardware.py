"""The commands hw list, show, new, check, compare and calibrate: accelerator profiles."""

from __future__ import annotations

from typing import Any

import click

from ebsim.commands.app import echo, json_option, main, print_json, show_facts


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
        print_json(found)
        return
    from ebsim.report.display.terminal import print_rows

    headings = ["Name", "Kind", "Node (nm)", "Widest format", "Band x/÷", "Summary"]
    print_rows(
        "Accelerators (band: factor of the 90 % credible interval of their absolute energies)", headings,
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
        print_json(facts)
        return
    from ebsim.report.display.terminal import print_rows

    constants = facts.pop("constants")
    show_facts(dict(commands.describe(facts)), False)
    rows = [
        [item["key"], f"{item['value']:.4g}", item["unit"], f"{item['band']:g}", "yes" if item["derived"] else "no",
         item["source"]]
        for item in constants
    ]  # fmt: skip
    caption = "Constants (band: factor of the 90 % credible interval; derived: computed from published values)"
    print_rows(caption, ["Constant", "Value", "Unit", "Band x/÷", "Derived", "Source"], rows)


@hw.command("new")
@click.argument("path", type=click.Path())
@click.option("--from", "start", default="horowitz-45nm", show_default=True, help="The profile to start from.")
@click.option("--sram-law", metavar="LAW", help="Fill buffer energies in by a CACTI fit, such as cacti-22lop.")
def hw_new(path: str, start: str, sram_law: str | None) -> None:
    """Write a commented profile to PATH (a new .toml), to edit."""
    from hw_models.analysis import commands

    written = commands.new(path, start, sram_law=sram_law)
    echo(f"{written}: edit it, then  python cli.py hw check {path}", err=True)


@hw.command("check")
@click.argument("profile")
@json_option
def hw_check(profile: str, as_json: bool) -> None:
    """Validate PROFILE and set it beside the shipped ones.

    Exit code 0 if it is accepted, with warnings for what looks odd; 2 with every problem, file and line, if not.
    """
    from ebsim.report.display.value import counted
    from hw_models.analysis import commands

    checked = commands.check(profile)
    if as_json:
        _show_breakdowns([*checked.rows, *checked.beside], as_json, {"warnings": checked.warnings})
        return
    _show_breakdowns(
        checked.rows, False, {}, "Where the energy goes, and what the time waits for; a share near 0 or 100 % often "
        "means a constant in another unit. "
    )  # fmt: skip
    if checked.beside:
        _show_breakdowns(
            checked.beside, False, {}, "To compare with: the shipped profiles of its kind in the same format; a factor "
            "of a few is no error, since constants have other sources. "
        )  # fmt: skip
    for warning in checked.warnings:
        echo(f"warning: {warning}")
    echo(f"{checked.profile}: accepted, {counted(len(checked.warnings), 'warning')}")


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
@click.option("--fuse", is_flag=True, help="Fuse layers depth-first within the memories (arrays only), see hw fuse.")
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
    fuse: bool,
    hypothetical: bool,
    by: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare PROFILES on one training step, by component."""
    from hw_models.analysis import commands

    wanted = int(bits) if bits is not None and bits.isdecimal() and len(bits) < 4 else bits
    found = commands.compare(profiles, network, wanted, batch, reuse + "+fused" * fuse, hypothetical)
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
        echo("others: what takes less than 0.5 % of the energy; --json has all", err=True)


def _show_parts(caption: str, axes: list[str], rows: list[dict[str, Any]]) -> None:
    """A step by pass, layer or both; what takes less than half a percent is shown as one."""
    from ebsim.report.display.terminal import print_rows
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
    print_rows(
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
    Each network, each batch size, and each network at the smallest and largest batch with neither seen, is left out
    once, and the profile fitted to the rest is priced on it: the mean and the range of these errors are stated.
    """
    from hw_models.analysis import commands

    fitted, text = commands.calibrate(profile, measurements, out)
    if out is None:
        click.echo(text, nl=False)  # a TOML file, byte for byte
    echo(
        f"mean error on the fitted steps: joules {fitted.fitted_error:.1%}, seconds {fitted.fitted_seconds_error:.1%}",
        err=True,
    )
    for what, (mean, least, worst) in (("joules", fitted.stated), ("seconds", fitted.stated_seconds)):
        if fitted.held_out:
            echo(
                f"error on left-out {' and '.join(fitted.left_out)}: {what} {mean:.1%} on average, "
                f"{least:.1%} to {worst:.1%} by group",
                err=True,
            )
    for name, error in fitted.held_out.items():
        seconds = fitted.held_out_seconds[name]
        echo(f"  {name}, left out of the fit: joules {error:.1%}, seconds {seconds:.1%}", err=True)
    for doubt in fitted.doubts:
        echo(f"warning: {doubt}", err=True)


def _show_breakdowns(found: list[Any], as_json: bool, extra: dict[str, Any], what_for: str = "") -> None:
    """Training steps on accelerators, as a table: modelled energy with its band, and where it goes."""
    if as_json:
        print_json({"modelled": [item.row() for item in found], **extra})
        return
    from ebsim.report.display.terminal import line_width, print_rows

    fused = ", layers fused" if found[0].cost.model.endswith("+fused") else ""
    fit = max(1, ((line_width() or 100) - 28) // 21)  # accelerators side by side
    for group in (found[i : i + fit] for i in range(0, len(found), fit)):
        columns = [item.column() for item in group]
        shown = [what for what in columns[0] if any(column[what] != "0.0" for column in columns)]
        print_rows(
            f"{what_for}A training step on {found[0].batch} images{fused}, energies modelled",
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
