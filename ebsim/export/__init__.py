"""Curves of finished and running trainings for other tools: TensorBoard, Weights & Biases (offline), MLflow.

Made after the fact or while a run goes on, from files alone; a run itself never talks to any of them. Each writer needs
the package that reads its format (extras `tensorboard`, `wandb`, `mlflow`); nothing here opens a connection.
"""

from __future__ import annotations

from ebsim.export.series import Series, series_of, stage_series
from ebsim.export.writers import WRITERS

__all__ = ["WRITERS", "Series", "series_of", "stage_series"]
