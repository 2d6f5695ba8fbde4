"""Checked tensor files: safetensors whose metadata says what the file is and what it must hash to.

Nothing is pickled. The digest covers the metadata and every tensor (name, type, shape, bytes), so a
flipped bit, a cut-off end or a file of another kind is noticed on reading, before anything is built
from it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ebsim.errors import DamagedError, StorageError


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 (hex) over the metadata and the tensors, independent of their order."""
    h = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        t = tensors[name].detach().cpu().contiguous()
        h.update(f"\0{name}\0{t.dtype}\0{tuple(t.shape)}\0".encode())
        h.update(t.reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()


def write(path: str | Path, kind: str, tensors: Mapping[str, Tensor], info: Mapping[str, object]) -> None:
    """Write `tensors` and the JSON values of `info` to `path`: a temporary name first, then one
    rename.

    Tensors that share memory are written once each. Errors: StorageError when the disk is full or
    read-only.
    """
    path = Path(path)
    metadata = {"kind": kind, **{k: json.dumps(v, sort_keys=True) for k, v in info.items()}}
    # own contiguous memory each: safetensors refuses aliases and channels_last strides
    flat = torch.contiguous_format
    own = {k: t.detach().cpu().clone(memory_format=flat) for k, t in tensors.items()}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(own, part, metadata | {"sha256": digest(own, metadata)})
        os.replace(part, path)
    except (OSError, SafetensorError) as e:
        part.unlink(missing_ok=True)
        why = os.strerror(errno.ENOSPC) if "No space left" in str(e) else str(e)
        raise StorageError(f"cannot write {path}: {why}. Free space or choose another folder.") from e


def read(path: str | Path, kind: str, cure: str) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Tensors and info of a file of this `kind`; `cure` ends every error message.

    Errors: DamagedError when the file is missing, cut off, changed, or something else.
    """
    path = Path(path)
    try:
        with safe_open(path, "pt") as f:
            metadata = dict(f.metadata() or {})
            # cloned: the file is memory-mapped, and somebody may replace it while we still read
            tensors = {k: f.get_tensor(k).clone() for k in f.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as e:
        why = "no such file" if not path.exists() else f"not a readable safetensors file ({e})"
        raise DamagedError(f"{path}: {why}. {cure}") from e
    found = metadata.get("kind")
    if found != kind:
        raise DamagedError(f"{path}: this is not a {kind} file (it says {found!r}). {cure}")
    expected = metadata.pop("sha256", None)
    if expected != digest(tensors, metadata):
        raise DamagedError(f"{path}: the content does not match its sha256; the file was changed. {cure}")
    metadata.pop("kind")
    return tensors, {k: json.loads(v) for k, v in metadata.items()}
