"""Layer tables as JSON files: written by `hw import`, and part of every run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hw_models.errors import WorkloadError
from hw_models.workload.layer import Layer

MAX_BYTES = 64 * 1024 * 1024


def read_layers(path: str | Path) -> list[Layer]:
    """The rows of a JSON list of layers; raises `WorkloadError` naming the file, and the row that is none."""
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise WorkloadError(f"{file}: larger than {MAX_BYTES // 2**20} MiB, which no layer table is")
        rows = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkloadError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise WorkloadError(f"{file}: is not JSON ({str(error)[:80]})") from error
    if not isinstance(rows, list) or not rows:
        raise WorkloadError(f"{file}: is no layer table: a list of layers, as `hw import NET.onnx --out` writes it")
    out = []
    for i, row in enumerate(rows):
        try:
            layer = Layer.from_dict(row)
            _ = layer.numbers  # every count is one
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WorkloadError(f"{file}: row {i}: is no layer ({error})") from error
        out.append(layer)
    return out


def write_layers(layers: Sequence[Layer], path: str | Path) -> Path:
    """Write a layer table; raises `WorkloadError` if the file exists or cannot be written."""
    target = Path(path)
    try:
        with target.open("x", encoding="utf-8") as file:
            json.dump([layer.to_dict() for layer in layers], file, indent=1)
    except FileExistsError as error:
        raise WorkloadError(f"{target}: exists already; choose another name") from error
    except OSError as error:
        raise WorkloadError(f"{target}: cannot be written ({error.strerror})") from error
    return target
