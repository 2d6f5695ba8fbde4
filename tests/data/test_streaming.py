"""Large images: torchvision's crops, and draws that depend on (seed, epoch, index) alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from ebsim import data
from ebsim.data.catalogue import IMAGENET_MEAN, IMAGENET_STD
from ebsim.data.dataset import epoch_order
from ebsim.errors import DataError
from ebsim.seeds import derive_seed
from ebsim.torchvision_shim import import_torchvision

from .conftest import save_images


@pytest.fixture(scope="module")
def large_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("large")
    for seed, place in enumerate(("train/a", "train/b", "val/a", "val/b")):
        save_images(root / place, 3, size=(300, 260 + seed), seed=seed, ending="jpeg")
    return root


def epoch(dataset: data.Dataset, batch_size: int, seed: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    xs, ys = zip(*dataset.train_batches(batch_size, seed=seed, epoch=number), strict=True)
    return torch.cat(xs), torch.cat(ys)


def test_training_images_are_torchvisions_seeded_per_image(large_folder: Path) -> None:
    transforms = import_torchvision("torchvision.transforms")
    pipeline = transforms.Compose([
        transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ])  # fmt: skip
    files = sorted((large_folder / "train").glob("*/*.jpeg"))
    dataset = data.load("imagefolder", root=large_folder)
    assert dataset.shape == (3, 224, 224) and "contents" in dataset.digest_of
    x, y = epoch(dataset, 4, 2, 3)
    order = epoch_order(6, seed=2, epoch=3).tolist()
    for image, label, index in zip(x, y, order, strict=True):
        torch.manual_seed(derive_seed(2, 3, "picture", index))
        assert torch.equal(image, pipeline(Image.open(files[index]).convert("RGB")))
        assert label == index // 3


def test_test_images_are_centre_crops_in_order_tail_included(large_folder: Path) -> None:
    transforms = import_torchvision("torchvision.transforms")
    pipeline = transforms.Compose([
        transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ])  # fmt: skip
    batches = list(data.load("imagefolder", root=large_folder).test_batches(4, memory_format=torch.channels_last))
    assert [len(y) for _, y in batches] == [4, 2]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x, _ in batches)
    files = sorted((large_folder / "val").glob("*/*.jpeg"))
    expected = torch.stack([pipeline(Image.open(f).convert("RGB")) for f in files])
    assert torch.equal(torch.cat([x for x, _ in batches]), expected)


def test_workers_batch_size_and_other_draws_change_nothing(large_folder: Path) -> None:
    x, y = epoch(data.load("imagefolder", root=large_folder), 6, 1, 0)
    torch.manual_seed(77)
    state = torch.get_rng_state()
    for batch_size, workers in ((4, 0), (5, 2)):
        again, labels = epoch(data.load("imagefolder", root=large_folder, workers=workers), batch_size, 1, 0)
        assert torch.equal(again, x) and torch.equal(labels, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(epoch(data.load("imagefolder", root=large_folder), 6, 1, 1)[0], x)


def test_subset_and_no_augmentation(large_folder: Path) -> None:
    dataset = data.load("imagefolder", root=large_folder, subset=2, augment=False)
    assert (dataset.train_images, dataset.test_images, dataset.augmentation) == (2, 2, "none")
    assert dataset.digest != data.load("imagefolder", root=large_folder).digest
    x, y = epoch(dataset, 2, 0, 0)
    again, _ = epoch(dataset, 2, 0, 1)
    assert sorted(y.tolist()) == [0, 1]
    assert torch.equal(x.sum((1, 2, 3)).sort().values, again.sum((1, 2, 3)).sort().values)


def test_a_broken_image_is_named_by_verify_and_by_training(large_folder: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(large_folder, root)
    assert data.verify("imagefolder", root)["checked"].startswith("every image decoded")
    victim = root / "train" / "b" / "001.jpeg"
    victim.write_bytes(victim.read_bytes()[:5000])
    shutil.rmtree(root / ".ebsim-cache")
    with pytest.raises(DataError, match=r"train/b/001\.jpeg: not a readable image"):
        data.verify("imagefolder", root)
    with pytest.raises(DataError, match=r"train/b/001\.jpeg: not a readable image"):
        epoch(data.load("imagefolder", root=root), 6, 0, 0)
