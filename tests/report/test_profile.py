"""The copy of the accelerator profile: whole, what priced the run, and all that is read of it afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hw_models
from ebsim import report
from ebsim.errors import DamagedError
from ebsim.pricing import profile
from ebsim.pricing.format_check import missing_formats
from ebsim.pricing.reprice import reprice
from ebsim.report import load_run, write_report
from ebsim.report.tables import assumptions, energy, saving_steps, sensitivity
from ebsim.runs.load import Run
from ebsim.runs.schema import Results
from hw_models.accelerator import toml_reader
from tests.report import sample

SHIPPED = sorted(path.stem for path in toml_reader.SHIPPED.glob("*.toml"))
OWN = """\
extends = "horowitz-45nm"
name = "own"
[dram]
pj_per_bit = { value = 17.0, source = "a test, \\"quoted\\"" }
"""


def named(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_a_copy_is_the_profile(tmp_path: Path, name: str) -> None:
    found, shipped = profile.read(name), hw_models.load(name)
    again = hw_models.load(named(tmp_path, found.text))
    assert again.digest == found.digest == shipped.digest
    assert again.constants == shipped.constants
    assert list(again.constants) == list(found.chip.constants)  # sums in the order of the copy, to the last bit


def test_a_copy_stands_alone(tmp_path: Path) -> None:
    """A chain of files in one text, which needs none of them."""
    (tmp_path / "base.toml").write_text(OWN)
    found = profile.read(str(named(tmp_path, 'extends = "base.toml"\nnode_nm = 40\n')))
    (tmp_path / "elsewhere").mkdir()
    again = hw_models.load(named(tmp_path / "elsewhere", found.text))
    assert (again.node_nm, again.dram.value, again.dram.source) == (40, 17.0, 'a test, "quoted"')
    assert again.mac_points == hw_models.load("horowitz-45nm").mac_points and "extends" not in found.text
    assert again.digest == found.digest != profile.read(str(tmp_path / "base.toml")).digest


@pytest.mark.parametrize("name", SHIPPED)
def test_a_run_priced_on_any_shipped_profile_is_a_run(tmp_path: Path, name: str) -> None:
    files = sample.content(blocks=1)
    run = load_run(sample.write(tmp_path / "run", files))
    priced = reprice(run, name, hypothetical=True)
    assert priced.record.rows[1].energy.accelerator_digest == hw_models.load(name).digest
    files["results.json"] = json.loads(json.dumps(priced.results))
    files["hardware.toml"] = profile.read(name).text
    assert load_run(sample.write(tmp_path / "again", files)).chip.constants == hw_models.load(name).constants


def test_the_assumptions_hold_what_the_law_gave(tmp_path: Path) -> None:
    """fp32 on integer units is no constant of the profile, and the rows used it all the same."""
    run = load_run(sample.write(tmp_path / "run", sample.content(blocks=1)))
    priced = reprice(run, "eyeriss-like-65nm", hypothetical=True)
    listed = {one.key: one for one in assumptions.read(priced).constants}
    assert listed.keys() > hw_models.load("eyeriss-like-65nm").constants.keys()
    one = listed["mac.fp32"]
    assert one.derived and one.source == "by the law (float a m^2 + b (m + e)) from int16" and one.unit == "pJ per MAC"
    assert one.value > listed["mac.int16"].value
    for row in priced.record.rows:
        assert row.energy.saving is None or row.energy.saving.sensitivity.keys() <= listed.keys()


def test_a_share_is_never_more_than_the_whole(tmp_path: Path) -> None:
    """All constants of this profile are derived; sums in two orders may differ in their last bit."""
    run = load_run(sample.write(tmp_path / "run", sample.content(blocks=1)))
    for model in ("macs", "compulsory", "closed"):
        shares = [row.energy.derived_share for row in reprice(run, "h100", model=model).rows]
        assert all(share is not None and 0.99 < share <= 1 for share in shares)
    over = json.loads(json.dumps(run.results))
    over["rows"][0]["energy"]["derived_share"] = 1.0000000000000002
    with pytest.raises(ValueError, match="derived_share"):
        Results.model_validate(over)


def test_formats_that_are_lacking_are_those_of_the_layers() -> None:
    chip = hw_models.load("eyeriss-like-65nm")
    ends = {phase: {"weight": "fp32"} for phase in ("forward", "input_gradient")}
    inside = {
        "forward": {"weight": "int16", "activation": "int16"},
        "input_gradient": {"weight": "int16", "error": "int16"},
        "weight_gradient": {"activation": "int16", "error": "int16"},
    }
    record = {"schema": 1, "name": "mixed", "formats": {}, "default": inside, "layers": {"first": ends}}
    assert missing_formats(chip, record, ["first", "middle"]) == ["fp32"]
    assert missing_formats(chip, record, ["middle"]) == []
    assert missing_formats(hw_models.load("horowitz-45nm"), record, ["first", "middle"]) == []


def test_the_report_reads_the_copy_and_nothing_else(tmp_path: Path) -> None:
    own = named(tmp_path, OWN)
    files = sample.content(blocks=1)
    files["results.json"]["hardware"] = str(own)
    files["hardware.toml"] = profile.read(str(own)).text
    del files["results.json"]["rows"][2:]  # dense and one ticket: the report is built three times
    for row in files["results.json"]["rows"]:
        row["energy"]["accelerator_digest"] = None  # the energies of the sample are another accelerator's
    folder = sample.write(tmp_path / "run", files)
    write_report(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for change in (lambda: own.write_text(OWN.replace("17.0", "99.0")), own.unlink):
        change()
        write_report(folder)
        assert {path: path.read_bytes() for path in before} == before
    assert "dram.pj_per_bit,17.0," in (folder / "tables/assumptions.csv").read_text()


def test_the_energy_of_a_run_without_another_chip_is_on_its_copy(tmp_path: Path) -> None:
    files = sample.content(blocks=1)
    files["results.json"]["hardware"] = "gone.toml"
    run = load_run(sample.write(tmp_path / "run", files))
    same = reprice(run)
    assert same.rows[1].energy == reprice(run, "horowitz-45nm").rows[1].energy
    assert same.record.hardware == "gone.toml"
    assert report.summary(same).caption.endswith(f"energies modelled on {run.chip.name}, not measured")


def test_a_run_without_a_copy_says_what_to_do(tmp_path: Path) -> None:
    folder = sample.write(tmp_path / "run", sample.content(blocks=1))
    (folder / "hardware.toml").unlink()
    with pytest.raises(DamagedError, match=r"hardware.toml: missing: .* Run the same command again: .* nothing is tra"):
        load_run(folder)


def test_results_of_another_profile_are_not_reported(tmp_path: Path) -> None:
    files = sample.content(blocks=1)
    files["results.json"]["rows"][1]["energy"]["accelerator_digest"] = hw_models.load("h100").digest
    with pytest.raises(DamagedError, match="was not priced on"):
        write_report(sample.write(tmp_path / "run", files))


def test_a_hypothetical_price_says_so_wherever_it_is_shown(tmp_path: Path) -> None:
    run = load_run(sample.write(tmp_path / "run", sample.content(blocks=1)))
    with pytest.raises(hw_models.FormatError):
        reprice(run, "eyeriss-like-65nm")
    priced = reprice(run, "eyeriss-like-65nm", hypothetical=True)
    assert "eyeriss-like-65nm (hypothetical: it has no fp32)" in report.summary(priced).caption
    files = sample.content(blocks=1) | {"results.json": dict(priced.results)}
    files["hardware.toml"] = profile.read("eyeriss-like-65nm").text
    folder = sample.write(tmp_path / "priced", files)
    write_report(folder)
    for page in ("report.md", "report.html"):
        text = (folder / page).read_text()
        assert "MODELLED on eyeriss-like-65nm (hypothetical: it has no fp32), not measured" in text
        assert "Hypothetical: it does not have fp32" in text


def test_sensitivities_begin_with_the_strongest_and_speak_of_the_constants(tmp_path: Path) -> None:
    run = load_run(sample.write(tmp_path / "run", sample.content(blocks=1)))
    table = energy.sensitivity(reprice(run, "horowitz-45nm"))
    assert table is not None
    strongest = [max(abs(getattr(cell[0], "raw", 0.0)) for cell in column.cells) for column in table.columns[1:]]
    assert strongest == sorted(strongest, reverse=True) and strongest[0] > 0
    keys = {line.split(",")[0] for line in _csv(run).splitlines()[1:]}
    assert {column.heading for column in table.columns[1:]} <= keys
    shown = [str(cell[0]) for column in table.columns[1:] for cell in column.cells if not isinstance(cell[0], str)]
    assert shown and all(len(text.partition(".")[2]) == 3 for text in shown)


def _csv(run: report.Run) -> str:
    write_report(run.path)
    return (run.path / "tables/assumptions.csv").read_text()


def test_a_run_is_priced_with_fused_layers_and_says_so(run: Run) -> None:
    """Priced as `price` prices its ledger, in every table that a split shows; the simpler brackets are not fused."""
    fused, plain = reprice(run, "horowitz-45nm", fuse=True), reprice(run, "horowitz-45nm")
    assert (fused.record.reuse, plain.record.reuse) == ("closed+fused", "closed")
    assert "layers fused" in report.summary(fused).caption and "layers fused" not in report.summary(plain).caption
    for row, before, raw in zip(fused.rows, plain.rows, run.results["rows"], strict=True):
        own = hw_models.price(raw["ledger"], run.networks, "horowitz-45nm", fuse=True)
        assert row.energy.joules == pytest.approx(own.joules) and row.energy.joules < before.energy.joules
        assert own.model == "closed+fused" and own.brackets.keys() == {"macs", "compulsory"}
    assert saving_steps.tables(fused) and sensitivity.swings(fused)
    assert reprice(run, "horowitz-45nm", model="closed+fused").record.reuse == "closed+fused"
