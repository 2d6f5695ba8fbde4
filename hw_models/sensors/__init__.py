"""Measured energy: a real sensor around real work, and the reading of NVIDIA GPUs that it needs without Zeus."""

from hw_models.sensors.energy_meter import COLUMNS, Measured, measure, sensor

__all__ = ["COLUMNS", "Measured", "measure", "sensor"]
