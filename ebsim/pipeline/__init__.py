"""An experiment from its TOML to its report: what `run` calls on the command line, and `ebsim.run`."""

from __future__ import annotations

from ebsim.pipeline.execute import (
    RULES,
    Run,
    choices,
    load,
    load_data,
    open_lab,
    pick_device,
    precision_plans,
    run,
    run_experiment,
    run_folder,
)

__all__ = [
    "RULES",
    "Run",
    "choices",
    "load",
    "load_data",
    "open_lab",
    "pick_device",
    "precision_plans",
    "run",
    "run_experiment",
    "run_folder",
]
