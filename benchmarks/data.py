"""Throughput of the data pipeline over the usual per-image one, in this process, on one thread, rounds interleaved.

    python benchmarks/data.py [--images 5120] [--batch 256] [--rounds 5] [--json]

The reference is what CIFAR trainings commonly do, the Early-Bird authors' included: a PIL image per sample through
torchvision's Pad, RandomCrop, RandomHorizontalFlip, ToTensor and Normalize, in a DataLoader with no or one worker.
Both sides see the same random 32x32 pixels and the same batch size; the ratio is the median over paired rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ebsim.data.catalogue import PAPER
from ebsim.data.tensors import Decoded, Images, from_images
from ebsim.torchvision_shim import import_torchvision


class PerImage(TorchDataset):  # type: ignore[type-arg]
    """One PIL image at a time through torchvision's transforms."""

    def __init__(self, images: Images, train: bool) -> None:
        from PIL import Image

        transforms = import_torchvision("torchvision.transforms")
        augmentation = [transforms.Pad(4), transforms.RandomCrop(32), transforms.RandomHorizontalFlip()]
        finish = [transforms.ToTensor(), transforms.Normalize(PAPER.mean, PAPER.std)]
        self.transform = transforms.Compose(augmentation * train + finish)
        self.arrays = images.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels.tolist()
        self.to_picture = Image.fromarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.to_picture(self.arrays[index])), self.labels[index]


def rate(batches: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]) -> float:
    """Images per second of one pass, wall time."""
    start, seen = time.perf_counter(), 0
    for _, labels in batches():
        seen += len(labels)
    return seen / (time.perf_counter() - start)


def cases(images: int, batch: int) -> dict[str, Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator)
    stored = Images(pixels, torch.arange(images) % 10)
    decoded = Decoded(stored, stored, tuple("0123456789"), "none")
    ours = from_images(decoded, name="random", label="random", recipe=PAPER)
    train, test = PerImage(stored, train=True), PerImage(stored, train=False)
    channels_last = torch.channels_last
    return {
        "per image, no worker": lambda: DataLoader(train, batch, shuffle=True),
        "per image, 1 worker": lambda: DataLoader(train, batch, shuffle=True, num_workers=1),
        "ebsim, NCHW": lambda: ours.train_batches(batch, seed=0, epoch=0),
        "ebsim, channels_last": lambda: ours.train_batches(batch, seed=0, epoch=0, memory_format=channels_last),
        "test, per image": lambda: DataLoader(test, batch),
        "test, ebsim": lambda: ours.test_batches(batch),
    }


REFERENCE = {"test, ebsim": "test, per image", "test, per image": "test, per image"}


def measure(images: int, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median images per second, and the median of the paired ratios to the reference (per image, 1 worker)."""
    torch.set_num_threads(1)
    runs = cases(images, batch)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, batches in runs.items():
            value = rate(batches)
            if number:  # the first round warms up
                rates[name].append(value)
    return {
        name: {
            "images_per_second": statistics.median(values),
            "ratio": statistics.median(
                mine / theirs
                for mine, theirs in zip(values, rates[REFERENCE.get(name, "per image, 1 worker")], strict=True)
            ),
        }
        for name, values in rates.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5120)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = measure(options.images, options.batch, options.rounds)
    if options.json:
        print(json.dumps(results))
        return
    print(f"{options.images} images, batch {options.batch}, median of {options.rounds} rounds, 1 thread")
    for name, result in results.items():
        print(f"{name:24} {result['images_per_second']:12,.0f} images/s   x{result['ratio']:.1f}")


if __name__ == "__main__":
    main()
