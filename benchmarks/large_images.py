"""Images per second and core of ImageNet-size folders, beside torchvision's loader; and how far the pixels differ.

    python benchmarks/large_images.py [--images 160] [--rounds 5] [--batch 32] [--json]

The images are crops of the two photographs that scikit-learn ships, as JPEG of quality 95: 500x375, about ImageNet's
sizes, and 2000x1500. The reference is what most ImageNet trainings do: one PIL image per sample through torchvision's
RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize. Every case ends in normalized float batches in the
memory of the CPU; on a GPU normalizing is the device's work. One thread, no worker process; cases take turns, and a
figure is the median of the process's own CPU time (user and system) or of the paired ratios.
Differences are of the pixels of the test images, in units of 1/255, against the exact path.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ebsim import data
from ebsim.data import scaled_decoding
from ebsim.data.catalogue import IMAGENET_MEAN, IMAGENET_STD
from ebsim.torchvision_shim import import_torchvision
from ebsim.training.allocator import keep_freed_memory

Run = Callable[[], Iterable[Any]]


class PerImage(TorchDataset):  # type: ignore[type-arg]
    """A training image as torchvision's ImageFolder and transforms give it."""

    def __init__(self, root: Path) -> None:
        transforms = import_torchvision("torchvision.transforms")
        self.paths = sorted((root / "train").glob("*/*"))
        self.transform = transforms.Compose([
            transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        with self.paths[index].open("rb") as handle:
            return self.transform(Image.open(handle).convert("RGB")), 0


def write_folder(root: Path, images: int, size: tuple[int, int]) -> int:
    """An image folder of photographs; returns the mean size of a file in bytes."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs, random = [Image.fromarray(photo) for photo in load_sample_images().images], np.random.default_rng(0)
    total = 0
    for i in range(images):
        photo, share = photographs[i % 2], random.uniform(0.7, 1)
        width = int(share * min(photo.width, photo.height * size[0] / size[1]))
        height = int(width * size[1] / size[0])
        left, top = (int(random.integers(0, rest + 1)) for rest in (photo.width - width, photo.height - height))
        part = photo.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
        if random.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        path = root / ("train" if i % 4 else "test") / "ab"[i // 4 % 2] / f"{i:04d}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.save(path, quality=95)
        total += path.stat().st_size
    return total // images


def cases(root: Path, batch: int) -> dict[str, Callable[[], Any]]:
    """Name -> a dataset (opened before timing), or torchvision's loader."""
    prepared = {
        f"prepared, {side or 'full'} {encoding}": data.prepare(
            root, root.parent / f"{root.name}-{side}-{encoding}", side=side, encoding=encoding
        )["file"]
        for side, encoding in ((400, "jpeg"), (256, "jpeg"), (256, "raw"), (0, "raw"))
    }
    plain = PerImage(root)
    found: dict[str, Any] = {"torchvision": lambda: DataLoader(plain, batch, shuffle=True)}
    found["exact"] = data.load("imagefolder", root=root)
    found["fast, Pillow alone"] = found["fast"] = data.load("imagefolder", root=root, decode="fast")
    for name, path in prepared.items():
        found[name + ", exact"] = data.load("imagefolder", root=path)
        found[name + ", fast"] = data.load("imagefolder", root=path, decode="fast")
    return found


def seconds(name: str, case: Any, batch: int, epoch: int) -> tuple[float, int]:
    """CPU seconds of one training epoch and its number of images."""
    batches = case() if callable(case) else case.train_batches(batch, seed=0, epoch=epoch)
    start, seen = time.process_time(), 0
    if "Pillow alone" in name:
        with patch.object(scaled_decoding, "fast_decoder", lambda: None):
            seen = sum(len(labels) for _, labels in batches)
    else:
        seen = sum(len(labels) for _, labels in batches)
    return time.process_time() - start, seen


def differences(exact: Any, case: Any) -> tuple[float, float]:
    """Mean and largest |difference| of the test pixels, in 1/255."""
    std = torch.tensor(IMAGENET_STD).view(-1, 1, 1)
    pairs = zip(exact.test_batches(16), case.test_batches(16), strict=True)
    found = [((a - b).abs() * std * 255) for (a, _), (b, _) in pairs]
    return float(torch.cat(found).mean()), float(max(part.max() for part in found))


def measure(images: int, size: tuple[int, int], rounds: int, batch: int) -> dict[str, Any]:
    """Case -> images per CPU second, paired ratio to torchvision's loader, pixel differences."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as a training does
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "photographs"
        mean_bytes = write_folder(root, images, size)
        found = cases(root, batch)
        rates: dict[str, list[float]] = {name: [] for name in found}
        for number in range(rounds + 1):
            for name, case in found.items():
                spent, seen = seconds(name, case, batch, number)
                if number:  # the first round warms up
                    rates[name].append(seen / spent)
        result: dict[str, Any] = {}
        for name, values in rates.items():
            ratios = [mine / theirs for mine, theirs in zip(values, rates["torchvision"], strict=True)]
            result[name] = {"images_per_second": statistics.median(values), "ratio": statistics.median(ratios)}
            if name != "torchvision":
                mean, most = differences(found["exact"], found[name])
                result[name] |= {"mean_difference": mean, "largest_difference": most}
        return {"size": size, "mean_bytes": mean_bytes, "cases": result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    started = time.time()
    results = [measure(options.images, size, options.rounds, options.batch) for size in ((500, 375), (2000, 1500))]
    if options.json:
        print(json.dumps(results))
        return
    for result in results:
        print(f"\n{result['size'][0]}x{result['size'][1]}, {result['mean_bytes'] / 1000:.0f} kB a file")
        for name, case in result["cases"].items():
            pixels = ""
            if "mean_difference" in case:
                mean, most = case["mean_difference"], case["largest_difference"]
                pixels = f"   pixels differ by {mean:.2f} in the mean, {most:.0f} at most"
            print(f"{name:30} {case['images_per_second']:8,.0f} images/s a core   x{case['ratio']:.2f}{pixels}")
    print(f"\n{options.rounds} rounds, 1 thread, torch {torch.__version__}, {time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
