"""Layers that see rounded tensors, by swapping the class of a module in place.

Convolutions of one to three dimensions, transposed ones too, and Linear round the operands of their three products
(`three_passes`). Modules that multiply no matrices (normalizations, activations, pools, softmax: `pointwise`) round
what they hand on, and the gradient that arrives at it.

The module keeps its identity: same object, parameters, names and state-dict keys, and the class keeps the name and
`__module__` of the one it stands in for, so that torch.fx still treats it as a leaf.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ebsim.errors import ConfigError
from ebsim.precision import three_passes
from ebsim.precision.formats.accumulators import PartialSums
from ebsim.precision.formats.number_format import Operand
from ebsim.precision.quantization import hadamard
from ebsim.precision.quantization.layout import ALL, Samples
from ebsim.precision.three_passes import SUMMED, Convolution, Product

Cells = dict[tuple[str, str], Operand]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear
KINDS: dict[str, tuple[type[nn.Module], ...]] = {  # of modules that round as `pointwise` says
    "norm": (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm),
    "activation": (
        nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Hardswish,
        nn.Hardsigmoid, nn.Softplus, nn.Softmax, nn.LogSoftmax,
    ),
    "pool": (
        nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
        nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
        nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One use of a layer: its number within the step, the samples that it computes on, and whether it trains."""

    number: int = 0
    samples: Samples = ALL
    training: bool = True


WEIGHTS = {training: LayerCall(training=training) for training in (True, False)}


class Quantizers(Protocol):
    """What a layer needs of the placement; `set_steps` counts the calls of `set_step`."""

    samples: Samples
    set_steps: int
    seed: int

    def quantize(
        self,
        layer: str,
        role: str,
        x: Tensor,
        chosen: Operand,
        *,
        axis: int,
        call: LayerCall,
        overwrite: bool,
        phase: str,
    ) -> Tensor: ...

    def unclipped(self, layer: str, role: str, x: Tensor, chosen: Operand, *, axis: int, call: LayerCall) -> Tensor: ...

    def sum_noise(self, layer: str, phase: str, number: int, x: Tensor, call: LayerCall) -> Tensor: ...


class LayerPrecision:
    """What one layer's quantizers do, and how often the layer was called since the last `set_step`."""

    def __init__(self, name: str, cells: Cells, quantizers: Quantizers, sums: PartialSums | None = None) -> None:
        self.name, self.cells, self.quantizers, self.sums = name, cells, quantizers, sums
        self.weight_shared, self.activation_shared, self.error_shared = (
            shared(cells, role) for role in ("weight", "activation", "error")
        )
        self._since, self._calls = -1, {True: 0, False: 0}  # set_step, and the calls since: in training, in evaluation

    def begin(self, training: bool) -> LayerCall:
        """The layer's next call. One inside a backward pass recomputes an earlier one (activation checkpointing)."""
        if self._since != self.quantizers.set_steps:
            self._since, self._calls = self.quantizers.set_steps, {True: 0, False: 0}
        number = self._calls[training]
        if torch._C._current_graph_task_id() != -1:
            if number != 1:
                raise ConfigError(
                    f"{self.name}: recomputed in the backward pass (activation checkpointing), and called {number} "
                    "times since set_step: which call is meant is not known; call set_step before each forward pass, "
                    "and use the layer once in it"
                )
            return LayerCall(0, self.quantizers.samples, training)
        self._calls[training] = number + 1
        return LayerCall(number, self.quantizers.samples, training)

    def __call__(self, phase: str, role: str, x: Tensor, call: LayerCall, op: Any = None) -> Tensor:
        chosen = self.cells[phase, role]
        if chosen.untouched:
            return x
        laid, axis, back, call = self._laid_out(phase, role, x, call, op)
        if chosen.hadamard:
            laid, back = hadamard.transform(laid, self.quantizers.seed), None  # the product is of transformed operands
        fresh = role in ("output", "activation_gradient") and laid is x  # just made: not needed unrounded anywhere else
        y = self.quantizers.quantize(
            self.name, role, laid, chosen, axis=axis, call=call, overwrite=fresh, phase=phase
        )  # fmt: skip
        return y if back is None else back(y)

    def _laid_out(
        self, phase: str, role: str, x: Tensor, call: LayerCall, op: Any
    ) -> tuple[Tensor, int, Any, LayerCall]:
        """x for the quantizer, the axis of its blocks, the way back (None: x itself), and whose noise it gets."""
        chosen = self.cells[phase, role]
        if role == "weight":  # one rounding of a weight in each step, for all its uses
            call = WEIGHTS[call.training]
        if op is None:
            return x, 1, None, call
        laid, axis, back = op.laid_out(x, role, SUMMED[phase, role], chosen.format.blocked or chosen.hadamard)
        if len(laid) != len(x) and role != "weight":  # leading dimensions flattened: several rows of one sample
            call = dataclasses.replace(call, samples=call.samples._replace(each=len(laid) // len(x)))
        return laid, axis, back, call

    def unclipped(self, role: str, x: Tensor, call: LayerCall, op: Any = None) -> Tensor | None:
        """Where the forward pass rounds x without clipping it (bool, like x); None for a role that is not "clipped"."""
        chosen = self.cells["forward", role]
        if not chosen.clipped:
            return None
        laid, axis, back, call = self._laid_out("forward", role, x, call, op)
        inside = self.quantizers.unclipped(self.name, role, laid, chosen, axis=axis, call=call)
        return inside if back is None else back(inside)

    def summed(self, op: Any, call: LayerCall, batch: int) -> Any:
        """The products of `op` on a batch of so many samples, with simulated accumulators where there are any."""
        if self.sums is None:
            return op

        def draw(phase: str) -> Any:
            def noise(number: int, x: Tensor) -> Tensor:
                here = call if phase != "weight_gradient" else WEIGHTS[call.training]
                samples = here.samples._replace(each=max(1, len(x) // batch))
                here = dataclasses.replace(here, number=call.number, samples=samples)
                return self.quantizers.sum_noise(self.name, phase, number, x, here)

            return noise

        return op.summing(self.sums, draw)

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerPrecision:
        return LayerPrecision(
            self.name, self.cells, self.quantizers, self.sums
        )  # rounds as the original does, until `remove`d


TWICE = {  # the two passes that an operand enters
    "weight": ("forward", "input_gradient"),
    "activation": ("forward", "weight_gradient"),
    "error": ("input_gradient", "weight_gradient"),
}


def shared(cells: Cells, role: str) -> bool:
    """Whether both passes use one rounded copy of a tensor: equal operands, no blocks along the axis of one pass."""
    one, other = (cells.get((phase, role)) for phase in TWICE[role])
    return one is not None and one.rounds_as(other) and not one.format.blocked


class _RoundPointwise(torch.autograd.Function):
    """What a pointwise module hands on, rounded; and the gradient that arrives at it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounding: LayerPrecision, training: bool) -> Tensor:  # type: ignore[override]
        ctx.rounding, ctx.call = rounding, rounding.begin(training)
        ctx.save_for_backward(rounding.unclipped("pointwise", x, ctx.call))
        y = rounding("forward", "pointwise", x, ctx.call)
        return y.clone() if y is x else y.data  # not a view, so that an in-place ReLU may follow

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, e: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        e = e if inside is None else torch.where(inside, e, 0.0)
        return ctx.rounding("input_gradient", "pointwise", e, ctx.call), None, None


def _checked(module: Any, a: Tensor) -> LayerPrecision:
    rounding: LayerPrecision = module._precision
    if a.dtype != torch.float32 or torch.is_autocast_enabled(a.device.type):
        raise ConfigError(
            f"{rounding.name}: precisions are simulated in float32; got {a.dtype}"
            f"{' under autocast' if torch.is_autocast_enabled(a.device.type) else ''}: switch autocast off"
        )
    return rounding


def _product(module: Any, op: Any, a: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return three_passes.run(module, op, a, w, b, _checked(module, a))


def _pointwise(module: Any, y: Tensor) -> Tensor:
    return cast(Tensor, _RoundPointwise.apply(y, _checked(module, y), module.training))


# A network that is compiled as a whole breaks its graph here; the decorator alone would cost every eager call as well
_product_uncompiled = torch.compiler.disable(_product)
_pointwise_uncompiled = torch.compiler.disable(_pointwise)


def _only_shapes(module: Any, x: Tensor) -> bool:
    """Whether only shapes and operations are traced: nothing is rounded then.

    A trace or an export would be the network without its rounding: exporting is refused, a jit trace warns.
    """
    if torch.compiler.is_exporting():
        raise ConfigError(
            f"{module._precision.name}: an exported program would compute without the rounding of "
            f"{module._precision.quantizers.backend.name!r}; call ebsim.precision.remove(model) first"
        )
    if torch.jit.is_tracing():
        name = module._precision.quantizers.backend.name
        warnings.warn(f"the trace computes in fp32, without the rounding of precision {name!r}", stacklevel=3)
        return True
    return x.is_meta or isinstance(x, FakeTensor)


class _RoundedConv:
    _plain: type[nn.Module]

    def _conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if _only_shapes(self, input):
            return cast(Tensor, self._plain._conv_forward(self, input, weight, bias))
        unbatched = input.dim() == weight.dim() - 1
        input = input[None] if unbatched else input
        padding = list(self.padding) if not isinstance(self.padding, str) else [0] * (weight.dim() - 2)
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode=mode), [0] * len(padding)
        run = _product_uncompiled if torch.compiler.is_compiling() else _product
        y = run(self, Convolution(self, padding), input, weight, bias)
        return y[0] if unbatched else y


class _RoundedTransposed:
    _plain: type[nn.Module]

    def forward(self: Any, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if _only_shapes(self, input):
            return cast(Tensor, self._plain.forward(self, input, output_size))
        rank = self.weight.dim() - 2
        unbatched = input.dim() == rank + 1
        input = input[None] if unbatched else input
        more = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, rank, self.dilation
        )  # fmt: skip
        run = _product_uncompiled if torch.compiler.is_compiling() else _product
        y = run(self, Convolution(self, list(self.padding), list(more)), input, self.weight, self.bias)
        return y[0] if unbatched else y


class _RoundedLinear:
    def forward(self: Any, input: Tensor) -> Tensor:
        if _only_shapes(self, input):
            return F.linear(input, self.weight, self.bias)
        run = _product_uncompiled if torch.compiler.is_compiling() else _product
        if input.dim() == 1:
            return run(self, Product, input[None], self.weight, self.bias)[0]
        return run(self, Product, input, self.weight, self.bias)


class _RoundedPointwise:
    _plain: type[nn.Module]

    def forward(self: Any, *args: Any, **options: Any) -> Any:
        y = self._plain.forward(self, *args, **options)
        if not isinstance(y, Tensor) or not y.is_floating_point() or _only_shapes(self, y):
            return y
        return (_pointwise_uncompiled if torch.compiler.is_compiling() else _pointwise)(self, y)


def covered(module: nn.Module) -> bool:
    """Whether this module's products can be rounded: a convolution or Linear that did not redefine them."""
    for kind in CONVOLUTIONS:
        if isinstance(module, kind):
            return type(module)._conv_forward is kind._conv_forward
    for transposed in TRANSPOSED:
        if isinstance(module, transposed):
            return type(module).forward is transposed.forward
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def _never_called(model: nn.Module) -> set[nn.Module]:
    """Linear modules that only hold parameters: attention multiplies by them itself."""
    return {m.out_proj for m in model.modules() if isinstance(m, nn.MultiheadAttention)}


def layers(model: nn.Module) -> dict[str, Layer]:
    """Qualified name -> module of every convolution and Linear, in module order, rounded already or not."""
    unused = _never_called(model)
    found = {
        name: module
        for name, module in model.named_modules()
        if (covered(module) or getattr(type(module), "_multiplies", False)) and module not in unused
    }
    return cast("dict[str, Layer]", found)


def kind_of(module: nn.Module) -> str:
    """The kind of a pointwise module ("norm", "activation", "pool"); "" for any other."""
    plain = getattr(type(module), "_plain", type(module))
    return next((kind for kind, types in KINDS.items() if plain in types), "")


def pointwise(model: nn.Module) -> dict[str, nn.Module]:
    """Qualified name -> module of everything that rounds as the role `pointwise` says, in module order."""
    return {name: module for name, module in model.named_modules() if kind_of(module)}


def uncovered(model: nn.Module) -> list[str]:
    """Names of modules that own weight matrices but stay fp32 whatever the backend says."""
    inside = layers(model)
    return [
        name
        for name, module in model.named_modules()
        if name not in inside and any(p.dim() > 1 for p in module.parameters(recurse=False))
    ]


def refuse_lazy(model: nn.Module) -> None:
    """ConfigError for a layer that does not know its shape yet."""
    for name, module in model.named_modules():
        if any(nn.parameter.is_lazy(p) for p in module.parameters(recurse=False)):
            raise ConfigError(f"{name} is a lazy layer without a shape: run one batch through the network first")


def _mixin(plain: type[nn.Module]) -> type:
    if issubclass(plain, CONVOLUTIONS):
        return _RoundedConv
    if issubclass(plain, TRANSPOSED):
        return _RoundedTransposed
    return _RoundedLinear if issubclass(plain, nn.Linear) else _RoundedPointwise


@functools.cache
def _rounded_class(plain: type[nn.Module]) -> type[nn.Module]:
    mixin = _mixin(plain)
    body = {"__module__": plain.__module__, "_plain": plain, "_multiplies": mixin is not _RoundedPointwise}
    return type(plain.__name__, (mixin, plain), body)


def _no_fast_path(module: nn.Module, args: Any) -> None:
    """A hook that does nothing: torch's fused encoder layer, which calls no module, is not used where there is one."""


def swap_in(module: nn.Module, rounding: LayerPrecision) -> None:
    """Let this layer round its tensors."""
    module.__class__ = _rounded_class(cast(Any, type(module)))
    module._precision = rounding  # type: ignore[assignment]
    if isinstance(module, nn.Linear | nn.LayerNorm):
        module.register_forward_pre_hook(_no_fast_path)


def swap_out(module: nn.Module) -> None:
    """Make it the plain layer it was."""
    plain = getattr(type(module), "_plain", None)
    if plain is not None:
        module.__class__ = cast(Any, plain)
        del module.__dict__["_precision"]
        for key in [k for k, hook in module._forward_pre_hooks.items() if hook is _no_fast_path]:
            del module._forward_pre_hooks[key]
