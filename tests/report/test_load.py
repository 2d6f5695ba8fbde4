"""A run folder is either read whole or refused with the file and the reason; nothing in between."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebsim.errors import DamagedError
from ebsim.report import load_run
from ebsim.runs.load import FILES
from tests.report import sample

CONTENT = sample.content(blocks=1)


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    files = copy.deepcopy(CONTENT)
    change(files)
    return files


def test_a_sound_folder_is_read(tmp_path: Path) -> None:
    run = load_run(sample.write(tmp_path / "run", CONTENT))
    assert [row.ratio for row in run.rows] == [None, 0.3, 0.5, 0.7]
    assert run.dense is run.rows[0] and run.results == CONTENT["results.json"]
    assert run.record.rows[1].energy.components == CONTENT["results.json"]["rows"][1]["energy"]["components"]


def test_a_folder_without_manifest_is_read(tmp_path: Path) -> None:
    folder = sample.write(tmp_path / "run", CONTENT)
    (folder / "MANIFEST.json").unlink()
    assert load_run(folder).record.name == sample.NAME


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "folder"])
def test_each_file_and_damage_is_named(tmp_path: Path, name: str, damage: str) -> None:
    folder = sample.write(tmp_path / "run", CONTENT)
    path = folder / name
    data = path.read_bytes()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        place = len(data) // 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
    with pytest.raises(DamagedError, match=name) as caught:
        load_run(folder)
    assert caught.value.exit_code == 4


CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "other schema": ("results.json: schema", lambda f: f["results.json"].update(schema=2)),
    "no rows": ("results.json: rows", lambda f: f["results.json"].update(rows=[])),
    "a missing key": (
        "results.json: rows.0.energy.joules",
        lambda f: f["results.json"]["rows"][0]["energy"].pop("joules"),
    ),
    "text for a number": ("rows.1.accuracy", lambda f: f["results.json"]["rows"][1].update(accuracy="high")),
    "an accuracy above 1": ("rows.1.accuracy", lambda f: f["results.json"]["rows"][1].update(accuracy=97.5)),
    "NaN": ("rows.2.energy.low", lambda f: f["results.json"]["rows"][2]["energy"].update(low=float("nan"))),
    "a list": ("results.json", lambda f: f.update({"results.json": []})),
    "a curve that is not there": ("rows.1 .*curve", lambda f: f["curves.json"].pop("retrain-0.3")),
    "a network that is not there": ("rows.0 .*networks.json", lambda f: f["networks.json"].pop("dense")),
    "a ragged map": ("masks.json", lambda f: f["masks.json"][sample.DENSE]["ratios"]["0.5"]["map"][3].pop()),
    "a ratio that is no number": (
        "masks.json",
        lambda f: f["masks.json"][sample.DENSE]["ratios"].update(
            {"<b>": f["masks.json"][sample.DENSE]["ratios"]["0.5"]}
        ),
    ),
    "deep nesting": ("provenance.json", lambda f: f.update({"provenance.json": "[" * 100_000})),
}


@pytest.mark.parametrize("case", CHANGES)
def test_wrong_content_is_named(tmp_path: Path, case: str) -> None:
    expected, change = CHANGES[case]
    with pytest.raises(DamagedError, match=expected):
        load_run(sample.write(tmp_path / "run", changed(change)))


@pytest.mark.parametrize("manifest", ["", "[]", '{"files": []}', '{"files": {}}', '{"files": {"results.json": 3}}'])
def test_a_damaged_manifest_is_refused(tmp_path: Path, manifest: str) -> None:
    folder = sample.write(tmp_path / "run", CONTENT)
    (folder / "MANIFEST.json").write_text(manifest)
    with pytest.raises(DamagedError, match="MANIFEST"):
        load_run(folder)


def test_random_damage_never_ends_in_another_error(tmp_path: Path) -> None:
    folder = sample.write(tmp_path / "run", CONTENT)
    (folder / "MANIFEST.json").unlink()
    dice, refused = random.Random(1), 0
    for _ in range(150):
        path = folder / dice.choice(FILES)
        data = path.read_bytes()
        place = dice.randrange(len(data))
        path.write_bytes(data[:place] + dice.randbytes(dice.randrange(3)) + data[place + dice.randrange(1, 4) :])
        try:
            load_run(folder)
        except DamagedError:
            refused += 1
        path.write_bytes(data)
    assert refused > 50


def test_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="no such directory"):
        load_run(tmp_path / "nothing")


def test_later_keys_are_left_alone(tmp_path: Path) -> None:
    files = changed(lambda f: (f["results.json"].update(later=1), f["results.json"]["rows"][0].update(later={"a": 1})))
    assert load_run(sample.write(tmp_path / "run", files)).results["later"] == 1
    json.dumps(files)
