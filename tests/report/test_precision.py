"""Sampled quantization errors, from the curve to the table."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import pytest

from ebsim.report import load_run, write_report
from ebsim.report.display import text
from ebsim.report.tables import precision_formats, quantization_error, results
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
    activation, weight = quantization_error.observations(load_run(low))
    assert (activation.role, weight.role) == ("activation", "weight")
    assert activation.epoch == load_run(low).curves["retrain-0.7"][7].epoch
    assert activation.share("overflow") == pytest.approx(6 / 400)
    assert activation.share("underflow") == pytest.approx((30 + 30) / 400)
    assert activation.share("nonfinite") == pytest.approx(50 / 400)
    assert activation.worst == ("layer1.0.conv2", 12.25) and weight.worst is None


def test_every_layer_is_in_the_csv_and_the_section_is_on_the_page(low: Path) -> None:
    found = quantization_error.observations(load_run(low))
    rows = list(csv.DictReader(io.StringIO(text.csv(*quantization_error.records(found)))))
    assert [(row["tensor"], row["layer"]) for row in rows] == [
        ("activation", "*"),
        ("activation", "layer1.0.conv1"),
        ("activation", "layer1.0.conv2"),
        ("weight", "*"),
        ("weight", "layer1.0.conv1"),
    ]
    sampled = quantization_error.observations(load_run(low), every=True)
    assert [one.epoch for one in sampled] == sorted(one.epoch for one in sampled) and len(sampled) == 3
    names = {path.name for path in write_report(low)}
    assert "precision.csv" in names
    page, markdown = (low / "report.html").read_text(), (low / "report.md").read_text()
    for part in ("What the quantizers saw", "p = 0.7, fp32 → fp8", "1.500 %", "12.2", "layer1.0.conv2"):
        assert part in page and part in markdown, part


def test_a_run_without_samples_has_no_such_section(folder: Path) -> None:
    assert "What the quantizers saw" not in (folder / "report.html").read_text()
    assert not (folder / "tables" / "precision.csv").exists()


def test_the_page_says_what_a_precision_is_made_of(tmp_path: Path) -> None:
    """`mine` alone says nothing to a reader of the report."""
    both = {"weight": "int6", "activation": "e4m3"}
    default = {"forward": both, "input_gradient": {"weight": "int6", "error": "e5m2"}, "accumulator": "bf16"}
    default |= {"weight_gradient": {"activation": "e4m3", "error": "e5m2"}, "output": "fp16"}
    record = {
        "name": "mine", "default": default, "layers": {f"layer{i}": default for i in range(5)},
        "update": {"gradient": "fp32", "momentum": "bf16", "stored": "bf16"},
        "quantise": {"error": "stochastic", "stored": "stochastic"},
    }  # fmt: skip
    files = sample.content(blocks=1)
    for entry in files["results.json"]["rows"][3]["ledger"]:
        entry["precision"] = record
    folder = sample.write(tmp_path / "run", files)
    table = precision_formats.table(load_run(folder))
    cells = {column.heading: column.cells[0][0] for column in table.columns}
    assert cells == {
        "Precision": "mine", "Weight": "int6", "Activation": "e4m3", "Error": "e5m2 stochastic", "Output": "fp16",
        "Sums": "bf16", "Gradient, momentum, stored weight": "fp32, bf16, bf16 stochastic",
        "Layers that differ": "layer0, layer1, layer2, layer3, … (5 in all)",
    }  # fmt: skip


def test_a_precision_shared_by_all_rows_has_a_column(low: Path) -> None:
    run = load_run(low)
    same = dataclasses.replace(run, record=run.record.model_copy(update={"rows": run.rows[3:4]}))
    assert "Precision" in [column.heading for column in results.summary(same).columns]
