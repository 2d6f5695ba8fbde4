"""hw roofline: the layers of a network under the roofs of accelerators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebsim.commands.app import echo, json_option, print_json
from ebsim.commands.hardware import batch_option, bits_option, hw

if TYPE_CHECKING:
    from hw_models.analysis.roofline import Roofline


@hw.command("roofline")
@click.argument("network", default="resnet50")
@click.option("--hw", "profiles", multiple=True, metavar="PROFILE", help="Accelerator; again for one beside it. "
              "Default: horowitz-45nm.")  # fmt: skip
@bits_option
@batch_option
@click.option("--reuse", default="closed", show_default=True, type=click.Choice(["compulsory", "closed", "search"]))
@click.option("--hypothetical", is_flag=True, help="Price formats that an accelerator does not have, as a what-if.")
@click.option("--out", type=click.Path(), help="New or empty folder for the figure (SVG, PNG, PDF, PGF) and its CSV.")
@json_option
def hw_roofline(
    network: str,
    profiles: tuple[str, ...],
    bits: str | None,
    batch: int,
    reuse: str,
    hypothetical: bool,
    out: str | None,
    as_json: bool,
) -> None:
    """Show what holds back each layer of NETWORK's training step.

    NETWORK: a name as in hw compare, or a file. One dot per layer and pass, under the slope of DRAM and a compute roof
    for each rate that PROFILE multiplies its formats at. Times are modelled and a lower bound.
    """
    from hw_models.analysis.roofline import roofline, rows

    found = [
        roofline(profile, network, bits, batch, reuse, hypothetical=hypothetical)
        for profile in dict.fromkeys(profiles or ("horowitz-45nm",))
    ]
    if out is not None:
        for path in _write(found, out):
            echo(f"{path}: written", err=True)
    if as_json:
        print_json(
            [
                {
                    "accelerator": item.cost.chip.name,
                    "dram_bytes_per_s": item.bytes_per_s,
                    "roofs": [{"formats": list(r.formats), "macs_per_s": r.macs_per_s} for r in item.roofs],
                    "points": rows(item),
                }
                for item in found
            ]
        )
        return
    for item in found:
        _show(item)


def _show(found: Roofline) -> None:
    from ebsim.report.display.terminal import print_rows
    from ebsim.report.display.value import quantity

    cost = found.cost
    title = f"{cost.chip.name}, {found.network}, {cost.precision}, batch {cost.batch:g}"
    print_rows(
        f"Compute roofs of {title} (left of the knee DRAM's {quantity(found.bytes_per_s, 'B/s')} is the limit)",
        ["Formats", "Roof", "Knee (MACs per byte)"],
        [[", ".join(roof.formats), str(quantity(roof.macs_per_s, "MAC/s")),
          f"{roof.macs_per_s / found.bytes_per_s:.3g}"] for roof in found.roofs],
    )  # fmt: skip
    slowest = sorted(found.points, key=lambda point: -point.seconds)[:10]
    whole = cost.seconds
    print_rows(
        "The ten slowest of its layers and passes, modelled (roof: what the array and DRAM let them reach)",
        ["Layer", "Pass", "MACs per byte", "Rate", "Of its roof (%)", "Waits for", "Of the step's time (%)"],
        [[p.layer, p.phase.replace("_", " "), f"{p.intensity:.3g}", str(quantity(p.rate, "MAC/s")),
          f"{100 * p.rate / p.attainable(found.bytes_per_s):.0f}", p.bound, f"{100 * p.seconds / whole:.1f}"]
         for p in slowest],
    )  # fmt: skip
    products = sum(p.seconds for p in found.points)
    echo(f"convolutions and products: {100 * products / whole:.0f} % of the step's {1e3 * whole:,.4g} ms")


def _write(found: list[Roofline], out: str) -> list[Path]:
    """The figure in every form, and the CSV of its points."""
    from ebsim.files import write_atomic
    from ebsim.report.figures import for_page, for_paper, style
    from ebsim.report.figures.roofline import Panel, plot_panels
    from hw_models.analysis.explore_files import new_folder
    from hw_models.analysis.roofline import rows

    folder = new_folder(out)
    panels = {
        f"{item.cost.chip.name}, {item.network}, {item.cost.precision}"
        if len(found) == 1
        else item.cost.chip.name: Panel(item.points, item.roofs, item.bytes_per_s)
        for item in found
    }
    table = [row for item in found for row in rows(item)]
    sheet = tuple(table[0]), [tuple(row.values()) for row in table]

    def plot(width: float) -> Any:
        return plot_panels(panels, width)

    files = for_page("roofline", plot, style.PAGE, sheet) | for_paper("roofline", plot)
    for name, content in files.items():
        write_atomic(folder / name, content)
    return [folder / name for name in files]
