"""hw anchors, memory: published measurements beside the model, and the memory of a training step."""

from __future__ import annotations

import click

from ebsim.commands.app import echo, json_option, print_json
from ebsim.commands.hardware import batch_option, bits_option, hw

MIB = 2**20


@hw.command("anchors")
@click.argument("devices", nargs=-1)
@json_option
def hw_anchors(devices: tuple[str, ...], as_json: bool) -> None:
    """Set published measurements beside what the model says (of all DEVICES, or of those named)."""
    from hw_models.analysis.anchors import anchors

    found = anchors(devices)
    if as_json:
        print_json([item.row() for item in found])
        return
    from ebsim.report.display.terminal import print_rows

    print_rows(
        "Measured and modelled; no profile is fitted to these",
        ["Device", "Network", "Format", "Batch", "Quantity", "Measured", "Modelled", "Error"],
        [[a.device, a.network, a.precision, str(a.batch), a.unit, f"{a.measured:.4g}", f"{a.modelled:.4g}",
          f"{a.error:+.0%}"] for a in found],
    )  # fmt: skip
    for text in dict.fromkeys(f"{a.device}: {a.source}" + (f" ({a.note})" if a.note else "") for a in found):
        echo(text, err=True)


@hw.command("memory")
@click.argument("profile", default="horowitz-45nm")
@click.option("--network", default="resnet50", show_default=True, metavar="NAME", help="As in hw compare, or a file.")
@bits_option
@batch_option
@click.option("--checkpoints", is_flag=True, help="Also: ways to checkpoint, with what recomputing costs on PROFILE.")
@click.option(
    "--within", type=click.FloatRange(1e-6, 1e6), metavar="GIB", help="Also: the largest batch in so many GiB."
)
@click.option("--figure", type=click.Path(), help="Draw the memory over time into this new file (.png, .pdf, .svg).")
@json_option
def hw_memory(
    profile: str,
    network: str,
    bits: str | None,
    batch: int,
    checkpoints: bool,
    within: float | None,
    figure: str | None,
    as_json: bool,
) -> None:
    """Show what a training step keeps in memory, its peak, and what checkpointing would trade.

    Activations, gradients and parameters as an eager framework keeps them, in the formats of the training.
    """
    from hw_models.analysis.checkpointing import memory_report

    room = None if within is None else within * 2**30
    report = memory_report(profile, network, bits, batch, checkpoints=checkpoints, room=room)
    if figure is not None:
        from hw_models.analysis.memory_figure import write_memory_figure

        echo(f"{write_memory_figure(report, figure)}: written", err=True)
    if as_json:
        print_json(report)
        return
    from ebsim.report.display.terminal import print_rows

    print_rows(
        f"A training step of {network} on {batch} images in {report['precision']}: memory",
        ["", "MiB"],
        [["parameters, gradients, momentum", f"{report['parameters'] / MIB:,.1f}"],
         ["kept for the backward pass", f"{report['activations'] / MIB:,.1f}"],
         [f"peak ({report['worst_row']}, {report['worst_phase']})", f"{report['peak'] / MIB:,.1f}"],
         *([f"  {name}", f"{size / MIB:,.1f}"] for name, size in list(report["kept"].items())[:8])],
    )  # fmt: skip
    if within is not None:
        echo(f"largest batch within {within:g} GiB: {report['largest_batch']:,}")
    if checkpoints:
        print_rows(
            f"Checkpoints: memory against recomputing, energies modelled on {report['accelerator']}",
            ["Segments", "Peak (MiB)", "Kept (MiB)", "Energy (J)", "of it again (%)", "Time at least (ms)",
             "Images/s at most", "Energy-delay (J s)"],
            [[str(p["segments"]), f"{p['peak'] / MIB:,.0f}", f"{p['activations'] / MIB:,.0f}", f"{p['joules']:.4g}",
              f"{100 * p['again']:.1f}", f"{1e3 * p['seconds']:,.1f}", f"{batch / p['seconds']:,.4g}",
              f"{p['joules'] * p['seconds']:.4g}"] for p in report["plans"]],
        )  # fmt: skip


@hw.command("fuse")
@click.argument("profile", default="horowitz-45nm")
@click.option("--network", default="resnet50", show_default=True, metavar="NAME", help="As in hw compare, or a file.")
@bits_option
@batch_option
@click.option("--inference", is_flag=True, help="A forward pass in evaluation instead of a training step.")
@click.option("--reuse", default="closed", show_default=True, type=click.Choice(["compulsory", "closed", "search"]))
@json_option
def hw_fuse(
    profile: str, network: str, bits: str | None, batch: int, inference: bool, reuse: str, as_json: bool
) -> None:
    """Show what fusing layers depth-first within PROFILE's memories would save.

    Forward and backward passes, over residual sums; in training a BatchNorm begins a stack. Energies modelled. The same
    is an option of hw compare and of energy: --fuse.
    """
    from hw_models.analysis.fusion import fusion_report

    report = fusion_report(profile, network, bits, batch, training=not inference, model=reuse)
    if as_json:
        print_json(report)
        return
    from ebsim.report.display.terminal import print_rows

    what = "a forward pass" if inference else "a training step"
    print_rows(
        f"{what.capitalize()} of {network} on {batch} images in {report['precision']} on {report['accelerator']}, "
        "energies modelled",
        ["", "Without", "Fused", "Change (%)"],
        [[label, f"{scale * report[key]:.4g}", f"{scale * report[f'{key}_fused']:.4g}",
          f"{100 * (report[f'{key}_fused'] / report[key] - 1):+.1f}"]
         for label, key, scale in (("energy (J)", "joules", 1), ("DRAM traffic (MB)", "dram_bytes", 1e-6),
                                   ("time at least (ms)", "seconds", 1e3), ("images/s at most", "images_per_s", 1),
                                   ("energy-delay product (J s)", "energy_delay_js", 1))],
    )  # fmt: skip
    print_rows(
        "Stacks (each moves its tensors from row to row on the chip; a single one gathers a BatchNorm's statistics)",
        ["Pass", "From", "To", "Operations", "On the chip (KiB)", "DRAM (MB)", "Fused (MB)"],
        [[s["pass"], s["layers"][0], s["layers"][-1], str(len(s["layers"])), f"{s['on_chip_bytes'] / 1024:,.1f}",
          f"{s['dram_bytes'] / 1e6:,.2f}", f"{s['dram_bytes_fused'] / 1e6:,.2f}"] for s in report["stacks"]],
    )  # fmt: skip
