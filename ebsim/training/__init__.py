"""The one training loop, its checkpoints, and trajectories that can be continued and shared."""

from __future__ import annotations

from ebsim.training.checkpoint import Checkpoint
from ebsim.training.constraints import SoftFilters, ZeroWeights
from ebsim.training.loop import Sums, evaluate, make_optimizer, train_epoch
from ebsim.training.progress import Progress, Silent
from ebsim.training.trainer import Averaging, Constraint, Live, Setup
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
    "make_optimizer",
    "train_epoch",
]
