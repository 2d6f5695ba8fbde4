"""What the command line shows: profiles listed, shown, started, checked, compared, calibrated."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import cli
from hw_models import HardwareError, ProfileError, load, training_cost
from hw_models.analysis import commands
from hw_models.cost.step_cost import COMPONENTS
from hw_models.units import show_joules
from hw_models.workload import reference_networks


def test_list_and_show_tell_where_every_number_comes_from() -> None:
    listed = commands.list_profiles()
    assert len(listed) == 12 and all(row["summary"] and row["band"] > 1 for row in listed)
    shown = commands.show("jetson-tx2")
    assert "calibrated" in shown["summary"] and "Table 2" in shown["calibrated_on"]
    assert all(c["source"] and c["unit"] for c in shown["constants"])
    assert any(c["derived"] for c in shown["constants"])


def test_a_newcomers_profile_from_copy_to_comparison(tmp_path: Path) -> None:
    path = commands.new(tmp_path / "mychip.toml", sram_law="cacti-22lop")
    text = path.read_text()
    assert 'name = "mychip"' in text and "# " in text  # commented, and its own name
    path.write_text(text.replace("kib = 2048", "kib = 512").replace("dims = [32, 32]", "dims = [16, 64]"))
    chip = load(path)
    assert chip.memories[0].bits == 512 * 8192 and chip.dims == (16, 64)
    checked = commands.check(str(path))
    assert checked.profile == "mychip" and len(checked.rows) == 2 and len(checked.beside) == 4
    for row in checked.rows:
        assert sum(row.shares.values()) == pytest.approx(1)
        assert row.macs_only < row.compulsory < row.joules and row.low < row.joules < row.high
    mine, shipped = commands.compare([str(path), "horowitz-45nm"], "resnet18")
    assert mine.accelerator == "mychip" and mine.joules != shipped.joules
    assert mine.row()["network"] == "resnet18" and mine.row()["joules"] == mine.joules


@pytest.mark.parametrize("start", ["horowitz-45nm", "tpu-like-7nm", "eyeriss-like-65nm", "bitfusion-45nm", "h100"])
def test_any_shipped_profile_can_be_the_start(tmp_path: Path, start: str) -> None:
    copy, base = load(commands.new(tmp_path / "copy.toml", start)), load(start)
    assert replace(copy, name="", path="", digest="") == replace(base, name="", path="", digest="")


def test_new_never_overwrites_and_names_what_is_wrong(tmp_path: Path) -> None:
    commands.new(tmp_path / "a.toml")
    with pytest.raises(ProfileError, match="exists already"):
        commands.new(tmp_path / "a.toml")
    with pytest.raises(ProfileError, match=r"ends in .toml"):
        commands.new(tmp_path / "a.txt")
    with pytest.raises(ProfileError, match="letters, digits"):
        commands.new(tmp_path / 'a"b.toml')
    with pytest.raises(ProfileError, match="did you mean cacti-22lop"):
        commands.new(tmp_path / "b.toml", sram_law="cacti-22lp")
    with pytest.raises(ProfileError, match="cannot be written"):
        commands.new(tmp_path / "missing" / "b.toml")


def test_check_points_at_what_looks_odd(tmp_path: Path) -> None:
    path = commands.new(tmp_path / "odd.toml")
    path.write_text(path.read_text().replace("pj_per_bit = { value = 20,", "pj_per_bit = { value = 4000,"))
    found = commands.check(str(path)).warnings
    assert any("dram takes" in w for w in found) and any("far from the shipped" in w for w in found)
    for name in ("horowitz-45nm", "tpu-like-7nm", "eyeriss-like-65nm", "bitfusion-45nm"):
        assert commands.check(name).warnings == []


def test_check_tells_the_cause_and_not_its_shadows(tmp_path: Path) -> None:
    path = commands.new(tmp_path / "fj.toml")
    lines = [
        re.sub(r"(?<=value = )[0-9.]+", lambda m: f"{float(m[0]) * 200:g}", line)
        if line.startswith(("fp", "bf16", "e4m3", "e5m2", "int8", "int16"))
        else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines))
    found = commands.check(str(path)).warnings
    assert "mac.int8: 60 pJ per MAC; the law at 45 nm gives about 0.2: is it in fJ?" in found
    assert any("mac takes 9" in w and "outside 0.5% to 90%" in w for w in found)
    assert not any(f"{part} takes" in w for w in found for part in ("register", "buffer", "dram"))


def test_check_compares_in_one_format_and_warns_of_a_default_without_energy(tmp_path: Path) -> None:
    path = commands.new(tmp_path / "eight.toml")
    lines = [
        line for line in path.read_text().splitlines() if not line.startswith(("fp", "bf16", "e5m2", "e4m3", "int16"))
    ]
    path.write_text("\n".join(['formats = ["int"]', *lines]))
    checked = commands.check(str(path))
    assert {row.precision for row in (*checked.rows, *checked.beside)} == {"int16"}
    assert any("priced in int16" in w and 'formats = ["int8"]' in w for w in checked.warnings)
    path.write_text("\n".join(['formats = ["int8"]', *lines]))
    checked = commands.check(str(path))
    assert {row.precision for row in (*checked.rows, *checked.beside)} == {"all int8"} and checked.warnings == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("gbytes_per_s = 25.6", "gbytes_per_s = 25600", "is more than any chip's DRAM"),
        ("bits_per_cycle = 2048", "bits_per_cycle = 256", "is its bits_per_cycle in bytes"),
        ("pj_per_bit = { value = 20, band = 2.0", "pj_per_bit = { value = 20, band = 30", "dram.pj_per_bit: a band of"),
        ('source = "Horowitz, ISSCC 2014, 45 nm"', 'source = "TODO"', "op.add: its source is 'TODO'"),
        ("kib = 2048", "kib = 65536", "64 KiB on chip per multiplier"),
        ("int8 = {", "#", None),
        ("fp32 = {", "#", None),
    ],
)
def test_check_points_at_what_is_hardly_meant(tmp_path: Path, old: str, new: str, words: str | None) -> None:
    path = commands.new(tmp_path / "odd.toml")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    found = commands.check(str(path)).warnings
    assert any(words in w for w in found) if words else not any("MAC energy" in w for w in found)


def test_check_says_when_a_class_of_formats_has_no_energy(tmp_path: Path) -> None:
    path = commands.new(tmp_path / "ints.toml")
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("fp", "bf16", "e5m2", "e4m3"))]
    path.write_text("\n".join(lines))
    assert any("no float MAC energy" in w and 'formats = ["int"]' in w for w in commands.check(str(path)).warnings)
    path.write_text("\n".join(['formats = ["int"]', *lines]))
    assert not any("MAC energy" in w for w in commands.check(str(path)).warnings)


def test_a_step_is_broken_down_by_pass_and_layer() -> None:
    (row,) = commands.compare(["horowitz-45nm"], "vgg16")
    for by, whole in (("pass", row.cost.passes), ("layer", row.cost.layers)):
        rows = commands.parts(row.cost, by)
        assert sum(r["joules"] for r in rows) == pytest.approx(row.joules)
        assert sum(r["seconds"] for r in rows) == pytest.approx(row.seconds)
        assert {r[by]: r["joules"] for r in rows} == pytest.approx(whole)
        assert all(sum(r[c] for c in COMPONENTS) == pytest.approx(r["joules"]) for r in rows)


def test_a_step_is_broken_down_by_both_at_once() -> None:
    words = ["hw", "compare", "horowitz-45nm", "--network", "vgg16", "--by", "pass", "--by", "layer"]
    found = json.loads(CliRunner().invoke(cli.main, [*words, "--json"]).output)
    (rows,) = found["by_layer_pass"]
    assert {(r["layer"], r["pass"]) for r in rows} > {("conv0.1", "forward"), ("conv0.1", "update")}
    assert sum(r["joules"] for r in rows) == pytest.approx(found["modelled"][0]["joules"])
    shown = " ".join(CliRunner().invoke(cli.main, words).output.split())
    assert "conv0.1, forward" in shown and "--json has all" in shown
    assert f"total {show_joules(found['modelled'][0]['joules'])}" in shown


def test_a_what_if_is_marked_wherever_it_is_shown() -> None:
    profiles = ["bitfusion-45nm", "horowitz-45nm"]
    words = ["hw", "compare", *profiles, "--network", "vgg16", "--format", "fp8", "--hypothetical"]
    what_if, real = json.loads(CliRunner().invoke(cli.main, [*words, "--json"]).output)["modelled"]
    assert (what_if["hypothetical"], real["hypothetical"]) == (["e4m3", "e5m2", "fp32"], [])
    shown = " ".join(CliRunner().invoke(cli.main, [*words, "--by", "pass"]).output.split())
    assert shown.count("hypothetical:") == 2  # in the comparison and above its own passes
    cost = training_cost(reference_networks.vgg16(), "bitfusion-45nm", "fp8", hypothetical=True)
    assert "hypothetical: it has no e4m3, e5m2, fp32" in repr(cost)


def test_compare_uses_each_chips_widest_format_unless_told() -> None:
    wide = commands.compare(["bitfusion-45nm", "horowitz-45nm"], "vgg16")
    assert [row.precision for row in wide] == ["int16", "fp32"]
    eight = commands.compare(["bitfusion-45nm", "horowitz-45nm"], "vgg16", 8)
    assert [row.precision for row in eight] == ["all int8"] * 2
    with pytest.raises(HardwareError, match="no reference network"):
        commands.compare(["horowitz-45nm"], "lenet")


# --- what a terminal shows ----------------------------------------------------------------------


def test_what_is_shown_has_units_bands_and_the_simpler_models() -> None:
    (row,) = commands.compare(["horowitz-45nm"], "vgg16")
    column = row.column()
    assert column["energy [90 % band]"] == show_joules(row.joules, row.low, row.high)
    assert {"all in, pJ per MAC", "time at least, ms", "  macs only", "  + compulsory traffic"} < set(column)
    shares = [float(value) for what, value in column.items() if what.endswith("% of energy")]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert {"joules_macs_only", "joules_compulsory", "batch"} < set(row.row()) and 0 < row.dram_busy < 1


def test_rates_and_energy_delay_stand_beside_the_time() -> None:
    step = commands.breakdown("horowitz-45nm", "resnet18", "int8", 32)
    row = step.row()
    assert row["images_per_s"] == 32 / row["seconds"] and row["energy_delay_js"] == row["joules"] * row["seconds"]
    assert row["energy_delay_low"] / row["low"] == pytest.approx(row["energy_delay_high"] / row["high"])
    assert step.column()["energy-delay product [90 % band]"].count("J s [") == 1
    assert step.column()["images per s at most"] == f"{row['images_per_s']:,.4g}"


def test_a_profile_is_described_with_units() -> None:
    array, device = (dict(commands.describe(commands.show(name))) for name in ("tpu-like-7nm", "h100"))
    assert array["process node"] == "7 nm" and array["DRAM"].endswith(" GB/s") and "multipliers" in array["array"]
    assert array["  forward"].startswith("unrolls ") and "x/÷ 2.5" in array["absolute band"]
    assert device["reached at most"].endswith(" TFLOP/s") and device["memory l2"].startswith("51,200 KiB")
    assert "array" not in device and "[" not in "".join(device.values())


@pytest.mark.parametrize("columns", ["60", "80", "100"])
def test_a_narrow_terminal_loses_nothing(columns: str) -> None:
    profiles = ["horowitz-45nm", "eyeriss-like-65nm", "bitfusion-45nm", "tpu-like-7nm"]
    words = ["hw", "compare", *profiles, "--network", "vgg16", "--format", "all int8", "--by", "layer"]
    shown = CliRunner(env={"COLUMNS": columns}).invoke(cli.main, words)
    assert shown.exit_code == 0 and max(map(len, shown.output.splitlines())) <= max(int(columns), 88)  # of nine figures
    text = " ".join(shown.output.split())
    for word in profiles:
        assert text.count(word) == 2  # in the comparison and above its own layers
    assert text.count("limited by") == text.count("A training step") and text.count("conv0.1") == 4


def test_the_same_as_json() -> None:
    words = ["hw", "compare", "horowitz-45nm", "--network", "vgg16", "--format", "int8", "--by", "pass", "--json"]
    found = json.loads(CliRunner().invoke(cli.main, words).output)
    (row,), (passes,) = found["modelled"], found["by_pass"]
    assert (row["precision"], row["outputs"], row["bound"]) == ("int8", "bf16", "compute")
    assert sum(p["joules"] for p in passes) == pytest.approx(row["joules"])
