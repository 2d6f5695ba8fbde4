"""What the system refuses ends in exit code 74 with the path and a cure, never in a traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ebsim.errors import StorageError
from ebsim.runs.store import Store, exclusive
from tests.cli.test_cli import ROOT, TINY

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def cli(folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cli.py"), *words]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, check=False, **options
    )  # type: ignore[call-overload]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("hw", "list"), ("hw", "list", "--json"), ("data", "list"), ("precision", "list")])
def test_a_full_standard_output(tmp_path: Path, words: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = cli(tmp_path, *words, stdout=full)
    assert done.returncode == 74, done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr


def test_a_file_in_the_way_of_a_folder(tmp_path: Path, place: str = "runs/stages") -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("in the way")
    done = cli(tmp_path, "run", "tiny.toml", stdout=subprocess.DEVNULL)
    assert done.returncode == 74, done.stderr
    assert place in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO, errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("what", ["lock", "events"])
def test_locks_and_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str) -> None:
    stage = Store(tmp_path).stage("dense", {"a": 1})

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match="dense-"):
        if what == "events":
            stage.log("epoch", epoch=1)
        else:
            with exclusive(stage.folder):
                raise AssertionError
    monkeypatch.undo()
    with stage.locked():
        stage.log("epoch", epoch=1)
    assert [event["epoch"] for event in stage.events()] == [1]


@pytest.mark.parametrize(
    "line", ["{}", "[]", "null", "3", '"epoch"', '{"event": 3}', '{"event": "epoch"}', "{", "\0", "[" * 9999]
)
def test_damaged_events_are_left_out(tmp_path: Path, line: str) -> None:
    stage = Store(tmp_path).stage("dense", {"a": 1})
    stage.log("epoch", epoch=1)
    with (stage.folder / "events.jsonl").open("a") as events:
        events.write(line + "\n")
    stage.log("epoch", epoch=2)
    found = [event.get("epoch") for event in stage.events() if event["event"] == "epoch"]
    assert [epoch for epoch in found if epoch is not None] == [1, 2]


def test_workers_import_nothing_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-m` puts the working directory first; a module of a common name there would run."""
    from ebsim.grid import pool

    for name in ("json", "click", "pydantic", "safetensors", "queue"):
        (tmp_path / f"{name}.py").write_text(
            "from pathlib import Path\nPath('the-code-ran').touch()\nraise SystemExit(3)\n"
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}{ROOT}{os.pathsep}")
    with pool.Pool(1, 1, tmp_path / "runs", tmp_path / "logs") as workers:
        worker = workers._new()
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        assert worker.process.wait(60) == 0, worker.log.read_text()
    assert not (tmp_path / "the-code-ran").exists()
