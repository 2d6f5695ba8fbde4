"""Datasets of large images (ImageNet), decoded while training, by worker processes if `data.workers` says so.

Training: RandomResizedCrop 224 and a horizontal flip; testing: shorter side to 256, centre crop 224; by default with
the very pixels of torchvision's transforms, which define the recipe (`large_images`). The random numbers of an image
depend on (seed, epoch, index) and on nothing else, so the number of workers, the batch size and a resumed run cannot
change them. Normalizing happens on the training device, on uint8 batches, which are a quarter of the size to copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ebsim.data import dali, file_record
from ebsim.data.catalogue import IMAGENET_MEAN, IMAGENET_STD, LARGE_RESIZE, LARGE_SIDE
from ebsim.data.dataset import Batches, BatchPart, Dataset, balanced_subset, epoch_order, normalize, whole
from ebsim.data.image_files import read_bytes
from ebsim.data.image_folder import Listing, Split
from ebsim.data.large_images import TEST, TRAINING, Decode, EncodedImage, Source
from ebsim.data.prepared import PreparedFile
from ebsim.data.scaled_decoding import decoder_name
from ebsim.files import digest
from ebsim.seeds import derive_seed


class ImageList(Protocol):
    """The images of one part of a dataset."""

    @property
    def labels(self) -> tuple[int, ...]:
        """Their class numbers."""

    def source(self, index: int) -> Source:
        """Image number `index`; raises `DataError` if it is damaged."""


@dataclass(frozen=True)
class FolderImages:
    """Images that are files."""

    root: Path
    split: Split

    @property
    def labels(self) -> tuple[int, ...]:
        return self.split.labels

    def source(self, index: int) -> Source:
        path = self.root / self.split.paths[index]
        return EncodedImage(path, read_bytes(path))


@dataclass(frozen=True)
class PreparedImages:
    """Images of a prepared file, by their numbers in it."""

    file: PreparedFile
    numbers: tuple[int, ...]

    @property
    def labels(self) -> tuple[int, ...]:
        return tuple(self.file.labels[list(self.numbers)].tolist())

    def source(self, index: int) -> Source:
        return self.file.image(self.numbers[index])


@dataclass(frozen=True)
class _Pixels(TorchDataset):  # type: ignore[type-arg]
    """Index -> uint8 [224, 224, 3]; a seed per image, or None for what is not random."""

    images: ImageList
    decode: Decode
    seed: tuple[int, int] | None

    def __getitem__(self, index: int) -> torch.Tensor:
        source = self.images.source(index)
        if self.seed is None:
            pixels = TEST[self.decode](source)
        else:
            pixels = TRAINING[self.decode](source, derive_seed(*self.seed, "picture", index))
        return torch.from_numpy(np.array(pixels))


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamedDataset(Dataset):
    """A dataset whose images stay on disk; made by `from_listing` or `from_prepared`."""

    train: ImageList
    test: ImageList
    augment: bool
    device: torch.device
    workers: int
    decode: Decode
    decoder: str

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"decode": self.decode, "decoder": self.decoder}

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
        order = epoch_order(self.train_images, seed=seed, epoch=epoch).split(batch_size)[skip:]
        seeds = (seed, epoch) if self.augment else None
        return self._batches(self.train, seeds, order, memory_format, part)

    def test_batches(
        self,
        batch_size: int,
        *,
        memory_format: torch.memory_format = torch.contiguous_format,
        part: BatchPart = whole,
    ) -> Batches:
        return self._batches(self.test, None, torch.arange(self.test_images).split(batch_size), memory_format, part)

    def _batches(
        self,
        images: ImageList,
        seed: tuple[int, int] | None,
        order: tuple[torch.Tensor, ...],
        memory_format: torch.memory_format,
        part: BatchPart,
    ) -> Batches:
        batches = [numbers for batch in order if (numbers := batch[part(len(batch))].tolist())]
        labels = torch.tensor(images.labels)
        mean, std = (torch.tensor(values, device=self.device) for values in (self.mean, self.std))
        for numbers, pixels in zip(batches, self._pixels(images, seed, batches), strict=True):
            pixels = _normalized(pixels.to(self.device, non_blocking=True), mean, std, memory_format)
            yield pixels, labels[numbers].to(self.device, non_blocking=True)

    def _pixels(self, images: ImageList, seed: tuple[int, int] | None, batches: list[list[int]]) -> Any:
        """uint8 batches [b, 224, 224, 3], in pinned memory where they go to a GPU."""
        if self.decode == "dali":
            seed_of = None if seed is None else lambda index: derive_seed(*seed, "picture", index)
            return dali.batches(images.source, batches, seed_of, self.device, self.workers)
        return DataLoader(
            _Pixels(images, self.decode, seed),
            batch_sampler=batches,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # or the loader would use the global one
        )


def _normalized(
    pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, memory_format: torch.memory_format
) -> torch.Tensor:
    """uint8 [b, h, w, 3] -> normalized float32 [b, 3, h, w] in a memory format; the same bits in each."""
    b, h, w, _ = pixels.shape
    if memory_format is not torch.channels_last:
        return normalize(pixels.permute(0, 3, 1, 2).contiguous(), mean.view(-1, 1, 1), std.view(-1, 1, 1))
    rows = normalize(pixels.reshape(b, h, 3 * w), mean.repeat(w), std.repeat(w))  # three channels alone fill no vector
    return rows.view(b, h, w, 3).permute(0, 3, 1, 2)


def from_listing(
    listing: Listing,
    *,
    name: str,
    label: str,
    device: str | torch.device,
    subset: int | None,
    augment: bool,
    workers: int,
    decode: Decode = "exact",
) -> StreamedDataset:
    """A streamed dataset over a checked image folder."""
    train, test = (split.take(_kept(split.labels, subset)) for split in listing.splits)
    return _dataset(
        FolderImages(listing.root, train),
        FolderImages(listing.root, test),
        name=name,
        label=label,
        class_names=listing.class_names,
        digest=file_record.contents_digest(listing.root, train, test),
        digest_of="names and contents of the image files",
        split=listing.split,
        prepared="",
        device=device,
        subset=subset,
        augment=augment,
        workers=workers,
        decode=decode,
    )


def from_prepared(
    file: PreparedFile,
    *,
    name: str,
    device: str | torch.device,
    subset: int | None,
    augment: bool,
    workers: int,
    decode: Decode = "exact",
) -> StreamedDataset:
    """A streamed dataset over a checked file of `data prepare`."""
    bounds = ((0, file.train_images), (file.train_images, len(file)))
    train, test = (
        PreparedImages(file, tuple(start + i for i in _kept(file.labels[start:end], subset))) for start, end in bounds
    )
    return _dataset(
        train,
        test,
        name=name,
        label=f"{file.meta['source']} (image folder)",
        class_names=file.class_names,
        digest=digest([file.digest, *(images.numbers for images in (train, test))]) if subset else file.digest,
        digest_of="stored images, classes and settings of the prepared file",
        split=str(file.meta["split"]),
        prepared=f"; prepared: {file.recipe}, by {file.meta['made_by']}",
        device=device,
        subset=subset,
        augment=augment,
        workers=workers,
        decode=decode,
    )


def _kept(labels: Any, subset: int | None) -> list[int]:
    if subset is None:
        return list(range(len(labels)))
    return balanced_subset(torch.as_tensor(labels), subset).tolist()


def _dataset(
    train: ImageList,
    test: ImageList,
    *,
    device: str | torch.device,
    subset: int | None,
    augment: bool,
    workers: int,
    decode: Decode,
    split: str,
    prepared: str,
    **facts: Any,
) -> StreamedDataset:
    if subset is not None:
        split += f"; the first {subset} of each, balanced over the classes"
    if decode == "dali":
        dali.require(torch.device(device))
    how = "" if decode == "exact" else f" (decoded for speed: data.decode = {decode})"
    return StreamedDataset(
        shape=(3, LARGE_SIDE, LARGE_SIDE),
        train_images=len(train.labels),
        test_images=len(test.labels),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        augmentation=(f"random resized crop {LARGE_SIDE}, random horizontal flip" if augment else "none") + how,
        test_transform=f"shorter side to {LARGE_RESIZE}, centre crop {LARGE_SIDE}" + how,
        split=split + prepared,
        train=train,
        test=test,
        augment=augment,
        device=torch.device(device),
        workers=workers,
        decode=decode,
        decoder=decoder_name(decode),
        **facts,
    )
