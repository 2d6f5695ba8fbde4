"""Accelerators and training steps analyzed and compared: breakdowns, sanity checks, calibration, design sweeps."""
