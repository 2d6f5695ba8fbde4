"""The experiment schema: TOML and overrides -> validated, frozen sections."""

from __future__ import annotations

from ebsim.config.load import all_keys, load, validate
from ebsim.config.sections import (
    Data,
    Experiment,
    Hardware,
    Model,
    Precision,
    Prune,
    Section,
    Train,
)
from ebsim.config.source import Source, parse_settings

__all__ = [
    "Data",
    "Experiment",
    "Hardware",
    "Model",
    "Precision",
    "Prune",
    "Section",
    "Source",
    "Train",
    "all_keys",
    "load",
    "parse_settings",
    "validate",
]
