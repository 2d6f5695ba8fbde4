"""The one training loop, its checkpoints, and trajectories that can be continued and shared."""

from __future__ import annotations

from ebsim.training.checkpoint import Checkpoint
from ebsim.training.constraints import SoftFilters, ZeroWeights
from ebsim.training.live import Averaging, Constraint, Live, Setup
from ebsim.training.progress import Progress, Silent
from ebsim.training.step import Sums, evaluate, optimiser, train_epoch
from ebsim.training.trajectory import Trajectory

__all__ = [
    "Averaging",
    "Checkpoint",
    "Constraint",
    "Live",
    "Progress",
    "Setup",
    "Silent",
    "SoftFilters",
    "Sums",
    "Trajectory",
    "ZeroWeights",
    "evaluate",
    "optimiser",
    "train_epoch",
]
