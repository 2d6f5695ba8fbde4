"""What a training cannot do under its setup: train in several processes as one would, or replay CUDA graphs."""

from __future__ import annotations

from ebsim import precision
from ebsim.errors import ConfigError
from ebsim.training import team as teams
from ebsim.training.compilation import FUSED
from ebsim.training.setup import Setup
from ebsim.training.team import Team


def check_team(setup: Setup, team: Team) -> None:
    """`ConfigError` for what several processes would not compute as one does."""
    least = min(setup.train.batch_size, setup.data.train_images, setup.data.test_images)
    problem = ""
    if setup.train.compile:
        problem = "train.compile would compile a batch's size without its share"
    elif setup.train.kernels == FUSED:
        problem = "fused kernels take the statistics of one process's images"
    elif setup.stats_every or setup.meter is not None:
        problem = "observing precisions and measuring energy are done in one process"
    elif setup.train.batchnorm_parts not in (1, team.size):
        problem = f"train.batchnorm_parts = {setup.train.batchnorm_parts} are those of as many processes"
    elif least < team.size:
        problem = f"a batch, or the dataset, has {least} images"
    if problem:
        raise ConfigError(f"{team.size} processes cannot train this stage as one would: {problem}. Use one process.")


def simulated(setup: Setup) -> bool:
    """Whether a training is in a simulated precision."""
    return precision.identity(precision.backend(setup.backend)) != precision.identity(precision.backend("fp32"))


def no_graphs_reason(setup: Setup) -> str:
    """Why the steps of a training cannot be recorded; empty where they can."""
    if teams.team().size > 1:
        return "several processes train together"
    if setup.device.type != "cuda":
        return "there is no GPU"
    if simulated(setup):
        return "a simulated precision rounds by the number of the step, which a recorded step could not change"
    return ""
