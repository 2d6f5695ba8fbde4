"""An image folder on disk: <root>/train and <root>/test (or val), one folder per class: listed and checked.

Classes are numbered in the alphabetical order of their folder names, images listed in alphabetical order, so the
listing is the same on every file system. Hidden files are ignored; anything else that is not an image is refused
rather than skipped, because a skipped file is an experiment on other data than its record says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ebsim.errors import DataError
from ebsim.files import digest

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Split:
    """The images of train/ or test/: paths relative to the root, class numbers, sizes in bytes, times of change."""

    folder: str
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    sizes: tuple[int, ...]
    times_ns: tuple[int, ...]

    def take(self, keep: list[int]) -> Split:
        columns = (self.paths, self.labels, self.sizes, self.times_ns)
        return Split(self.folder, *(tuple(column[i] for i in keep) for column in columns))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Listing:
    """A checked image folder, before any image is opened."""

    root: Path
    class_names: tuple[str, ...]
    train: Split
    test: Split

    @property
    def split(self) -> str:
        return f"the folders {self.train.folder}/ and {self.test.folder}/"

    @property
    def splits(self) -> tuple[Split, Split]:
        return self.train, self.test

    def state_digest(self) -> str:
        """Names, sizes and times of change: whether images decoded last time still are these files."""
        return digest([[split.paths, split.sizes, split.times_ns] for split in self.splits])


def list_folder(root: Path) -> Listing:
    """List and check an image folder; raises `DataError` naming the path, what was expected and what was found."""
    if not root.is_dir():
        kind = "not a folder" if root.exists() else "not found"
        raise DataError(f"{root}: {kind}; set data.root to the folder that holds train/ and test/ (or val/)")
    train_folder, test_folder = _split_folders(root)
    class_names = _class_names(root / train_folder)
    test_names = _class_names(root / test_folder)
    if class_names != test_names:
        only_train = sorted(set(class_names) - set(test_names))
        only_test = sorted(set(test_names) - set(class_names))
        raise DataError(
            f"{root}: {len(class_names)} classes in {train_folder}/ but {len(test_names)} in {test_folder}/ "
            f"({_some('only in ' + train_folder, only_train)}{_some('only in ' + test_folder, only_test)}): both need "
            "the same class folders"
        )
    return Listing(
        root, class_names, _list_split(root, train_folder, class_names), _list_split(root, test_folder, class_names)
    )


def _split_folders(root: Path) -> tuple[str, str]:
    if not (root / "train").is_dir():
        inner = [f.name for f in root.iterdir() if (f / "train").is_dir()]
        hint = f"; {root / inner[0]} has one: set data.root to it" if len(inner) == 1 else ""
        raise DataError(f"{root}: no train/ folder (one folder per class inside){hint}")
    test = next((name for name in ("test", "val") if (root / name).is_dir()), None)
    if test is None:
        raise DataError(f"{root}: neither a test/ nor a val/ folder beside train/")
    for name in ("train", test):
        _refuse_link_out(root / name, root)
    return "train", test


def _class_names(split: Path) -> tuple[str, ...]:
    entries = list(_visible(split, split.parent))
    if hidden := sorted(place.name for place in split.iterdir() if _hides_images(place)):
        raise DataError(
            f"{split / hidden[0]}: holds images, but names that begin with a dot are hidden and not read; rename it to "
            "make it a class, or move it elsewhere"
        )
    names = tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    loose = [entry.name for entry in entries if _is_image(entry.name) and not entry.is_dir()]
    if loose:
        raise DataError(
            f"{split}: {len(loose)} images lie beside the class folders ({min(loose)}, ...); move every image into "
            "the folder of its class"
        )
    if not names:
        raise DataError(f"{split}: no class folders; expected one folder of images per class")
    return names


def _list_split(root: Path, folder: str, class_names: tuple[str, ...]) -> Split:
    paths: list[str] = []
    labels: list[int] = []
    sizes: list[int] = []
    times: list[int] = []
    for number, name in enumerate(class_names):
        place = root / folder / name
        images = sorted(_visible(place, root), key=lambda entry: entry.name)
        if not images:
            raise DataError(f"{place}: no images; remove the empty class folder or fill it (both splits need it)")
        for image in images:
            if not image.is_file():
                raise DataError(f"{image.path}: not a file; a class folder holds images only")
            if not _is_image(image.name):
                raise DataError(f"{image.path}: not an image ({', '.join(IMAGE_ENDINGS)}); move it elsewhere")
            status = image.stat()
            paths.append(f"{folder}/{name}/{image.name}")
            labels.append(number)
            sizes.append(status.st_size)
            times.append(status.st_mtime_ns)
    return Split(folder, tuple(paths), tuple(labels), tuple(sizes), tuple(times))


def _visible(folder: Path, root: Path) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder that are not hidden; a link that leaves the root or leads nowhere is refused."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                _refuse_link_out(Path(entry.path), root)
                yield entry
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error


def _refuse_link_out(path: Path, root: Path) -> None:
    if not path.is_symlink():
        return
    target = os.path.realpath(path)  # unlike Path.resolve, this does not stop at a loop
    if not os.path.exists(target) or not Path(target).is_relative_to(os.path.realpath(root)):
        raise DataError(
            f"{path}: a link that leaves {root} or leads nowhere (to {target}); copy the files, or set data.root to "
            "a folder that holds them"
        )


def _hides_images(place: Path) -> bool:
    return place.name.startswith(".") and place.is_dir() and any(_is_image(inner.name) for inner in place.iterdir())


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_ENDINGS)


def _some(title: str, names: list[str]) -> str:
    if not names:
        return ""
    return f"{title}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}; "
