"""The embedded dataset: 1,797 real scans of handwritten digits, 8x8 pixels, from scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (1998);
scikit-learn ships the test part. Grey levels 0..16 become 0..255 (rounded), repeated over three channels. Split, fixed
for ever: sort by label (stable, so in stored order within a label) and take every fourth image, beginning with the
first, for testing: 450 test, 1,347 training images, every class within one image of its fair share. The digest pins
all of it: a scikit-learn release that changed its copy would be refused, not trained on.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ebsim.data.tensors import Decoded, Images, content_digest
from ebsim.errors import DataError

DIGEST = "a6f0b0446945f4da779920d0d9403db264fc38ba66d83112e525e34e42bcef92"
CLASS_NAMES = tuple("0123456789")
SPLIT = "fixed and stratified: sorted by label, every fourth image is a test image"


def read_digits(root: Path | None = None) -> Decoded:
    """Embedded, so `root` is not used. Raises `DataError` if scikit-learn is missing or has other digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(f"digits: scikit-learn cannot be imported ({error}); pip install scikit-learn") from error
    stored = load_digits()
    grey = torch.from_numpy(stored.images).mul(255 / 16).round().to(torch.uint8)
    pixels = grey[:, None].expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(stored.target).to(torch.int64)
    train, test = split_digits(Images(pixels, labels))
    actual = content_digest(train, test)
    if actual != DIGEST:
        raise DataError(
            f"digits: scikit-learn's copy is not the known one (SHA-256 expected {DIGEST}, actual {actual}); "
            "install a scikit-learn release with the original digits (1.4 to 1.9 have it)"
        )
    return Decoded(train, test, CLASS_NAMES, SPLIT)


def split_digits(images: Images) -> tuple[Images, Images]:
    by_label = images.labels.argsort(stable=True)
    is_test = torch.zeros(len(images), dtype=torch.bool)
    is_test[by_label[::4]] = True
    return (
        Images(images.pixels[~is_test], images.labels[~is_test]),
        Images(images.pixels[is_test], images.labels[is_test]),
    )
