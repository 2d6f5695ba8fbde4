"""A folder of runs: where each stands, what it needs, and that nothing is removed which something else needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import cli
from ebsim.errors import BusyError, ConfigError
from ebsim.runs import inventory
from ebsim.runs.inventory import DAMAGED, DONE, INTERRUPTED, RUNNING
from ebsim.runs.run_folder import RunFolder
from ebsim.runs.store import exclusive


def made(root: Path, name: str, stages: list[str], *, done: bool = True) -> Path:
    """A run folder with just what an inventory reads, and its stages."""
    run = root / name
    run.mkdir(parents=True)
    (run / "experiment.toml").write_text(f'name = "{name}"\n')
    for stage in stages:
        (root / "stages" / stage).mkdir(parents=True, exist_ok=True)
        (root / "stages" / stage / "last.safetensors").write_bytes(b"x" * 1000)
    if done:
        row = {"method": "dense", "accuracy": 0.9, "saving_vs_dense": None, "trajectory": stages[0]}
        rows = [row, {**row, "method": "eb-train", "accuracy": 0.8, "saving_vs_dense": 0.25}]
        results = {"rows": rows, "network": {"label": "N"}, "dataset": {"label": "D"}}
        files = {
            "results": results,
            "curves": {stage: [] for stage in stages},
            "provenance": {"finished": "2026-01-02T03:04"},
        }
        for file, content in files.items():
            (run / f"{file}.json").write_text(json.dumps(content))
        RunFolder(run).finish()
    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made(tmp_path, "a-1", ["dense-1", "ticket-1"])
    made(tmp_path, "b-2", ["dense-1", "ticket-2"])
    (tmp_path / "stages/old-9").mkdir()
    (tmp_path / "grids/g-1").mkdir(parents=True)
    (tmp_path / "grids/g-1/cells.jsonl").write_text('{"run": "a-1", "state": "done"}\n')
    return tmp_path


def invoke(root: Path, *words: str) -> Any:
    return CliRunner().invoke(cli.main, ["runs", *words, "--runs-dir", str(root)])


def test_states_come_from_the_files_alone(root: Path) -> None:
    made(root, "c-3", [], done=False)
    (root / "b-2/results.json").write_text("{}")
    found = inventory.take(root, check=True)
    assert {run.name: run.state for run in found.runs} == {"a-1": DONE, "b-2": DAMAGED, "c-3": INTERRUPTED}
    assert "results.json was changed" in found.run("b-2").problem
    with exclusive(root / "c-3"):
        assert inventory.look(root / "c-3").state == RUNNING
    assert inventory.take(root / "nowhere").runs == ()


def test_stages_know_whose_they_are(root: Path) -> None:
    found = inventory.take(root)
    assert found.needed_by("dense-1") == ["a-1", "b-2"]
    assert found.only_of([found.run("a-1")]) == ["ticket-1"]
    assert found.only_of(found.runs) == ["dense-1", "ticket-1", "ticket-2"]
    assert found.orphans == ["old-9"]
    made(root, "c-3", [], done=False)
    assert inventory.take(root).orphans == []  # an unfinished run may want it


def test_a_run_is_named_by_path_name_or_beginning(root: Path) -> None:
    found = inventory.take(root)
    for word in ("a-1", "a", root / "a-1", f"{root}/../{root.name}/a-1"):
        assert found.run(word).name == "a-1"
    with pytest.raises(ConfigError, match=r"no run is called so in .*: a-1, b-2"):
        found.run("z")
    made(root, "a-2", ["dense-1"])
    with pytest.raises(ConfigError, match=r"several runs are called so .*: a-1, a-2"):
        inventory.take(root).run("a")


def test_removing_keeps_what_another_run_needs(root: Path) -> None:
    done = invoke(root, "rm", "a-1", "--stages", "--yes")
    assert done.exit_code == 0, done.output
    assert "a cell of g-1" in done.stderr and "1 stage, 0.0 MB, that no other run needs" in done.stderr
    assert sorted(path.name for path in root.glob("*-*")) == ["b-2"]
    assert sorted(path.name for path in root.glob("stages/*")) == ["dense-1", "old-9", "ticket-2"]


def test_removing_asks_first_and_refuses_what_is_going_on(root: Path) -> None:
    assert CliRunner().invoke(cli.main, ["runs", "rm", "a-1", "--runs-dir", str(root)], input="n\n").exit_code == 1
    assert (root / "a-1").exists()
    found = inventory.take(root)
    with exclusive(root / "a-1"), pytest.raises(BusyError, match=r"held by process .* nothing was deleted"):
        inventory.remove(found, found.runs)
    made(root, "c-3", [], done=False)
    found = inventory.take(root)
    with pytest.raises(BusyError, match=r"c-3: not finished, and may need the stages"):
        inventory.remove(found, [found.run("a-1")], stages=True)
    assert sorted(path.name for path in root.glob("*-?")) == ["a-1", "b-2", "c-3"]
    inventory.remove(found, [found.run("a-1")])
    assert not (root / "a-1").exists() and (root / "stages/ticket-1").exists()


def test_list_show_and_verify(root: Path) -> None:
    listed = json.loads(invoke(root, "list", "--json").stdout)
    assert [(run["run"], run["best_accuracy"], run["best_saving"]) for run in listed["runs"]] == [
        ("a-1", 0.9, 0.25), ("b-2", 0.9, 0.25),
    ]  # fmt: skip
    assert listed["unused_stages"] == ["old-9"]
    table = invoke(root, "list").stdout
    assert "90.0" in table and "25.0" in table and "a-1" in table
    shown = json.loads(invoke(root, "show", "a", "--json").stdout)
    assert shown["stages"]["dense-1"]["also_of"] == ["b-2"] and shown["grids"] == ["g-1"]
    assert invoke(root, "verify").exit_code == 0
    (root / "b-2/curves.json").write_text("{}")
    done = invoke(root, "verify", "b-2")
    assert done.exit_code == 4 and "b-2  damaged" in done.stdout and "curves.json was changed" in done.stderr
    assert invoke(root, "verify", "a-1").exit_code == 0


def test_the_index_page_links_to_reports_and_shows_text_as_text(root: Path) -> None:
    evil = made(root, "d-4", ["dense-1"])
    results = json.loads((evil / "results.json").read_text())
    results["network"]["label"] = "<script>alert(1)</script>"
    (evil / "results.json").write_text(json.dumps(results))
    made(root, "c-3", [], done=False)
    assert invoke(root, "index").exit_code == 0
    page = (root / "index.html").read_text()
    assert '<a href="./a-1/report.html">a-1</a>' in page and "c-3/report.html" not in page
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert '<data value="0.25">25.0</data>' in page and "default-src 'none'" in page
    sheet = (root / "index.csv").read_text()
    for raw in re.findall(r'<data value="([^"]+)">', page):
        assert re.search(rf"(^|,){re.escape(raw)}(,|$)", sheet, re.MULTILINE), raw
    assert invoke(root, "list").exit_code == 0  # the page is no run


def test_watching_shows_what_a_run_has_told(root: Path) -> None:
    run = made(root, "c-3", [], done=False)
    (run / ".progress.jsonl").write_text(
        '{"kind":"task","method":"eb-train","ratio":0.5,"number":2,"total":3}\n'
        '{"kind":"mask","ratio":0.5,"epoch":9,"distance":0.05,"largest":0.09,"threshold":0.1,"emerged":true}\n'
        '{"kind":"unheard-of"}\n{"torn'
    )
    done = invoke(root, "watch", "c-3", "--once")
    assert done.stdout.splitlines() == ["[2/3] eb-train p = 0.5", "  ticket p = 0.5 emerged at epoch 9"]
    assert "c-3: interrupted" in done.stderr
    assert invoke(root, "watch", "--once").output == ""  # nothing is going on


def test_a_run_is_meant_by_its_path_its_name_or_a_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `energy`, `report` and `compare` read a RUN; what is no run stays the path that it was."""
    first, second = made(tmp_path, "one-12345678", ["dense-1"]), made(tmp_path, "two-12345678", ["dense-1"])
    made(tmp_path, "two-87654321", ["dense-1"])
    assert inventory.folder_of(first, tmp_path) == first
    assert inventory.folder_of("one", tmp_path) == first
    assert inventory.folder_of("two-12345678", tmp_path) == second
    assert inventory.folder_of("three", tmp_path) == Path("three")
    (tmp_path / "elsewhere" / "one").mkdir(parents=True)  # a folder of that name that is no run hides no run
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert inventory.folder_of("one", tmp_path) == first
    with pytest.raises(ConfigError, match=r"two: several runs are called so in .*: two-12345678, two-87654321"):
        inventory.folder_of("two", tmp_path)
    for command in (["energy"], ["report"], ["compare", "one"]):
        done = CliRunner().invoke(cli.main, [*command, "two", "--runs-dir", str(tmp_path)])
        assert done.exit_code == 2 and "several runs are called so" in done.stderr


def test_cells_of_a_grid_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    """A word that many runs begin with: a few of them with their settings, how many more, and the page of the grid."""
    lines = []
    for number in range(9):
        made(tmp_path, f"abl-{number}", [f"dense-{number}"])
        settings = {"precision.search": "fp8", "seed": number}
        lines.append(json.dumps({"cell": number + 1, "run": f"abl-{number}", "settings": settings, "state": "done"}))
    (tmp_path / "grids/abl-9f").mkdir(parents=True)
    (tmp_path / "grids/abl-9f/cells.jsonl").write_text(
        "\n".join([*lines, '{"cell": 10, "run": null, "state": "failed"}'])
    )
    for told in (lambda: inventory.take(tmp_path).run("abl"), lambda: inventory.folder_of("abl", tmp_path)):
        with pytest.raises(ConfigError) as error:
            told()
        assert "abl-0 (search=fp8 seed=0), abl-1 (search=fp8 seed=1)" in str(error.value)
        assert "and 3 more (runs list has all)" in str(error.value)
        assert str(error.value).endswith(f"whose page is {tmp_path / 'grids/abl-9f/report.html'}")
    listed = CliRunner().invoke(cli.main, ["runs", "list", "--runs-dir", str(tmp_path)]).stdout
    assert "search=fp8 seed=8" in listed


def test_a_list_of_runs_shows_names_whole(tmp_path: Path) -> None:
    name = "table2-preresnet101-cifar10-87654321"[-32:]
    made(tmp_path, name, ["dense-1"])
    done = CliRunner().invoke(cli.main, ["runs", "list", "--runs-dir", str(tmp_path)])
    assert any(line.startswith(name) for line in done.stdout.splitlines()), done.stdout
