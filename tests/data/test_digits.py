"""The embedded dataset against scikit-learn's own arrays, and that a changed copy is refused."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.datasets

from ebsim import data
from ebsim.data.digits import read_digits
from ebsim.errors import DataError


def test_split_is_stratified_and_covers_every_scan_once() -> None:
    decoded = read_digits()
    train, test = decoded.train, decoded.test
    stored = sklearn.datasets.load_digits()
    assert (len(train), len(test)) == (1347, 450)
    totals = np.bincount(stored.target)
    assert (np.abs(test.labels.bincount().numpy() - totals / 4) <= 1).all()

    def multiset(pixels: np.ndarray, labels: np.ndarray) -> list[bytes]:
        return sorted(p.astype(np.uint8).tobytes() + bytes([n]) for p, n in zip(pixels, labels, strict=True))

    ours = [np.concatenate([a, b]) for a, b in zip(
        (train.pixels.numpy(), train.labels.numpy()), (test.pixels.numpy(), test.labels.numpy()), strict=True
    )]  # fmt: skip
    expected = np.floor(stored.images * 255 / 16 + 0.5)
    assert all((ours[0][:, 0] == ours[0][:, c]).all() for c in (1, 2))
    assert multiset(ours[0][:, 0], ours[1]) == multiset(expected, stored.target)


def test_normalization_is_that_of_the_training_images() -> None:
    pixels = read_digits().train.pixels.double() / 255
    recipe = data.DATASETS["digits"].recipe
    assert recipe.mean == pytest.approx([pixels.mean().item()] * 3, abs=5e-5)
    assert recipe.std == pytest.approx([pixels.std(correction=0).item()] * 3, abs=5e-5)


def test_loading_says_what_it_does() -> None:
    dataset = data.load("digits")
    described = dataset.describe()
    assert (dataset.classes, dataset.shape, dataset.label) == (10, (3, 8, 8), "Digits (8x8)")
    assert described["augmentation"] == "pad 1 (zeros, before normalizing), random crop"  # and no flip
    x, y = next(dataset.train_batches(128, seed=0, epoch=0))
    assert x.shape == (128, 3, 8, 8) and y.shape == (128,)
    assert sum(len(y) for _, y in dataset.test_batches(128)) == 450


def test_a_changed_copy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = sklearn.datasets.load_digits()
    changed.images[5, 3, 3] = (changed.images[5, 3, 3] + 1) % 17
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: changed)
    with pytest.raises(DataError, match=r"SHA-256 expected a6f0.*actual"):
        data.load("digits")
