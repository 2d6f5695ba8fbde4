"""Compiled quantizers: the same bits, one graph each whatever the shapes, and an error instead of a silent fallback.

Kept in one process-wide set of kernels: the first costs 5 to 30 s, each further one a second or two.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from ebsim.errors import EbsimError
from ebsim.precision import apply, find_format, quantize
from ebsim.precision.quantization import compilation, quantizer
from tests.precision import oracles
from tests.precision.nets import Small, batch, equal, gradients

pytestmark = pytest.mark.skipif(
    not compilation.decide("auto", torch.device("cpu"), None)[0], reason="no C++ compiler: everything runs eagerly"
)
SHAPES = [(4, 6, 5, 3), (64, 33), (16, 16, 3, 3), (128, 128), (2, 40000), (33, 7, 9), (1, 50), (7,), (5, 1)]
PAIRS = [("e4m3", "nearest"), ("e5m2", "stochastic"), ("int8", "nearest"), ("bfp8", "stochastic")]


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.int32)


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def test_compiled_gives_the_bits_of_eager_and_compiles_once() -> None:
    patterns = torch.from_numpy(oracles.interesting_floats(100_000))
    for fmt, rounding in PAIRS:
        quantize(torch.ones(3, 5), fmt, rounding=rounding, compile=True)
    before = graphs()
    for fmt, rounding in PAIRS:
        cases = [torch.randn(shape) for shape in SHAPES]
        cases.append(torch.randn(4, 6, 5, 3).contiguous(memory_format=torch.channels_last))
        cases.append(torch.nn.Parameter(torch.randn(9, 8)))
        cases += list(patterns[: len(patterns) // 8 * 8].view(8, -1).split(2))
        for x in cases:
            eager, fast = (quantize(x, fmt, rounding=rounding, step=7, compile=c) for c in (False, True))
            nan = eager.isnan() & fast.isnan()
            assert ((bits(eager) == bits(fast)) | nan).all(), (fmt, rounding, x.shape)
            assert eager.stride() == fast.stride()
    assert graphs() == before  # no shape, layout or Parameter made another graph


def test_overwriting_gives_the_same_bits_in_the_same_memory() -> None:
    """Compiled by torch 2.11 some kernels give new memory: it fails to compile them otherwise."""
    may_be_new = torch.__version__.startswith("2.11.")
    for compile in (False, True):
        for fmt, rounding in PAIRS:
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(4, 6, 5, 3).contiguous(memory_format=layout)
                options = {"stochastic": rounding == "stochastic", "key": (5, 7), "compile": compile}
                kept = quantizer.run(x, find_format(fmt), **options)
                address = x.data_ptr()
                got = quantizer.run(x, find_format(fmt), overwrite=True, **options)
                assert got.data_ptr() == address != kept.data_ptr() or (compile and may_be_new)
                assert torch.equal(got, kept) and got.stride() == kept.stride()


def test_compiled_floats_equal_ml_dtypes() -> None:
    """bf16 and fp16 too: compiled *casts* to them are dropped on a CPU, which is why none is used."""
    x = oracles.interesting_floats()
    x = x[: len(x) // 16 * 16].reshape(16, -1)
    for name in ("bf16", "fp16", "e4m3/unscaled", "e5m2/unscaled"):
        got = quantize(torch.from_numpy(x), name, compile=True).numpy()
        expected = oracles.cast(x, name.partition("/")[0])
        assert np.array_equal(got.view(np.uint32)[~np.isnan(x)], expected.view(np.uint32)[~np.isnan(x)]), name
        assert np.isnan(got[np.isnan(x)]).all()


def test_compiled_int8_and_bfp8_equal_integer_arithmetic() -> None:
    x = np.random.default_rng(5).standard_normal((7, 120)).astype(np.float32) * 3
    x[:, :3] = [127, 2.5, -126.5]
    for name, oracle, rows in [("int8", oracles.int8, [x.ravel()]), ("bfp8", oracles.block, x)]:
        got = quantize(torch.from_numpy(x), name, compile=True).numpy()
        expected = np.array([oracle(row.tolist()) for row in rows], dtype=np.float32).reshape(x.shape)
        assert np.array_equal(got.view(np.uint32), expected.view(np.uint32)), name


def test_a_training_step_is_the_same_compiled_and_eager_within_the_graph_budget() -> None:
    table = {"weight": "bfp8 stochastic", "activation": "e4m3", "error": "e5m2 stochastic"}

    def run(compile: bool) -> list[torch.Tensor]:
        model = Small()
        placement, found = apply(model, table, compile=compile), []
        for step, n in enumerate((6, 5, 2)):
            placement.set_step(step)
            found += gradients(model, *batch(n))
        return found

    before = graphs()
    assert equal(run(True), run(False))
    assert graphs() - before <= 3


def test_recompiling_beyond_the_limit_fails_aloud() -> None:
    example = {torch.ones(3, 4): ()}  # nothing dynamic: every shape would be a graph of its own
    call = compilation.compile_once(lambda x: x + 1, "too_static", example, 1)
    strict = torch._dynamo.config.patch(automatic_dynamic_shapes=False, recompile_limit=2)
    with strict, pytest.raises(EbsimError, match="compile=False"):
        for n in range(5, 9):
            call(torch.ones(3, n))


def test_what_is_compiled_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert compilation.decide(True, cpu, 1)[0] and not compilation.decide(False, cpu, 9999)[0]
    assert compilation.decide("auto", torch.device("meta"), None) == (False, "eager: not compiled on meta")
    assert "do not earn" in compilation.decide("auto", cpu, 10)[1]
    monkeypatch.setenv("PATH", "")
    assert compilation.decide("auto", cpu, 9999) == (False, "eager: no C++ compiler found")
    placement = apply(Small(), "fp8")
    assert placement.compiled is False and "compiler" in placement.note
