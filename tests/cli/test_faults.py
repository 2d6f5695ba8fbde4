"""Mistakes at the command line that once ended in a traceback, a cut message or the wrong exit code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from ebsim.errors import ConfigError, DamagedError, DataError, StorageError
from ebsim.files import make_folder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", ["run", "ablate"])
def test_a_runs_folder_below_a_file_is_refused_by_name(tmp_path: Path, command: str) -> None:
    (tmp_path / "notes.txt").write_text("")
    words = [command, str(ROOT / "experiments/preresnet101.toml")]
    done = CliRunner().invoke(cli.main, [*words, "--runs-dir", str(tmp_path / "notes.txt/x")])
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit)
    assert "notes.txt is not a folder" in " ".join(done.output.split())


def test_a_folder_that_cannot_be_made_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/a/b: the folder could not be made"):
        make_folder(tmp_path / "file/a/b")
    if Path("/proc/self").is_dir():
        with pytest.raises(StorageError, match=r"/proc/x: the folder could not be made"):
            make_folder(Path("/proc/x"))


def test_the_help_lists_every_exit_code() -> None:
    from ebsim import errors

    text = CliRunner().invoke(cli.main, ["--help"]).output
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    for code in codes | {0, 130}:
        assert f"\n    {code:<4} " in text, code


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_help_fits_its_terminal_and_cuts_no_summary(columns: int) -> None:
    def walk(command: object, words: list[str]) -> None:
        done = CliRunner().invoke(cli.main, [*words, "--help"], terminal_width=columns)
        assert done.exit_code == 0
        assert max(map(len, done.output.splitlines())) <= columns, (words, columns)
        assert not re.search(r"[a-z ]\.\.\.$", done.output, re.MULTILINE), words
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, [*words, name])

    walk(cli.main, [])


@pytest.mark.parametrize("words", [["precision", "list"], ["data", "list"], ["hw", "list"], ["hw", "show", "h100"]])
def test_a_reader_that_leaves_early_is_no_error(words: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, str(ROOT / "cli.py"), *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # before anything is written
        errors = process.stderr.read().decode()
        assert process.wait(60) == 0, errors
        assert errors == ""


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_lists_break_between_words_only(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = CliRunner().invoke(cli.main, ["precision", "list"]).output
    assert max(map(len, shown.splitlines())) <= columns
    for name in ("mxfp8_e5m2", "Micikevicius", "stochastically,"):
        assert name in shown


def test_only_a_word_that_fits_on_no_line_is_broken_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a plug-in, say."""
    from ebsim.precision import listing

    path = str(tmp_path / ("deep-folder/" * 9) / "own.py:INT5")
    monkeypatch.setattr(listing, "list_formats", lambda: {"fp32": path})
    monkeypatch.setenv("COLUMNS", "60")
    shown = CliRunner().invoke(cli.main, ["precision", "list"]).output
    assert max(map(len, shown.splitlines())) <= 60
    assert path in shown.replace("\n", "").replace(" ", "")


def test_a_file_of_a_run_is_not_called_missing(tmp_path: Path) -> None:
    from ebsim.runs.load import load_run

    page = tmp_path / "run/report.html"
    page.parent.mkdir()
    page.write_text("")
    with pytest.raises(DamagedError, match=rf"a file; give the run's folder, {page.parent}"):
        load_run(page)
    with pytest.raises(DamagedError, match="no such directory"):
        load_run(tmp_path / "gone")


def test_a_hidden_class_folder_is_not_dropped_silently(tmp_path: Path) -> None:
    from ebsim.data.image_folder import list_folder

    for split in ("train", "test"):
        for name in ("a", "..x"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "1.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"train/\.\.x: holds images, but names that begin with a dot are hidden"):
        list_folder(tmp_path)


def test_a_method_that_trains_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from ebsim.experiment.result import MethodResult
    from ebsim.methods import METHODS, dense
    from ebsim.training import Silent

    monkeypatch.setattr(dense, "run", lambda context: MethodResult("lazy", "Lazy", None, "fp32", "fp32"))
    context = SimpleNamespace(
        prune=SimpleNamespace(ratio=(0.5,), draw_epochs=()),
        experiment=SimpleNamespace(methods=("dense",)),
        progress=Silent(),
        epochs=1,
        charged=[],
    )
    with pytest.raises(ConfigError, match="method lazy trained nothing"):
        METHODS["dense"].results(context)  # type: ignore[arg-type]


def test_tracing_a_network_warns_of_nothing() -> None:
    code = (
        "import ebsim, hw_models; m = ebsim.models.build('preresnet', depth=11, classes=10, input_shape=(3, 8, 8), "
        "seed=0); print(len(hw_models.trace(m, (3, 8, 8))))"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 30
    assert "Warning" not in done.stderr, done.stderr
