"""Provenance of a result: code, versions, machine, threads. Results are bit-identical only where these agree."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ebsim
from ebsim.runs.code import code_digest

PACKAGES = ("ebsim", "torch", "torchvision", "fvcore", "numpy", "scipy", "scikit-learn", "safetensors", "pydantic")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ebsim.__version__ if package == "ebsim" else None  # a checkout that is not installed


def _git(*words: str) -> str | None:
    """Output of a git command in the source tree; None where there is no git or no checkout."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def now() -> str:
    """This moment in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(device: str) -> dict[str, Any]:
    """The conditions under which CPU results are bit-identical, and the device."""
    import torch

    out: dict[str, Any] = {
        "ebsim": ebsim.__version__,
        "code": code_digest(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": device,
    }
    if device.startswith("cuda"):
        out["device_name"] = torch.cuda.get_device_name(torch.device(device))
    return out


def trained_under(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """What `provenance.json` says of the stages of a run: stage -> the environments of its epochs.

    Facts of `collect` in which the epochs differ from the present ones are given as the epochs have them, several
    joined by "; ": a stage that is reused was not trained by the process that reports it.
    """
    stages = {stage: [dict(item) for item in history] for stage, history in histories.items()}
    out: dict[str, Any] = {"stages": stages}
    for key in ("torch", "threads", "cpu_capability", "code", "kernels"):
        found = list(dict.fromkeys(item[key] for history in stages.values() for item in history if key in item))
        if found:
            name = "torch_build" if key == "torch" else key
            out[name] = found[0] if len(found) == 1 else "; ".join(map(str, found))
    return out


def collect(device: str) -> dict[str, Any]:
    """Everything that `provenance.json` says of where and with what a run was made."""
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "host_os": platform.platform(),
        "cores": os.cpu_count(),
        "argv": sys.argv,
        **{("torch_build" if key == "torch" else key): value for key, value in environment(device).items()},
    }
