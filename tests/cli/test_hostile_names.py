"""Fifty hostile strings as names of folders, rows, accelerators and values: in lists, index, exports and messages."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import cli
from ebsim.files import read_json
from ebsim.report.display.text import plain
from ebsim.runs.run_folder import RunFolder
from tests.export.test_series import made_up
from tests.report.hostile import STRINGS
from tests.report.test_comparison_pages import put
from tests.report.test_page import TAGS, Page

SOME = [pytest.param(6, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
"""Every sixth of them, or all."""
HARMFUL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, escape codes and marks that reorder a line."""
BELOW = r"\./[\w%.~()!'*-]+/report\.html"  # a path below this folder, no scheme


def invoke(*words: str) -> Result:
    done = CliRunner().invoke(cli.main, list(words))
    assert not HARMFUL.search(done.output), words[0]
    return done


def toml(text: str) -> str:
    """The string as TOML writes it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def file_name(text: str) -> str:
    """The string as far as a file system lets it be a name."""
    name = text.replace("/", "|").replace("\0", "")[:60].strip()
    return name if name not in ("", ".", "..") else "x"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run for each string, in a folder of that name, with it in every name of its results."""
    root = tmp_path_factory.mktemp("hostile")
    for text in STRINGS:
        run = made_up(root / file_name(text))
        (run / "experiment.toml").write_text('name = "x"\n')
        results = read_json(run / "results.json")
        results["dataset"]["label"] = results["network"]["label"] = results["hardware"] = text
        for row in results["rows"]:
            row["label"], row["saving_vs_dense"] = text, None
        (run / "results.json").write_text(json.dumps(results))
        (run / "provenance.json").write_text(json.dumps({"finished": "2026-01-02T03:04:05+00:00"}))
        RunFolder(run).finish()
    return root


def test_the_index_of_a_folder_and_its_csv(root: Path) -> None:
    done = invoke("runs", "index", "--runs-dir", str(root))
    assert done.exit_code == 0, done.output
    source = (root / "index.html").read_text()
    page = Page(source)
    assert page.stack == [] and {tag for tag, _ in page.tags} <= TAGS
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        target = attributes.get("href")
        if tag == "a" and target and not target.startswith("#"):
            assert re.fullmatch(BELOW, target), target
    for line in csv.reader(io.StringIO((root / "index.csv").read_text())):
        assert not any(cell.startswith(("=", "+", "@")) for cell in line)


@pytest.mark.parametrize("width", ["60", "100"])
def test_lists_and_facts_in_a_terminal(root: Path, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert invoke("runs", "list", "--runs-dir", str(root)).exit_code == 0
    for run in sorted(root.iterdir())[::7]:
        if run.is_dir():
            assert invoke("runs", "show", str(run), "--runs-dir", str(root)).exit_code == 0
    invoke("runs", "show", "no such\x1b[31m", "--runs-dir", str(root))  # its message names the runs that there are
    invoke("runs", "verify", "--runs-dir", str(root))


@pytest.mark.parametrize("every", SOME)
@pytest.mark.parametrize("tool", ["jsonl", "tensorboard"])
def test_curves_for_other_tools_stay_in_their_folder(root: Path, tool: str, every: int, tmp_path: Path) -> None:
    if tool == "tensorboard":
        pytest.importorskip("tensorboard")
    for number, text in enumerate(STRINGS[::every]):
        before = set(tmp_path.rglob("*"))
        run, out = root / file_name(text), tmp_path / f"{tool}-{number}"
        done = invoke("export", str(run), "--to", tool, "--out", str(out), "--runs-dir", str(root))
        assert done.exit_code == 0, done.output
        made = set(tmp_path.rglob("*")) - before
        assert made and all(path == out or out in path.parents for path in made)


@pytest.mark.parametrize("every", SOME)
def test_an_accelerator_of_ones_own(every: int, tmp_path: Path) -> None:
    """Free text of a profile in the commands that show it; a name that could act is refused by name."""
    for number, text in enumerate(STRINGS[::every]):
        quoted = toml(text)
        path = tmp_path / f"chip-{number}.toml"
        path.write_text(f'extends = "horowitz-45nm"\nname = "mine"\nsummary = {quoted}\nsource = {quoted}\n'
                        f"[dram]\npj_per_bit = {{ value = 20.0, source = {quoted} }}\n")  # fmt: skip
        for command in ("show", "check"):
            done = invoke("hw", command, str(path))
            assert done.exit_code == (0 if plain(text) == text else 2), done.output  # control characters are refused
        path.write_text(f'extends = "horowitz-45nm"\nname = {quoted}\n')
        assert invoke("hw", "show", str(path)).exit_code in (0, 2)
        path.write_text(f'extends = "horowitz-45nm"\nname = "m"\n[memory.{quoted}]\nkib = 1\n')
        assert invoke("hw", "check", str(path)).exit_code in (0, 2)


@pytest.mark.parametrize("every", SOME)
def test_keys_and_values_of_an_experiment(every: int, tmp_path: Path) -> None:
    """As values and as keys; a mistake is told without acting on the terminal."""
    for text in STRINGS[::every]:
        quoted = toml(text)
        path = tmp_path / "x.toml"
        for lines in (f"name = {quoted}", f'name = "x"\nmethods = [{quoted}]', f'name = "x"\n{quoted} = 1',
                      f'name = "x"\n[precision]\nsearch = {quoted}',
                      f'name = "x"\n[precision.backends.{quoted}]\nx = 1',
                      f'name = "x"\n[data]\nroot = {quoted}'):  # fmt: skip
            path.write_text(lines + "\n")
            assert invoke("check", str(path)).exit_code in (0, 2)
        assert invoke("check", str(path), "--set", f"model.name={text}").exit_code == 2


def test_values_of_an_axis_and_names_of_runs_in_a_comparison(tmp_path: Path) -> None:
    from ebsim.report.comparison import runs as comparison
    from tests.grid.made_up import row, write

    runs = []
    for number, text in enumerate(STRINGS[:26:5]):
        quoted = toml(text)
        rows = [row("dense", 0.9, 10.0), row("eb-train", 0.8, 6.0, ratio=0.5, search_precision=text, curve="t")]
        more = f"[data]\nroot = {quoted}\n[hardware]\nprofile = {quoted}\n"
        runs.append(write(tmp_path / file_name(text), 1 + number, rows, more=more))
    found = comparison.compare(runs)
    folder = tmp_path / "comparisons" / found.folder_name
    page = Page((put(folder, found.files(folder)) / "report.html").read_text())
    assert page.stack == [] and {tag for tag, _ in page.tags} <= TAGS
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    done = invoke("compare", *map(str, runs), "--runs-dir", str(tmp_path))
    assert done.exit_code == 0, done.output
