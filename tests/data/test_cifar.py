"""CIFAR files: as torchvision reads them, and every kind of damage named before the first step."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from ebsim import data
from ebsim.data.cifar import SOURCES, CifarSource, read_cifar
from ebsim.errors import DataError
from ebsim.torchvision_shim import import_torchvision

from .conftest import python2_names, python2_pickle

Build = Callable[..., tuple[CifarSource, Path]]


def test_pins_name_the_files_of_torchvision() -> None:
    datasets = import_torchvision("torchvision.datasets")
    for theirs, ours in ((datasets.CIFAR10, SOURCES["cifar10"]), (datasets.CIFAR100, SOURCES["cifar100"])):
        assert (theirs.base_folder, theirs.url, theirs.filename) == (ours.folder, ours.url, ours.archive)
        assert [name for name, _ in theirs.train_list] == list(ours.train)
        assert [name for name, _ in theirs.test_list] == list(ours.test)
        assert (theirs.meta["filename"], theirs.meta["key"]) == (next(iter(ours.meta)), ours.names_key)
        assert all(len(pin) == 64 for pin in (*ours.files.values(), ours.archive_sha256))
        assert data.DATASETS[ours.name].folder == ours.folder
        assert data.DATASETS[ours.name].train_images == ours.classes * ours.train_per_class
        assert data.DATASETS[ours.name].test_images == ours.classes * ours.test_per_class


def test_reads_what_torchvision_reads(tiny_cifar: Build) -> None:
    random = np.random.default_rng(5)
    files = {
        name: python2_pickle(labels, random.integers(0, 256, (len(labels), 3072), dtype=np.uint8))
        for name, labels in {"data_batch_1": [0, 1, 1], "data_batch_2": [1, 0, 0], "test_batch": [1, 0, 1, 0]}.items()
    }
    source, root = tiny_cifar(**files)
    decoded = read_cifar(dataclasses.replace(source, side=32), root)

    def with_md5(names: Iterable[str]) -> list[list[str]]:
        return [[name, hashlib.md5((root / source.folder / name).read_bytes()).hexdigest()] for name in names]

    ((meta, meta_md5),) = with_md5(source.meta)
    theirs_of = type(
        "Theirs",
        (import_torchvision("torchvision.datasets").CIFAR10,),
        {
            "base_folder": source.folder,
            "train_list": with_md5(source.train),
            "test_list": with_md5(source.test),
            "meta": {"filename": meta, "key": "label_names", "md5": meta_md5},
        },
    )
    for ours, is_train in ((decoded.train, True), (decoded.test, False)):
        theirs = theirs_of(root, train=is_train)
        assert np.array_equal(ours.pixels.permute(0, 2, 3, 1).numpy(), theirs.data)
        assert ours.labels.tolist() == theirs.targets
        assert list(decoded.class_names) == theirs.classes == ["cat", "dog"]


def refused(source: CifarSource, root: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_cifar(source, root)
    for word in (*words, "data fetch cifar10"):
        assert word in str(caught.value), str(caught.value)


def test_missing_root_and_missing_file(tiny_cifar: Build, tmp_path: Path) -> None:
    source, root = tiny_cifar()
    refused(source, tmp_path / "elsewhere", "elsewhere/tiny-batches-py: not found", "--from tiny.tar.gz")
    (root / source.folder / "test_batch").unlink()
    refused(source, root, "test_batch: missing")
    (root / source.folder / "test_batch").mkdir()
    refused(source, root, "test_batch: not a regular file")


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_cut_off_files_and_single_flipped_bits(tiny_cifar: Build, name: str) -> None:
    source, root = tiny_cifar()
    path = root / source.folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    refused(source, root, name, f"{len(content) - 1} bytes", f"expected {source.files[name]}", "actual")
    for at in range(0, len(content), 37):
        broken = bytearray(content)
        broken[at] ^= 4
        path.write_bytes(broken)
        refused(source, root, name, "damaged", f"actual {hashlib.sha256(broken).hexdigest()}")


def batch(labels: list[int], size: int = 48, **options: str) -> bytes:
    return python2_pickle(labels, np.zeros((3, size), np.uint8), **options)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (batch([0, 1, 2]), ("labels from 0 to 2, expected 0 to 1",)),
        (batch([1, 1, 1]), ("class 0 has 2 images", "expected 3")),
        (batch([0, 1]), ("2 labels for 3 images",)),
        (batch([0, 1, 1], size=47), ("not a CIFAR batch",)),
        (batch([0, 1, 1], label_key="other"), ("not a CIFAR batch ('labels')",)),
        (b"\x80\x02](K\x01e.", ("holds a list",)),
        (b"not a pickle", ("cannot be read",)),
        (b"", ("cannot be read",)),
        (b"\x80\x02}(U\x04dataU\x03abcU\x06labels]u.", ("not a CIFAR batch",)),
    ],
)
def test_files_that_match_their_pin_but_are_not_cifar(tiny_cifar: Build, content: bytes, words: tuple[str]) -> None:
    source, root = tiny_cifar(data_batch_1=content)
    refused(source, root, *words)


def test_wrong_number_of_class_names(tiny_cifar: Build) -> None:
    source, root = tiny_cifar(**{"batches.meta": python2_names(["cat"])})
    refused(source, root, "1 class names, expected 2")


def test_files_without_permission(tiny_cifar: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    source, root = tiny_cifar()
    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, who may read everything
    with pytest.raises(DataError, match=r"batches\.meta: cannot be read .*permissions"):
        read_cifar(source, root)


def test_loading_a_fabricated_cifar_end_to_end(tiny_cifar: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    source, root = tiny_cifar()
    monkeypatch.setitem(SOURCES, "cifar10", source)
    dataset = data.load("cifar10", root=root)
    assert dataset.shape == (3, 4, 4) and dataset.class_names == ("cat", "dog")
    assert dataset.augmentation == "pad 4 (zeros, before normalizing), random crop, random horizontal flip"
    assert dataset.mean == (0.4914, 0.4822, 0.4465) and dataset.std == (0.2023, 0.1994, 0.2010)
    assert data.verify("cifar10", root)["checked"].startswith("SHA-256")
