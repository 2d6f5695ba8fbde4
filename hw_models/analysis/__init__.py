"""Accelerators and steps taken apart and compared: breakdowns, sanity checks, calibration, design sweeps."""
