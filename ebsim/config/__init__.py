"""The experiment schema: TOML and overrides -> validated, frozen sections."""

from __future__ import annotations

from ebsim.config.load import Choices, Mistake, Rules, all_keys, check, load, refusal, validate
from ebsim.config.paths import PROFILE_COPY, is_profile_path, locate, located
from ebsim.config.sections import (
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
from ebsim.config.source import Source, override, parse_settings, parse_value, read

__all__ = [
    "PROFILE_COPY",
    "Choices",
    "Companion",
    "Data",
    "Experiment",
    "Hardware",
    "Mistake",
    "Model",
    "Precision",
    "Prune",
    "Rules",
    "Section",
    "Source",
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
