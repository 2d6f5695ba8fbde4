"""Import of a ZigZag or Timeloop architecture, whichever the file is, as an accelerator file (TOML) of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hw_models.accelerator.import_timeloop import import_timeloop, looks_like_timeloop
from hw_models.accelerator.import_zigzag import import_zigzag, looks_like_zigzag
from hw_models.accelerator.yaml_text import read_yaml
from hw_models.errors import HardwareError, ProfileError

# what a value of another kind than the format has ends in, where no check of its own names the key
ODD = (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError)


def import_accelerator(
    path: str | Path,
    *,
    mapping: str | Path | None = None,
    energies: str | Path | None = None,
    clock_ghz: float | None = None,
    node_nm: float | None = None,
) -> tuple[str, tuple[str, ...]]:
    """The TOML of a ZigZag or Timeloop architecture, and the notes on what it could not take over.

    `mapping`: a ZigZag mapping file; `energies`: the energy reference table of a Timeloop architecture. Raises
    `ProfileError`.
    """
    data = read_yaml(path)
    try:
        return _import(data, path, mapping, energies, clock_ghz, node_nm)
    except HardwareError:
        raise
    except ODD as error:
        raise ProfileError(
            f"{path}: is not in the form that its format has ({type(error).__name__}: {str(error)[:80]})"
        ) from error


def _import(
    data: Any,
    path: str | Path,
    mapping: str | Path | None,
    energies: str | Path | None,
    clock_ghz: float | None,
    node_nm: float | None,
) -> tuple[str, tuple[str, ...]]:
    if looks_like_zigzag(data):
        if energies is not None:
            raise ProfileError(f"{path}: is a ZigZag accelerator, which has its energies in it; leave the table out")
        return import_zigzag(path, mapping=mapping, clock_ghz=clock_ghz, node_nm=node_nm)
    if looks_like_timeloop(data):
        if mapping is not None:
            raise ProfileError(f"{path}: is a Timeloop architecture; a mapping file is ZigZag's")
        return import_timeloop(path, energies=energies, clock_ghz=clock_ghz, node_nm=node_nm)
    raise ProfileError(
        f"{path}: is neither a ZigZag 3 accelerator (memories, operational_array) nor a Timeloop v4 "
        "architecture (architecture, nodes)"
    )
