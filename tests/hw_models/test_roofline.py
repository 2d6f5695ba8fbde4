"""A roofline's points and roofs are those of the layers, the profile and the step's own cost."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from ebsim.commands import main
from hw_models import Layer, load, reference, training_cost
from hw_models.analysis.roofline import peak, points, roofline, roofs
from hw_models.precision.formats import FORMATS


@pytest.mark.parametrize(
    "profile", ["horowitz-45nm", "eyeriss-like-65nm", "tpu-like-7nm", "bitfusion-45nm", "h100", "v100"]
)
@pytest.mark.parametrize("model", ["compulsory", "closed"])
def test_no_point_lies_above_its_roof(profile: str, model: str) -> None:
    found = roofline(profile, "resnet18", None, 8, model)
    rows = {row.name: row for row in reference.network("resnet18")}
    assert {(p.layer, p.phase) for p in found.points} == {
        (name, phase)
        for name, row in rows.items() if row.macs
        for phase in ("forward", "input_gradient", "weight_gradient") if not (row.first and phase == "input_gradient")
    }  # fmt: skip
    for p in found.points:
        assert p.macs == 8 * rows[p.layer].macs  # every pass of a layer multiplies as often
        assert p.rate <= p.attainable(found.bytes_per_s) * (1 + 1e-9)
        assert p.roof in [roof.macs_per_s for roof in found.roofs]
    own = training_cost(reference.network("resnet18"), profile, FORMATS[load(profile).widest], 8, model)
    assert sum(p.seconds for p in found.points) <= own.seconds and sum(p.joules for p in found.points) <= own.total


def test_a_pass_that_only_dram_holds_back_lies_on_the_slope() -> None:
    """A fully connected layer on one image, by compulsory traffic: weights once, so four bytes a MAC."""
    layer = Layer("fc", "linear", 10**6, 1000, 1000, 10**6, (1000, 1000))
    chip = load("v100")
    cost = training_cost([layer], chip, "fp32", 1, "compulsory")
    forward = points(cost)[0]
    assert forward.bytes == 4 * (10**6 + 1000 + 1000) and forward.intensity == pytest.approx(0.25, rel=3e-3)
    assert forward.seconds == pytest.approx(forward.bytes / (chip.dram_bits_per_s / 8) + chip.launch_s, rel=1e-9)
    assert forward.attainable(chip.dram_bits_per_s / 8) == pytest.approx(forward.intensity * chip.dram_bits_per_s / 8)


def test_a_format_of_ones_own_has_points_and_a_roof() -> None:
    """Priced by its operand class, at the rate that the profile has for it."""
    pair = {"weight": "int5", "activation": "int5"}
    record = {"name": "mine", "formats": {"int5": {"bits": 5, "mac": "int:5"}}, "default": {"forward": pair}}
    chip = load("horowitz-45nm")
    cost = training_cost(reference.network("resnet18"), chip, record, 8)
    found = [p for p in points(cost) if p.phase == "forward"]
    assert found and {(p.formats, p.roof) for p in found} == {("int5", 32 * 32 * 0.5e9)}
    assert any("int5" in roof.formats for roof in roofs(chip, [(p.formats, p.roof) for p in points(cost)]))


def test_a_roof_for_each_rate_of_the_profile() -> None:
    h100 = load("h100")
    assert [roof.formats for roof in roofs(h100)] == [("e4m3", "e5m2", "int8"), ("bf16", "fp16"), ("tf32",), ("fp32",)]
    for roof in roofs(h100):  # data sheet's dense FLOP/s, the efficiency that the profile states, two FLOPs a MAC
        assert roof.macs_per_s == h100.peak[roof.formats[0]] / 2
    array = load("horowitz-45nm")
    assert [roof.macs_per_s for roof in roofs(array)] == [32 * 32 * 0.5e9]
    fused = load("bitfusion-45nm")
    assert [(r.formats, r.macs_per_s) for r in roofs(fused)][1] == (("int8",), 16 * 32 * fused.clock_hz)
    assert peak(fused, FORMATS["int4"]) == 4 * peak(fused, FORMATS["int8"])
    assert peak(h100, FORMATS["int4"]) == peak(h100, FORMATS["int8"])  # no rate of its own: that of the next wider
    mixed = roofline("h100", "resnet18", "fp8", 8)
    assert {p.formats for p in mixed.points} == {"e4m3", "e5m2*e4m3", "e4m3*e5m2", "fp32"}


def test_the_command_writes_every_form_and_the_numbers(tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    words = ["hw", "roofline", "resnet18", "--hw", "h100", "--hw", "tpu-like-7nm", "--batch", "4", "--format", "bf16"]
    shown = CliRunner().invoke(main, [*words, "--out", str(out)])
    assert shown.exit_code == 0 and "Knee" in shown.stdout and "The ten slowest" in shown.stdout
    names = {f"roofline{end}" for end in (".svg", ".png", ".csv", ".pdf", ".pgf", "-column.pdf", "-column.pgf")}
    assert {path.name for path in out.iterdir()} == names
    assert ElementTree.parse(out / "roofline.svg").getroot().tag.endswith("svg")
    rows = list(csv.DictReader((out / "roofline.csv").read_text().splitlines()))
    data = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert [item["accelerator"] for item in data] == ["h100", "tpu-like-7nm"]
    found = [point for item in data for point in item["points"]]
    slopes = {item["accelerator"]: item["dram_bytes_per_s"] for item in data}
    for row, point in zip(rows, found, strict=True):
        assert row["layer"] == point["layer"] and float(row["macs_per_s"]) == point["macs_per_s"]
        least = min(point["roof_macs_per_s"], point["macs_per_byte"] * slopes[point["accelerator"]])
        assert point["attainable_macs_per_s"] == pytest.approx(least)
    again = CliRunner().invoke(main, [*words, "--out", str(out)])
    assert again.exit_code == 2 and "is not empty" in again.stderr
    (tmp_path / "file").write_text("")
    blocked = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "file")])
    assert blocked.exit_code == 2 and "cannot be written" in blocked.stderr
    for wrong, said in ((["--hw", "h10"], "h100"), (["--format", "int4", "--hw", "v100"], "v100 has no int4")):
        failed = CliRunner().invoke(main, ["hw", "roofline", "resnet18", *wrong])
        assert failed.exit_code == 2 and said in failed.stderr
