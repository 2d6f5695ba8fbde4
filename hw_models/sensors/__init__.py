"""Measured energy by hardware sensors (Zeus, or NVIDIA's counters directly); never mixed with modelled energy."""

from hw_models.sensors.energy_meter import COLUMNS, Measured, measure, sensor

__all__ = ["COLUMNS", "Measured", "measure", "sensor"]
