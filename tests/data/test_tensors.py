"""Vectorised batches against torchvision's per-image pipeline; order and draws as pure functions."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from ebsim import data
from ebsim.data.catalogue import CIFAR_MEAN, CIFAR_STD, PAPER, Recipe
from ebsim.data.dataset import balanced_subset, epoch_order
from ebsim.data.tensors import Crops, Decoded, Images, epoch_augmentation, from_images
from ebsim.seeds import derive_seed
from ebsim.torchvision_shim import import_torchvision

SIDE = 32


def random_images(count: int, seed: int = 0, side: int = SIDE) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(count) % 7)


def make(train: Images, test: Images | None = None, recipe: Recipe = PAPER, **options: object) -> data.TensorDataset:
    decoded = Decoded(train, test or random_images(10, 1), tuple("abcdefg"), "none")
    return from_images(decoded, name="toy", label="Toy", recipe=recipe, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_training_batches_equal_torchvision_bit_for_bit(memory_format: torch.memory_format) -> None:
    images = random_images(50)
    transforms = import_torchvision("torchvision.transforms")
    functional = import_torchvision("torchvision.transforms.functional")
    finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(CIFAR_MEAN, CIFAR_STD)])
    draws = epoch_augmentation(50, 4, True, seed=3, epoch=2).T.tolist()
    batches = make(images).train_batches(16, seed=3, epoch=2, memory_format=memory_format)
    seen = 0
    for x, y in batches:
        assert x.is_contiguous(memory_format=memory_format) and x.dtype == torch.float32
        for image, label in zip(x, y, strict=True):
            index, mirrored, dy, dx = draws[seen]
            picture = functional.to_pil_image(images.pixels[index])
            picture = functional.hflip(picture) if mirrored else picture
            picture = functional.crop(transforms.Pad(4)(picture), dy, dx, SIDE, SIDE)
            assert torch.equal(image, finish(picture))
            assert label == images.labels[index]
            seen += 1
    assert seen == 50


def test_test_batches_equal_torchvision_and_keep_the_tail() -> None:
    test = random_images(10, 5)
    transforms = import_torchvision("torchvision.transforms")
    functional = import_torchvision("torchvision.transforms.functional")
    finish = transforms.Compose([transforms.ToTensor(), transforms.Normalize(CIFAR_MEAN, CIFAR_STD)])
    batches = list(make(random_images(4), test).test_batches(4))
    assert [len(y) for _, y in batches] == [4, 4, 2]
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    assert torch.equal(y, test.labels)
    assert torch.equal(x, torch.stack([finish(functional.to_pil_image(p)) for p in test.pixels]))


def test_an_epoch_visits_every_image_once_and_keeps_the_tail() -> None:
    images = Images(torch.zeros(101, 3, 8, 8, dtype=torch.uint8), torch.arange(101))
    dataset = make(images, images)
    labels = [y for _, y in dataset.train_batches(32, seed=0, epoch=0)]
    assert [len(y) for y in labels] == [32, 32, 32, 5]
    assert torch.cat(labels).sort().values.equal(images.labels)


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    dataset = make(random_images(30))

    def epoch(seed: int, number: int) -> torch.Tensor:
        return torch.cat([x for x, _ in dataset.train_batches(8, seed=seed, epoch=number)])

    state = torch.get_rng_state()
    first = epoch(1, 5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    interleaved = zip(dataset.train_batches(8, seed=1, epoch=5), dataset.train_batches(8, seed=1, epoch=6), strict=True)
    assert torch.equal(torch.cat([a for (a, _), _ in interleaved]), first)
    assert not torch.equal(epoch(1, 6), first)
    assert not torch.equal(epoch(2, 5), first)


def test_augmentation_can_be_switched_off_without_changing_the_order() -> None:
    images = random_images(20)
    plain, augmented = make(images, augment=False), make(images)
    assert plain.augmentation == "none" and "random crop" in augmented.augmentation
    ys = [torch.cat([y for _, y in d.train_batches(6, seed=4, epoch=1)]) for d in (plain, augmented)]
    assert torch.equal(*ys)
    x, _ = next(plain.train_batches(20, seed=4, epoch=1))
    tested = torch.cat([x for x, _ in make(images, images).test_batches(20)])
    assert torch.equal(x, tested[epoch_order(20, seed=4, epoch=1)])


def test_draws_follow_the_law_of_pad_crop_flip() -> None:
    _, mirrored, dy, dx = epoch_augmentation(81_000, 4, True, seed=0, epoch=0)
    cells = (dy * 9 + dx).bincount(minlength=81).double()
    assert cells.numel() == 81
    chi_squared = ((cells - 1000) ** 2 / 1000).sum().item()
    assert 40 < chi_squared < 134  # 80 degrees of freedom: both tails below 1e-4
    assert abs(mirrored.double().mean().item() - 0.5) < 0.007
    together = torch.stack([dy, dx, mirrored]).double().corrcoef().fill_diagonal_(0)
    assert together.abs().max() < 0.02


@pytest.mark.parametrize(("flip", "pad"), [(True, 4), (False, 1), (False, 0)])
def test_every_crop_is_a_window_of_the_padded_image_and_costs_no_memory(flip: bool, pad: int) -> None:
    pixels = random_images(3, side=6).pixels
    crops = Crops.of(pixels, pad, flip)
    side = 6 + 2 * pad
    assert crops.runs.untyped_storage().nbytes() == (1 + flip) * 3 * 3 * side * side
    padded = torch.zeros(3, 3, side, side, dtype=torch.uint8)
    padded[:, :, pad : pad + 6, pad : pad + 6] = pixels
    steps = range(2 * pad + 1)
    draws = torch.tensor(list(itertools.product(range(3), range(1 + flip), steps, steps))).T
    found = crops.gather(crops.starts(*draws)).unflatten(2, (6, 3)).permute(0, 3, 1, 2)
    for crop, (index, mirrored, dy, dx) in zip(found, draws.T.tolist(), strict=True):
        image = padded[index].flip(2) if mirrored else padded[index]
        assert torch.equal(crop, image[:, dy : dy + 6, dx : dx + 6])


class Operations(TorchDispatchMode):
    """Names of every kernel that is launched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_a_batch_costs_few_kernels_and_no_transfer_to_the_host() -> None:
    dataset = make(random_images(64))
    counts = []
    for batch_size in (64, 8):
        with Operations() as operations:
            for _ in dataset.train_batches(batch_size, seed=0, epoch=0, memory_format=torch.channels_last):
                pass
        assert not any("_local_scalar_dense" in name or "item" in name for name in operations.names)
        counts.append(len(operations.names))
    assert (counts[1] - counts[0]) / 7 <= 14


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 45))
def test_subset_takes_the_first_of_every_class_in_turn(labels: list[int], images: int) -> None:
    seen: dict[int, int] = {}
    ranked = []
    for position, label in enumerate(labels):
        ranked.append((seen.get(label, 0), label, position))
        seen[label] = seen.get(label, 0) + 1
    rounds = sorted(ranked, key=lambda item: (item[0], item[2]))
    expected = sorted(position for _, _, position in rounds[:images])
    assert balanced_subset(torch.tensor(labels), images).tolist() == expected


def test_subset_shows_in_the_record_and_the_digest() -> None:
    images = random_images(40)
    whole, part = make(images), make(images, subset=14)
    assert (part.train_images, part.test_images) == (14, 10)
    assert part.train_labels.bincount().tolist() == [2] * 7
    assert part.digest != whole.digest and "first 14" in part.split


def test_digest_notices_a_single_bit_and_a_single_label() -> None:
    images = random_images(6)
    digests = {make(images).digest}
    for part, flip in ((images.pixels, 1), (images.labels, 1)):
        part.view(-1)[17 % part.numel()] ^= flip
        digests.add(make(images).digest)
    assert len(digests) == 3


def test_seeds_are_the_same_on_every_machine() -> None:
    assert derive_seed(1, 0, "order") == 3_484_881_521_555_930_538
    assert len({derive_seed(s, e, "order") for s in range(50) for e in range(50)}) == 2500
    assert derive_seed(1, 11) != derive_seed(11, 1) != derive_seed(111)
