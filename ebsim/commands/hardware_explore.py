"""The command hw explore: a search over accelerators."""

from __future__ import annotations

from typing import Any

import click

from ebsim.commands.app import echo, json_option, print_json
from ebsim.commands.hardware import hw


@hw.command("explore")
@click.argument("space", type=click.Path())
@click.option("--network", metavar="NAME", help="As in hw compare, or a file. Default: the space's, else resnet50.")
@click.option("--batch", type=click.IntRange(1, 10**7), help="Images per step. Default: the space's, else 64.")
@click.option(
    "--objective", "objectives", default="energy,latency,area", show_default=True,
    help="What the Pareto front is of: energy, latency, area, edp, throughput, the first one first."
)  # fmt: skip
@click.option("--out", type=click.Path(), help="Folder for variants.csv and pareto.png.")
@click.option("--search", is_flag=True, help="Price the front again by the tile search, and show both energies.")
@click.option("--most", default=30, show_default=True, type=click.IntRange(1, 10**6), help="Lines of the table.")
@json_option
def hw_explore(
    space: str,
    network: str | None,
    batch: int | None,
    objectives: str,
    out: str | None,
    search: bool,
    most: int,
    as_json: bool,
) -> None:
    """Search the accelerators of SPACE (a TOML file) for those that nothing else beats.

    One training step on every variant of the space's base profile: energy (modelled), time (a lower bound) and area (by
    law), thousands a second. Formats have fronts of their own, since they differ in accuracy.
    """
    from hw_models.analysis.design_space import read_space
    from hw_models.analysis.explore import explore, refined
    from hw_models.workload.reference_networks import network as find

    read = read_space(space)
    wanted = tuple(name.strip() for name in objectives.split(","))
    name = network or read.network
    layers = find(name)
    found = explore(read, layers, batch, name)
    best = found.pareto(wanted)
    again = refined(found, best if as_json else best[:most], layers) if search else []
    if out is not None:
        from hw_models.analysis.explore_files import write_explored

        for path in write_explored(found, wanted, out):
            echo(f"{path}: written", err=True)
    if as_json:
        print_json(
            {
                "network": name,
                "batch": found.batch,
                "variants": len(read.variants),
                "of": read.of,
                "objectives": list(wanted),
                "pareto": [found.row(i) for i in best],
                **({"by_search": again} if search else {}),
            }
        )
        return
    _show(found, best, most, again)


def _show(found: Any, best: list[int], most: int, again: list[dict[str, Any]]) -> None:
    from ebsim.report.display.terminal import print_rows

    space = found.space
    shown = best[:most]
    drawn = f" (drawn from {space.of:,})" if space.of > len(space.variants) else ""
    print_rows(
        f"{len(best)} of {len(space.variants):,} variants{drawn} of {space.base.name} on {found.network}, batch "
        f"{found.batch}: nothing else beats them",
        [*(_label(key) for key in space.keys), "J a step", "ms at least", "mm2", "images/s", "J s",
         *(["J by search", "ms by search"] if again else [])],
        [[*(_text(value) for value in space.variants[i]), f"{found.energy[i]:.4g}", f"{1e3 * found.latency[i]:.4g}",
          f"{found.area[i]:.4g}", f"{found.throughput[i]:,.4g}", f"{found.edp[i]:.4g}",
          *([f"{again[n]['energy_j']:.4g}", f"{1e3 * again[n]['latency_s']:.4g}"] if again else [])]
         for n, i in enumerate(shown)],
    )  # fmt: skip
    if space.impossible:
        echo(f"{space.impossible} variants left out: a memory not smaller than the one around it", err=True)
    if len(best) > most:
        echo(f"{len(best) - most} more; --most, --json and --out have all", err=True)


def _label(key: str) -> str:
    """A key as a short heading: its last two parts."""
    return ".".join(key.removeprefix("array.").split(".")[-2:])


def _text(value: Any) -> str:
    return (
        " x ".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:,.6g}"
        if isinstance(value, float)
        else str(value)
    )
