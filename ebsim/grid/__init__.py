"""Grids of experiments: cells that are ordinary runs, in worker processes, ending in one table."""
