"""Files that are either whole or absent: atomic writes, and tensors that carry their own digest.

A write goes to a temporary name in the same folder, is flushed to the disk and renamed over the target, so a
kill or a full disk leaves the old file as it was. safetensors notices truncation but not a flipped byte, so
`save_tensors` stores a SHA-256 over every name, type, shape and byte, and over the metadata; `load_tensors`
checks it. Nothing is ever pickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebsim.errors import DamagedError, StorageError

if TYPE_CHECKING:
    import torch

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN; what every digest is taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` in one step; raises `StorageError` and leaves the old file if it cannot."""
    data = content.encode() if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        why = "the disk is full" if error.errno in _NO_SPACE else error.strerror or str(error)
        raise StorageError(
            f"{path}: could not be written ({why}; {len(data):,} bytes needed). What was there before is "
            "untouched: free some space or fix the permissions and run the same command again."
        ) from error


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once its folder has been flushed too (not possible on Windows)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Atomic JSON, readable and with sorted keys; NaN and infinity are refused."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parsed JSON of a file of ours; `DamagedError` if it is missing, torn or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: missing.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: not readable as JSON ({error}).") from error


def _tensor_digest(tensors: Mapping[str, torch.Tensor], meta: str) -> str:
    import torch

    total = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Write named tensors and JSON metadata to one safetensors file, atomically, with their digest."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = canonical_json(meta)
    write_atomic(path, save(plain, {"meta": text, "sha256": _tensor_digest(plain, text)}))


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of `save_tensors`; `DamagedError` if missing, torn, altered or foreign."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as handle:
            header = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: missing.") from error
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise DamagedError(f"{path}: damaged or not a safetensors file ({error}).") from error
    if "meta" not in header or "sha256" not in header:
        raise DamagedError(f"{path}: a safetensors file, but not one written by ebsim (no digest).")
    if _tensor_digest(tensors, header["meta"]) != header["sha256"]:
        raise DamagedError(f"{path}: its content does not match its digest; the file was altered or damaged.")
    return tensors, json.loads(header["meta"])
