"""Picking channels against indexing, in both layouts, with gradients."""

from __future__ import annotations

import pytest
import torch

from ebsim.tickets.shrinking.select import Select

INDICES = [[0, 1, 2, 3], [3, 1], [2], [-1, 0, -1, 3], [-1, -1], [1, -1, 0, 2, 3]]


def expected(x: torch.Tensor, index: list[int]) -> torch.Tensor:
    return torch.stack([x[:, i] if i >= 0 else x[:, 0] * 0 for i in index], 1)


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 3, 2), (5, 4, 1, 1), (0, 4, 3, 2), (2, 4, 3, 2, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_picks_and_fills_and_so_does_its_gradient(index, shape, layout):
    if layout is torch.channels_last and len(shape) != 4:
        pytest.skip("a layout of 4-D tensors")
    x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
    reference = x.detach().clone().requires_grad_()
    pick = Select(index, 4)
    y, wanted = pick(x), expected(reference, index)
    assert torch.equal(y, wanted)
    assert not y.numel() or len(shape) != 4 or y.is_contiguous(memory_format=layout)
    pull = torch.randn(wanted.shape)
    y.backward(pull)
    wanted.backward(pull)
    assert torch.equal(x.grad, reference.grad)
    with torch.no_grad():
        assert torch.equal(pick(x), wanted)


def test_it_is_exact_for_infinities_and_low_precision_under_autocast():
    x = torch.tensor([[float("inf"), 1.0 + 2**-20, -0.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = Select([1, -1, 0], 3)(x)
    assert y.dtype == torch.float32 and y.tolist() == [[1.0 + 2**-20, 0.0, float("inf")]]


def test_it_has_nothing_to_save_or_to_train_and_its_gradient_has_a_gradient():
    pick = Select([1, -1, 0], 3)
    assert not pick.state_dict() and not list(pick.parameters())
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pick, x) and torch.autograd.gradgradcheck(pick, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_picked_bit_for_bit(dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)
    x[0, 3, 0, 0], x[0, 3, 0, 1] = float("nan"), -0.0
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = Select([3, -1, 0], 5)(leaf)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    for channel, source in ((0, 3), (2, 0)):
        assert torch.equal(y[:, channel].signbit(), x[:, source].signbit())
        assert torch.equal(y[:, channel].nan_to_num(7.0), x[:, source].nan_to_num(7.0))
    assert not y[:, 1].any()
    y.backward(torch.ones_like(y))
    assert leaf.grad is not None and leaf.grad.sum((0, 2, 3)).tolist() == [18, 0, 0, 18, 0]
