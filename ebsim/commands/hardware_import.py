"""The command hw import: architectures and networks of other tools."""

from __future__ import annotations

import click

from ebsim.commands.app import echo, json_option, print_json
from ebsim.commands.hardware import hw


@hw.command("import")
@click.argument("file", type=click.Path())
@click.option("--out", type=click.Path(), help="Write it here, a new .toml (accelerator) or .json (network).")
@click.option("--mapping", type=click.Path(), help="ZigZag: the mapping file that says what the array unrolls.")
@click.option("--energies", type=click.Path(), help="Timeloop: Accelergy's energy reference table (ERT).")
@click.option("--clock-ghz", type=click.FloatRange(1e-4, 100), help="Clock, where the file has none (default 1).")
@click.option("--node-nm", type=click.FloatRange(1, 1000), help="Process node, where the file has none.")
@click.option("--input", "shape", metavar="C,H,W", help="ONNX: shape of one image, where the file leaves it open.")
@json_option
def hw_import(
    file: str,
    out: str | None,
    mapping: str | None,
    energies: str | None,
    clock_ghz: float | None,
    node_nm: float | None,
    shape: str | None,
    as_json: bool,
) -> None:
    """Turn FILE of another tool into an accelerator file or a layer table.

    FILE: a ZigZag 3 accelerator (YAML), a Timeloop v4 architecture (YAML), or a network as ONNX. Everything that has no
    counterpart here is named; without --out the accelerator file goes to stdout. The result can be given wherever a
    PROFILE or a --network is.
    """
    from hw_models.analysis.importing import import_file

    sizes = None if shape is None else _sizes(shape)
    found = import_file(
        file, out, mapping=mapping, energies=energies, clock_ghz=clock_ghz, node_nm=node_nm, input_shape=sizes
    )
    if found.kind == "accelerator":
        if as_json:
            print_json({"kind": found.kind, "toml": found.text, "notes": list(found.notes)})
        elif out is None:
            click.echo(found.text, nl=False)  # a TOML file, byte for byte
        for note in found.notes:
            echo(f"note: {note}", err=True)
    elif as_json:
        print_json({"kind": found.kind, "layers": [layer.to_dict() for layer in found.layers]})
    else:
        _show_network(file, found.layers)
    if out is not None:
        echo(f"{out}: written", err=True)


def _sizes(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} is no shape such as 3,224,224", param_hint="--input")
    return tuple(int(part) for part in parts)


def _show_network(file: str, layers: tuple) -> None:  # type: ignore[type-arg]
    from ebsim.report.display.terminal import print_rows

    kinds = dict.fromkeys(layer.kind for layer in layers)
    rows = [
        [kind, f"{sum(r.kind == kind for r in layers)}", f"{sum(r.macs for r in layers if r.kind == kind) / 1e6:,.2f}",
         f"{sum(r.weights for r in layers if r.kind == kind) / 1e6:,.3f}"]
        for kind in kinds
    ]  # fmt: skip
    rows.append(["total", f"{len(layers)}", f"{sum(r.macs for r in layers) / 1e6:,.2f}",
                 f"{sum(r.weights for r in layers) / 1e6:,.3f}"])  # fmt: skip
    print_rows(f"{file}, one image", ["Kind", "Rows", "MACs (M)", "Parameters (M)"], rows)
