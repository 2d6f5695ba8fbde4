"""The pipeline of one experiment, from its TOML to its report (`ebsim.run` and the command run)."""

from __future__ import annotations

from ebsim.pipeline.execute import Run, run, run_experiment, run_folder
from ebsim.pipeline.setup import load_data, open_context, pick_device, precision_plans
from ebsim.pipeline.validation import CROSS_CHECKS, choices, load

RULES = CROSS_CHECKS  # the name until 0.1

__all__ = [
    "CROSS_CHECKS",
    "RULES",
    "Run",
    "choices",
    "load",
    "load_data",
    "open_context",
    "pick_device",
    "precision_plans",
    "run",
    "run_experiment",
    "run_folder",
]
