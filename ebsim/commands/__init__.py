"""The command line: a module per group of commands, each command a few lines over the packages below.

Importing this loads click and nothing heavy: every command imports what it works with when it is called.
"""

from __future__ import annotations

from ebsim.commands import (
    checks,
    datasets,
    exports,
    grids,
    hardware,
    hardware_analysis,
    hardware_explore,
    hardware_import,
    hardware_map,
    hardware_roofline,
    plans,
    precisions,
    run_folders,
    runs,
)
from ebsim.commands.app import main

__all__ = [
    "checks",
    "datasets",
    "exports",
    "grids",
    "hardware",
    "hardware_analysis",
    "hardware_explore",
    "hardware_import",
    "hardware_map",
    "hardware_roofline",
    "main",
    "plans",
    "precisions",
    "run_folders",
    "runs",
]
