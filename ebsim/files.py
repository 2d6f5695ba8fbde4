"""Files that are either whole or absent: atomic writes, and tensors that carry their own digest.

A write goes to a temporary name in the same folder, is flushed to the disk and renamed over the target, so a
kill or a full disk leaves the old file as it was. safetensors notices truncation but not a flipped byte, so
`save_tensors` stores a SHA-256 over every name, type, shape and byte, and over the metadata; `load_tensors`
checks it. Nothing is ever pickled.

Everything that ebsim writes goes through this module (a test holds that), in plain calls of `os`, so that a test can
make each of them fail. What the system refuses is a `StorageError` with the path and a cure.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebsim.errors import DamagedError, StorageError

if TYPE_CHECKING:
    import torch

_WHY = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system can only be read",
    errno.EIO: "the disk reports an error",
}
_UNREADABLE = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
MAX_JSON = 1 << 30  # bytes; a file of ours that claims to be longer is not read


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


def storage_error(path: Path, error: OSError, what: str = "could not be written") -> StorageError:
    """What the system said about a path, in words, with the cure."""
    why = _WHY.get(error.errno or 0) or error.strerror or str(error)
    return StorageError(
        f"{path}: {what} ({why}). What was there before is untouched: free some space or fix the permissions and run "
        "the same command again."
    )


def make_folder(path: Path) -> None:
    """A folder and its parents; raises `StorageError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error, "the folder could not be made") from error


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace `path` by `content` in one step; raises `StorageError` and leaves the old file if it cannot."""
    data = content.encode() if isinstance(content, str) else content
    write_stream(path, [data], f"could not be written, {len(data):,} bytes")


def write_stream(path: Path, pieces: Iterable[bytes], failure: str = "could not be written") -> None:
    """Replace `path` by the pieces, one after the other, in one step; for files that do not fit into memory.

    Whatever ends the pieces early, an error of theirs included, leaves the old file; raises `StorageError`.
    """
    make_folder(path.parent)
    temporary = _temporary(path)
    try:
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        try:
            for piece in pieces:
                _write(handle, piece)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise storage_error(path, error, failure) from error
        raise


def create(path: Path, content: str) -> None:
    """A new file with its content, not flushed to the disk; `FileExistsError` if there is one. Raises OSErrors."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        _write(handle, content.encode())
    finally:
        os.close(handle)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file that is read line by line; one small write, so lines of two processes never mix."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        try:
            _write(handle, (line + "\n").encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise storage_error(path, error) from error


def link(source: Path, target: Path) -> None:
    """`target` becomes another name of the file `source`, in one step; a copy where links are not possible."""
    temporary = _temporary(target)
    try:
        os.link(source, temporary)
    except OSError:
        try:
            content = source.read_bytes()
        except OSError as error:
            raise storage_error(source, error, "could not be read") from error
        write_atomic(target, content)
        return
    try:
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:  # two names of one file are not renamed over each other
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def rename(source: Path, target: Path) -> None:
    """Give a file another name, over what has it; raises `StorageError`."""
    try:
        os.replace(source, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise storage_error(source, error, f"could not be renamed to {target.name}") from error


def remove(path: Path) -> None:
    """Delete a file if it is there; raises `StorageError`."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise storage_error(path, error, "could not be deleted") from error


def sweep(folder: Path, older: float = 0.0, of: str = "") -> None:
    """Delete what killed writers left in a folder of ours; only the holder of its lock may do so.

    older: seconds that a file must not have changed for, where there is no lock. of: only what writers of the file of
    this name left, for a folder in which others write too.
    """
    for path in folder.glob(f".{glob.escape(of[:_NAME])}.*.tmp" if of else ".*.tmp"):
        with contextlib.suppress(OSError):
            if not older or time.time() - path.stat().st_mtime > older:
                os.unlink(path)


DAY = 86_400.0  # seconds: no writer of ours leaves a file unchanged for as long
_NAME = 80  # characters of a file's name that are kept in that of a temporary one


def _temporary(path: Path) -> Path:
    """A name of its own in the same folder; short, because the whole name must not be longer than a name may be."""
    return path.with_name(f".{path.name[:_NAME]}.{uuid.uuid4().hex[:12]}.tmp")


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view[: 1 << 30]) :]


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


def parse_json(text: bytes | str) -> Any:
    """JSON without NaN and infinity; `ValueError` for anything else, however deeply nested."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def read_json(path: Path) -> Any:
    """Parsed JSON of a file of ours; `DamagedError` if missing, torn or not JSON, `StorageError` if unreadable."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise DamagedError(f"{path}: larger than any file of ebsim.")
        return parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: missing.") from error
    except (OSError, ValueError) as error:
        raise _not_read(path, error, "not readable as JSON") from error


def _not_read(path: Path, error: Exception, what: str) -> DamagedError | StorageError:
    if isinstance(error, OSError) and error.errno in _UNREADABLE:
        return storage_error(path, error, "could not be read")
    return DamagedError(f"{path}: {what} ({error}).")


def _tensor_digest(tensors: Mapping[str, torch.Tensor], meta: str) -> str:
    import torch

    total = hashlib.sha256(meta.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Write named tensors and JSON metadata to one safetensors file, atomically, with their digest."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = canonical_json(meta)
    write_atomic(path, save(plain, {"meta": text, "sha256": _tensor_digest(plain, text)}))


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and metadata of `save_tensors`; `DamagedError` if missing, torn, altered or foreign.

    Takes no more memory than a few times the file's size: safetensors checks that its tensors are what the file holds.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb"):  # an error of the system with its number, which safetensors leaves out
            pass
        with safe_open(str(path), framework="pt") as handle:
            header = handle.metadata() or {}
            # Copies: what safetensors gives is the file itself, mapped, and changes with it after it was checked.
            tensors = {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118
        if "meta" not in header or "sha256" not in header:
            raise DamagedError(f"{path}: a safetensors file, but not one written by ebsim (no digest).")
        if _tensor_digest(tensors, header["meta"]) != header["sha256"]:
            raise DamagedError(f"{path}: its content does not match its digest; the file was altered or damaged.")
        meta = parse_json(header["meta"])
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: missing.") from error
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError, TypeError, AttributeError) as error:
        raise _not_read(path, error, "damaged or not a safetensors file") from error
    if not isinstance(meta, dict):
        raise DamagedError(f"{path}: its metadata are a {type(meta).__name__}, not a table.")
    return tensors, meta
