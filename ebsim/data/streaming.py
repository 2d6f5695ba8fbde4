"""Datasets of large images (ImageNet), decoded while training, by worker processes if `data.workers` says so.

Training: RandomResizedCrop 224 and a horizontal flip; testing: shorter side to 256, centre crop 224; torchvision's own
transforms, which define the recipe. The random numbers of an image depend on (seed, epoch, index) and on nothing else,
so the number of workers, the batch size and a resumed run cannot change them. Normalizing happens on the training
device, on uint8 batches, which are a quarter of the size to copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ebsim.data import file_record
from ebsim.data.catalogue import IMAGENET_MEAN, IMAGENET_STD, LARGE_RESIZE, LARGE_SIDE
from ebsim.data.dataset import Batches, BatchPart, Dataset, balanced_subset, epoch_order, normalize, whole
from ebsim.data.image_files import decode_rgb, open_image
from ebsim.data.image_folder import Listing, Split
from ebsim.files import digest
from ebsim.seeds import derive_seed
from ebsim.torchvision_shim import import_torchvision


@dataclass(frozen=True)
class _Images(TorchDataset):  # type: ignore[type-arg]
    """Index -> (uint8 [3, 224, 224], label); a seed per image, or None where the transform is not random."""

    root: Path
    split: Split
    transform: Callable[[Any], Any]
    seed: tuple[int, int] | None

    def __len__(self) -> int:
        return len(self.split.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path = self.root / self.split.paths[index]
        image = decode_rgb(path, open_image(path))
        with torch.random.fork_rng(devices=[]):  # torchvision uses the global generator
            if self.seed is not None:
                torch.manual_seed(derive_seed(*self.seed, "picture", index))
            cropped = self.transform(image)
        return torch.from_numpy(np.array(cropped)).permute(2, 0, 1), self.split.labels[index]


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamedDataset(Dataset):
    """A dataset whose images stay on disk; made by `from_listing`."""

    root: Path
    train: Split
    test: Split
    augment: bool
    device: torch.device
    workers: int

    def train_batches(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        memory_format: torch.memory_format = torch.contiguous_format,
        skip: int = 0,
        part: BatchPart = whole,
    ) -> Batches:
        images = _Images(self.root, self.train, _transform(self.augment), (seed, epoch))
        order = epoch_order(self.train_images, seed=seed, epoch=epoch).split(batch_size)[skip:]
        return self._batches(images, [batch[part(len(batch))].tolist() for batch in order], memory_format)

    def test_batches(
        self,
        batch_size: int,
        *,
        memory_format: torch.memory_format = torch.contiguous_format,
        part: BatchPart = whole,
    ) -> Batches:
        images = _Images(self.root, self.test, _transform(augment=False), None)
        order = torch.arange(self.test_images).split(batch_size)
        return self._batches(images, [batch[part(len(batch))].tolist() for batch in order], memory_format)

    def _batches(self, images: _Images, batches: list[list[int]], memory_format: torch.memory_format) -> Batches:
        loader = DataLoader(
            images,
            batch_sampler=[batch for batch in batches if batch],
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # or the loader would use the global one
        )
        mean, std = (torch.tensor(v, device=self.device).view(-1, 1, 1) for v in (self.mean, self.std))
        for pixels, labels in loader:
            pixels = normalize(pixels.to(self.device, non_blocking=True), mean, std)
            yield pixels.contiguous(memory_format=memory_format), labels.to(self.device, non_blocking=True)


def _transform(augment: bool) -> Callable[[Any], Any]:
    transforms = import_torchvision("torchvision.transforms")
    if augment:
        return transforms.Compose([transforms.RandomResizedCrop(LARGE_SIDE), transforms.RandomHorizontalFlip()])
    return transforms.Compose([transforms.Resize(LARGE_RESIZE), transforms.CenterCrop(LARGE_SIDE)])


def _contents_digest(root: Path, train: Split, test: Split) -> str:
    """SHA-256 over names and contents; only files that are new or changed since the last time are read."""
    paths, sizes, times = ([*getattr(train, name), *getattr(test, name)] for name in ("paths", "sizes", "times_ns"))
    record = file_record.refresh(root, paths, sizes, times)
    return digest([[[path, record[path].now.hex()] for path in split.paths] for split in (train, test)])


def from_listing(
    listing: Listing,
    *,
    name: str,
    label: str,
    device: str | torch.device,
    subset: int | None,
    augment: bool,
    workers: int,
) -> StreamedDataset:
    """A streamed dataset over a checked image folder."""
    (train, test), split = listing.splits, listing.split
    if subset is not None:
        train, test = (s.take(balanced_subset(torch.tensor(s.labels), subset).tolist()) for s in (train, test))
        split += f"; the first {subset} of each, balanced over the classes"
    return StreamedDataset(
        name=name,
        label=label,
        class_names=listing.class_names,
        shape=(3, LARGE_SIDE, LARGE_SIDE),
        train_images=len(train.paths),
        test_images=len(test.paths),
        digest=_contents_digest(listing.root, train, test),
        digest_of="names and contents of the image files",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        augmentation=f"random resized crop {LARGE_SIDE}, random horizontal flip" if augment else "none",
        test_transform=f"shorter side to {LARGE_RESIZE}, centre crop {LARGE_SIDE}",
        split=split,
        root=listing.root,
        train=train,
        test=test,
        augment=augment,
        device=torch.device(device),
        workers=workers,
    )
