"""The experiment schema: TOML and overrides -> validated, frozen sections."""

from __future__ import annotations

from ebsim.config.load import Choices, CrossChecks, Mistake, all_keys, check, load, refusal, validate
from ebsim.config.paths import PROFILE_COPY, is_profile_path, locate, located
from ebsim.config.sections import (
    Cluster,
    Companion,
    Data,
    Experiment,
    Hardware,
    Model,
    Precision,
    Prune,
    Section,
    Train,
    dotted,
)
from ebsim.config.source import ExperimentSource, override, parse_settings, parse_value, read

__all__ = [
    "PROFILE_COPY",
    "Choices",
    "Cluster",
    "Companion",
    "CrossChecks",
    "Data",
    "Experiment",
    "ExperimentSource",
    "Hardware",
    "Mistake",
    "Model",
    "Precision",
    "Prune",
    "Section",
    "Train",
    "all_keys",
    "check",
    "dotted",
    "is_profile_path",
    "load",
    "locate",
    "located",
    "override",
    "parse_settings",
    "parse_value",
    "read",
    "refusal",
    "validate",
]
