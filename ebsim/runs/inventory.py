"""Inventory of a runs folder: its runs, the state of each, and the training stages that each needs.

Read from the folders alone, without torch. A stage that no finished run needs may still be wanted by a run that was
interrupted, or by one that is going on: it is never called unused while there is such a run.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebsim.errors import BusyError, ConfigError, DamagedError
from ebsim.files import read_json, storage_error
from ebsim.runs.locks import FolderLock
from ebsim.runs.run_folder import RunFolder

DONE, RUNNING, INTERRUPTED, DAMAGED = "done", "running", "interrupted", "damaged"
NAMED = 6
"""Runs that a message names."""
PROGRESS = ".progress.jsonl"
"""In a run folder: one line per thing that a run has told (see `progress_lines`); no part of the finished run."""


@dataclass(frozen=True)
class RunEntry:
    """One run folder. stages: ids of the training stages that its results rest on (empty unless done)."""

    path: Path
    state: str
    results: dict[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = ()
    problem: str = ""
    pid: int | None = None
    finished: str | None = None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return size_of(self.path)


@dataclass(frozen=True)
class Inventory:
    """A runs folder: its runs, the bytes of its stages, and the grids that have a run as a cell."""

    root: Path
    runs: tuple[RunEntry, ...]
    stages: dict[str, int]
    grids: dict[str, tuple[str, ...]]
    """Run name -> names of the grids that it is a cell of."""

    def run(self, word: str | Path) -> RunEntry:
        """A run by the path of its folder, its name, or a unique beginning of that. Raises `ConfigError`."""
        wanted = Path(word)
        exact = [run for run in self.runs if run.name == str(word) or run.path == wanted]
        exact = exact or [run for run in self.runs if wanted.exists() and run.path.resolve() == wanted.resolve()]
        meant = called(word, [run.name for run in self.runs])
        found = exact or [run for run in self.runs if run.name in meant]
        if len(found) == 1:
            return found[0]
        names = told_apart([run.name for run in (found or self.runs)], self.root)
        raise ConfigError(f"{word}: {'several runs are' if found else 'no run is'} called so in {self.root}: {names}")

    def needed_by(self, stage: str) -> list[str]:
        """Names of the finished runs that rest on a stage."""
        return [run.name for run in self.runs if stage in run.stages]

    def only_of(self, runs: Iterable[RunEntry]) -> list[str]:
        """Stages that these runs rest on and no other finished run does."""
        own = list(runs)
        others = {stage for run in self.runs if run not in own for stage in run.stages}
        return sorted({stage for run in own for stage in run.stages if stage in self.stages} - others)

    @property
    def orphans(self) -> list[str]:
        """Stages that no finished run rests on; empty while a run is unfinished, which may want them."""
        if any(run.state != DONE for run in self.runs):
            return []
        return sorted(stage for stage in self.stages if not self.needed_by(stage))


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder; a file with two names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            facts = path.lstat()
            if not path.is_dir():
                seen[facts.st_dev, facts.st_ino] = facts.st_size
    return sum(seen.values())


def run_names(root: Path) -> list[str]:
    """Names of the run folders below `root`; a missing folder holds none."""
    return sorted(path.name for path in root.glob("*") if _is_run(path)) if root.is_dir() else []


def called(word: str | Path, names: Iterable[str]) -> list[str]:
    """Which of some run names a word means: the one that it is, else those that begin so."""
    known = list(names)
    return [name for name in known if name == str(word)] or [name for name in known if name.startswith(str(word))]


def folder_of(word: str | Path, root: Path) -> Path:
    """The folder that a RUN on the command line means: a run folder by its path, or a run below `root` by its name or a
    unique beginning of that. A word that means no run comes back as a path; loading that reports what is missing.

    Raises `ConfigError` where several runs begin so.
    """
    path = Path(word)
    if _is_run(path):
        return path
    found = called(word, run_names(root))
    if len(found) > 1:
        raise ConfigError(f"{word}: several runs are called so in {root}: {told_apart(found, root)}")
    return root / found[0] if found else path


def told_apart(names: Iterable[str], root: Path) -> str:
    """Names of runs for a message: a few with the settings of their cells, and where the page of their grid is."""
    known, cells = list(names), {name: cell for name, cell in cells_of(root).items() if cell[1]}
    shown = [f"{name} ({cells[name][1]})" if name in cells else name for name in known[:NAMED]]
    more = f", and {len(known) - NAMED} more (runs list has all)" if len(known) > NAMED else ""
    pages = dict.fromkeys(str(root / "grids" / cells[name][0] / "report.html") for name in known if name in cells)
    grid = f". Cells of a grid, whose page is {', '.join(pages)}" if pages else ""
    return (", ".join(shown) or "none") + more + grid


def cells_of(root: Path) -> dict[str, tuple[str, str]]:
    """Run name -> (the grid that it is a cell of, its settings in words), of the grids below `root`."""
    found: dict[str, tuple[str, str]] = {}
    for grid, line in _cell_lines(root):
        settings = line.get("settings")
        pairs = settings.items() if isinstance(settings, dict) else ()
        words = " ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in pairs)
        found.setdefault(str(line["run"]), (grid, words if words.isprintable() else repr(words)))
    return found


def take(root: Path, *, check: bool = False) -> Inventory:
    """Look at every run below `root`; `check` compares every file with its digest."""
    folders = [root / name for name in run_names(root)]
    stages = {path.name: size_of(path) for path in sorted(root.glob("stages/*")) if path.is_dir()}
    return Inventory(root, tuple(look(path, check=check) for path in folders), stages, _grids(root))


def _is_run(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and (path / "experiment.toml").is_file()


def look(folder: Path, *, check: bool = False) -> RunEntry:
    """Where one run stands."""
    if not RunFolder(folder).is_done:
        held, pid = holder(folder)
        return RunEntry(folder, RUNNING if held else INTERRUPTED, pid=pid)
    try:
        if check:
            RunFolder(folder).verify()
        results, curves = read_json(folder / "results.json"), read_json(folder / "curves.json")
        finished = read_json(folder / "provenance.json").get("finished")
        used = [row.get("trajectory") for row in results["rows"]]
        return RunEntry(folder, DONE, results, tuple(sorted({*curves, *filter(None, used)})), finished=finished)
    except (DamagedError, KeyError, TypeError, AttributeError) as error:
        return RunEntry(folder, DAMAGED, problem=str(error))


def holder(folder: Path) -> tuple[bool, int | None]:
    """Whether a live process holds a run folder, and which (as far as it has said so)."""
    try:
        found = FolderLock(folder).holder()
    except OSError as error:
        raise storage_error(folder, error, "could not be read") from error
    return found is not None, None if found is None else found.pid


def _grids(root: Path) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for grid, line in _cell_lines(root):
        found.setdefault(str(line["run"]), []).append(grid)
    return {run: tuple(grids) for run, grids in found.items()}


def _cell_lines(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name of the grid, line of its cells.jsonl) of every cell that has a run; what cannot be read is passed over."""
    for path in sorted(root.glob("grids/*/cells.jsonl")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            for text in path.read_text(encoding="utf-8").splitlines():
                line = json.loads(text)
                if line["run"]:
                    yield path.parent.name, line


def remove(inventory: Inventory, runs: Iterable[RunEntry], *, stages: bool = False) -> list[Path]:
    """Delete runs, and with `stages` the training stages that no other run needs; returns the folders that are gone.

    Raises `BusyError`, before anything is deleted, for a run that is going on, and for stages while any run is
    unfinished (it may want them).
    """
    chosen = list(runs)
    for run in chosen:
        if holder(run.path)[0]:
            raise BusyError(f"{run.path}: held by process {run.pid or '?'}. Stop it first; nothing was deleted.")
    unfinished = [run.name for run in inventory.runs if run.state in (RUNNING, INTERRUPTED) and run not in chosen]
    if stages and unfinished:
        raise BusyError(
            f"{', '.join(unfinished)}: not finished, and may need the stages. Finish or remove first, or leave out "
            "--stages; nothing was deleted."
        )
    folders = [run.path for run in chosen]
    folders += [inventory.root / "stages" / stage for stage in (inventory.only_of(chosen) if stages else ())]
    for folder in folders:
        RunFolder(folder).reopen()  # a deletion that is cut short leaves no finished run behind
        shutil.rmtree(folder)
    return folders


def progress_lines(folder: Path) -> list[dict[str, Any]]:
    """What a run has told so far; a torn last line is left out."""
    try:
        text = (folder / PROGRESS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]
