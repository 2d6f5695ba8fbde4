"""Small images as one uint8 tensor on the training device: a batch is one gather of pixel rows.

The training images are padded once with zeros, laid out as rows of interleaved pixels (H, W x 3), and kept beside their
mirror images. A row of a crop is then a run of W neighbouring pixels, and `unfold` shows every such run as a row of one
matrix without copying. A batch of random crops is an `index_select` of b x H of these runs, which moves whole runs (a
gather over crop dimensions moves single bytes and is seven times slower). Normalizing runs in the order of
torchvision's ToTensor and Normalize, so a batch equals its per-image pipeline bit for bit for equal random numbers;
interleaved pixels come out channels_last for free.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ebsim.data.catalogue import Recipe
from ebsim.data.dataset import Batches, BatchPart, Dataset, balanced_subset, epoch_order, normalize, whole
from ebsim.seeds import generator


@dataclass(frozen=True)
class Images:
    """Decoded images: pixels uint8 [N, 3, H, W], labels int64 [N]."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, images: int) -> Images:
        keep = balanced_subset(self.labels, images)
        return Images(self.pixels[keep], self.labels[keep])


@dataclass(frozen=True)
class Decoded:
    """What a reader returns: both parts, and how they were split in words."""

    train: Images
    test: Images
    class_names: tuple[str, ...]
    split: str

    def subset(self, images: int) -> Decoded:
        split = f"{self.split}; the first {images} of each, balanced over the classes"
        return Decoded(self.train.subset(images), self.test.subset(images), self.class_names, split)


def content_digest(*parts: Images) -> str:
    """SHA-256 (hex) over the shapes, pixels and labels of the parts, in order."""
    total = hashlib.sha256()
    for part in parts:
        for tensor in (part.pixels, part.labels):
            total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()


def epoch_augmentation(images: int, pad: int, flip: bool, *, seed: int, epoch: int) -> torch.Tensor:
    """int64 [4, images]: image index, mirrored or not, dy, dx in 0 .. 2 pad, for each place in the epoch's order.

    Mirroring comes before cropping, which gives the law of torchvision's Pad, RandomCrop, RandomHorizontalFlip. A later
    sharding over processes slices the columns; it does not change them.
    """
    random = generator(seed, epoch, "augmentation")
    mirrored = torch.randint(0, 1 + flip, (1, images), generator=random)
    offsets = torch.randint(0, 2 * pad + 1, (2, images), generator=random)
    return torch.cat([epoch_order(images, seed=seed, epoch=epoch)[None], mirrored, offsets])


def interleave(pixels: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W] -> rows of interleaved pixels [N, H, W x C]."""
    return pixels.permute(0, 2, 3, 1).flatten(2)


@dataclass(frozen=True)
class Crops:
    """Every crop of every image and, if wanted, of its mirror image; pixels uint8 [N, C, H, W] are copied once.

    runs: [all pixels, W x C], row p being the W pixels from pixel p on.
    """

    runs: torch.Tensor
    versions: int
    pad: int
    height: int
    width: int

    @staticmethod
    def of(pixels: torch.Tensor, pad: int, flip: bool) -> Crops:
        channels, height, width = pixels.shape[1:]
        padded = F.pad(pixels, (pad, pad, pad, pad))
        versions = [padded, padded.flip(3)] if flip else [padded]
        rows = torch.stack([interleave(version) for version in versions], dim=1)
        return Crops(rows.flatten().unfold(0, width * channels, channels), len(versions), pad, height, width)

    def starts(self, index: torch.Tensor, mirrored: torch.Tensor, dy: torch.Tensor, dx: torch.Tensor) -> torch.Tensor:
        """The first pixel of each crop's first row, int64 like the random numbers."""
        padded_height, padded_width = self.height + 2 * self.pad, self.width + 2 * self.pad
        return ((index * self.versions + mirrored) * padded_height + dy) * padded_width + dx

    def gather(self, starts: torch.Tensor) -> torch.Tensor:
        """The crops that begin at `starts` [b], as rows of interleaved pixels uint8 [b, H, W x C]."""
        below = torch.arange(self.height, device=starts.device) * (self.width + 2 * self.pad)
        return self.runs.index_select(0, (starts[:, None] + below).flatten()).unflatten(0, (-1, self.height))


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorDataset(Dataset):
    """A dataset whose images lie on the training device; made by `from_images`."""

    crops: Crops
    train_labels: torch.Tensor
    test_rows: torch.Tensor
    test_labels: torch.Tensor

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
        numbers = epoch_augmentation(
            self.train_images, self.crops.pad, self.crops.versions == 2, seed=seed, epoch=epoch
        )
        numbers = numbers.to(self.test_rows.device)
        finish = self._finish(memory_format)
        batches = zip(self.crops.starts(*numbers).split(batch_size), numbers[0].split(batch_size), strict=True)
        for starts, index in itertools.islice(batches, skip, None):
            if part is not whole:
                starts, index = starts[part(len(index))], index[part(len(index))]
            yield finish(self.crops.gather(starts)), self.train_labels[index]

    def test_batches(
        self,
        batch_size: int,
        *,
        memory_format: torch.memory_format = torch.contiguous_format,
        part: BatchPart = whole,
    ) -> Batches:
        finish = self._finish(memory_format)
        for rows, labels in zip(self.test_rows.split(batch_size), self.test_labels.split(batch_size), strict=True):
            if part is not whole:
                rows, labels = rows[part(len(rows))], labels[part(len(labels))]
            yield finish(rows), labels

    def _finish(self, memory_format: torch.memory_format) -> Callable[[torch.Tensor], torch.Tensor]:
        """uint8 rows [b, H, W x C] -> normalized float32 [b, C, H, W]."""
        channels, _, width = self.shape
        mean, std = (torch.tensor(v).repeat(width).to(self.test_rows.device) for v in (self.mean, self.std))

        def finish(rows: torch.Tensor) -> torch.Tensor:
            pixels = normalize(rows, mean, std).unflatten(2, (width, channels)).permute(0, 3, 1, 2)
            return pixels.contiguous(memory_format=memory_format)

        return finish


def from_images(
    decoded: Decoded,
    *,
    name: str,
    label: str,
    recipe: Recipe,
    device: str | torch.device = "cpu",
    subset: int | None = None,
    augment: bool = True,
) -> TensorDataset:
    """Put decoded images on the device, with what `describe()` says about them."""
    decoded = decoded if subset is None else decoded.subset(subset)
    train, test = decoded.train, decoded.test
    pad, flip = (recipe.pad, recipe.flip) if augment else (0, False)
    return TensorDataset(
        name=name,
        label=label,
        class_names=decoded.class_names,
        shape=tuple(train.pixels.shape[1:]),  # type: ignore[arg-type]
        train_images=len(train),
        test_images=len(test),
        digest=content_digest(train, test),
        digest_of="pixels and labels",
        mean=recipe.mean,
        std=recipe.std,
        augmentation=_augmentation_text(pad, flip),
        test_transform="as stored",
        split=decoded.split,
        crops=Crops.of(train.pixels.to(device), pad, flip),
        train_labels=train.labels.to(device),
        test_rows=interleave(test.pixels.to(device)),
        test_labels=test.labels.to(device),
    )


def _augmentation_text(pad: int, flip: bool) -> str:
    crop = [f"pad {pad} (zeros, before normalizing), random crop"] if pad else []
    return ", ".join(crop + ["random horizontal flip"] * flip) or "none"
