"""Every command that prints a table, in terminals of 60 to 200 columns: no line is wider, no number is cut."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

import cli
from tests.grid.made_up import row, write
from tests.report import many, sample

WIDTHS = (60, 80, 100, 200)
WIDE = 2000
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")

TINY = """\
name = "tiny"
methods = ["dense", "eb-train"]
[data]
subset = 60
[model]
depth = 11
[train]
epochs = 6
batch_size = 30
milestones = []
threads = 1
"""
SPACE = """\
base = "horowitz-45nm"
[vary]
"array.dims" = [[8, 8], [16, 16], [32, 32]]
"dram.gbytes_per_s" = [12.8, 25.6]
"""

COMMANDS = {
    "energy": ["energy", "RUN", "--split"],
    "energy of many rows": ["energy", "MANY"],
    "energy, two accelerators": ["energy", "RUN", "--hw", "horowitz-45nm", "--hw", "tpu-like-7nm"],
    "compare": ["compare", "R1", "R2", "R3"],
    "runs list": ["runs", "list", "--runs-dir", "RUNS"],
    "runs show": ["runs", "show", "RUN", "--runs-dir", "RUNS"],
    "plan": ["plan", "TINY", "--probe-steps", "0"],
    "check": ["check", "TINY"],
    "doctor": ["doctor"],
    "data list": ["data", "list"],
    "precision list": ["precision", "list"],
    "precision show": ["precision", "show", "fp8"],
    "hw list": ["hw", "list"],
    "hw show": ["hw", "show", "tpu-like-7nm"],
    "hw check": ["hw", "check", "horowitz-45nm"],
    "hw compare": ["hw", "compare", "horowitz-45nm", "h100", "tpu-like-7nm", "--network", "resnet18"],
    "hw compare by layer": ["hw", "compare", "horowitz-45nm", "--network", "resnet18", "--by", "layer", "--by", "pass"],
    "hw anchors": ["hw", "anchors"],
    "hw memory": ["hw", "memory", "--network", "resnet18", "--checkpoints", "--within", "4"],
    "hw fuse": ["hw", "fuse", "--network", "resnet18"],
    "hw roofline": ["hw", "roofline", "resnet18", "--hw", "h100", "--hw", "tpu-like-7nm"],
    "hw explore": ["hw", "explore", "SPACE", "--network", "resnet18"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Finished runs of few and many rows, three that make a comparison, an experiment and a design space."""
    root = tmp_path_factory.mktemp("widths")
    runs = root / "runs"
    found = {
        "RUN": sample.write(runs / "a-run-with-a-long-name-0123abcd", sample.content(blocks=1)),
        "MANY": sample.write(runs / "many-0123abcd", many.content(15)),
    }
    for seed in (1, 2, 3):
        rows = [row("dense", 0.93 + 0.01 * seed, 10.0), row("eb-train", 0.9 + 0.02 * seed, 6.0, ratio=0.5, curve="t")]
        found[f"R{seed}"] = write(root / "seeds" / f"r{seed}", seed, rows)
    (root / "tiny.toml").write_text(TINY)
    (root / "space.toml").write_text(SPACE)
    return {**{key: str(path) for key, path in found.items()}, "RUNS": str(runs),
            "TINY": str(root / "tiny.toml"), "SPACE": str(root / "space.toml")}  # fmt: skip


def printed(name: str, places: dict[str, str], width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)  # what is free changes while tests run
    done = CliRunner().invoke(cli.main, [places.get(word, word) for word in COMMANDS[name]])
    assert done.exit_code == 0 or name == "doctor", done.output  # what is missing on this machine is its own matter
    return done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_no_number_is_cut_and_no_line_too_wide(
    name: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = numbers(printed(name, places, WIDE, tmp_path, monkeypatch))
    assert name in ("data list", "precision list") or whole
    for width in WIDTHS:
        text = printed(name, places, width, tmp_path, monkeypatch)
        ours = text.replace(f"{Path(places['TINY']).parent}/", "")  # a path is not broken, wherever the folder lies
        assert max(map(cell_len, ours.splitlines())) <= width, name
        assert "…" not in text.replace(", … (", "")
        said = re.sub(r"Not shown in \d+ characters: [^.]*\.", "", text)
        assert set(numbers(said)) <= set(whole), (name, width)  # a number that was cut would be a new one
        if said == text:  # no column was left out, so nothing is missing
            none = {"0.0"} if name == "hw compare" else set()  # parts that none of the accelerators side by side has
            assert not set(whole) - set(numbers(said)) - none, (name, width)


def numbers(text: str) -> Counter[str]:
    """The numbers of a text; a path that is broken over two lines is not one."""
    text = re.sub(r"sha256\s[0-9a-f\s]+", " ", text)  # a digest is no number, wherever its line is broken
    text = re.sub(
        r"about\s[\d.]+\s[MG]B\sat\sthe\speak", " ", text
    )  # the memory of this process grows from call to call
    return Counter(NUMBER.findall(re.sub(r"\S*/\S*", " ", text)))
