"""The conformance kit: every built-in format passes it, and it fails formats that are wrong in one way each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ebsim.precision import NumberFormat, conformance, find_format, list_formats
from ebsim.precision.rounding import float_grid, to_integer

FORMATS = [*list_formats(), "int8/row", "e4m3/unscaled", "bfp8/16", "mxint8/row", "nvfp4/16x16", "nvfp4/four_over_six"]


@pytest.mark.parametrize("name", FORMATS)
def test_built_in_formats_conform(name: str) -> None:
    report = conformance.check(name, compile=False)
    assert report.passed, str(report)
    assert len(report.lines) == len(conformance.CHECKS) - 1


def test_the_compiled_check() -> None:
    assert conformance.compiled(find_format("int8"))


def _asymmetric(x: Tensor, u: Tensor | None) -> Tensor:
    return torch.floor(x + 0.5) if u is None else to_integer(x, u)


def _sum(x: Tensor, u: Tensor | None) -> Tensor:
    return x.round() if u is None else torch.floor(x + u * 0.9)


def _offset(x: Tensor, u: Tensor | None) -> Tensor:
    return to_integer(x, u) + 1


def _half(x: Tensor, u: Tensor | None) -> Tensor:
    return to_integer(x * 2, u) / 2


def _away(x: Tensor, u: Tensor | None) -> Tensor:
    return x.sign() * torch.floor(x.abs() + 0.5) if u is None else to_integer(x, u)


def _in_place(x: Tensor, u: Tensor | None) -> Tensor:
    return x.round_() if u is None else to_integer(x, u)


INT8 = NumberFormat("wrong", 8, "int:8", 127, to_integer)
E3M2 = NumberFormat("e3m2", 6, "fp:3,2", 28, functools.partial(float_grid, mantissa=2, emin=-2), "pow2", 8)
POWERS = NumberFormat("powers", 4, "fp:3,0", 64, functools.partial(float_grid, mantissa=0, emin=0), "pow2", 8)
WRONG: list[tuple[str, NumberFormat]] = [
    ("odd", dataclasses.replace(INT8, round=_asymmetric)),
    ("stochastic: unbiased", dataclasses.replace(INT8, round=_sum)),
    ("zero", dataclasses.replace(INT8, round=_offset)),
    ("width", dataclasses.replace(INT8, round=_half)),
    ("width", dataclasses.replace(INT8, bits=4, mac="int:4")),
    ("width", dataclasses.replace(INT8, mac="int:4")),
    ("width", dataclasses.replace(INT8, bits=16, mac="fp:5,8")),
    ("round", dataclasses.replace(INT8, round=_in_place)),
    ("round", dataclasses.replace(INT8, round=lambda x, u: x.double().round())),
    ("round", dataclasses.replace(INT8, round=lambda x, u: x.round()[:1])),
    ("round", dataclasses.replace(INT8, round=lambda x, u: x.no_such_method())),
    ("operand class", dataclasses.replace(find_format("e4m3"), mac="int:8")),
    ("operand class", dataclasses.replace(E3M2, mac="int:6")),
    ("operand class", dataclasses.replace(E3M2, mac="fp:2,3")),
    ("operand class", dataclasses.replace(POWERS, mac="int:4")),
    ("nearest", dataclasses.replace(INT8, round=_away)),
    ("nearest", dataclasses.replace(INT8, round=lambda x, u: x.trunc() if u is None else to_integer(x, u))),
    ("idempotent", dataclasses.replace(INT8, round=lambda x, u: to_integer(x * 0.9, u))),
    ("monotone", dataclasses.replace(INT8, round=lambda x, u: to_integer(torch.sin(x) * 9, u))),
    ("stochastic: repeatable", dataclasses.replace(INT8, round=lambda x, u: x.round())),
    ("stochastic: keeps codes", dataclasses.replace(
        INT8, round=lambda x, u: x.round() if u is None else (x + u - 0.5).round() + (u > 0.9))),
]  # fmt: skip


def test_formats_that_are_stored_narrower_than_they_are_multiplied() -> None:
    for fmt in (E3M2, POWERS, dataclasses.replace(POWERS, mac="int:8"), dataclasses.replace(E3M2, mac="fp:5,2")):
        assert conformance.check(fmt, compile=False).passed, str(conformance.check(fmt, compile=False))


@pytest.mark.parametrize("name, fmt", WRONG, ids=[f"{i}-{name}" for i, (name, _) in enumerate(WRONG)])
def test_wrong_formats_fail_the_check_that_is_theirs(name: str, fmt: NumberFormat) -> None:
    failed = {line.name for line in conformance.check(fmt, compile=False).lines if not line.passed}
    assert name in failed


@pytest.mark.parametrize("words, code, told", [
    (["int8"], 0, "number format int8"),
    (["int8", "wrong.py:INT8"], 2, "no such file"),
    (["int9"], 2, "did you mean 'int8'"),
    (["--help"], 0, "FORMAT"),
    ([], 2, "required: FORMAT"),
])  # fmt: skip
def test_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], code: int, told: str
) -> None:
    monkeypatch.setattr("sys.argv", ["conformance", *words])
    monkeypatch.setattr(conformance, "CHECKS", {"zero": conformance.zero})
    with pytest.raises(SystemExit) as end:
        conformance.main()
    assert end.value.code == code and told in "".join(capsys.readouterr())


def test_checks_can_be_parametrised() -> None:
    run: Callable[[NumberFormat], str] = conformance.CHECKS["zero"]
    assert run(find_format("bfp8"))
