"""Names, records, and that nothing opens a network connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ebsim import data
from ebsim.errors import ConfigError, DataError


@pytest.mark.parametrize("name", ["cifar-10", "digit", "mnist", ""])
def test_unknown_names_are_refused_with_the_choices(name: str) -> None:
    for ask in (data.load, data.fetch, data.verify):
        with pytest.raises(ConfigError, match="digits, cifar10, cifar100, imagefolder") as caught:
            ask(name)
        nearest = {"cifar-10": "'cifar10'", "digit": "'digits'"}.get(name)
        assert nearest is None or f"did you mean {nearest}" in str(caught.value)


def test_a_subset_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.subset .* not 0"):
        data.load("digits", subset=0)


def test_the_list_says_what_is_there(image_folder: Path) -> None:
    listed = {item["name"]: item for item in data.list_datasets(image_folder)}
    assert {name: item["found"] for name, item in listed.items()} == {
        "digits": True, "cifar10": False, "cifar100": False, "imagefolder": True,
    }  # fmt: skip
    assert json.loads(json.dumps(listed))["cifar10"]["train_images"] == 50_000


def test_descriptions_are_plain_json_and_agree_with_the_catalogue(image_folder: Path) -> None:
    for name in ("digits", "imagefolder"):
        described = json.loads(json.dumps(data.load(name, root=image_folder).describe()))
        assert {"name", "label", "classes", "shape", "train_images", "test_images", "digest"} <= set(described)
        entry = data.DATASETS[name]
        assert described["normalisation"]["mean"] == list(entry.recipe.mean)
        assert entry.classes in (None, described["classes"])
        assert entry.train_images in (None, described["train_images"])


def test_fetching_an_image_folder_unpacks_and_checks_an_archive(image_folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "pets.tar.xz", "w:xz") as archive:
        for place in ("train", "test"):
            archive.add(image_folder / place, arcname=place)
    fetched = data.fetch("imagefolder", tmp_path / "new", from_file=tmp_path / "pets.tar.xz")
    assert fetched["digest"] == data.load("imagefolder", root=image_folder).digest
    with pytest.raises(DataError, match="--from"):
        data.fetch("imagefolder", tmp_path / "other")


def test_embedded_data_needs_no_fetching() -> None:
    assert data.fetch("digits")["train_images"] == 1347


def test_loading_opens_no_connection() -> None:
    code = """
import sys
def hook(event, arguments):
    if event.startswith(("socket.", "urllib.")):
        print(event); sys.stdout.flush()
sys.addaudithook(hook)
from ebsim import data
list(data.load("digits").train_batches(128, seed=0, epoch=0))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == ""


@pytest.mark.slow
def test_cifar10_as_jpeg() -> None:
    """A real folder of 60,000 images; set EBSIM_CIFAR10_JPEG to the folder with train/ and test/."""
    root = os.environ.get("EBSIM_CIFAR10_JPEG")
    if not root:
        pytest.skip("EBSIM_CIFAR10_JPEG is not set to a folder with CIFAR-10's train/ and test/ as images")
    dataset = data.load("imagefolder", root=root)
    assert (dataset.train_images, dataset.test_images, dataset.shape) == (50_000, 10_000, (3, 32, 32))
    assert dataset.train_labels.bincount().tolist() == [5000] * 10
    total = sum(len(y) for _, y in dataset.train_batches(256, seed=1, epoch=0))
    assert total == 50_000
    pixels = dataset.test_rows.unflatten(2, (32, 3)).double() / 255
    assert pixels.mean((0, 1, 2)).tolist() == pytest.approx(dataset.mean, abs=0.01)
