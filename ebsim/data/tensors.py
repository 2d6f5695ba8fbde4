"""Small images as one uint8 tensor on the training device: a batch is one gather.

The training images are padded once with zeros. `unfold` shows the padded tensor as [N, dy, dx, C, H, W], every possible
crop of every image, without copying anything; `crops[index, dy, dx]` then gathers a whole batch of random crops at
once. Mirroring is a `where`, and normalising runs in the order of torchvision's ToTensor and Normalize, so the result
equals its per-image pipeline bit for bit, given the same offsets.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ebsim.data.catalogue import Recipe
from ebsim.data.dataset import Batches, Dataset, balanced_subset, epoch_order, generator, normalise


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


def content_digest(*parts: Images) -> str:
    """SHA-256 (hex) over the shapes, pixels and labels of the parts, in order."""
    total = hashlib.sha256()
    for part in parts:
        for tensor in (part.pixels, part.labels):
            total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()


def epoch_draws(images: int, pad: int, *, seed: int, epoch: int) -> torch.Tensor:
    """int64 [4, images]: image index, dy, dx in 0 .. 2 pad, mirrored or not, for each place in the epoch's order.

    The same law as torchvision's Pad, RandomCrop and RandomHorizontalFlip, drawn at once. A later sharding over
    processes slices the columns; it does not change them.
    """
    random = generator(seed, epoch, "augmentation")
    offsets = torch.randint(0, 2 * pad + 1, (2, images), generator=random)
    mirrored = torch.randint(0, 2, (1, images), generator=random)
    return torch.cat([epoch_order(images, seed=seed, epoch=epoch)[None], offsets, mirrored])


def crop_view(pixels: torch.Tensor, pad: int) -> torch.Tensor:
    """[N, C, H, W] -> a view [N, 2 pad + 1, 2 pad + 1, C, H, W] of the padded images: [n, dy, dx] is one crop."""
    height, width = pixels.shape[2:]
    padded = F.pad(pixels, (pad, pad, pad, pad))
    return padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorDataset(Dataset):
    """A dataset whose images lie on the training device; made by `from_images`."""

    crops: torch.Tensor
    train_labels: torch.Tensor
    test: Images
    pad: int
    flip: bool

    def train_batches(
        self, batch_size: int, *, seed: int, epoch: int, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Batches:
        draws = epoch_draws(self.train_images, self.pad, seed=seed, epoch=epoch).to(self.crops.device)
        mean, std = self._constants()
        for index, dy, dx, mirrored in draws.split(batch_size, dim=1):  # type: ignore[misc]
            pixels = self.crops[index, dy, dx]
            if self.flip:
                pixels = torch.where(mirrored.bool()[:, None, None, None], pixels.flip(3), pixels)
            yield normalise(pixels, mean, std).contiguous(memory_format=memory_format), self.train_labels[index]

    def test_batches(self, batch_size: int, *, memory_format: torch.memory_format = torch.contiguous_format) -> Batches:
        mean, std = self._constants()
        for pixels, labels in zip(self.test.pixels.split(batch_size), self.test.labels.split(batch_size), strict=True):
            yield normalise(pixels, mean, std).contiguous(memory_format=memory_format), labels

    def _constants(self) -> tuple[torch.Tensor, torch.Tensor]:
        shape, device = (-1, 1, 1), self.crops.device
        return torch.tensor(self.mean, device=device).view(shape), torch.tensor(self.std, device=device).view(shape)


def from_images(
    train: Images,
    test: Images,
    *,
    name: str,
    label: str,
    class_names: tuple[str, ...],
    split: str,
    recipe: Recipe,
    device: str | torch.device = "cpu",
    subset: int | None = None,
    augment: bool = True,
) -> TensorDataset:
    """Put decoded images on the device, with what `describe()` says about them."""
    if subset is not None:
        train, test = train.subset(subset), test.subset(subset)
        split += f"; the first {subset} of each, balanced over the classes"
    pad, flip = (recipe.pad, recipe.flip) if augment else (0, False)
    return TensorDataset(
        name=name,
        label=label,
        class_names=class_names,
        shape=tuple(train.pixels.shape[1:]),  # type: ignore[arg-type]
        train_images=len(train),
        test_images=len(test),
        digest=content_digest(train, test),
        digest_of="pixels and labels",
        mean=recipe.mean,
        std=recipe.std,
        augmentation=_augmentation_text(pad, flip),
        test_transform="as stored",
        split=split,
        crops=crop_view(train.pixels.to(device), pad),
        train_labels=train.labels.to(device),
        test=Images(test.pixels.to(device), test.labels.to(device)),
        pad=pad,
        flip=flip,
    )


def _augmentation_text(pad: int, flip: bool) -> str:
    crop = [f"pad {pad} (zeros, before normalising), random crop"] if pad else []
    return ", ".join(crop + ["random horizontal flip"] * flip) or "none"
