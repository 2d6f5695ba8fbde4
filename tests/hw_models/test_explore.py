"""A space of accelerators priced together equals each priced alone; its front is what nothing else beats."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ebsim.commands import main
from hw_models import FormatError, HardwareError, load, reference, training_cost
from hw_models.accelerator.area import area_mm2
from hw_models.accelerator.sram_energy import sram_pj_per_bit
from hw_models.analysis.design_space import Space, read_space
from hw_models.analysis.explore import Explored, explore, front, refined, variant

ROOT = Path(__file__).parents[2]
SPACE = """
base = "horowitz-45nm"
batch = 16
[vary]
"array.dims" = [[8, 16], [32, 32]]
"memory.buffer.kib" = [48, 700, 2048]
"memory.buffer.bits_per_cycle" = [64, 4096]
"dram.gbytes_per_s" = { from = 2, to = 200, steps = 2, log = true }
clock_ghz = [0.3, 1.0]
"registers.held.bits" = [32, 1024]
"dram.pj_per_bit" = [8, 20]
format = ["int8", "bf16"]
"""


def _space(folder: Path, text: str = SPACE) -> Space:
    path = folder / "space.toml"
    path.write_text(text)
    return read_space(path)


def _alone(folder: Path, chosen: dict[str, Any]) -> str:
    """The profile that one variant is."""
    law = sram_pj_per_bit("cacti-45lop", chosen["memory.buffer.kib"], 256)
    path = folder / "variant.toml"
    path.write_text(f"""extends = "horowitz-45nm"
name = "variant"
clock_ghz = {chosen["clock_ghz"]}
[array]
dims = {list(chosen["array.dims"])}
[registers]
held = {{ bits = {chosen["registers.held.bits"]}, pj_per_bit = {{ value = 0.03, source = "as the base" }} }}
[memory.buffer]
kib = {chosen["memory.buffer.kib"]}
bits_per_cycle = {chosen["memory.buffer.bits_per_cycle"]}
[dram]
gbytes_per_s = {chosen["dram.gbytes_per_s"]}
pj_per_bit = {{ value = {chosen["dram.pj_per_bit"]}, source = "varied" }}
""")
    assert load(path).memories[0].read.value == pytest.approx(law)
    return str(path)


def test_variants_together_are_variants_alone(tmp_path: Path) -> None:
    space, layers = _space(tmp_path), reference.resnet18()
    found = explore(space, layers)
    assert len(space.variants) == space.of == 2**7 * 3
    for i in np.random.default_rng(0).choice(len(space.variants), 12, replace=False):
        chosen = dict(zip(space.keys, space.variants[i], strict=True))
        cost = training_cost(layers, _alone(tmp_path, chosen), chosen["format"], 16)
        assert (found.energy[i], found.latency[i]) == pytest.approx((cost.total, cost.seconds), rel=1e-9)
        own = training_cost(layers, variant(space, int(i)), chosen["format"], 16)
        assert (own.total, own.seconds) == pytest.approx((cost.total, cost.seconds), rel=1e-9)
        formats = {f.name: f for pair in _multiplied(chosen["format"], layers) for f in pair}
        parts = area_mm2(load(tmp_path / "variant.toml"), list(formats.values()))
        assert found.area[i] == pytest.approx(sum(parts.values()), rel=1e-9)


def _multiplied(fmt: str, layers: Any) -> Any:
    from hw_models.precision.formats import parse_precision

    names = [row.name for row in layers if row.macs]
    return parse_precision(fmt).on(names).multiplied(names)


def test_the_front_is_what_a_search_of_all_pairs_leaves() -> None:
    values = np.round(np.random.default_rng(1).random((300, 3)), 2)
    beaten = [any((b <= a).all() and (b < a).any() for b in values) for a in values]
    expected = {tuple(v) for v, out in zip(values, beaten, strict=True) if not out}
    found = front(values)
    assert {tuple(values[i]) for i in found} == expected and len(found) == len(expected)


def test_each_format_has_a_front_of_its_own(tmp_path: Path) -> None:
    found = explore(_space(tmp_path), reference.vgg16(10))
    best = found.pareto()
    formats = np.array(found.space.column("format"))
    assert set(formats[best]) == {"int8", "bf16"}
    for fmt in ("int8", "bf16"):
        own = np.flatnonzero(formats == fmt)
        assert found.energy[own].min() == found.energy[[i for i in best if formats[i] == fmt]].min()
    assert np.all(np.diff(found.energy[best]) >= 0)
    one = found.pareto(["edp"])
    assert len(one) == 2 and found.edp[one[0]] == found.edp.min()
    fastest = found.pareto(["throughput"])  # of these more is better
    assert len(fastest) == 2 and found.throughput[fastest[0]] == found.throughput.max() == 16 / found.latency.min()
    assert found.pareto(["throughput", "area"]) == found.pareto(["latency", "area"])


def test_a_memory_without_a_law_costs_more_per_bit_when_larger(tmp_path: Path) -> None:
    text = 'base = "eyeriss-like-65nm"\n[vary]\n"memory.buffer.kib" = [50, 100, 400]\n'
    found: Explored = explore(_space(tmp_path, text), reference.alexnet()[:4], 4)
    own = training_cost(reference.alexnet()[:4], "eyeriss-like-65nm", "int16", 4)
    assert found.energy[1] == pytest.approx(own.total, rel=1e-9) and np.all(np.diff(found.area) > 0)


def test_variants_whose_memories_do_not_nest_are_left_out(tmp_path: Path) -> None:
    text = 'base = "tpu-like-7nm"\n[vary]\n"memory.vmem.kib" = [64, 4096]\n"memory.cmem.kib" = [1024, 131072]\n'
    space = _space(tmp_path, text)
    assert (space.of, space.impossible) == (4, 1) and (4096.0, 1024.0) not in space.variants
    with pytest.raises(HardwareError, match="in every variant a memory is larger"):
        _space(tmp_path, text.replace("[64, 4096]", "[200000]"))


def test_a_large_grid_is_sampled_and_the_draw_repeats(tmp_path: Path) -> None:
    text = "sample = 50\nseed = 3\n[vary]\n" + "\n".join(
        f'"{key}" = {{ from = 1, to = 9, steps = 100 }}'
        for key in ("clock_ghz", "dram.gbytes_per_s", "dram.pj_per_bit")
    )
    a, b = _space(tmp_path, text), _space(tmp_path, text)
    assert a.of == 10**6 and a.variants == b.variants and 45 <= len(set(a.variants)) <= 50
    other = _space(tmp_path, text.replace("seed = 3", "seed = 4"))
    assert other.variants != a.variants


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "vary: must be a table"),
        ("bse = 1\n[vary]\nclock_ghz = [1]", "bse: is not a known key"),
        ('base = "h100"\n[vary]\nclock_ghz = [1]', "h100 is a device"),
        ("[vary]\nclock = [1]", "did you mean clock_ghz"),
        ("[vary]\nclock_ghz = [0]", "no number from"),
        ("[vary]\nclock_ghz = [1, 1]", "different values"),
        ("[vary]\nclock_ghz = []", "must be a list of numbers"),
        ("[vary]\nclock_ghz = { from = 1, to = 2 }", "must be a list of numbers"),
        ('[vary]\n"array.dims" = [[8]]', "2 whole numbers each"),
        ('[vary]\nformat = ["int9000"]', "unknown precision"),
        ("sample = 0\n[vary]\nclock_ghz = [1]", "sample: is 0"),
        ("[vary", "not valid TOML"),
    ],
)
def test_spaces_that_cannot_be_read_name_the_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(HardwareError, match=words):
        _space(tmp_path, text)


def test_a_constant_counts_where_its_format_is_used(tmp_path: Path) -> None:
    text = '[vary]\n"mac.int8" = [0.2, 0.4]\nformat = ["all int8", "fp32"]\n'
    found = explore(_space(tmp_path, text), reference.vgg16(10), 8)
    cheap, wide, dear, same = found.energy
    assert cheap < dear and wide == same


def test_the_front_can_be_priced_by_the_search(tmp_path: Path) -> None:
    text = '[vary]\n"memory.buffer.kib" = [64, 512]\n"array.dims" = [[8, 8], [32, 32]]\nformat = ["bf16"]\n'
    layers = reference.vgg16(10)
    found = explore(_space(tmp_path, text), layers, 8)
    best = found.pareto()
    again = refined(found, best, layers)
    assert len(again) == len(best)
    for i, row in zip(best, again, strict=True):
        assert 0.8 < row["energy_j"] / found.energy[i] < 1.25 and row["latency_s"] > 0
    closed = refined(found, best, layers, "closed")
    assert [row["energy_j"] for row in closed] == pytest.approx(found.energy[best])


def test_a_format_that_the_base_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="bitfusion-45nm has no"):
        explore(_space(tmp_path, 'base = "bitfusion-45nm"\n[vary]\nformat = ["bf16"]'), reference.vgg16(10))


def test_the_example_runs_from_the_command_line(tmp_path: Path) -> None:
    text = (ROOT / "examples/hardware/space.toml").read_text()
    assert len(read_space(ROOT / "examples/hardware/space.toml").variants) == 10_000
    path = tmp_path / "space.toml"
    path.write_text(text.replace('base = "horowitz-45nm"', 'base = "horowitz-45nm"\nsample = 300'))
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["hw", "explore", str(path), "--network", "vgg16", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    rows = list(csv.DictReader((out / "variants.csv").read_text().splitlines()))
    assert found["variants"] == len(rows) and sum(int(r["pareto"]) for r in rows) == len(found["pareto"])
    assert (out / "pareto.png").stat().st_size > 10_000
    again = CliRunner().invoke(main, ["hw", "explore", str(path), "--network", "vgg16", "--out", str(out)])
    assert again.exit_code == 2 and "is not empty" in again.stderr
    table = CliRunner().invoke(main, ["hw", "explore", str(path), "--network", "vgg16", "--objective", "edp"])
    assert table.exit_code == 0 and "nothing else beats them" in table.stdout
    searched = CliRunner().invoke(
        main, ["hw", "explore", str(path), "--network", "vgg16", "--objective", "edp", "--search", "--json"]
    )
    assert len(json.loads(searched.stdout)["by_search"]) == len(json.loads(searched.stdout)["pareto"])
    wrong = CliRunner().invoke(main, ["hw", "explore", str(path), "--objective", "beauty"])
    assert wrong.exit_code == 2 and "unknown objective 'beauty'" in wrong.stderr
