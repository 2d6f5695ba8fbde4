"""Functions of the commands check, schema and doctor: an experiment checked without torch, and this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebsim import config
from ebsim.config.json_schema import experiment_schema
from ebsim.data import list_datasets
from ebsim.pipeline.validation import CROSS_CHECKS, choices
from ebsim.precision import plugins
from ebsim.runs.provenance import PACKAGES

SCHEMAS = ("experiment.schema.json", "accelerator.schema.json")


@dataclass(frozen=True)
class CheckedExperiment:
    """An experiment that is right. missing: what it needs that is not here yet, each with its cure."""

    experiment: config.Experiment
    missing: tuple[str, ...]


def check(path: str | Path, overrides: dict[str, Any] | None = None) -> CheckedExperiment:
    """Everything that can be known before torch is loaded: keys, names, rules, the accelerator, the dataset's folder.

    A file with a `[grid]` table is checked as the experiment that it varies. No code of plug-ins is run. Raises
    `ConfigError`, or `hw_models.ProfileError` for an accelerator file of the user's own.
    """
    with plugins.only_looking() as unrun:
        experiment = config.load(path, overrides, choices(), CROSS_CHECKS)
    if config.is_profile_path(experiment.hardware.profile):  # a shipped one is right
        import hw_models

        hw_models.load(experiment.hardware.profile)
    section = experiment.data
    missing = [f"what {spec} defines is not checked, because only a run runs the code of plug-ins" for spec in unrun]
    here = {item["name"]: item["found"] for item in list_datasets(section.root)}
    if not here[section.name]:
        cure = "it is fetched when the run starts" if section.download else _cure(section)
        missing.append(f"{section.name} is not in {section.root}: {cure}")
    return CheckedExperiment(experiment, tuple(missing))


def _cure(section: config.Data) -> str:
    if section.name == "imagefolder":
        return "set data.root to the folder that holds train/ and test/"
    return f"python cli.py data fetch {section.name} --root {section.root}"


def schemas() -> dict[str, dict[str, Any]]:
    """File name -> JSON Schema of experiment and accelerator files, with the names that this installation knows."""
    from ebsim.precision import list_backends
    from hw_models.accelerator.json_schema import accelerator_schema

    names = {key: list(known()) for key, known in choices().items()}
    names |= {key: list(list_backends()) for key in ("precision.search", "precision.retrain", "precision.low")}
    return dict(zip(SCHEMAS, (experiment_schema(names), accelerator_schema()), strict=True))


def doctor(runs_dir: Path, root: str) -> tuple[dict[str, Any], list[str]]:
    """What is installed and free here, and what would fail with it; loads torch."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }
    problems: list[str] = []
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package != "ebsim":  # a checkout that is not installed
                facts[package] = "missing"
                problems.append(f"{package} is not installed: pip install {package}")
    facts |= _torch(problems)
    above = next(place for place in (runs_dir, *runs_dir.absolute().parents) if place.exists())
    free = shutil.disk_usage(above).free
    facts["free disk"] = f"{free / 1e9:.1f} GB at {above}"
    if free < 1e9:
        problems.append(f"less than 1 GB is free at {above}: checkpoints of a large network may not fit")
    if not os.access(above, os.W_OK):
        problems.append(f"{above} cannot be written: use --runs-dir")
    facts["datasets"] = ", ".join(item["name"] for item in list_datasets(root) if item["found"])
    return facts, problems


def _torch(problems: list[str]) -> dict[str, Any]:
    try:
        import torch
    except Exception as error:
        problems.append(f"torch cannot be imported ({type(error).__name__}: {error}): install it anew")
        return {}
    facts: dict[str, Any] = {
        "torch build": torch.__version__,
        "threads": torch.get_num_threads(),
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    try:
        from ebsim.torchvision_shim import import_torchvision

        import_torchvision("torchvision.models")
    except Exception as error:
        problems.append(f"torchvision cannot be imported ({error}): networks resnet, and image folders, will fail")
    return facts
