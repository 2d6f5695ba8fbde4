"""Quantizers: a number format applied to tensors of any layout, compiled, with counter-based random numbers."""
