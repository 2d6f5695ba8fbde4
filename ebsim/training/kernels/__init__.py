"""Kernels of our own for the training step on a CPU, compiled at first use: `train.kernels = "fused"`."""
