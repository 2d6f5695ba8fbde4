"""hw map: how one layer and pass is mapped onto an accelerator, and what a given mapping costs."""

from __future__ import annotations

from typing import Any

import click

from ebsim.commands.app import echo, json_option, print_json
from ebsim.commands.hardware import batch_option, bits_option, hw


@hw.command("map")
@click.argument("network", required=False)
@click.argument("layer", required=False)
@click.option(
    "--pass", "which", default="forward", show_default=True,
    type=click.Choice(["forward", "input_gradient", "weight_gradient"]), help="Which contraction of the layer."
)  # fmt: skip
@click.option("--hw", "profile", metavar="PROFILE", help="The accelerator. Default: horowitz-45nm, or the file's.")
@bits_option
@batch_option
@click.option(
    "--mapping", "model", default="search", show_default=True, type=click.Choice(["search", "closed"]),
    help="By the tile search, whose mapping is a loop nest, or by the closed formulas, whose blocks are none."
)  # fmt: skip
@click.option("--price", type=click.Path(), metavar="FILE", help="Price the mapping in FILE instead of finding one.")
@click.option("--out", type=click.Path(), help="Write the mapping into this new .toml file.")
@click.option("--hypothetical", is_flag=True, help="Also formats that the accelerator lacks.")
@json_option
def hw_map(
    network: str | None,
    layer: str | None,
    which: str,
    profile: str | None,
    bits: str | None,
    batch: int,
    model: str,
    price: str | None,
    out: str | None,
    hypothetical: bool,
    as_json: bool,
) -> None:
    """Show how LAYER of NETWORK is mapped: loops, tiles, and what each level moves, costs and waits for.

    The mapping can be written (--out), edited and priced again (--price). Energies modelled.
    """
    from hw_models.analysis.mapping_report import export, map_layer, price_mapping

    if price is not None:
        if network is not None or out is not None:
            raise click.UsageError("--price takes its network and layer from FILE; give neither, nor --out")
        found = price_mapping(price, profile, hypothetical=hypothetical)
    elif network is None or layer is None:
        raise click.UsageError("name a NETWORK and a LAYER, or give --price FILE")
    else:
        found = map_layer(
            profile or "horowitz-45nm", network, layer, which, bits, batch, model, hypothetical=hypothetical
        )
    if out is not None:
        echo(f"{export(found, out)}: written", err=True)
    if as_json:
        print_json(found.row())
        return
    _show(found)


def _show(found: Any) -> None:
    from ebsim.report.display.terminal import print_rows
    from hw_models.analysis.mapping_report import picture

    file = found.file
    echo(
        f"{file.layer} of {file.network}, {file.which}, batch {file.batch:g}, {found.precision}, on {found.chip.name} "
        f"({file.model})"
    )
    echo("\n".join(picture(found)))
    print_rows(
        "What each level moves, innermost first; energies modelled",
        ["Level", "Full (%)", "Read (kB)", "Written (kB)", "Rate", "Busy (%)", "Energy (µJ)"],
        [[level["memory"], f"{100 * level['utilization']:.0f}" if "utilization" in level else "",
          f"{level['read_bytes'] / 1e3:,.1f}", f"{level['written_bytes'] / 1e3:,.1f}",
          f"{level['bits_per_cycle']:,.4g} bit/cycle" if "bits_per_cycle" in level
          else f"{level['gbytes_per_s']:,.4g} GB/s",
          f"{100 * level['port_utilization']:.0f}", f"{1e6 * level['joules']:,.4g}"] for level in found.levels],
    )  # fmt: skip
    besides = found.levels[-1]["besides_joules"]
    if besides > 1e-9 * found.joules:
        echo(f"dram beside the product: {1e6 * besides:,.4g} µJ, passes of the quantizers over its tensors")
    parts = ", ".join(f"{name} {1e6 * joules:,.4g}" for name, joules in found.components.items())
    echo(f"energy {1e6 * found.joules:,.6g} µJ ({parts})")
    echo(
        f"time at least {1e6 * found.seconds:,.6g} µs, {found.seconds * found.chip.clock_hz:,.0f} cycles, waits for "
        f"{found.bound}; {found.macs:,.0f} MACs"
    )
