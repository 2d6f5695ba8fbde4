"""One thread per test process: bit-identity is promised per thread count, and cores are shared."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
