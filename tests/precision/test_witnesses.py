"""torchao and microxcaling as further witnesses of the block formats: equal bits where their rules are ours.

Neither is a dependency of the tests: `pip install --no-deps torchao`; microxcaling from its repository, on PYTHONPATH.
Where they differ on purpose is said beside each comparison.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from ebsim.precision import quantize

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROWS, WIDTH = 4096, 512  # 2 million values for each comparison


def witness(name: str) -> Any:
    """The module, or a skip that says why."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except Exception as error:  # also one that this torch does not suit
            pytest.skip(f"{name.split('.')[0]} cannot be imported here: {type(error).__name__}: {error}")


def values(seed: int) -> Tensor:
    """Many binades, ties and powers of two, some blocks of zeros."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, WIDTH, generator=g) * torch.exp2(torch.randn(ROWS, 1, generator=g) * 4)
    ties = torch.randint(-64, 65, x.shape, generator=g) / 16.0
    x = torch.where(torch.rand(x.shape, generator=g) < 0.2, ties, x)
    x[::97] = 0.0
    return x


@pytest.mark.parametrize("rule", ["floor", "ceil", "even", "rceil"])
@pytest.mark.parametrize("element", ["mxfp8", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4"])
def test_mx_is_torchaos(element: str, rule: str) -> None:
    made = witness("torchao.prototype.mx_formats.mx_tensor")
    config = witness("torchao.prototype.mx_formats.config")
    constants = witness("torchao.prototype.mx_formats.constants")
    kinds = {
        "mxfp8": torch.float8_e4m3fn,
        "mxfp8_e5m2": torch.float8_e5m2,
        "mxfp6_e3m2": getattr(constants, "DTYPE_FP6_E3M2", None),
        "mxfp6_e2m3": getattr(constants, "DTYPE_FP6_E2M3", None),
        "mxfp4": getattr(torch, "float4_e2m1fn_x2", None),
    }
    if kinds[element] is None:
        pytest.skip(f"torchao has no {element}")
    if rule == "rceil" and "fp6" in element:
        pytest.skip("torchao has no rceil for six bits")
    x = values(3)
    mode = config.ScaleCalculationMode(rule)
    try:
        theirs = made.MXTensor.to_mx(x, kinds[element], 32, mode).dequantize(torch.float32)
    except (AssertionError, NotImplementedError, ValueError) as error:
        pytest.skip(f"torchao refuses {element} with {rule}: {error}")
    ours = quantize(x, f"{element}/{rule}", axis=1)
    assert int((ours != theirs).sum()) == 0


def test_nvfp4_is_torchaos_but_for_values_beside_a_tie() -> None:
    """Theirs multiplies by a rounded reciprocal, ours divides: a value within a few ulp of a tie may go either way.

    The tensor's absmax makes its real scale a power of two, which ours leaves as it is (it cuts others to 17 bits).
    """
    made = witness("torchao.prototype.mx_formats.nvfp4_tensor")
    x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(5))
    x[0, 0] = 448 * 6 / 512.0
    assert x.abs().max() == x[0, 0]
    scale = made.per_tensor_amax_to_scale(x.abs().max())
    assert scale == 2.0**-9
    theirs = made.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale).dequantize(torch.float32)
    ours = quantize(x, "nvfp4", axis=1)
    moved = ours != theirs
    middle = (ours + theirs) / 2
    beside = (x - middle).abs() <= 2.0**-20 * x.abs()
    assert int((moved & ~beside).sum()) == 0
    assert moved.double().mean() < 1e-4


@pytest.mark.parametrize(
    "name, element",
    [("mxfp8", "fp8_e4m3"), ("mxfp8_e5m2", "fp8_e5m2"), ("mxfp6_e3m2", "fp6_e3m2"), ("mxfp6_e2m3", "fp6_e2m3"),
     ("mxfp4", "fp4_e2m1"), ("mxint8", "int8")],
)  # fmt: skip
def test_mx_is_microxcalings(name: str, element: str) -> None:
    """Its log2 in float32 is off by one just below powers of two, of elements and of the absmax: these are left out."""
    ops = witness("mx.mx_ops")
    x = values(4)
    theirs = ops._quantize_mx(
        x.clone(), scale_bits=8, elem_format=element, shared_exp_method="max", axes=[-1], block_size=32, round="even"
    )
    ours = quantize(x, name, axis=1)

    def exact(v: Tensor) -> Tensor:
        """Where floor(log2 |v|) in float32 is the exponent of v."""
        exponent = torch.frexp(v).exponent - 1
        return (v == 0) | (torch.floor(torch.log2(v.abs())) == exponent)

    amax = x.view(ROWS, -1, 32).abs().amax(-1, keepdim=True)
    usable = (exact(x).view(ROWS, -1, 32) & exact(amax)).view_as(x)
    assert usable.double().mean() > 0.99
    assert int(((ours != theirs) & usable).sum()) == 0
