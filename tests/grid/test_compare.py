"""Runs side by side: what differs, what is a replicate, and whether results are equal."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ebsim.errors import CellsFailedError, ConfigError, DamagedError
from ebsim.report import to_markdown
from ebsim.report.comparison import runs as comparison
from tests.grid.made_up import row, write


def runs(folder: Path) -> list[Path]:
    """Three seeds in two precisions."""
    return [
        write(folder / f"{search}-{seed}", seed, [row("dense", 0.9 + 0.01 * seed - loss * (seed + 1), joules)], search)
        for search, loss, joules in (("fp32", 0.0, 10.0), ("fp8", 0.02, 4.0))
        for seed in (1, 2, 3)
    ]


def test_only_differing_keys_are_told(tmp_path: Path) -> None:
    found = comparison.compare(runs(tmp_path))
    assert found.differing == {"seed": [1, 2, 3] * 2, "precision.search": ["fp32"] * 3 + ["fp8"] * 3}
    text = to_markdown(found.settings_table())
    assert "precision.search" in text and "train.lr" not in text


def test_replicates_have_a_spread_and_the_others_a_delta(tmp_path: Path) -> None:
    full, low = comparison.compare(runs(tmp_path)).entries
    assert (full.base, low.base, len(full.line.rows), len(low.line.rows)) == (None, full.line, 3, 3)
    assert low.delta.mean == pytest.approx(-0.06) and low.saving.mean == pytest.approx(0.6)
    # differences -0.04, -0.06, -0.08: t = -0.06 / (0.02 / sqrt 3) = -sqrt 27; with 2 degrees of freedom the two-sided
    # p-value is 1 - |t| / sqrt(t^2 + 2)
    assert low.accuracy.p == pytest.approx(1 - math.sqrt(27 / 29), rel=1e-9)


def test_runs_alike_in_everything_stay_apart(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, 1, [row("dense", 0.9, 10.0)]) for name in ("a", "b")]
    found = comparison.compare(paths)
    assert found.differing == {} and len(found.entries) == 1  # the same stage and figures: one finding
    other = write(tmp_path / "c", 1, [row("dense", 0.8, 10.0, curve="dense-11")])
    assert len(comparison.compare([paths[0], other]).entries) == 2


def test_versions_of_a_profile_are_told_apart(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, 1, [row("dense", 0.9, joules)]) for name, joules in (("a", 10.0), ("b", 5.0))]
    for path, digest in zip(paths, ("ab" * 32, "cd" * 32), strict=True):
        made = json.loads((path / "provenance.json").read_text()) | {"hardware_digest": digest}
        (path / "provenance.json").write_text(json.dumps(made))
        (path / "MANIFEST.json").unlink()
    found = comparison.compare(paths)
    assert found.differing == {"profile digest": ["ab" * 6, "cd" * 6]} and len(found.entries) == 2


def test_versions_of_an_outside_format_are_told_apart(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, 1, [row("dense", accuracy, 10.0)]) for name, accuracy in (("a", 0.9), ("b", 0.8))]
    for path, digest in zip(paths, ("ab" * 32, "cd" * 32), strict=True):
        plugin = {"kind": "formats", "name": "int4", "origin": "somewhere 1.0", "digest": digest}
        made = json.loads((path / "provenance.json").read_text()) | {"precision_plugins": [plugin]}
        (path / "provenance.json").write_text(json.dumps(made))
        (path / "MANIFEST.json").unlink()
    assert comparison.compare(paths).differing == {"int4 digest": ["ab" * 6, "cd" * 6]}


def test_made_under_other_conditions_is_told(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"t{n}", n, [row("dense", 0.9, 10.0)], threads=n) for n in (1, 2)]
    assert "threads (1, 2)" in to_markdown(comparison.compare(paths).table())


def test_assert_equal(tmp_path: Path) -> None:
    same = [comparison.load_run(write(tmp_path / name, 1, [row("dense", 0.9, 10.0)])) for name in ("a", "b")]
    results = json.loads((tmp_path / "b" / "results.json").read_text()) | {"seconds": 99.0, "epochs_trained": 7}
    (tmp_path / "b" / "results.json").write_text(json.dumps(results))
    (tmp_path / "b" / "MANIFEST.json").unlink()
    same[1] = comparison.load_run(tmp_path / "b")
    comparison.assert_equal(same)  # the clock and the store do not count
    worse = comparison.load_run(write(tmp_path / "c", 1, [row("dense", 0.9, 10.000000001)]))
    with pytest.raises(CellsFailedError, match=r"rows\.0\.energy.*10\.0") as caught:
        comparison.assert_equal([same[0], worse])
    assert caught.value.exit_code == 7


def test_refused(tmp_path: Path) -> None:
    paths = runs(tmp_path)
    for names in ([paths[0]], [paths[0], paths[0]], [paths[0], tmp_path / "." / paths[0].name]):
        with pytest.raises(ConfigError, match="two or more"):
            comparison.compare(names)
    with pytest.raises(DamagedError):
        comparison.compare([paths[0], tmp_path / "nothing"])
    with pytest.raises(ConfigError, match="--baseline"):
        comparison.compare(paths, "snip")


def test_runs_that_differ_in_many_keys_are_called_by_their_names(tmp_path: Path) -> None:
    """Five keys differ: they stand in the table of settings, and the lines have one column for the run."""
    folders = [write(tmp_path / name, 1, [row("dense", 0.9, 10.0, curve=f"dense-{name}")]) for name in ("a", "b")]
    text = (folders[1] / "experiment.toml").read_text()
    changed = text.replace("epochs = 40", "epochs = 50\nlr = 0.5\nbatch_size = 32\nmomentum = 0.5\nweight_decay = 0.0")
    (folders[1] / "experiment.toml").write_text(changed)
    (folders[1] / "MANIFEST.json").unlink()
    found = comparison.compare(folders)
    assert len(found.differing) == 5
    headings = [column.heading for column in found.table().columns]
    assert headings[:2] == ["Method", "run"] and not any("." in heading for heading in headings)
    assert [line.line.settings for line in found.entries] == [{"run": "a"}, {"run": "b"}]
    assert found.entries[1].base is found.entries[0].line
    assert len(found.settings_table().columns) == 6
