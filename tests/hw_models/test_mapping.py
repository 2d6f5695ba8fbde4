"""A mapping found, written, read and priced costs what it did; a given nest moves what a machine that runs it does."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from hw_models import ProfileError, load, training_cost
from hw_models.analysis.mapping_file import MappingError, read_mapping, text_of
from hw_models.analysis.mapping_report import export, map_layer, price_mapping
from hw_models.cost.step_cost import STAGES
from hw_models.errors import HardwareError
from hw_models.mapping.nest import Level as NestLevel
from hw_models.mapping.nest import Nest, only, run
from hw_models.mapping.traffic import Widths
from hw_models.precision.formats import PASSES
from hw_models.workload import reference_networks
from hw_models.workload.shapes import shapes
from hw_models.workload.training_passes import LOOPS as PLACES
from hw_models.workload.training_passes import passes
from tests.hw_models.test_search import _chip, _layer, _problem
from tests.oracle.loop_nest import LOOPS, Level, fetched, simulate

EXAMPLES = Path(__file__).parents[2] / "examples" / "hardware"


@pytest.mark.parametrize("model", ["search", "closed"])
@pytest.mark.parametrize(("chip", "bits"), [
    ("horowitz-45nm", "all int8"), ("tpu-like-7nm", "bfp8"), ("eyeriss-like-65nm", "all int16"), ("h100", "fp8"),
    (str(EXAMPLES / "weight-stationary.toml"), "int8")])  # fmt: skip
def test_a_mapping_costs_what_it_did_when_it_was_found(tmp_path: Path, chip: str, bits: str | None, model: str) -> None:
    step = training_cost(reference_networks.resnet18(), chip, bits, 16, model)
    for i, (layer, which) in enumerate([("conv1", "forward"), ("layer2.0.conv1", "input_gradient"),
                                        ("layer3.0.downsample.0", "weight_gradient"), ("fc", "forward")]):  # fmt: skip
        found = map_layer(chip, "resnet18", layer, which, bits, 16, model)
        again = price_mapping(export(found, tmp_path / f"{i}.toml"))
        at = STAGES.index(which), step.table.names.index(layer)
        assert (again.joules, again.seconds) == (found.joules, found.seconds) and again.levels == found.levels
        assert found.joules == float(step.joules[(slice(None), *at)].sum())
        assert found.seconds == float(step.row_seconds[at])
        assert text_of(read_mapping(tmp_path / f"{i}.toml")) == text_of(found.file)


def test_a_given_nest_moves_what_a_machine_fetches() -> None:
    rng = random.Random(3)
    equal = 0
    for _ in range(200):
        p, depth = _problem(rng, 300), rng.choice([1, 2])
        chip = _chip((1e9, 1e9)[:depth], (20.0, 10.0, 5.0)[: depth + 1], (1,) * 7, False)
        outside, tiles, orders = p.sizes, [], []
        for _ in range(depth):
            outside = tuple(rng.randint(1, n) for n in outside)
            tiles.append(outside)
            orders.append("".join(rng.sample(LOOPS, 7)))
        table = passes(shapes([_layer(p)]), p.sizes[0])
        bits = Widths(*(np.full_like(table.macs, float(b)) for b in (p.x, p.y, p.z, p.acc)))
        stage, place = PASSES.index(p.which), PLACES[p.which]
        levels, outer = [], p.sizes
        for i, (tile, order) in enumerate(zip(tiles, orders, strict=True)):
            sizes = [0.0] * 7
            for loop, n in zip(LOOPS, tile, strict=True):
                sizes[place[loop]] = float(n)
            turning = [loop for loop in order if tile[LOOPS.index(loop)] < outer[LOOPS.index(loop)]]
            levels.append(NestLevel(f"m{i}", tuple(sizes), tuple(place[loop] for loop in turning)))
            outer = tile
        moved = run(only(table, stage, 0), bits, chip, Nest(tuple(levels))).boundaries[:0:-1]
        nest = [Level(tile, order) for tile, order in zip(tiles, orders, strict=True)]
        even = all(n % t == 0 for one, two in pairwise([p.sizes, *tiles]) for n, t in zip(one, two, strict=True))
        for ours, theirs, machine in zip(moved, fetched(p, nest), simulate(p, nest), strict=True):
            found = [float(v[stage, 0]) for v in (ours.x / p.x, ours.y / p.y, ours.z / p.z, ours.spill / p.acc)]
            assert found == pytest.approx([theirs.X, theirs.Y, theirs.Z, theirs.spill], abs=1e-6)
            if even and all(tile[5:] == p.sizes[5:] for tile in tiles):
                equal += 1
                assert found == pytest.approx([machine.X, machine.Y, machine.Z, machine.spill], abs=1e-6)
    assert equal > 5


def _broken(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    text = (EXAMPLES / "mapping.toml").read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = tmp_path / "mapping.toml"
    path.write_text(text)
    return path


TILE = "tile = { N = 1, P = 14, Q = 28, C = 512, R = 3, S = 3, K = 256 }"


@pytest.mark.parametrize(("old", "new", "told"), [
    (TILE, TILE.replace("K = 256", "K = 1024"), "buffer.tile.K: is 1024, larger than the 512 of the layer"),
    (TILE, TILE.replace("K = 256", "K = 64"), "K turns 2 times, tiles of 64 then cover 128 of 512; it takes 8"),
    ('"K 2"', '"K 3"', "buffer.loops: K turns 3 times, but 2 tiles of 256 cover the 512"),
    ('"K 2", ', "", "buffer.loops: K turns 1 times, tiles of 256 then cover 256 of 512"),
    ('"K 2"', '"Z 2"', "'Z 2' names no loop"),
    ('"K 2"', '"K 2", "K 2"', "K stands twice"),
    ('"K 2"', '"K two"', "how often it turns"),
    (TILE, TILE.replace("K = 256", "K = 255.5"), "must be a whole number"),
    (TILE, TILE.replace("K = 256", "k = 256"), "buffer.tile.k: is not a known key; known here: N, P"),
    ('memory = "buffer"', 'memory = "bufer"', "has no memory 'bufer'; did you mean buffer"),
    ("steps = { K = 1, CRS = 128 }", "steps = { K = 2, CRS = 128 }", "2 x 128 steps need 256 words of held"),
    ('stays = "held"', 'stays = "hold"', "registers.stays: is 'hold', must be one of sums, held, streaming"),
    ("K = 512 } ", "K = 250 } ", "problem.K: is 250, the layer has 512"),
    ('pass = "forward"', 'pass = "backward"', "pass: is 'backward', must be one of forward"),
    ('layer = "conv3.1"', 'layer = "pool3"', "multiplies nothing"),
    ("schema = 1", "scheme = 1", "scheme: is not a known key; did you mean schema"),
])  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(HardwareError, match=told):
        price_mapping(_broken(tmp_path, (old, new)), EXAMPLES / "weight-stationary.toml")


def test_a_tile_larger_than_its_memory_is_refused(tmp_path: Path) -> None:
    small = tmp_path / "small.toml"
    small.write_text('extends = "horowitz-45nm"\nname = "small"\n[memory.buffer]\nkib = 1024\n')
    with pytest.raises(MappingError, match=r"buffer.tile: takes 1,.* KiB \(streaming .*\), and buffer has"):
        price_mapping(EXAMPLES / "mapping.toml", small)
    assert price_mapping(EXAMPLES / "mapping.toml", "horowitz-45nm").joules > 0


def test_levels_say_what_they_move_and_sum_to_the_whole() -> None:
    found = map_layer("horowitz-45nm", "resnet50", "layer2.1.conv2", "forward", "all int8", 16)
    buffer, dram = found.levels
    assert buffer["joules"] == pytest.approx(found.components["buffer"])
    assert dram["joules"] + dram["besides_joules"] == pytest.approx(found.components["dram"])
    assert buffer["from_outside_bytes"] == dram["read_bytes"] and buffer["to_outside_bytes"] == dram["written_bytes"]
    assert 0 < buffer["utilization"] <= 1 and 0 < found.array_use <= 1
    assert sum(found.components.values()) == pytest.approx(found.joules)
    assert found.macs == 16 * 28 * 28 * 9 * 128 * 128


def test_the_dataflow_of_a_profile_is_kept() -> None:
    chip = load(EXAMPLES / "weight-stationary.toml")
    found = map_layer(chip, "resnet50", "layer1.0.conv2", "forward", "all int8", 64)
    places = [list(PLACES["forward"])[i] for i in found.file.nest.levels[0].order]
    assert places == [loop for loop in chip.dataflow["forward"]["buffer"] if loop in places]
    for which in PASSES:
        assert map_layer(chip, "resnet50", "layer1.0.conv2", which, "all int8", 64).row()["joules"] > 0
    free = map_layer("horowitz-45nm", "resnet50", "layer1.0.conv2", "forward", "all int8", 64)
    assert free.joules <= found.joules * 1.001


def test_a_dataflow_that_no_chip_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'extends = "eyeriss-like-65nm"\nname = "a"\n[dataflow]\nregisters = "holds"\nbufer = "sums"\n'
        '[dataflow.forward]\nbuffer = "held"\n[dataflow.weight_gradient]\nbuffer = ["K", "C"]\n'
    )
    with pytest.raises(ProfileError) as error:
        load(path)
    for told in ("a.toml:4: dataflow.registers: must name the operand that stays (streaming, held, sums)",
                 "a.toml:5: dataflow.bufer: is no level of this chip; did you mean buffer?",
                 "a.toml:7: dataflow.forward.buffer: must name the operand that stays (streaming, sums), or list",
                 "a.toml:9: dataflow.weight_gradient.buffer"):  # fmt: skip
        assert told in str(error.value)


def test_a_fixed_dataflow_costs_no_less_than_a_free_one() -> None:
    base, rows = load("horowitz-45nm"), reference_networks.resnet18()
    for model in ("closed", "search"):
        free = training_cost(rows, base, "all int8", 16, model)
        for operand in ("streaming", "held", "sums"):
            fixed = replace(base, dataflow={p: {"registers": operand, "buffer": operand} for p in PASSES})
            cost = training_cost(rows, fixed, "all int8", 16, model)
            assert cost.total >= free.total * (1 - 1e-4)


def test_the_command_shows_writes_and_prices(tmp_path: Path) -> None:
    out = tmp_path / "m.toml"
    arguments = ["hw", "map", "resnet18", "layer2.0.conv1", "--pass", "weight_gradient", "--batch", "8"]
    shown = CliRunner().invoke(cli.main, [*arguments, "--out", str(out)])
    assert shown.exit_code == 0 and "[buffer] KiB: activations" in shown.output and "waits for" in shown.output
    told = json.loads(CliRunner().invoke(cli.main, [*arguments, "--json"]).output)
    priced = json.loads(CliRunner().invoke(cli.main, ["hw", "map", "--price", str(out), "--json"]).output)
    assert priced == told and priced["mapping"] in out.read_text()
    closed = CliRunner().invoke(cli.main, [*arguments, "--mapping", "closed"])
    assert "blocks of CRS" in closed.output
    for wrong in (["hw", "map"], ["hw", "map", "resnet18"], ["hw", "map", "resnet18", "fc", "--price", str(out)]):
        assert CliRunner().invoke(cli.main, wrong).exit_code == 2
    again = CliRunner().invoke(cli.main, [*arguments, "--out", str(out)])
    assert again.exit_code != 0 and "exists already" in again.output
