"""Architectures of ZigZag and Timeloop become profiles; what has no counterpart is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hw_models import ProfileError, load, reference, training_cost
from hw_models.accelerator.import_file import import_accelerator
from hw_models.accelerator.import_timeloop import import_timeloop
from hw_models.accelerator.import_zigzag import import_zigzag


def _port(kind: str, width: int, *allocation: str) -> dict[str, Any]:
    return {
        "name": f"{kind}_1",
        "type": "read_write" if kind == "rw_port" else "read",
        "bandwidth_min": 8,
        "bandwidth_max": width,
        "allocation": list(allocation),
    }


def _memory(size: int, read: float, write: float, width: int, operands: list[str], served: list[str]) -> dict[str, Any]:
    moves = [f"{o}, {d}" for o in operands for d in (("fh", "tl", "fl", "th") if o == "O" else ("fh", "tl"))]
    return {
        "size": size,
        "r_cost": read,
        "w_cost": write,
        "area": 0,
        "latency": 1,
        "operands": operands,
        "ports": [_port("rw_port", width, *moves)],
        "served_dimensions": served,
    }


def zigzag() -> dict[str, Any]:
    """8 x 4 x 2 multipliers: a weight register per pixel pair, a sum per adder tree of 4, two buffers and a DRAM."""
    every = ["D1", "D2", "D3"]
    return {
        "name": "mine",
        "memories": {
            "weight": _memory(8, 0.01, 0.01, 8, ["I2"], ["D3"]),
            "sum": _memory(24, 0.03, 0.06, 24, ["O"], ["D2"]),
            "near": _memory(32 * 8192, 6.4, 12.8, 128, ["I2"], every),
            "far": _memory(512 * 8192, 64, 96, 256, ["I1", "O"], every),
            "dram": _memory(10**10, 700, 800, 64, ["I1", "I2", "O"], every),
        },
        "operational_array": {
            "unit_energy": 0.04,
            "unit_area": 1,
            "input_precision": [8, 8],
            "dimensions": every,
            "sizes": [8, 4, 2],
        },
    }


TIMELOOP = """
architecture:
  version: 0.4
  nodes:
  - !Container {name: system, attributes: {technology: 45nm, datawidth: 8}}
  - !Component {name: DRAM, class: DRAM, attributes: {type: LPDDR4, width: 64}}
  - !Component
    name: glb
    class: smartbuffer_SRAM
    attributes: {depth: 8192, width: 128, read_bandwidth: 16, write_bandwidth: 16, n_banks: 4}
    constraints: {dataspace: {keep: [Inputs, Outputs], bypass: [Weights]}}
  - !Container
    name: column
    spatial: {meshX: 14}
    required_actions: [transfer]
    attributes: {wires: 3}
    constraints: {spatial: {permutation: [N, C, P, R, S, Q, M], factors: [N=1, C=1, P=1, R=1, S=1, M=1]}}
  - !Container
    name: PE
    spatial: {meshY: 12}
    constraints: {spatial: {factors: N=1 P=1 Q=1 R=1 S=1 M=1}}
  - !Parallel
    nodes:
    - !Component
      name: ifmap
      class: smartbuffer_RF
      attributes: {depth: 12, width: 16}
      constraints: {dataspace: {keep_only: [Inputs]}}
    - !Component
      name: weights
      class: smartbuffer_RF
      attributes: {depth: 192, width: 16}
      constraints: {dataspace: {keep_only: [Weights]}}
    - !Component
      name: psum
      class: smartbuffer_RF
      attributes: {depth: 16, width: 16, fifo: 2}
      constraints: {dataspace: {keep_only: [Outputs]}}
  - !Component {name: noc, class: wire}
  - !Component {name: mac, class: intmac, attributes: {multiplier_width: 8, adder_width: 16}}
"""

ERT = """
ERT:
  version: 0.4
  tables:
  - name: top.DRAM[1..1]
    actions: [{name: read, arguments: {global_cycle_seconds: 2e-09}, energy: 512.0}, {name: write, energy: 512.0}]
  - name: top.glb[1..1]
    actions: [{name: read, energy: 12.8}, {name: write, energy: 25.6}, {name: leak, energy: 0.5}]
  - name: top.weights[1..168]
    actions: [{name: read, energy: 1.6}, {name: write, energy: 1.6}, {name: leak, energy: 0.25}]
  - name: top.mac[1..168]
    actions: [{name: compute, energy: 0.21}]
"""


def _file(folder: Path, text: Any, name: str = "arch.yaml") -> Path:
    path = folder / name
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text, sort_keys=False))
    return path


def _chip(folder: Path, text: str) -> Any:
    return load(_file(folder, text, "imported.toml"))


def test_a_zigzag_architecture_keeps_its_costs_capacities_and_sharing(tmp_path: Path) -> None:
    text, notes = import_zigzag(_file(tmp_path, zigzag()), clock_ghz=0.5, node_nm=28)
    chip = _chip(tmp_path, text)
    assert chip.dims == (8, 4, 2) and chip.clock_hz == 0.5e9 and chip.node_nm == 28
    # D3 shares a weight: pixels; D2 adds into one sum: channels; D1 is left for K
    assert chip.unroll == {
        "forward": (("K",), ("C",), "pixels"),
        "input_gradient": (("C",), ("K",), "pixels"),
        "weight_gradient": (("K",), "pixels", "C"),
    }
    held, sums = chip.registers["held"], chip.registers["sums"]
    assert (held.bits, held.shared_along, held.pj_per_bit.value) == (8, (2,), pytest.approx(0.01 / 8))
    assert (sums.bits, sums.shared_along, sums.pj_per_bit.value) == (24, (1,), pytest.approx(0.045 / 24))
    assert chip.registers["streaming"].bits == 0 and chip.mac_points["int8"].value == 0.04
    near, far = chip.memories
    assert (near.bits, near.holds, near.read.value, near.write.value) == (
        32 * 8192,
        ("held",),
        pytest.approx(6.4 / 128),
        pytest.approx(12.8 / 128),
    )
    assert (far.bits, far.holds, far.bits_per_cycle) == (512 * 8192, ("streaming", "sums"), 256)
    assert chip.dram_bits_per_s == pytest.approx(64 * 0.5e9)
    assert chip.dram_writes is not None
    assert (chip.dram.value, chip.dram_writes.value) == (pytest.approx(700 / 64), pytest.approx(800 / 64))
    assert near.access_bits == 8
    assert any("dataflow" in n for n in notes) and any("unit_area" in n for n in notes)
    assert all(f"# - {note}" in text for note in notes)
    assert training_cost(reference.vgg16(10), chip, "all int8", 8).total > 0


def test_the_mapping_file_says_what_the_array_unrolls(tmp_path: Path) -> None:
    mapping = _file(
        tmp_path,
        [
            {"name": "Add", "spatial_mapping": {"D1": ["G, 8"]}},
            {
                "name": "default",
                "spatial_mapping": {"D1": ["C, 8"], "D2": ["FX, 3"], "D3": ["K, 2"]},
                "temporal_ordering": [["OX", 2]],
                "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"},
            },
            {"name": "Pooling"},
        ],
        "mapping.yaml",
    )
    data = zigzag()
    for name in ("weight", "sum"):
        data["memories"][name]["served_dimensions"] = []
    text, notes = import_zigzag(_file(tmp_path, data), mapping=mapping)
    assert _chip(tmp_path, text).unroll == {
        "forward": (("C",), ("S",), ("K",)),
        "input_gradient": (("C",), ("R",), ("K",)),  # the taps of a window are one loop there
        "weight_gradient": (("C",), ("S",), ("K",)),
    }
    assert "mapping.yaml: default.temporal_ordering: not used" in notes
    assert any("the mappings of Add, Pooling: not used" in n for n in notes)
    assert any("3 of its 4" in n for n in notes)


def test_one_dimension_that_unrolls_two_loops_becomes_two(tmp_path: Path) -> None:
    data = zigzag() | {"dataflows": {"D1": ["K, 4", "OX, 2"], "D2": ["C, 4"], "D3": ["OY, 2"]}}
    chip = _chip(tmp_path, import_zigzag(_file(tmp_path, data))[0])
    assert chip.dims == (4, 2, 4, 2) and chip.unroll["forward"] == (("K",), ("Q",), ("C",), ("P",))
    assert chip.registers["held"].shared_along == (3,) and chip.registers["sums"].shared_along == (2,)


def test_separate_ports_and_double_buffering_are_taken_over(tmp_path: Path) -> None:
    data = zigzag()
    data["memories"]["near"] |= {
        "force_double_buffering": True,
        "ports": [
            {"name": "r_port_1", "type": "read", "bandwidth_min": 16, "bandwidth_max": 128, "allocation": ["I2, tl"]},
            {"name": "w_port_1", "type": "write", "bandwidth_min": 32, "bandwidth_max": 64, "allocation": ["I2, fh"]},
        ],
    }
    near = _chip(tmp_path, import_zigzag(_file(tmp_path, data))[0]).memories[0]
    assert (near.bits, near.double_buffer, near.access_bits) == (32 * 8192, True, 16)
    assert (near.bits_per_cycle, near.write_bits_per_cycle) == (128, 64)
    assert (near.read.value, near.write.value) == (pytest.approx(6.4 / 128), pytest.approx(12.8 / 64))


def test_a_mesh_that_may_take_several_loops_of_one_index_takes_them_in_turn(tmp_path: Path) -> None:
    """Row stationary: rows of the filter first, channels in what remains."""
    text = TIMELOOP.replace("factors: N=1 P=1 Q=1 R=1 S=1 M=1", "factors: N=1 P=1 Q=1 R=1, permutation: [S, C, M]")
    toml, notes = import_timeloop(_file(tmp_path, text))
    assert _chip(tmp_path, toml).unroll["forward"] == (("Q",), ("S", "C"))
    assert any("PE.meshY: the mapper may unroll S, C, M; S, C in turn here" in n for n in notes)


def test_replicated_buffers_are_added_up_where_their_data_differ(tmp_path: Path) -> None:
    data = zigzag()
    data["memories"]["near"]["served_dimensions"] = ["D2", "D3"]  # eight weight buffers, of other output channels each
    text, notes = import_zigzag(_file(tmp_path, data))
    assert _chip(tmp_path, text).memories[0].bits == 8 * 32 * 8192
    assert any(n.startswith("near: one for each part") for n in notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["operational_array"].update(is_imc=True), "is_imc"),
        (lambda d: d["operational_array"].update(unit_energy="cheap"), "unit_energy"),
        (lambda d: d["operational_array"].update(sizes=[8, 4]), "dimensions and sizes"),
        (lambda d: d["memories"]["near"].update(operands=["I3"]), "memories.near.operands"),
        (lambda d: d["memories"]["near"].update(ports=[]), "memories.near.ports"),
        (lambda d: d["memories"]["near"].update(size=-1), "memories.near.size"),
        (lambda d: d["memories"]["near"].update(served_dimensions=["D9"]), "D9"),
        (lambda d: d["memories"].pop("dram"), "outermost memory"),
        (lambda d: d.update(memories=[1]), "memories"),
        (lambda d: d.update(dataflows={"D1": ["G, 8"]}), "'G, 8'"),
        (lambda d: d.pop("operational_array"), "neither"),
        (lambda d: d["memories"]["near"].update(served_dimensions=True), "served_dimensions: must be a list"),
        (lambda d: d["memories"]["near"]["ports"][0].update(allocation=0.5), "ports.allocation: must be a list"),
        (lambda d: d["memories"]["near"]["ports"][0].pop("bandwidth_max"), "ports.bandwidth_max"),
        (lambda d: d["memories"]["near"]["ports"][0].update(type="both"), "ports.type: is 'both'"),
        (lambda d: d["operational_array"].update(sizes=8), "operational_array.sizes: must be a list"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(tmp_path: Path, change: Any, words: str) -> None:
    data = zigzag()
    change(data)
    with pytest.raises(ProfileError) as error:
        import_accelerator(_file(tmp_path, data))
    assert words in str(error.value)


def test_a_timeloop_architecture_with_its_energies(tmp_path: Path) -> None:
    text, notes = import_timeloop(_file(tmp_path, TIMELOOP), energies=_file(tmp_path, ERT, "ERT.yaml"))
    chip = _chip(tmp_path, text)
    assert chip.dims == (14, 12) and chip.unroll["forward"] == (("Q",), ("C",)) and chip.node_nm == 45
    assert chip.clock_hz == pytest.approx(0.5e9)  # the table's cycle
    assert {n: r.bits for n, r in chip.registers.items()} == {"streaming": 192, "held": 3072, "sums": 256}
    assert chip.registers["held"].pj_per_bit.value == pytest.approx(0.1)
    (glb,) = chip.memories
    assert (glb.name, glb.bits, glb.holds) == ("glb", 8192 * 128, ("streaming", "sums"))
    assert (glb.read.value, glb.write.value) == (pytest.approx(0.1), pytest.approx(0.2))
    assert (glb.bits_per_cycle, glb.write_bits_per_cycle) == (128, 128)  # 16 words of 8 bits
    assert chip.mac_points["int8"].value == 0.21 and chip.dram.value == pytest.approx(8)
    assert chip.static.value == pytest.approx((0.5 + 168 * 0.25) * 1e-12 * 0.5e9)
    for thing in ("noc (class wire)", "psum.fifo", "column.required_actions", "column.wires", "vector operations"):
        assert any(thing in n for n in notes), thing
    assert training_cost(reference.vgg16(10), chip, "all int8", 8).total > 0


def test_without_energies_laws_stand_in_and_say_so(tmp_path: Path) -> None:
    text, notes = import_timeloop(_file(tmp_path, TIMELOOP))
    chip = _chip(tmp_path, text)
    assert chip.memories[0].leakage is not None and chip.memories[0].leakage.derived
    assert chip.memories[0].read.derived and chip.mac_points["int8"].derived
    for thing in ("mac: no energy", "glb: no energy", "DRAM: no energy", "clock"):
        assert any(n.startswith(thing) for n in notes), thing


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version: 0.4", "version: 0.3", "architecture.version is 0.3"),
        ("meshX: 14", "meshX: n * 2", "spatial.meshX"),
        ("depth: 8192", "depth: 2 ** 13", "glb.depth"),
        ("Outputs], bypass", "Psums], bypass", "Psums"),
        ("M=1]", "M=1], split: x", "split"),
        ("!Parallel", "!Cloud", "tag !Cloud"),
        ("{name: mac, class: intmac", "{name: mac, class: alu", "no compute component"),
        ("architecture:", "{{ include }}\narchitecture:", "must be rendered"),
    ],
)
def test_timeloop_files_that_cannot_be_read_name_the_place(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(ProfileError) as error:
        import_accelerator(_file(tmp_path, TIMELOOP.replace(old, new, 1)))
    assert words in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "a: b", "%", "\x00", "a: &a [*a, *a]", "- !!python/object/apply:os.system [ls]", "x: " + "[" * 3000],
)
def test_hostile_yaml_is_a_named_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProfileError, match=r"arch\.yaml"):
        import_accelerator(_file(tmp_path, text))


ODD_VALUES: tuple[Any, ...] = (
    None, -1, 0, 1e300, float("nan"), "x", [], {}, [1, 2], True, "9" * 400, 10**30, {"a": 1}, ["D9"], 0.5, [[]], [{}],
)  # fmt: skip


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(p for key, inner in items for p in _places(inner, (*place, key)))]


@pytest.mark.parametrize("seed", range(60))
def test_an_odd_value_anywhere_is_taken_or_named(tmp_path: Path, seed: int) -> None:
    """A key that is gone, or has a value of another kind: a profile that loads, or an error that names the file."""
    rng, data = np.random.default_rng(seed), zigzag()
    for _ in range(int(rng.integers(1, 4))):
        places = [p for p in _places(data) if p]
        place = places[int(rng.integers(len(places)))]
        inner: Any = data
        for key in place[:-1]:
            inner = inner[key]
        if rng.random() < 0.3:
            del inner[place[-1]]
        else:
            inner[place[-1]] = ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
    try:
        text, _ = import_accelerator(_file(tmp_path, data))
        assert _chip(tmp_path, text).memories
    except ProfileError as error:
        assert ".yaml" in str(error) or ".toml" in str(error)
