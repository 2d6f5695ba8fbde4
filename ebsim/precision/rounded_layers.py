"""Conv2d and Linear whose matrix products see rounded operands, by swapping the class of a module in place.

    forward          y     = op(Q(a), Q(w)) + b
    input_gradient   dL/da = op^T(Q(e), Q(w))        e = dL/dy
    weight_gradient  dL/dw = op^T(Q(e), Q(a))

The derivative of rounding is taken as 1 (straight-through). Each operand of each pass has its own format; passes that
agree on one share a single rounded copy, as hardware would read the stored one twice. Bias and its gradient stay fp32.
Sums run in fp32: the accumulator is declared to the hardware model, not simulated.

The module keeps its identity: same object, parameters, names and state-dict keys, and the class keeps the name and
`__module__` of the one it stands in for, so that torch.fx still treats it as a leaf.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ebsim.errors import ConfigError
from ebsim.precision.formats.number_format import Operand
from ebsim.precision.quantization.layout import ALL, Samples

Cells = dict[tuple[str, str], Operand]
Layer = nn.Conv2d | nn.Linear
# MX-style blocks run along the axis that a pass sums over: input channels, output channels, samples
SUMMED_AXIS = {
    ("forward", "weight"): 1,
    ("forward", "activation"): 1,
    ("forward", "output"): 1,
    ("input_gradient", "weight"): 0,
    ("input_gradient", "error"): 1,
    ("weight_gradient", "activation"): 0,
    ("weight_gradient", "error"): 0,
}


@dataclasses.dataclass(frozen=True)
class Call:
    """One use of a layer: its number within the step, the samples that it computes on, and whether it trains."""

    number: int = 0
    samples: Samples = ALL
    training: bool = True


class Quantizers(Protocol):
    """What a layer needs of the placement; `set_steps` counts the calls of `set_step`."""

    samples: Samples
    set_steps: int

    def quantize(
        self, layer: str, role: str, x: Tensor, chosen: Operand, *, axis: int, call: Call, overwrite: bool
    ) -> Tensor: ...


class LayerPrecision:
    """What one layer's quantizers do, and how often the layer was called since the last `set_step`."""

    def __init__(self, name: str, cells: Cells, quantizers: Quantizers) -> None:
        self.name, self.cells, self.quantizers = name, cells, quantizers
        self._calls: dict[tuple[int, bool], int] = {}
        self.weight_shared = self._same("weight", "forward", "input_gradient")
        self.activation_shared = self._same("activation", "forward", "weight_gradient")
        self.error_shared = self._same("error", "input_gradient", "weight_gradient")

    def _same(self, role: str, one: str, other: str) -> bool:
        a, b = self.cells[one, role], self.cells[other, role]
        blocks = isinstance(a.format.block, int) and a.format.block > 0
        return a == b and not blocks

    def begin(self, training: bool) -> Call:
        """The layer's next call. One inside a backward pass recomputes an earlier one (activation checkpointing)."""
        key = self.quantizers.set_steps, training
        number = self._calls.get(key, 0)
        if torch._C._current_graph_task_id() != -1:
            if number != 1:
                raise ConfigError(
                    f"{self.name}: recomputed in the backward pass (activation checkpointing), and called {number} "
                    "times since set_step: which call is meant is not known; call set_step before each forward pass, "
                    "and use the layer once in it"
                )
            return Call(0, self.quantizers.samples, training)
        self._calls = {k: n for k, n in self._calls.items() if k[0] == key[0]} | {key: number + 1}
        return Call(number, self.quantizers.samples, training)

    def __call__(self, phase: str, role: str, x: Tensor, call: Call) -> Tensor:
        chosen = self.cells[phase, role]
        if chosen.untouched:
            return x
        axis = self._axis(phase, role, x)
        fresh = role == "output"  # made by this very layer, so nobody else needs it unrounded
        call = dataclasses.replace(call, number=0, samples=ALL) if role == "weight" else call
        return self.quantizers.quantize(self.name, role, x, chosen, axis=axis, call=call, overwrite=fresh)

    @staticmethod
    def _axis(phase: str, role: str, x: Tensor) -> int:
        axis = SUMMED_AXIS[phase, role]
        # a Linear sums over the last axis of its input, whatever comes before it
        return x.dim() - 1 if axis == 1 and x.dim() != 4 else axis

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerPrecision:
        return LayerPrecision(self.name, self.cells, self.quantizers)  # rounds as the original does, until `remove`d


class _ThreePasses(torch.autograd.Function):
    """y = Q(op(Q(a), Q(w), b)) with separately rounded operands in the two backward products."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, a: Tensor, w: Tensor, b: Tensor | None, rounding: LayerPrecision, op: Any, training: bool
    ) -> Tensor:
        call = rounding.begin(training)
        qa, qw = rounding("forward", "activation", a, call), rounding("forward", "weight", w, call)
        ctx.save_for_backward(qa if rounding.activation_shared else a, qw if rounding.weight_shared else w)
        ctx.rounding, ctx.op, ctx.call = rounding, op, call
        return rounding("forward", "output", op.forward(qa, qw, b), call)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, e: Tensor) -> tuple[Tensor | None, ...]:
        rounding, op, call = ctx.rounding, ctx.op, ctx.call
        a, w = ctx.saved_tensors
        needs_a, needs_w, needs_b = ctx.needs_input_grad[:3]
        error = rounding("input_gradient", "error", e, call) if needs_a or rounding.error_shared else e
        grad_a = grad_w = None
        if rounding.error_shared and rounding.weight_shared and rounding.activation_shared:
            grad_a, grad_w = op.backward(error, a, w, needs_a, needs_w)
        else:
            if needs_a:
                qw = w if rounding.weight_shared else rounding("input_gradient", "weight", w, call)
                grad_a, _ = op.backward(error, a, qw, True, False)
            if needs_w:
                if not rounding.error_shared:
                    error = rounding("weight_gradient", "error", e, call)
                qa = a if rounding.activation_shared else rounding("weight_gradient", "activation", a, call)
                _, grad_w = op.backward(error, qa, w, False, True)
        grad_b = op.bias_gradient(e) if needs_b else None
        return grad_a, grad_w, grad_b, None, None, None


class _Convolution:
    """The geometry of a convolution whose padding is already numeric and of zeros."""

    def __init__(self, module: nn.Conv2d, padding: list[int]) -> None:
        self.geometry = (list(module.stride), padding, list(module.dilation), False, [0, 0])
        self.groups = module.groups

    def forward(self, a: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return torch.convolution(a, w, b, *self.geometry, self.groups)

    def backward(
        self, e: Tensor, a: Tensor, w: Tensor, needs_a: bool, needs_w: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        mask = [needs_a, needs_w, False]
        grads = torch.ops.aten.convolution_backward(e, a, w, None, *self.geometry, self.groups, mask)
        return grads[0], grads[1]

    @staticmethod
    def bias_gradient(e: Tensor) -> Tensor:
        return e.sum((0, 2, 3)) if e.dim() == 4 else e.sum((1, 2))


class _Product:
    """The matrix product of a Linear, over any leading dimensions."""

    forward = staticmethod(F.linear)

    @staticmethod
    def backward(e: Tensor, a: Tensor, w: Tensor, needs_a: bool, needs_w: bool) -> tuple[Tensor | None, Tensor | None]:
        grad_a = e @ w if needs_a else None
        grad_w = e.reshape(-1, e.shape[-1]).t() @ a.reshape(-1, a.shape[-1]) if needs_w else None
        return grad_a, grad_w

    @staticmethod
    def bias_gradient(e: Tensor) -> Tensor:
        return e.reshape(-1, e.shape[-1]).sum(0)


def _product(module: Any, op: Any, a: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    rounding: LayerPrecision = module._precision
    if a.dtype != torch.float32 or torch.is_autocast_enabled(a.device.type):
        raise ConfigError(
            f"{rounding.name}: precisions are simulated in float32; got {a.dtype}"
            f"{' under autocast' if torch.is_autocast_enabled(a.device.type) else ''}: switch autocast off"
        )
    return _ThreePasses.apply(a, w, b, rounding, op, module.training)


def _traced(x: Tensor) -> bool:
    """Whether somebody only wants to know shapes and operations (a shape run, a jit trace): nothing to round then."""
    return x.is_meta or torch.jit.is_tracing() or isinstance(x, FakeTensor)


# A network that is compiled as a whole breaks its graph here; the decorator alone would cost every eager call as well
_uncompiled = torch.compiler.disable(_product)


class _RoundedConv:
    def _conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if _traced(input):
            return nn.Conv2d._conv_forward(self, input, weight, bias)
        padding = self.padding
        if self.padding_mode != "zeros" or isinstance(padding, str):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode=mode), (0, 0)
        run = _uncompiled if torch.compiler.is_compiling() else _product
        return run(self, _Convolution(self, list(padding)), input, weight, bias)


class _RoundedLinear:
    def forward(self: Any, input: Tensor) -> Tensor:
        if _traced(input):
            return F.linear(input, self.weight, self.bias)
        run = _uncompiled if torch.compiler.is_compiling() else _product
        return run(self, _Product, input, self.weight, self.bias)


def covered(module: nn.Module) -> bool:
    """Whether this module's products can be rounded: a Conv2d or Linear that did not redefine them."""
    if isinstance(module, nn.Conv2d):
        return type(module)._conv_forward is nn.Conv2d._conv_forward
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def layers(model: nn.Module) -> dict[str, Layer]:
    """Qualified name -> module of every Conv2d and Linear, in module order, rounded already or not."""
    found = {n: m for n, m in model.named_modules() if covered(m) or hasattr(type(m), "_plain")}
    return cast("dict[str, Layer]", found)


def uncovered(model: nn.Module) -> list[str]:
    """Names of modules that own weight matrices but stay fp32 whatever the backend says."""
    inside = layers(model)
    return [
        name
        for name, module in model.named_modules()
        if name not in inside and any(p.dim() > 1 for p in module.parameters(recurse=False))
    ]


@functools.cache
def _rounded_class(plain: type[nn.Module]) -> type[nn.Module]:
    mixin = _RoundedConv if issubclass(plain, nn.Conv2d) else _RoundedLinear
    body = {"__module__": plain.__module__, "_plain": plain}
    return type(plain.__name__, (mixin, plain), body)


def swap_in(module: nn.Module, rounding: LayerPrecision) -> None:
    """Let this layer round its operands."""
    module.__class__ = _rounded_class(cast(Any, type(module)))
    module._precision = rounding  # type: ignore[assignment]


def swap_out(module: nn.Module) -> None:
    """Make it the plain layer it was."""
    plain = getattr(type(module), "_plain", None)
    if plain is not None:
        module.__class__ = cast(Any, plain)
        del module.__dict__["_precision"]
