"""A run folder that an earlier layout of the code wrote (commit 1d00c9b, model revision 3) stays readable.

The folder is whole: results, networks, curves, masks, provenance, profile, report and manifest of a three-minute
experiment at trial size (PreResNet11 on the digits, dense and EB Train at p = 0.5, six epochs).
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from ebsim.errors import DamagedError
from ebsim.files import read_json
from ebsim.pricing.reprice import pricing_key, reprice, stored_pricing_key
from ebsim.report import write_report
from ebsim.runs.load import load_run
from ebsim.runs.run_folder import RunFolder
from hw_models.workload.layer import Layer
from hw_models.workload.op_counts import step_macs

ARCHIVE = Path(__file__).parents[1] / "golden" / "run_folder_schema1.tar.xz"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return RunFolder(tmp_path / "golden")


def test_it_is_done_and_every_file_holds(folder: RunFolder) -> None:
    assert folder.is_done
    folder.verify()
    assert len(folder.digests() or {}) == 35
    (folder.path / "curves.json").write_text("{}")
    with pytest.raises(DamagedError, match=r"curves\.json was changed"):
        folder.verify()


def test_its_results_are_read_as_they_were_written(folder: RunFolder) -> None:
    run = load_run(folder.path)
    dense, ticket = run.rows
    assert (dense.method, ticket.method, ticket.epoch_drawn) == ("dense", "eb-train", 3)
    assert (dense.accuracy, ticket.accuracy) == pytest.approx((0.8977777777777778, 0.7444444444444445))
    assert stored_pricing_key(folder) == {**pricing_key(run.chip.digest), "hardware_model": 3}


@pytest.mark.parametrize("chip", [None, "tpu-like-7nm"])
def test_its_ledgers_are_priced(folder: RunFolder, chip: str | None) -> None:
    """Energies are those of today's model; MACs are those of the layer tables, counted anew."""
    run = load_run(folder.path)
    again = reprice(run, chip)
    for before, after in zip(run.results["rows"], again.results["rows"], strict=True):
        counted = sum(
            entry["images"] * step_macs([Layer.from_dict(layer) for layer in run.networks[entry["network"]]])
            for entry in after["ledger"]
        )
        assert after["energy"]["macs"] == before["train_macs"] >= counted > 0
        assert after["energy"]["joules"] > 0
    assert again.rows[1].saving_vs_dense is not None
    assert 0 < again.rows[1].saving_vs_dense < 1


def test_its_report_is_built_anew_and_the_run_stays_finished(folder: RunFolder) -> None:
    before = read_json(folder.path / "results.json")
    written = write_report(folder.path)
    assert folder.path / "report.html" in written
    folder.verify()
    assert read_json(folder.path / "results.json") == before
