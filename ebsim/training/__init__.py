"""The one training loop, its checkpoints, and trajectories that can be continued and shared."""

from __future__ import annotations

from ebsim.training.checkpoint import Checkpoint
from ebsim.training.constraints import SoftFilters, ZeroWeights
from ebsim.training.graph import StepGraphs, cuda_recorder, on_stream
from ebsim.training.loop import Sums, TrainStep, evaluate, make_optimizer, train_epoch
from ebsim.training.progress import Progress, Recorded, Silent
from ebsim.training.setup import Averaging, Constraint, Setup
from ebsim.training.trainer import Trainer
from ebsim.training.trajectory import Trajectory

__all__ = [
    "Averaging",
    "Checkpoint",
    "Constraint",
    "Progress",
    "Recorded",
    "Setup",
    "Silent",
    "SoftFilters",
    "StepGraphs",
    "Sums",
    "TrainStep",
    "Trainer",
    "Trajectory",
    "ZeroWeights",
    "cuda_recorder",
    "evaluate",
    "make_optimizer",
    "on_stream",
    "train_epoch",
]
