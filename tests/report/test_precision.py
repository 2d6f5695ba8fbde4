"""What the quantisers saw, from the curve to the table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from ebsim.report import load_run, precision, text, write_report
from tests.report import sample

SEEN = {
    "layer1.0.conv1": {
        "activation": {
            "count": 300.0,
            "nonfinite": 0.0,
            "overflow": 0.02,
            "underflow": 0.1,
            "sqnr_db": 31.5,
            "absmax": 4.0,
        },
        "weight": {"count": 10.0, "nonfinite": 0.0, "overflow": 0.0, "underflow": 0.0, "sqnr_db": None, "absmax": 0.3},
    },
    "layer1.0.conv2": {
        "activation": {
            "count": 100.0,
            "nonfinite": 0.5,
            "overflow": 0.0,
            "underflow": 0.3,
            "sqnr_db": 12.25,
            "absmax": 9.0,
        },
    },
}


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose ticket at p = 0.7 was retrained in fp8 and sampled twice."""
    files = sample.content(blocks=1)
    files["results.json"]["rows"][3].update(precision="FL", retrain_precision="fp8")
    points = files["curves.json"]["retrain-0.7"]
    points[3]["precision"] = {"layer1.0.conv1": {"activation": {"count": 1.0, "overflow": 1.0}}}
    points[7]["precision"] = SEEN
    return sample.write(tmp_path_factory.mktemp("runs") / "low", files)


def test_the_last_sample_counts_and_shares_are_over_all_elements(low: Path) -> None:
    activation, weight = precision.observations(load_run(low))
    assert (activation.role, weight.role) == ("activation", "weight")
    assert activation.epoch == load_run(low).curves["retrain-0.7"][7].epoch
    assert activation.share("overflow") == pytest.approx(6 / 400)
    assert activation.share("underflow") == pytest.approx((30 + 30) / 400)
    assert activation.share("nonfinite") == pytest.approx(50 / 400)
    assert activation.worst == ("layer1.0.conv2", 12.25) and weight.worst is None


def test_every_layer_is_in_the_csv_and_the_section_is_on_the_page(low: Path) -> None:
    found = precision.observations(load_run(low))
    rows = list(csv.DictReader(io.StringIO(text.csv(*precision.records(found)))))
    assert [(row["tensor"], row["layer"]) for row in rows] == [
        ("activation", "*"),
        ("activation", "layer1.0.conv1"),
        ("activation", "layer1.0.conv2"),
        ("weight", "*"),
        ("weight", "layer1.0.conv1"),
    ]
    names = {path.name for path in write_report(low)}
    assert "precision.csv" in names
    page, markdown = (low / "report.html").read_text(), (low / "report.md").read_text()
    for part in ("What the quantisers saw", "p = 0.7, fp32 → fp8", "1.500 %", "12.2", "layer1.0.conv2"):
        assert part in page and part in markdown, part


def test_a_run_without_samples_has_no_such_section(folder: Path) -> None:
    assert "What the quantisers saw" not in (folder / "report.html").read_text()
    assert not (folder / "tables" / "precision.csv").exists()
