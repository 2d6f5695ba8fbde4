"""Rounding to integers and to floats, under the name that plug-in formats import."""

from ebsim.precision.formats.rounding import float_grid, to_integer, to_table

__all__ = ["float_grid", "to_integer", "to_table"]
