"""Datasets: small images as one uint8 tensor on the training device, large ones streamed.

    dataset = data.load("digits")
    for x, y in dataset.train_batches(128, seed=1, epoch=0): ...

`catalogue` is plain data and imports no torch; everything else is imported on first use.
"""

from __future__ import annotations

from ebsim.lazy import attach

_HOME = {
    "DATASETS": ".catalogue",
    "DatasetEntry": ".catalogue",
    "Entry": ".catalogue",
    "list_datasets": ".catalogue",
    "load": ".registry",
    "fetch": ".registry",
    "verify": ".registry",
    "prepare": ".preparing",
    "Dataset": ".dataset",
    "TensorDataset": ".tensors",
    "StreamedDataset": ".streaming",
}

__getattr__, __dir__, __all__ = attach(__name__, _HOME)
