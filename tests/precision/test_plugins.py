"""Formats and backends from outside: by entry point (the example package, not installed) and by path."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import hw_models
from ebsim.errors import ConfigError
from ebsim.precision import (
    apply,
    backend,
    conformance,
    find_format,
    fingerprint,
    list_backends,
    list_formats,
    plan,
    plugins,
    quantize,
    register,
    registry,
)
from ebsim.precision.listing import listing, show
from ebsim.precision.quantization import compilation
from ebsim.precision.rounding import to_integer
from tests.precision.nets import LAYERS, Small, batch, gradients

EXAMPLE = Path(__file__).parents[2] / "examples" / "int4_format"


def entry_points(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [p for p in points if p.group == group])


@pytest.fixture
def int4(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example package as if it were installed: on the path, with the entry points its pyproject declares."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    declared = [
        EntryPoint(name, value, group)
        for group, table in project["entry-points"].items()
        for name, value in table.items()
    ]
    entry_points(monkeypatch, *declared)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield
    sys.modules.pop("int4_format", None)


@pytest.fixture(autouse=True)
def forget_registered() -> None:
    yield
    for known in (registry.FORMATS, registry.BACKENDS):
        known.registered.clear()


def test_the_example_passes_the_kit_and_is_listed(int4: None) -> None:
    report = conformance.check("int4")
    assert report.passed, str(report)
    assert "int4" in list_formats() and "w4a8" in list_backends()
    assert "int4" in listing() and "w4a8" in listing() and "4-bit weights" in show("w4a8")
    assert quantize(torch.tensor([[7.0, 1.2, -3.6]]), "int4").tolist() == [[7.0, 1.0, -4.0]]


def test_the_example_trains_and_is_charged_for_what_it_is(int4: None) -> None:
    model = Small()
    layers = hw_models.trace(Small(), (3, 8, 8))
    placement = apply(model, "w4a8", compile=False)
    assert all(torch.isfinite(g).all() for g in gradients(model, *batch()))
    made = placement.record()
    assert made["formats"]["int4"] == {"bits": 4, "mac": "int:4", "scale_bits": 32, "block": "row"}
    assert made["default"]["forward"] == {"weight": "int4", "activation": "int8"}
    chip = hw_models.load("horowitz-45nm")

    def joules(bits: object) -> float:
        return hw_models.training_cost(layers, chip, bits=bits, batch=8).total

    assert joules(made) < joules(apply(Small(), "int8").record()) < joules("fp32")
    rows = plan(Small(), "w4a8").rows()
    assert [r["layer"] for r in rows if r["forward/weight"] == "int4"] == LAYERS[1:-1]


def test_by_path_without_any_installation(tmp_path: Path) -> None:
    spec = f"{EXAMPLE / 'int4_format.py'}:INT4"
    assert find_format(spec).bits == 4 and backend({"weight": spec}).roles["weight"].spec == spec
    register(spec)
    assert list_formats()["int4"] == spec and backend({"weight": "int4/tensor"}).untouched is False
    register(spec)  # again: no change
    register(f"{EXAMPLE / 'int4_format.py'}:W4A8")
    w4a8 = backend("W4A8")
    assert w4a8.name == "W4A8" and str(w4a8.roles["activation"]) == "int8"
    assert show(f"{spec} stochastic").startswith("format int4 (") and spec in show(spec)
    assert "format int8/row (built in)" in show("int8/row")
    own = tmp_path / "own.py"
    own.write_text(
        "from ebsim.precision import backend\nMINE = backend({'name': 'mine', 'weight': 'int8'})\nN = 3\n"
        "INT8 = backend({'name': 'int8'})\n"
    )
    register(f"{own}:MINE")
    assert {role: str(o) for role, o in backend("mine").roles.items()} == {"weight": "int8"}
    assert list_backends()["mine"] == f"{own}:MINE"
    with pytest.raises(ConfigError, match="'int8', which exists already"):
        register(f"{own}:INT8")
    with pytest.raises(ConfigError, match="neither a NumberFormat nor a Backend"):
        register(f"{own}:N")
    with pytest.raises(ConfigError, match="defines no 'M'; there is: INT8, MINE"):
        register(f"{own}:M")
    with pytest.raises(ConfigError, match="no such file"):
        find_format(f"{tmp_path / 'none.py'}:INT4")
    with pytest.raises(ConfigError, match="path/to/file"):
        register("int4")
    with pytest.raises(ConfigError, match="not an ebsim"):
        find_format(f"{own}:N")


GRID = """
from ebsim.precision import NumberFormat
from ebsim.precision.rounding import float_grid

MANTISSA = 2


def rounded(x, u):
    return float_grid(x, u, mantissa=MANTISSA, emin=-2)


FP6 = NumberFormat("fp6", 6, "fp:3,2", 28, rounded, "pow2", 8)
"""


@pytest.mark.skipif(not compilation.decide("auto", torch.device("cpu"), None)[0], reason="no C++ compiler")
def test_a_format_by_path_compiles_although_it_uses_what_its_file_defines(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(GRID)
    x = torch.randn(9, 13)
    eager, fast = (quantize(x, f"{tmp_path}/own.py:FP6", compile=c) for c in (False, True))
    assert torch.equal(eager, fast) and not torch.equal(eager, x)


def test_a_changed_file_is_read_again_and_is_another_format(tmp_path: Path) -> None:
    path, x = tmp_path / "own.py", torch.tensor([28.0, 1.3])
    path.write_text(GRID)
    before = find_format(f"{path}:FP6")
    assert find_format(f"{path}:FP6") is before and quantize(x, before).tolist() == [28.0, 1.25]
    path.write_text(GRID.replace("MANTISSA = 2", "MANTISSA = 1"))
    after = find_format(f"{path}:FP6")
    assert quantize(x, after).tolist()[1] == 1.5
    assert fingerprint(after) != fingerprint(before)


def test_what_a_format_does_is_known_by_neither_name_nor_place(tmp_path: Path) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(GRID)
    one, other = (find_format(f"{tmp_path}/{folder}/own.py:FP6") for folder in "ab")
    assert one.round is not other.round and fingerprint(one) == fingerprint(other)
    assert fingerprint(replace(one, name="other", about="words")) == fingerprint(one)
    changes = {"bits": 7, "mac": "fp:4,2", "top": 24, "scaling": "absmax", "scale_bits": 16, "block": 32}
    assert len({fingerprint(replace(one, **{key: value})) for key, value in changes.items()} | {fingerprint(one)}) == 7
    int8 = find_format("int8")
    away = replace(int8, round=lambda x, u: to_integer(x, u) if u is not None else x.sign() * (x.abs() + 0.5).floor())
    coarse = replace(int8, round=lambda x, u: to_integer(x, u if u is None else (u * 64).floor() / 64))
    assert len({fingerprint(f) for f in (int8, away, coarse)}) == 3  # ties alone, and noise alone
    broken = replace(int8, name="broken", round=lambda x, u: x.no_such_method())
    with pytest.raises(ConfigError, match="'broken': rounding to nearest fails: AttributeError"):
        fingerprint(broken)


def test_a_broken_plug_in_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, EntryPoint("x", "no_such_module_anywhere:X", "ebsim.formats"))
    text = listing()
    assert "x           UNUSABLE" in text and "no_such_module_anywhere" in text and "e4m3" in text and "fp8" in text
    entry_points(monkeypatch, EntryPoint("int8", "a:X", "ebsim.formats"))
    assert "UNUSABLE    plug-in a:X redefines" in listing() and "mxfp8" in listing()


def test_clashes_and_broken_packages_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch, EntryPoint("int8", "a:X", "ebsim.formats"))
    with pytest.raises(ConfigError, match="redefines the built-in 'int8'"):
        list_formats()
    entry_points(monkeypatch, *(EntryPoint("x", f"{m}:X", "ebsim.formats") for m in "ab"))
    with pytest.raises(ConfigError, match="two plug-ins are called 'x'"):
        list_formats()
    entry_points(monkeypatch, EntryPoint("x", "no_such_module_anywhere:X", "ebsim.formats"))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        find_format("x")


@pytest.mark.parametrize("name", ["LNS4", "POSIT8"])
def test_tables_of_codes_conform(name: str) -> None:
    fmt = find_format(f"{EXAMPLE / 'tables.py'}:{name}")
    report = conformance.check(fmt, compile=False)
    assert report.passed, str(report)
    model = Small()
    apply(model, {"weight": f"{EXAMPLE / 'tables.py'}:{name}"}, compile=False)
    assert all(torch.isfinite(g).all() for g in gradients(model, *batch()))


def test_posits_are_those_of_their_standard() -> None:
    """Codes of posit<8,1> from the standard's examples: 1, 3/2, 4, 1/4, the largest 4^6 and the smallest 4^-6."""
    values = find_format(f"{EXAMPLE / 'tables.py'}:POSIT8").round.keywords["values"]  # type: ignore[attr-defined]
    assert [values[c] for c in (0x40, 0x48, 0x60, 0x20, 0x7F, 0x01)] == [1.0, 1.5, 4.0, 0.25, 4096.0, 1 / 4096]
    assert list(values) == sorted(set(values)) and len(values) == 128
