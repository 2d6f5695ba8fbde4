"""Image folders: numbering, the kept decoded images, and every broken folder refused before the first step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ebsim import data
from ebsim.data import image_cache
from ebsim.errors import DataError, EbsimError
from ebsim.files import load_tensors

from .conftest import save_images

KEPT = Path(".ebsim-cache") / "images.safetensors"


def decoded(dataset: data.TensorDataset) -> torch.Tensor:
    """The training images [N, 3, 8, 8]: the middle crop of the padded ones."""
    index = torch.arange(dataset.train_images)
    middle = torch.full_like(index, 4)
    starts = dataset.crops.starts(index, torch.zeros_like(index), middle, middle)
    return dataset.crops.gather(starts).unflatten(2, (8, 3)).permute(0, 3, 1, 2)


def test_small_images_become_one_tensor_in_alphabetical_order(image_folder: Path) -> None:
    dataset = data.load("imagefolder", root=image_folder)
    assert dataset.class_names == ("cat", "dog") and dataset.shape == (3, 8, 8)
    assert (dataset.train_images, dataset.test_images) == (9, 4)
    assert dataset.train_labels.tolist() == [0] * 5 + [1] * 4
    files = sorted((image_folder / "train").glob("*/*.png"))
    stored = np.stack([np.asarray(Image.open(f)).transpose(2, 0, 1) for f in files])
    assert np.array_equal(decoded(dataset).numpy(), stored)
    assert "train/ and test/" in dataset.split


def test_val_serves_as_test_and_grey_and_palette_images_become_rgb(image_folder: Path) -> None:
    (image_folder / "test").rename(image_folder / "val")
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    grey.save(image_folder / "train" / "cat" / "000.png")
    grey.convert("P").save(image_folder / "train" / "cat" / "001.png")
    dataset = data.load("imagefolder", root=image_folder)
    assert dataset.test_images == 4 and "val/" in dataset.split
    expected = torch.arange(64, dtype=torch.uint8).view(1, 8, 8).expand(3, 8, 8)
    assert torch.equal(decoded(dataset)[0], expected) and torch.equal(decoded(dataset)[1], expected)


def test_decoded_images_are_kept_and_used_while_nothing_changed(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = data.load("imagefolder", root=image_folder)
    with monkeypatch.context() as patched:
        patched.setattr(image_cache, "_decode", lambda *_: pytest.fail("decoded again"))
        assert data.load("imagefolder", root=image_folder).digest == first.digest
        (image_folder / KEPT).touch()
        assert data.load("imagefolder", root=image_folder).digest == first.digest
    save_images(image_folder / "train" / "cat", 1, seed=99)  # 000.png is another image now
    changed = data.load("imagefolder", root=image_folder)
    assert changed.digest != first.digest
    assert data.load("imagefolder", root=image_folder).digest == changed.digest


def test_a_damaged_cache_is_made_again(image_folder: Path) -> None:
    digest = data.load("imagefolder", root=image_folder).digest
    content = bytearray((image_folder / KEPT).read_bytes())
    for damaged in (content[:100], b"", content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]):
        (image_folder / KEPT).write_bytes(damaged)
        assert data.load("imagefolder", root=image_folder).digest == digest
        assert load_tensors(image_folder / KEPT)[0]["train.labels"].tolist() == [0] * 5 + [1] * 4


def test_a_root_that_cannot_be_written_works_without_a_cache(image_folder: Path) -> None:
    (image_folder / ".ebsim-cache").write_text("in the way")
    assert data.load("imagefolder", root=image_folder).train_images == 9
    assert (image_folder / ".ebsim-cache").read_text() == "in the way"


def test_verify_finds_a_bit_that_flipped_behind_our_back(image_folder: Path) -> None:
    assert "now on record" in data.verify("imagefolder", image_folder)["checked"]
    assert "digest recorded" in data.verify("imagefolder", image_folder)["checked"]
    victim = image_folder / "test" / "dog" / "001.png"
    status, content = victim.stat(), bytearray(victim.read_bytes())
    content[-30] ^= 1
    victim.write_bytes(content)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=r"test/dog/001\.png: changed since .*expected [0-9a-f]{64}, actual"):
        data.verify("imagefolder", image_folder)


def break_missing(root: Path) -> None:
    shutil.rmtree(root)


def break_root_is_a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("")


def break_no_train(root: Path) -> None:
    shutil.rmtree(root / "train")


def break_nested_root(root: Path) -> None:
    shutil.move(root / "train", root / "inner" / "train")


def break_no_test(root: Path) -> None:
    shutil.rmtree(root / "test")


def break_no_classes(root: Path) -> None:
    for place in ("train", "test"):
        shutil.rmtree(root / place)
        (root / place).mkdir()


def break_loose_images(root: Path) -> None:
    save_images(root / "test", 3)


def break_class_missing_in_test(root: Path) -> None:
    shutil.rmtree(root / "test" / "dog")


def break_class_missing_in_train(root: Path) -> None:
    shutil.rmtree(root / "train" / "dog")


def break_empty_class(root: Path) -> None:
    shutil.rmtree(root / "train" / "dog")
    (root / "train" / "dog").mkdir()


def break_foreign_file(root: Path) -> None:
    (root / "train" / "dog" / "notes.txt").write_text("hello")


def break_folder_in_class(root: Path) -> None:
    (root / "train" / "dog" / "more.png").mkdir()


def break_pipe_in_class(root: Path) -> None:
    os.mkfifo(root / "train" / "dog" / "pipe.png")


def break_empty_image(root: Path) -> None:
    (root / "train" / "dog" / "003.png").write_bytes(b"")


def break_text_as_image(root: Path) -> None:
    (root / "train" / "dog" / "003.png").write_text("not an image at all")


def break_cut_off_image(root: Path) -> None:
    path = root / "test" / "dog" / "001.png"
    path.write_bytes(path.read_bytes()[:-60])


def break_first_image(root: Path) -> None:
    (root / "train" / "cat" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n")


def break_other_size(root: Path) -> None:
    save_images(root / "test" / "cat", 1, size=(9, 8))


def break_other_size_per_class(root: Path) -> None:
    save_images(root / "train" / "dog", 4, size=(8, 10))


def break_link_out(root: Path) -> None:
    outside = root.parent / "outside.png"
    shutil.copy(root / "train" / "dog" / "000.png", outside)
    (root / "train" / "dog" / "zzz.png").symlink_to(outside)


def break_class_link_out(root: Path) -> None:
    shutil.move(root / "train" / "dog", root.parent / "dog")
    (root / "train" / "dog").symlink_to(root.parent / "dog")


def break_split_link_out(root: Path) -> None:
    shutil.move(root / "test", root.parent / "test")
    (root / "test").symlink_to(root.parent / "test")


def break_dangling_link(root: Path) -> None:
    (root / "train" / "dog" / "zzz.png").symlink_to(root / "nothing.png")


def break_link_loop(root: Path) -> None:
    (root / "train" / "dog" / "zzz.png").symlink_to(root / "train" / "dog" / "zzz.png")


def break_bomb(root: Path) -> None:
    """A PNG whose header announces 60,000 x 60,000 pixels."""
    path = root / "train" / "dog" / "003.png"
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


BREAKS: list[tuple[Callable[[Path], None], tuple[str, ...]]] = [
    (break_missing, ("pets: not found", "data.root")),
    (break_root_is_a_file, ("pets: not a folder",)),
    (break_no_train, ("no train/ folder",)),
    (break_nested_root, ("inner has one", "set data.root")),
    (break_no_test, ("neither a test/ nor a val/",)),
    (break_no_classes, ("train: no class folders",)),
    (break_loose_images, ("3 images lie beside the class folders", "000.png")),
    (break_class_missing_in_test, ("2 classes in train/ but 1 in test/", "only in train: dog")),
    (break_class_missing_in_train, ("1 classes in train/ but 2 in test/", "only in test: dog")),
    (break_empty_class, ("train/dog: no images",)),
    (break_foreign_file, ("dog/notes.txt: not an image", ".png")),
    (break_folder_in_class, ("dog/more.png: not a file",)),
    (break_pipe_in_class, ("dog/pipe.png: not a file",)),
    (break_empty_image, ("dog/003.png: not a readable image",)),
    (break_text_as_image, ("dog/003.png: not a readable image",)),
    (break_cut_off_image, ("test/dog/001.png: not a readable image",)),
    (break_first_image, ("cat/000.png: not a readable image",)),
    (break_other_size, ("test/cat/000.png: 9x8 pixels, expected 8x8",)),
    (break_other_size_per_class, ("train/dog/000.png: 8x10 pixels, expected 8x8",)),
    (break_link_out, ("dog/zzz.png: a link that leaves",)),
    (break_class_link_out, ("train/dog: a link that leaves",)),
    (break_split_link_out, ("pets/test: a link that leaves",)),
    (break_dangling_link, ("dog/zzz.png: a link that leaves", "leads nowhere")),
    (break_link_loop, ("dog/zzz.png: a link",)),
    (break_bomb, ("dog/003.png: not a readable image", "decompression bomb")),
]


@pytest.mark.parametrize(("spoil", "words"), BREAKS, ids=[spoil.__name__ for spoil, _ in BREAKS])
def test_broken_folders_are_refused(image_folder: Path, spoil: Callable[[Path], None], words: tuple[str, ...]) -> None:
    spoil(image_folder)
    with pytest.raises(EbsimError) as caught:
        data.load("imagefolder", root=image_folder)
    assert caught.value.exit_code == 3
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_links_inside_the_root_and_hidden_files_are_fine(image_folder: Path) -> None:
    (image_folder / "train" / "dog" / ".DS_Store").write_text("x")
    (image_folder / "train" / "README.txt").write_text("x")
    (image_folder / "train" / "dog" / "again.png").symlink_to(image_folder / "train" / "dog" / "000.png")
    assert data.load("imagefolder", root=image_folder).train_images == 10


def test_too_many_images_for_the_memory_are_refused(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "COPIES", 10**12)
    with pytest.raises(DataError, match=r"GiB of memory, available are"):
        data.load("imagefolder", root=image_folder)


def test_files_and_folders_without_permission(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played by the calls that would fail: the tests may run as root, who may read everything."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched, pytest.raises(DataError, match=r"000\.png: cannot be read .*permissions"):
        patched.setattr(Path, "read_bytes", refuse)
        data.load("imagefolder", root=image_folder)
    with monkeypatch.context() as patched, pytest.raises(DataError, match=r"train: cannot be read .*permissions"):
        patched.setattr(os, "scandir", refuse)
        data.load("imagefolder", root=image_folder)
