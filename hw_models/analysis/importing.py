"""The function of `hw import`: files of other tools as an accelerator file or a layer table of this package."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hw_models.accelerator.import_file import import_accelerator
from hw_models.accelerator.loader import load
from hw_models.analysis.commands import profile_target, write_profile
from hw_models.errors import ProfileError
from hw_models.workload.import_onnx import read_onnx
from hw_models.workload.layer import Layer
from hw_models.workload.layer_file import write_layers


@dataclass(frozen=True)
class Imported:
    """The imported file: the text of an accelerator file, or the rows of a network."""

    kind: str  # "accelerator" or "network"
    text: str
    notes: tuple[str, ...]
    layers: tuple[Layer, ...] = ()


def import_file(
    path: str | Path,
    out: str | Path | None = None,
    *,
    mapping: str | Path | None = None,
    energies: str | Path | None = None,
    clock_ghz: float | None = None,
    node_nm: float | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> Imported:
    """Read FILE (an ONNX network, or a ZigZag or Timeloop architecture); write the result to `out` (a new file).

    Raises `ProfileError` or `WorkloadError` naming the file and what cannot be taken over; what is taken over only in
    part is in `notes`.
    """
    if Path(path).suffix == ".onnx":
        if out is not None and Path(out).suffix != ".json":
            raise ProfileError(f"{out}: a layer table's file ends in .json")
        layers = read_onnx(path, input_shape)
        if out is not None:
            write_layers(layers, out)
        return Imported("network", "", (), tuple(layers))
    text, notes = import_accelerator(path, mapping=mapping, energies=energies, clock_ghz=clock_ghz, node_nm=node_nm)
    if out is not None:
        text = re.sub(r'(?m)^name = ".*"$', f'name = "{profile_target(out).stem}"', text, count=1)
        write_profile(profile_target(out), text)
    else:  # loaded once before it is shown
        with tempfile.TemporaryDirectory() as folder:
            proof = Path(folder) / "imported.toml"
            proof.write_text(text, encoding="utf-8")
            load(proof)
    return Imported("accelerator", text, notes)
