"""What every number format must do, as checks that any format, built in or from outside, can run.

    python -m ebsim.precision.conformance int8            # or "path/to/file.py:NAME"
    conformance.check("int8")                             # a table with a line per check
    @pytest.mark.parametrize("run", conformance.CHECKS.values(), ids=conformance.CHECKS)
    def test_mine(run): run(find_format("mine"))          # each raises AssertionError with the reason

The values are laid out so that every group holds the format's largest value `top`: the scale is then 1, whatever the
format's scaling, and what comes out are the codes themselves. Counting them proves the width that is charged.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from ebsim.errors import ConfigError
from ebsim.precision.formats.number_format import NumberFormat
from ebsim.precision.formats.registry import find_format
from ebsim.precision.quantization import compilation
from ebsim.precision.quantization.layout import as_matrix
from ebsim.precision.quantization.quantizer import absmax, on_grid, quantize, scaler

_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class Line:
    """One check: what it is called, whether it passed, and what was seen or what is wrong."""

    name: str
    passed: bool
    detail: str


@dataclasses.dataclass(frozen=True)
class Report:
    """All checks of one format."""

    format: NumberFormat
    lines: tuple[Line, ...]

    @property
    def passed(self) -> bool:
        return all(line.passed for line in self.lines)

    def __str__(self) -> str:
        rows = [f"  {'ok' if x.passed else 'FAILED':6} {x.name:22} {x.detail}" for x in self.lines]
        return "\n".join([f"number format {self.format.name}", *rows])


def _in_a_row(fmt: NumberFormat) -> NumberFormat:
    """The same format with the elements of a tile as neighbours."""
    return dataclasses.replace(fmt, block=fmt.tile[0] * fmt.tile[1]) if fmt.tile else fmt


def _one_scale(fmt: NumberFormat) -> NumberFormat:
    """The same elements where `top` at the start of a group makes its scale 1: of several trials, the first."""
    fmt = _in_a_row(fmt)
    return dataclasses.replace(fmt, scaling="two_level") if fmt.trials > 1 else fmt


def grouped(fmt: NumberFormat, values: Tensor) -> Tensor:
    """Values as [groups, elements] with `top` at the start of every group."""
    block = _in_a_row(fmt).block
    width = block if isinstance(block, int) and block > 1 else _WIDTH
    rows = torch.nn.functional.pad(values, (0, -len(values) % (width - 1))).view(-1, width - 1)
    return torch.cat([torch.full((len(rows), 1), float(fmt.top)), rows], 1)


def values_of(fmt: NumberFormat, n: int = 60_000) -> Tensor:
    """Values over the whole range of the grid, in equal steps and in equal ratios, both signs, random ones too."""
    g = torch.Generator().manual_seed(0)
    top = float(fmt.top)
    ratio = torch.exp2(-torch.linspace(0, 40, n, dtype=torch.float64)) * top
    parts = [torch.linspace(-top, top, 2 * n + 1, dtype=torch.float64), ratio, -ratio]
    parts.append((torch.rand(n, generator=g, dtype=torch.float64) * 2 - 1) * top)
    return torch.cat(parts).float().clamp(-top, top)


@functools.lru_cache(maxsize=8)
def codes_of(fmt: NumberFormat) -> Tensor:
    """The distinct values that rounding to nearest gives at scale 1, ascending."""
    return quantize(grouped(fmt, values_of(fmt)), _one_scale(fmt)).unique()


def same(a: Tensor, b: Tensor) -> bool:
    """Equal bits, NaN equal to NaN."""
    return bool(((a.view(torch.int32) == b.view(torch.int32)) | (a.isnan() & b.isnan())).all())


def _random(fmt: NumberFormat, *shape: int) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=g) * min(float(fmt.top) / 8, 1.0)


def usable(fmt: NumberFormat) -> str:
    """`round` itself, at scale 1: float32 of the same shape, and neither the values nor the noise written to."""
    x = grouped(fmt, values_of(fmt, 500))
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(2))
    for u in (None, noise):
        kept = [x.clone(), noise.clone()]
        y = fmt.round(x, u)
        how = "nearest" if u is None else "stochastic"
        assert isinstance(y, Tensor), f"{how}: round returns a {type(y).__name__}, not a tensor"
        assert y.dtype == torch.float32, f"{how}: round returns {y.dtype}, not float32"
        assert y.shape == x.shape, f"{how}: round returns shape {tuple(y.shape)} for {tuple(x.shape)}"
        assert same(x, kept[0]) and same(noise, kept[1]), f"{how}: round writes to its input"
    return "float32 of the same shape; the input is not written to"


def _class(fmt: NumberFormat) -> tuple[str, list[int]]:
    kind, _, numbers = fmt.mac.partition(":")
    return kind, [int(n) for n in numbers.split(",")]


def width(fmt: NumberFormat) -> str:
    kind, parts = _class(fmt)
    stated = 1 + sum(parts) if kind == "fp" else parts[0]
    assert stated >= fmt.bits, f"mac {fmt.mac!r} describes {stated} bits, the format claims {fmt.bits}"
    n = len(codes_of(fmt))
    if fmt.bits > 16:
        return f"{n} codes seen; too many to prove {fmt.bits} bits"
    assert n <= 2**fmt.bits, f"{n} distinct codes do not fit {fmt.bits} bits"
    assert n > 2 ** (fmt.bits - 1) or fmt.bits > 8, f"{n} codes would fit {fmt.bits - 1} bits"
    return f"{n} codes seen, {2**fmt.bits} fit {fmt.bits} bits"


def operand_class(fmt: NumberFormat) -> str:
    """Every code is one that the multiplier `mac` takes: an integer of its width, or on the grid of its float."""
    codes = codes_of(fmt).double().abs().unique()
    codes, (kind, parts) = codes[codes > 0], _class(fmt)
    if kind == "fp":
        exponent = torch.frexp(codes).exponent - 1
        lowest = int(exponent.max()) - (2 ** parts[0] - 2)
        units = codes / torch.exp2((exponent.clamp(min=lowest) - parts[1]).double())
        most = 2.0 ** (parts[1] + 1)
    else:
        units = codes / torch.cat([codes[:1], codes.diff()]).min()
        most = 2.0 ** (parts[0] - 1)
    wrong = ((units - units.round()).abs() > 1e-4) | (units.round() > most)
    cure = "declare the narrowest class that holds every code"
    assert not wrong.any(), f"a multiplier of class {fmt.mac} has no operand {codes[wrong][-1].item():g}; {cure}"
    return f"every code is an operand of {fmt.mac}"


def nearest(fmt: NumberFormat) -> str:
    x, codes, fmt = values_of(fmt), codes_of(fmt).double(), _one_scale(fmt)
    y = quantize(grouped(fmt, x), fmt)[:, 1:].reshape(-1)[: len(x)].double()
    i = torch.searchsorted(codes, x.double()).clamp(1, len(codes) - 1)
    best = torch.minimum((codes[i] - x).abs(), (codes[i - 1] - x).abs())
    worse = ((y - x).abs() > best).nonzero()
    assert not len(worse), f"{x[worse[0]].item()} became {y[worse[0]].item()}, which is not the nearest code"
    if fmt.bits > 8:  # not all codes were seen
        return f"none of {len(x)} values has a nearer code"
    codes = codes[codes >= 0]
    gaps = torch.nn.functional.pad(codes.diff(), (1, 1))
    regular = (gaps[1:-1] == gaps[:-2]) | (gaps[1:-1] == gaps[2:])  # elsewhere (powers of two, tables) no code is even
    index = torch.arange(len(codes) - 1)[regular]
    ties = ((codes[index + 1] + codes[index]) / 2).float()
    even = codes[index + index % 2].float()  # codes count up from zero, as their encodings do
    y = quantize(grouped(fmt, ties), fmt)[:, 1:].reshape(-1)[: len(ties)]
    odd = (y != even).nonzero()
    assert not len(odd), f"the tie {ties[odd[0]].item()} became {y[odd[0]].item()}, not the even {even[odd[0]].item()}"
    return f"none of {len(x)} values has a nearer code; {len(ties)} ties go to the even code"


def idempotent(fmt: NumberFormat) -> str:
    for x, how in ((grouped(fmt, values_of(fmt)), _in_a_row(fmt)), (_random(fmt, 64, 96), fmt)):
        once = quantize(x, how)
        twice = quantize(once, how)
        moved = (once != twice).nonzero().tolist()
        if moved:
            at = tuple(moved[0])
            raise AssertionError(f"{x[at].item():g} becomes {once[at].item():g}, and that {twice[at].item():g}")
        assert same(once, twice), "rounding a rounded tensor changes it"
    return "rounding twice is rounding once"


def odd(fmt: NumberFormat) -> str:
    x = grouped(fmt, values_of(fmt))
    assert same(quantize(-x, fmt), -quantize(x, fmt)), "Q(-x) is not -Q(x)"
    return "Q(-x) = -Q(x)"


def monotone(fmt: NumberFormat) -> str:
    x, fmt = values_of(fmt).sort().values, _one_scale(fmt)
    y = quantize(grouped(fmt, x), fmt)[:, 1:].reshape(-1)[: len(x)]
    falls = (y.diff() < 0).nonzero()
    assert not len(falls), f"falls after {x[falls[0]].item()}"
    return "larger never becomes smaller"


def zero(fmt: NumberFormat) -> str:
    for rounding in ("nearest", "stochastic"):
        assert not quantize(torch.zeros(4, 64), fmt, rounding=rounding).any(), "zeros do not stay zero"
        x = grouped(fmt, torch.zeros(500))
        assert not quantize(x, _in_a_row(fmt), rounding=rounding)[:, 1:].any(), (
            "a zero beside others does not stay zero"
        )
    return "zeros stay zero, alone and beside others"


def non_finite(fmt: NumberFormat) -> str:
    clean = _random(fmt, 4, 64)
    spoilt = clean.clone()
    spoilt[1, 3], spoilt[1, 7], spoilt[1, 9] = float("nan"), float("inf"), -float("inf")
    for rounding in ("nearest", "stochastic"):
        y = quantize(spoilt, fmt, rounding=rounding)
        assert same(y[~spoilt.isfinite()], spoilt[~spoilt.isfinite()]), "NaN or Inf does not come through"
        keep = spoilt.clone()
        keep[~spoilt.isfinite()] = 0.0
        rest = quantize(keep, fmt, rounding=rounding)
        assert same(y[spoilt.isfinite()], rest[spoilt.isfinite()]), "a NaN or Inf changes its neighbours"
    huge = torch.full((2, 64), 3.4028234e38)
    assert quantize(huge, fmt).isfinite().all(), "a finite value overflows to Inf instead of saturating"
    return "NaN stays NaN, Inf stays Inf, neighbours keep their values, finite saturates"


def powers_of_two(fmt: NumberFormat) -> str:
    if fmt.scaling == "none":
        return "not asked of an unscaled format"
    x = _random(fmt, 64, 96)
    for factor in (2.0**-20, 0.5, 8.0, 2.0**20):
        assert same(quantize(x * factor, fmt), quantize(x, fmt) * factor), f"not so for a factor {factor}"
    return "Q(2^k x) = 2^k Q(x)"


def layout(fmt: NumberFormat) -> str:
    x = _random(fmt, 4, 6, 5, 3)
    for rounding in ("nearest", "stochastic"):
        want = quantize(x.clone(), fmt, rounding=rounding)
        last = x.contiguous(memory_format=torch.channels_last)
        sparse = torch.empty(4, 6, 5, 6)[..., ::2].copy_(x)
        for view in (last, sparse, x.transpose(2, 3).contiguous().transpose(2, 3)):
            before = view.clone()
            y = quantize(view, fmt, rounding=rounding)
            assert same(y.contiguous(), want), "the result depends on the strides"
            assert same(view.contiguous(), before.contiguous()), "the input was written to"
        assert quantize(last, fmt, rounding=rounding).stride() == last.stride(), "channels_last is lost"
    return "values follow the logical order, strides are kept"


def repeatable(fmt: NumberFormat) -> str:
    x = _random(fmt, 64, 96)
    draw = functools.partial(quantize, x, fmt, rounding="stochastic")
    assert same(draw(step=3, layer="a"), draw(step=3, layer="a")), "one key gives two results"
    if fmt.bits > 16:
        return "one key, one result"
    others = {"seed": draw(seed=1), "step": draw(step=1), "layer": draw(layer="b"), "role": draw(role="b")}
    for name, other in others.items():
        assert not same(other, draw()), f"the {name} plays no part"
    return "a function of seed, step, layer, role and index"


def unbiased(fmt: NumberFormat) -> str:
    if fmt.bits > 16:
        return f"skipped: {fmt.bits} bits, wider than 16"
    codes, fmt = codes_of(fmt), _one_scale(fmt)
    i = torch.linspace(0, len(codes) - 2, 41).long()
    share = torch.linspace(0.1, 0.9, 41, dtype=torch.float64)
    low, high = codes[i].double(), codes[i + 1].double()
    worst = 0.0
    for v in (low + share * (high - low)).float():
        x = grouped(fmt, v.repeat(_WIDTH * 120))
        y = quantize(x, fmt, rounding="stochastic")[:, 1:].reshape(-1)[: _WIDTH * 120].double()
        two = y.unique()
        assert len(two) <= 2 and two[0] <= v <= two[-1], f"{v.item()} becomes {two.tolist()}"
        if two[0] == v:  # a code itself
            continue
        z = ((y - v).mean() / ((y - two[0]).std() / len(y) ** 0.5)).abs().item()
        assert z < 4.5, f"the mean of {v.item()} is {y.mean().item()}, {z:.1f} standard errors away"
        worst = max(worst, z)
    return f"41 values x {_WIDTH * 120} draws, |z| <= {worst:.1f}"


def better_scale(fmt: NumberFormat) -> str:
    """Where two scales are tried: each block is rounded at one of them, and at the other the error is not smaller."""
    if fmt.trials == 1:
        return "one scale"
    x = torch.cat([_random(fmt, 500, 96), (_random(fmt, 500, 96) * 3).exp()])
    m = as_matrix(x, fmt.block)
    both = scaler(fmt)(absmax(m.x))
    assert both is not None
    at = [on_grid(_one_scale(fmt), m.x, both[:, i : i + 1], None) for i in range(2)]
    errors = [(y.double() - m.x.double()).square().sum(1) for y in at]
    y, slack = as_matrix(quantize(x, fmt), fmt.block).x, 1 + 1e-5
    four = (y == at[1]).all(1) & (errors[1] <= errors[0] * slack)
    six = (y == at[0]).all(1) & (errors[0] <= errors[1] * slack)
    assert bool((four | six).all()), "a block is not what the better one of its scales makes of it"
    chosen = int((errors[1] < errors[0]).sum())
    return f"{chosen} of {len(y)} blocks are better with the other scale, and have it"


def keeps_codes(fmt: NumberFormat) -> str:
    x, fmt = grouped(fmt, values_of(fmt)), _in_a_row(fmt)
    y = quantize(x, fmt)
    assert same(quantize(y, fmt, rounding="stochastic").abs(), y.abs()), "stochastic rounding moves a code"
    return "stochastic rounding leaves codes where they are"


def compiled(fmt: NumberFormat) -> str:
    possible, why = compilation.decide("auto", torch.device("cpu"), None)
    if not possible:
        return f"not run: {why}"
    x = _random(fmt, 33, 70)
    x[5, 6], x[7, 8] = float("nan"), float("inf")
    wide = (torch.randn(17, 90) * 3).exp()
    for rounding in ("nearest", "stochastic"):
        for case in (x, -wide, wide.t()):
            eager, fast = (quantize(case, fmt, rounding=rounding, compile=c) for c in (False, True))
            assert same(eager, fast), f"{rounding}: compiled and eager differ"
    return "eager and compiled give the same bits"


CHECKS: dict[str, Callable[[NumberFormat], str]] = {
    "round": usable,
    "width": width,
    "operand class": operand_class,
    "nearest": nearest,
    "idempotent": idempotent,
    "odd": odd,
    "monotone": monotone,
    "zero": zero,
    "non-finite": non_finite,
    "powers of two": powers_of_two,
    "layout": layout,
    "stochastic: repeatable": repeatable,
    "stochastic: unbiased": unbiased,
    "stochastic: keeps codes": keeps_codes,
    "better scale": better_scale,
    "compiled": compiled,
}


def check(fmt: str | NumberFormat, *, compile: bool = True) -> Report:
    """Run every check on a format; `compile=False` leaves out the compiled one, which takes seconds.

    Where `round` itself cannot be used, only that is told.
    """
    found = find_format(fmt)
    lines: list[Line] = []
    for name, run in CHECKS.items():
        if run is compiled and not compile:
            continue
        try:
            lines.append(Line(name, True, run(found)))
        except AssertionError as error:
            lines.append(Line(name, False, str(error)))
        except Exception as error:  # `round` may be a plug-in's code
            lines.append(Line(name, False, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"))
        if run is usable and not lines[-1].passed:
            break
    return Report(found, tuple(lines))


def main() -> None:
    """`python -m ebsim.precision.conformance FORMAT...`: exit 0 all pass, 1 a check fails, 2 unknown format."""
    head = "Checks that every number format has to pass."
    parser = argparse.ArgumentParser("python -m ebsim.precision.conformance", description=head)
    parser.add_argument("formats", nargs="+", metavar="FORMAT", help='a name ("int8/row") or "path/to/file.py:NAME"')
    passed = True
    for name in parser.parse_args().formats:
        try:
            report = check(name)
        except ConfigError as error:
            parser.exit(2, f"{error}\n")
        print(report)
        passed &= report.passed
    sys.exit(not passed)


if __name__ == "__main__":
    main()
