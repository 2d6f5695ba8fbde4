"""What the epochs of a stage were trained under is recorded, told when it changes, and refused with --strict."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebsim.errors import DamagedError
from ebsim.runs import code, provenance
from tests.training.test_trajectory import equal, trajectory
from tests.training.toy import Recorder


def changed(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    real = provenance.environment
    monkeypatch.setattr("ebsim.training.compilation.environment", lambda device: {**real(device), **values})


@pytest.mark.parametrize("key", ["code", "ebsim", "torch", "threads", "cpu_capability", "device"])
def test_a_changed_environment_is_told_recorded_and_refused_if_strict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    trajectory(tmp_path).extend(2)
    changed(monkeypatch, **{key: "another"})
    strict = trajectory(tmp_path, strict=True)
    for epochs in (2, 4):  # reused as it is, or continued
        with pytest.raises(DamagedError, match=f"{key} changed .*--strict"):
            strict.extend(epochs)
    progress = Recorder()
    run = trajectory(tmp_path, progress=progress)
    run.extend(2)
    assert f"{key} changed" in progress.notes[0]
    run.extend(4)
    assert [item["first_epoch"] for item in run.history] == [1, 3]
    assert run.history[0][key] != run.history[1][key] == "another"
    monkeypatch.undo()
    back = trajectory(tmp_path, progress=progress)
    back.extend(5)
    assert [item["first_epoch"] for item in back.history] == [1, 3, 5]
    assert "changed" in progress.notes[-1]


def test_the_same_environment_is_not_worth_a_word(tmp_path: Path) -> None:
    progress = Recorder()
    trajectory(tmp_path, progress=progress).extend(2)
    run = trajectory(tmp_path, progress=progress, strict=True)
    run.extend(4)
    assert progress.notes == [] and len(run.history) == 1
    clean = trajectory(tmp_path / "clean")
    clean.extend(4)
    assert equal(run.state_at(4), clean.state_at(4))


def test_the_digest_follows_the_code_that_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "ebsim"
    for name in ("training/loop.py", "data/tensors.py", "report/page.py"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_text("x = 1\n")
    monkeypatch.setattr(code, "__file__", str(home / "runs" / "code.py"))

    def digest() -> str:
        code.code_digest.cache_clear()
        return code.code_digest()

    try:
        first = digest()
        assert digest() == first
        (home / "report/page.py").write_text("x = 2\n")
        assert digest() == first  # what is shown is not what is computed
        (home / "training/loop.py").write_text("x = 2\n")
        assert digest() != first
    finally:
        code.code_digest.cache_clear()
