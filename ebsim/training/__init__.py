"""The one training loop, its checkpoints, and trajectories that can be continued and shared."""

from __future__ import annotations

from ebsim.training.checkpoint import Checkpoint
from ebsim.training.progress import Progress, Silent
from ebsim.training.step import Sums, evaluate, optimiser, train_epoch
from ebsim.training.trajectory import Averaging, Constraint, Trajectory

__all__ = [
    "Averaging",
    "Checkpoint",
    "Constraint",
    "Progress",
    "Silent",
    "Sums",
    "Trajectory",
    "evaluate",
    "optimiser",
    "train_epoch",
]
