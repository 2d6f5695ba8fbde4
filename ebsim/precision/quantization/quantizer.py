"""The quantizer: absmax of each group, scale, round, saturate, restore what is not finite. One text, two drivers.

Eager walks the rows in pieces that stay in cache, which makes a chain of a dozen elementwise operations cost about
two passes over memory instead of a dozen. Compiled is one graph per format and rounding, on matrices with dynamic
sizes, so the number of graphs does not grow with the number of layer shapes. Both give the same bits.

Scales. Powers of two are computed on the bits (exact, no log2). A real absmax scale is rounded to 17 significant
bits: then code * scale is exact in fp32 for codes of up to 7 bits and sign, and quantizing twice changes nothing.
Scales stay within [2^-100, 2^(126 - floor(log2 top))], so that
no tensor leaves fp32's normal range.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable

import torch
from torch import Tensor

from ebsim.errors import ConfigError
from ebsim.precision.formats.number_format import ROUNDINGS, NumberFormat
from ebsim.precision.formats.registry import find_format
from ebsim.precision.quantization import compilation, four_over_six
from ebsim.precision.quantization.counter_rng import keyed, keys, uniform
from ebsim.precision.quantization.layout import ALL, Samples, as_matrix
from ebsim.precision.rounding import EXPONENT, MANTISSA, ONE, POSITIVE, float_grid

Reduce = Callable[[Tensor], Tensor] | None  # bits of an absmax [1, 1] -> the largest of all processes
_INF = float("inf")
E4M3_TOP = 448.0  # of the scale that each block of a two-level format has
_SMALLEST = (127 - 100) << 23
_PIECE = 1 << 17  # elements per thread that an eager chain works on at once: a few temporaries fit a core's cache


def absmax(x: Tensor) -> Tensor:
    """[G, N] -> [G, 1]: largest finite magnitude of each row, as the int32 of its bits.

    Magnitudes sort like their bits. And an integer here lets a C++ compiler know that no store of a float changes it:
    it then works out a row's scale once and not for each vector, which halves the time of a compiled kernel.
    """
    bits = x.view(torch.int32) & POSITIVE
    return torch.where(bits < EXPONENT, bits, 0).amax(1, keepdim=True)


@functools.cache
def scaler(fmt: NumberFormat) -> Callable[..., Tensor | None]:
    """Bits of each row's absmax [G, 1] -> the scale that broadcasts against the rows; None for unscaled formats.

    `whole` [1, 1]: the bits of the whole tensor's absmax, where the rows are only a part of it.

    Infinite for a block of a two-level format whose own scale rounds to zero: what is divided by it is lost.
    Of "four_over_six" both candidates [G, 2]; `on_grid` chooses.
    """
    top = int.from_bytes(struct.pack("<f", fmt.top), "little")
    largest = (253 << 23) - (top & EXPONENT) + ONE
    half = 1 << (22 - fmt.mantissa) if fmt.mantissa < 23 else 0
    dropped = max(7, min(23, fmt.mantissa + 1))  # bits of a real scale, so that code * scale is exact

    def absolute(bits: Tensor) -> Tensor:
        return ((bits.view(torch.float32) / fmt.top).view(torch.int32) + (1 << dropped >> 1)) & -(1 << dropped)

    def pow2(bits: Tensor) -> Tensor:
        return ((bits - top + MANTISSA) & ~MANTISSA) + ONE

    def pow2_floor(bits: Tensor) -> Tensor:
        return (bits & EXPONENT) - (top & EXPONENT) + ONE

    def pow2_ceil(bits: Tensor) -> Tensor:
        return pow2_floor(bits + MANTISSA)

    def pow2_even(bits: Tensor) -> Tensor:
        return pow2_floor(bits + half)

    rules = {"absmax": absolute, "pow2": pow2, "pow2_floor": pow2_floor, "pow2_ceil": pow2_ceil, "pow2_even": pow2_even}
    by_rule = rules.get("pow2" if fmt.scaling == "delayed" else fmt.scaling)

    def scale(bits: Tensor, whole: Tensor | None = None) -> Tensor | None:
        if by_rule is None:
            return None
        group = bits if fmt.block else bits.amax(0, keepdim=True) if whole is None else whole
        return by_rule(group).clamp(_SMALLEST, largest).view(torch.float32)

    def two_level(bits: Tensor, whole: Tensor | None = None) -> Tensor:
        return blocks_of(tensor_scale(bits, whole, E4M3_TOP), bits, fmt.top)

    def four_or_six(bits: Tensor, whole: Tensor | None = None) -> Tensor:
        tensor = tensor_scale(bits, whole, four_over_six.FULL)
        return torch.cat([blocks_of(tensor, bits, to) for to in (fmt.top, four_over_six.SMALLER)], 1)

    def tensor_scale(bits: Tensor, whole: Tensor | None, full: float) -> Tensor:
        level = (bits.amax(0, keepdim=True) if whole is None else whole).view(torch.float32) / (full * fmt.top)
        return ((level.view(torch.int32) + 0x40) & ~0x7F).clamp(_SMALLEST, largest).view(torch.float32)

    def blocks_of(tensor: Tensor, bits: Tensor, to: float) -> Tensor:
        own = float_grid(bits.view(torch.float32) / to / tensor, None, mantissa=3, emin=-6).clamp(max=E4M3_TOP)
        return torch.where(own > 0, own * tensor, _INF)

    return {"two_level": two_level, "four_over_six": four_or_six}.get(fmt.scaling, scale)


def chosen(fmt: NumberFormat, x: Tensor, s: Tensor | None) -> Tensor | None:
    """The scale of each row [G, 1], where a format has several candidates [G, n] for it; else `s` itself."""
    return s if s is None or fmt.trials == 1 else four_over_six.better(fmt, x, s)


def on_grid(
    fmt: NumberFormat,
    x: Tensor,
    s: Tensor | None,
    u: Tensor | None,
    *,
    finite: bool = False,
    fits: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """x rounded onto the format's grid at scale s; NaN and Inf pass.

    `finite`: there are none of these; `fits`: nothing exceeds top s. Both only spare work.
    """
    s = chosen(fmt, x, s)
    if s is None:
        y = torch.clamp(fmt.round(x, u), -fmt.top, fmt.top, out=out)
    else:
        # the inverse of a power of two is exact, and multiplying is many times faster than dividing
        real = fmt.two_level or fmt.scaling == "absmax"
        scaled = x / s if real else x * (2 * ONE - s.view(torch.int32)).view(torch.float32)
        y = fmt.round(scaled, u)
        times = torch.where(s < _INF, s, 0.0) if fmt.two_level else s
        y = torch.mul(y if fits else y.clamp_(-fmt.top, fmt.top), times, out=out)
    return y if finite else torch.where(x.abs() < _INF, y, x, out=out)


def overflows(fmt: NumberFormat, x: Tensor, s: Tensor | None) -> Tensor:
    """Where a finite value lies beyond the largest of the grid, and is clipped.

    What exceeds it by the rounding of a real scale to 17 bits alone does not count: nothing at a scale that is the
    absmax's own, and beside the E4M3 scale of a block less than 2^-15.
    """
    if fmt.scaling == "absmax":
        return torch.zeros_like(x, dtype=torch.bool)
    size, slack = x.abs(), 1 + 2.0**-15 if fmt.two_level else 1.0
    return (size < _INF) & (size > (fmt.top if s is None else fmt.top * slack * s))


def _across(fmt: NumberFormat, whole: Reduce) -> Reduce:
    """`whole`, for a format with a scale that belongs to the whole tensor."""
    return whole if fmt.two_level or (fmt.scaling != "none" and not fmt.block) else None


def _scales(fmt: NumberFormat, bits: Tensor, whole: Reduce) -> Tensor | None:
    """The scales of rows with these absmax bits [G, 1]; see `scaler`."""
    return scaler(fmt)(bits) if whole is None else scaler(fmt)(bits, whole(bits.amax(0, keepdim=True)))


def eager(fmt: NumberFormat, x: Tensor, noise: tuple[Tensor, ...] | None, out: Tensor, whole: Reduce = None) -> None:
    """Quantize a matrix piece by piece into `out`, which may be `x`."""
    on_cpu = x.device.type == "cpu"
    size = max(1, _PIECE * torch.get_num_threads() // x.shape[1]) if on_cpu else len(x)
    finite = fits = False
    if on_cpu:  # the range also tells, without waiting for a device, what need not be done
        amax = torch.maximum(x.amax(1, keepdim=True), -x.amin(1, keepdim=True))
        finite = bool(amax.isfinite().all())
    bits = amax.view(torch.int32) if finite else absmax(x)
    s = _scales(fmt, bits, whole)
    if finite and s is not None:  # the very quotient that will be rounded
        fits = bool((amax / s <= fmt.top).all())
    for i in range(0, len(x), size):
        part = slice(i, i + size)
        u = uniform(noise[0][part], noise[1]) if noise else None
        here = s if s is None or len(s) == 1 else s[part]
        on_grid(fmt, x[part], here, u, finite=finite, fits=fits, out=out[part])


def kernel(fmt: NumberFormat, stochastic: bool, overwrite: bool) -> Callable[..., Tensor | None]:
    """The same computation without pieces, as one function of tensors, to be compiled."""

    scale = scaler(fmt)

    def nearest(x: Tensor) -> Tensor:
        return on_grid(fmt, x, scale(absmax(x)), None)

    def random(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
        return on_grid(fmt, x, scale(absmax(x)), uniform(rows, cols))

    rounded = random if stochastic else nearest

    def in_place(x: Tensor, *noise: Tensor) -> None:  # returning x as well is more than torch 2.11 can compile
        x.copy_(rounded(x, *noise))

    return in_place if overwrite else rounded


@functools.cache
def compiled(
    fmt: NumberFormat, stochastic: bool, overwrite: bool, device: torch.device, threads: int
) -> Callable[..., Tensor | None]:
    """The compiled kernel, made once per process, device and number of threads."""
    name = f"quantize_{fmt.name}_{ROUNDINGS[stochastic]}{'_in_place' * overwrite}".replace("/", "_")
    # large, although sizes are dynamic: a kernel compiled for a small example would use one thread for ever
    example: dict[Tensor, tuple[int, ...]] = {torch.ones(64, 8192, device=device): (0, 1)}
    if stochastic:
        rows, cols = (torch.zeros(n, dtype=torch.int32, device=device) for n in (64, 8192))
        example |= {rows: (0,), cols: (0,)}
    try:
        return compilation.compile_once(kernel(fmt, stochastic, overwrite), name, example, threads)
    except torch._inductor.exc.InductorError:
        if not overwrite:
            raise
        # torch 2.11 cannot compile a reduction and a write to its input in one loop: then the result is a new tensor
        return compiled(fmt, stochastic, False, device, threads)


def run(
    x: Tensor,
    fmt: NumberFormat,
    *,
    stochastic: bool = False,
    key: tuple[int, int] = (0, 0),
    axis: int = 1,
    samples: Samples = ALL,
    compile: bool = False,
    overwrite: bool = False,
    whole: Reduce = None,
) -> Tensor:
    """Quantize any float32 tensor: the entrance for layers and optimizer hooks. Call it without grad.

    `overwrite`: x is no longer needed; where its layout allows, the result takes its memory. Use what is returned.
    `whole`: makes of the absmax of this part of a tensor that of all its parts (processes share a batch); then eagerly.
    """
    if x.numel() == 0:
        return x.detach().clone()
    m = as_matrix(x.detach(), fmt.block, axis, samples)
    noise = keyed(m.hashes(), key).split(list(m.x.shape)) if stochastic else None
    # a size of 1 would be compiled as a special case of its own; such tensors are small, and eager gives the same bits
    across = _across(fmt, whole)
    if compile and across is None and 1 not in m.x.shape:
        made = compiled(fmt, stochastic, overwrite, x.device, torch.get_num_threads())(m.x, *(noise or ()))
        y = m.x if made is None else made
    else:
        y = m.x if overwrite else torch.empty_like(m.x)
        eager(fmt, m.x, noise, y, across)
    return m.back(y)


def unclipped(x: Tensor, fmt: NumberFormat, *, axis: int = 1, samples: Samples = ALL, whole: Reduce = None) -> Tensor:
    """Which elements of x its rounding does not clip, as a bool tensor like x; arguments as of `run`."""
    m = as_matrix(x.detach(), fmt.block, axis, samples)
    s = chosen(fmt, m.x, _scales(fmt, absmax(m.x), _across(fmt, whole)))
    return m.back(torch.where(overflows(fmt, m.x, s), 0.0, 1.0)) > 0


def quantize(
    x: Tensor,
    fmt: str | NumberFormat,
    *,
    rounding: str = "nearest",
    seed: int = 0,
    step: int = 0,
    layer: str = "",
    role: str = "",
    call: int = 0,
    first_sample: int = 0,
    axis: int | None = None,
    compile: bool = False,
) -> Tensor:
    """`x` rounded to a number format and back: same shape, strides, device; float32; detached from autograd.

    fmt       a name ("e4m3", "e5m2", "int8", "bfp8", "bf16", ...), with an optional variant: "int8/row" (one scale
              per slice of dim 0), "e4m3/unscaled", "bfp8/16" (blocks of 16 along `axis`)
    rounding  "nearest" (ties to even) or "stochastic", whose random number depends on (seed, step, layer, role, call,
              element index) and on nothing else
    call, first_sample   number of the call of a layer within the step; place of the first slice of dim 0 in the global
              batch: slices of a batch rounded apart, each with its place, are rounded as the whole batch is
    axis      what blocks of neighbours run along (dim 1 if not given, the only one of a vector); may be negative
    Finite overflow saturates, NaN stays NaN, Inf stays Inf. Raises ConfigError for an unknown name or axis, TypeError
    for a tensor that is not float32.
    """
    if rounding not in ROUNDINGS:
        raise ConfigError(f"rounding {rounding!r}: use nearest or stochastic")
    if x.dtype != torch.float32:
        raise TypeError(f"quantize works on float32 tensors, got {x.dtype}; convert with .float()")
    if axis is not None and not -x.dim() <= axis < max(x.dim(), 1):
        raise ConfigError(f"axis {axis} of a tensor of {x.dim()} dimensions: use {-x.dim()} to {x.dim() - 1}")
    axis = min(1, x.dim() - 1) if axis is None else axis % max(x.dim(), 1)
    key = keys(seed, step, layer, role, call)
    with torch.no_grad():
        return run(
            x,
            find_format(fmt),
            stochastic=rounding == "stochastic",
            key=key,
            axis=axis,
            samples=Samples(first_sample),
            compile=compile,
        )
