"""The compiled kernels: built once by the machine's C++ compiler, kept in the user's cache, called through ctypes.

The cache is <XDG_CACHE_HOME or ~/.cache>/ebsim/kernels-<digest>.so; the digest is over the source, the compiler's
version, the flags and the processor, so that a changed one is built anew. Nothing is downloaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebsim.errors import ConfigError
from ebsim.files import make_folder, write_atomic

SOURCE = Path(__file__).with_name("batchnorm_relu.cpp")
FLAGS = (
    "-O3", "-march=native", "-mprefer-vector-width=512", "-fno-trapping-math", "-fno-math-errno", "-std=c++17",
    "-shared", "-fPIC",
)  # fmt: skip
_COMPILERS = ("c++", "g++", "clang++")
_LONG, _POINTER, _DOUBLE, _INT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_double, ctypes.c_int
_SIGNATURES: dict[str, list[Any]] = {
    "ebsim_near_mean": [_INT, _POINTER, _LONG, _POINTER, _LONG, _POINTER],
    "ebsim_stats": [_INT, _POINTER, _LONG, _POINTER, _LONG, _LONG, _LONG, _POINTER, _POINTER, _POINTER],
    "ebsim_normalizer": [_POINTER, _LONG, _LONG, _LONG, *[_POINTER] * 3, _DOUBLE, _DOUBLE, *[_POINTER] * 6],
    "ebsim_apply": [_INT, _POINTER, _LONG, _LONG, _LONG, *[_POINTER] * 3],
    "ebsim_gradient_sums": [_INT, _POINTER, _POINTER, _LONG, _LONG, _LONG, *[_POINTER] * 4],
    "ebsim_gradient_terms": [_POINTER, _LONG, _LONG, _LONG, *[_POINTER] * 6],
    "ebsim_gradient": [_INT, _POINTER, _POINTER, _LONG, _LONG, _LONG, *[_POINTER] * 6, _LONG, _POINTER],
}


@dataclass(frozen=True)
class Kernels:
    """The loaded library, and in words how it was made."""

    library: ctypes.CDLL
    made_by: str


@functools.cache
def kernels() -> Kernels:
    """Compile (once per machine and version) and load. Raises `ConfigError` where that is not possible."""
    compiler = next((found for name in _COMPILERS if (found := shutil.which(os.environ.get("CXX") or name))), None)
    if compiler is None or platform.machine() not in ("x86_64", "AMD64", "aarch64", "arm64"):
        raise ConfigError(
            'train.kernels = "fused" compiles its kernels and needs a C++ compiler (g++ or clang++) on the PATH, or in '
            'CXX; install one, or use "library"'
        )
    version = _run([compiler, "--version"]).splitlines()[0]
    identity = "\n".join([SOURCE.read_text(), version, *FLAGS, platform.machine(), _processor()])
    path = _folder() / f"kernels-{hashlib.sha256(identity.encode()).hexdigest()[:24]}.so"
    if not path.exists():
        _build(compiler, path)
    try:
        library = ctypes.CDLL(str(path))
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, None
    except (OSError, AttributeError) as error:
        raise ConfigError(f'{path}: cannot be loaded ({error}); delete it, or use train.kernels = "library"') from error
    return Kernels(library, f"{version}, {' '.join(FLAGS)}")


def _build(compiler: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ebsim-kernels-") as place:
        built = Path(place) / "kernels.so"
        _run([compiler, *FLAGS, "-o", str(built), str(SOURCE)])
        make_folder(path.parent)
        write_atomic(path, built.read_bytes())  # two processes may build at once: each replaces the file as a whole


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    except (OSError, subprocess.SubprocessError) as error:
        why = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise ConfigError(
            f'train.kernels = "fused": {command[0]} failed ({why[-1] if why else "no message"}); use "library", '
            "or mend the compiler"
        ) from error


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ebsim"


def _processor() -> str:
    """What -march=native depends on, as far as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
