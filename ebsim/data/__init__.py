"""Datasets: small images as one uint8 tensor on the training device, large ones streamed.

    dataset = data.load("digits")
    for x, y in dataset.train_batches(128, seed=1, epoch=0): ...

`catalogue` is plain data and imports no torch; everything else is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "DATASETS": "catalogue",
    "Entry": "catalogue",
    "list_datasets": "catalogue",
    "load": "loading",
    "fetch": "loading",
    "verify": "loading",
    "Dataset": "dataset",
    "TensorDataset": "tensors",
    "StreamedDataset": "stream",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"ebsim.data.{_HOME[name]}"), name)
    raise AttributeError(f"module 'ebsim.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
