"""Applies a precision backend to a network: in place, without changing a name, and removable.

    placement = apply(model, "fp8", seed=0)
    placement.attach(optimizer)            # only needed where the update itself is in a low precision
    for step, batch in enumerate(batches):
        placement.set_step(step)           # the rounding noise is a function of the step, not of a generator
        ...
    remove(model)

Works on any network with Conv2d or Linear layers, torch.fx graph modules included.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ebsim.errors import ConfigError
from ebsim.precision import optimizer_hooks, records, rounded_layers
from ebsim.precision.backends import Backend
from ebsim.precision.formats.accumulators import PartialSums
from ebsim.precision.formats.number_format import Operand
from ebsim.precision.quantization import compilation, quantizer
from ebsim.precision.quantization.counter_rng import keyed, keys, uniform
from ebsim.precision.quantization.delayed import Histories
from ebsim.precision.quantization.layout import Samples, as_matrix
from ebsim.precision.quantization.statistics import Statistics
from ebsim.precision.registry import backend
from ebsim.precision.rounded_layers import LayerCall

UPDATE = LayerCall()  # of the optimizer's roles: one in each step, the same in every process
# The hooks that warn of a forgotten `attach` or `set_step`, until `remove`
_warning_hooks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


class Placement:
    """A backend at work on one network. Made by `apply`.

    backend, seed, step; modules: name -> layer; uncovered: names of the layers with weights that stay fp32; compiled,
    note: whether quantizers are compiled, and why.
    """

    def __init__(
        self,
        model: nn.Module,
        chosen: Backend,
        seed: int,
        phase_name: str,
        compiled: tuple[bool, str],
        stats_every: int,
        patience: int = 0,
    ) -> None:
        self.backend, self.seed, self.phase_name, self.step = chosen, seed, phase_name, 0
        self.modules = rounded_layers.layers(model)
        self.table = chosen.table(list(self.modules))
        modules = rounded_layers.pointwise(model)
        every = {n: chosen.pointwise_cells(n, rounded_layers.kind_of(module)) for n, module in modules.items()}
        self.pointwise = {n: row for n, row in every.items() if not all(o.untouched for o in row.values())}
        self._frozen = {name for name, module in self.modules.items() if not module.weight.requires_grad}
        self.compiled, self.note = compiled
        used = [o for row in self.table.values() for (phase, _), o in row.items() if phase != "update"]
        self._eager_calls = patience * sum(not o.untouched for o in used)
        self._stepped = False
        self.samples, self.set_steps = Samples(), 0
        self._histories = Histories()
        self.whole: quantizer.Reduce = None  # over the processes that share a batch, see `share_batches`
        self.uncovered = rounded_layers.uncovered(model)
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._vectors = [name for name, p in model.named_parameters() if p.dim() <= 1 and p.requires_grad]
        self._statistics = Statistics(stats_every)
        self._hooks: list[Any] = []
        self._optimizer = "sgd"  # whose states `record` charges

    def set_step(self, step: int, first_sample: int = 0, sample_stride: int = 1) -> None:
        """Set the index of the training step before each forward pass; with the seed it decides the rounding noise.

        Where a batch is cut (micro-batches, processes), say so each time: the pass computes on the samples
        `first_sample`, `first_sample + sample_stride`, ... of the global batch, and each is rounded as in the whole
        batch. Passes without a `set_step` between them count as further calls of each layer, with noise of their own.
        """
        if step > 0 and not self._hooks and self._update_cells:
            raise ConfigError(
                f"precision {self.backend.name!r} keeps gradients, momentum or weights in a low precision: "
                "call placement.attach(optimizer) before training"
            )
        self.step, self._stepped = step, True
        self.samples = Samples(first_sample, sample_stride)
        self.set_steps += 1

    def sums(self) -> dict[str, PartialSums]:
        """Layers whose running sums are simulated, and how: where the record charges the declared accumulator."""
        if self.backend.partial_sums is None:
            return {}
        record = self.record()
        charged = {name: {**record["default"], **record["layers"].get(name, {})} for name in self.modules}
        return {name: self.backend.partial_sums for name, own in charged.items() if own["accumulator"] != "fp32"}

    def share_batches(self, whole: Callable[[Tensor], Tensor]) -> None:
        """Several processes compute on shares of each batch; `whole`: int32 tensor -> the largest of all processes.

        Scales of whole tensors are then those of the whole batch, in training (in evaluation those of the share, as
        shares may be empty there). ConfigError, naming the operand, for what would still
        differ from one process: blocks, tiles and transforms that reach over samples.
        """
        cells = [(f"{layer}, {phase}, {role}", phase, role, operand)
                 for layer, row in self.table.items() for (phase, role), operand in row.items()]  # fmt: skip
        for name, phase, role, operand in cells:
            over_samples = phase == "weight_gradient" and (operand.format.blocked or operand.hadamard)
            if over_samples or (operand.format.tile and role not in ("weight", *optimizer_hooks.ROLES)):
                raise ConfigError(
                    f"precision {self.backend.name!r}: {name}: {operand} takes several samples together, which several "
                    "processes would split; use one process, or a format with a scale per sample or tensor there"
                )
        if self.backend.partial_sums is not None:
            raise ConfigError(
                f"precision {self.backend.name!r}: the running sums of weight gradients go over all samples, which "
                "several processes would split; use one process, or leave partial_sums out"
            )
        self.whole = whole

    def quantize(
        self,
        layer: str,
        role: str,
        x: Tensor,
        chosen: Operand,
        *,
        axis: int = 1,
        call: LayerCall = UPDATE,
        overwrite: bool = False,
        phase: str = "update",
    ) -> Tensor:
        """Round one tensor of one layer at the current step; `overwrite`: `x` itself is not needed afterwards."""
        whole = self._whole(layer, phase, role, chosen, call)
        sampled = call.training and self._statistics.due(self.step)
        self._eager_calls = max(0, self._eager_calls - 1)
        y = quantizer.run(
            x,
            chosen.format,
            stochastic=chosen.stochastic,
            key=keys(self.seed, self.step, f"{self.phase_name}:{layer}", role, call.number),
            axis=axis,
            samples=call.samples,
            compile=self.compiled and not self._eager_calls,
            overwrite=overwrite and not sampled,
            whole=whole,
        )
        if sampled:
            self._statistics.add(layer, role, x, y, chosen.format, axis)
        return y

    def unclipped(
        self, layer: str, role: str, x: Tensor, chosen: Operand, *, axis: int = 1, call: LayerCall = UPDATE
    ) -> Tensor:
        """Where the forward rounding of a tensor at the current step clips nothing, as a bool tensor like it."""
        whole = self._whole(layer, "forward", role, chosen, call)
        return quantizer.unclipped(x, chosen.format, axis=axis, samples=call.samples, whole=whole)

    def sum_noise(self, layer: str, phase: str, number: int, x: Tensor, call: LayerCall) -> Tensor:
        """Uniform numbers for the rounding number `number` of a product's running sums x [samples or 1, ...]."""
        m = as_matrix(x, 0, samples=call.samples)
        key = keys(self.seed, self.step, f"{self.phase_name}:{layer}", f"{phase} sum {number}", call.number)
        return uniform(*keyed(m.hashes(), key).split(list(m.x.shape))).view(x.shape)

    def _whole(self, layer: str, phase: str, role: str, chosen: Operand, call: LayerCall) -> quantizer.Reduce:
        """What makes of the absmax of this tensor the one that its scale follows from, if that is another."""
        whole = self.whole if call.training and phase != "update" and role != "weight" else None
        if chosen.format.scaling != "delayed":
            return whole
        history = self._histories.of(f"{layer}/{phase}/{role}", self.step, call.training)
        return history if whole is None else lambda bits: history(whole(bits))

    @functools.cached_property
    def _update_cells(self) -> dict[str, dict[str, Operand]]:
        """Parameter name -> role -> operand, of the parameters whose update is not all fp32."""
        found: dict[str, dict[str, Operand]] = {}
        for layer, module in self.modules.items():
            cells = {role: self.table[layer]["update", role] for role in optimizer_hooks.ROLES}
            if layer not in self._frozen:
                found[self._names.get(id(module.weight), f"{layer}.weight")] = cells
        thin = self.backend.one_dimensional
        for name in self._vectors if not thin.untouched else ():
            found.setdefault(name, dict.fromkeys(optimizer_hooks.ROLES, thin))
        return {n: c for n, c in found.items() if not all(o.untouched for o in c.values())}

    def warn_if_left_out(self) -> Any:
        """Warn in the second backward pass if `attach` or `set_step` was not called."""
        weights = [m.weight for m in self.modules.values() if m.weight.requires_grad and m.weight.is_leaf]
        if not weights or self.backend.untouched:
            return None
        passes = 0

        def seen(_: Tensor) -> None:
            nonlocal passes
            passes += 1
            if passes == 2:  # gradients of one batch are not yet a training
                for problem in self._left_out():
                    warnings.warn(f"precision {self.backend.name!r}: {problem}", stacklevel=2)

        return weights[-1].register_post_accumulate_grad_hook(seen)

    def _left_out(self) -> Iterator[str]:
        if self._update_cells and not self._hooks:
            yield (
                "gradients, momentum or weights are to be kept in a low precision, as record() says, but are not: "
                "call placement.attach(optimizer) before training"
            )
        if not self._stepped and any(operand.stochastic for operand in self.backend.operands()):
            yield (
                "steps repeat random numbers, and a resumed training rounds otherwise: "
                "call placement.set_step(step) before each"
            )

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Round gradients before, and states and stored weights after, each step of a stock optimizer.

        SGD, Adam or AdamW; which one it is becomes part of `record`. ConfigError for others, where they would round.
        """
        self.detach()
        self._optimizer = optimizer_hooks.kind_of(optimizer)
        if self._optimizer == "sgd" and self.backend.sets(optimizer_hooks.SECOND):
            raise ConfigError(
                f"attach: {type(optimizer).__name__} keeps no second moment, which precision {self.backend.name!r} has "
                "a format for: use Adam or AdamW, or leave second_moment out"
            )
        names = {p: self._names.get(id(p)) for g in optimizer.param_groups for p in g["params"]}
        cells = self._update_cells
        missing = sorted(set(cells) - set(names.values()))  # type: ignore[type-var]
        if missing:
            raise ConfigError(
                f"attach: the optimizer does not hold {missing[0]!r} of the network the precision was applied to"
            )
        mine = {p: (n, cells[n]) for p, n in names.items() if n in cells}
        if mine:
            self._hooks = optimizer_hooks.attach(optimizer, mine, self.quantize)

    def state(self) -> dict[str, Tensor]:
        """What must be kept beside weights and momentum to go on alike: the absmax histories of delayed scales."""
        return self._histories.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave; names of others in it are left alone."""
        device = next((module.weight.device for module in self.modules.values()), torch.device("cpu"))
        self._histories.load(state, device)

    def detach(self) -> None:
        """Undo `attach`."""
        while self._hooks:
            self._hooks.pop().remove()

    def record(self) -> dict[str, Any]:
        """The precision record: what the hardware model prices (plain JSON)."""
        return records.record(
            self.backend,
            list(self.modules),
            pointwise=self.pointwise,
            frozen=self._frozen,
            optimizer=self._optimizer,
        )

    def statistics(self) -> dict[str, Tensor]:
        """The running sums of `stats` by name, as copies on the CPU: for a checkpoint before they are read."""
        return {f"{layer}\t{role}": row.cpu().clone() for (layer, role), row in self._statistics.sums.items()}

    def restore_statistics(self, sums: Mapping[str, Tensor]) -> None:
        """Go on with the sums that `statistics` gave; other names are left alone."""
        device = next((module.weight.device for module in self.modules.values()), torch.device("cpu"))
        for name, row in sums.items():
            layer, tab, role = name.partition("\t")
            if tab:
                self._statistics.sums[layer, role] = row.to(device)

    def stats(self) -> dict[str, dict[str, dict[str, float]]]:
        """layer -> role -> overflow, underflow and non-finite shares, SQNR in dB, absmax.

        Over the training steps sampled since the last call, so that a figure per epoch does not depend on resuming.
        """
        return self._statistics.take()


def apply(
    model: nn.Module,
    which: str | Mapping[str, Any] | Backend,
    *,
    seed: int = 0,
    phase_name: str = "",
    compile: bool | str = "auto",
    steps: int | None = None,
    stats_every: int = 0,
) -> Placement:
    """Let the Conv2d and Linear layers of `model` compute as the backend says, in place; replaces an earlier one.

    seed, phase_name   with step, layer, role and element index, decide all stochastic rounding
    compile            "auto" compiles the quantizers where a compiler is present and it pays: at once if `steps`
                       training steps are ahead that earn it back, after as many if `steps` is not given; True compiles
                       at once, False never. The same bits either way
    steps              how many training steps are ahead, if known
    stats_every        observe every so many steps (0: never); read with `Placement.stats()`
    What has weights but is neither (a ConvTranspose2d, a layer that computes in a way of its own) stays fp32, and is
    named in `Placement.uncovered`. The backend "fp32" leaves the network as it is. Raises ConfigError for a wrong
    backend, a rule that matches no layer, or weights that are not float32.
    """
    if compile not in (True, False, "auto"):
        raise ConfigError(f'compile = {compile!r}: use true, false or "auto"')
    remove(model)
    chosen = backend(which)
    if not chosen.untouched:
        rounded_layers.refuse_lazy(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    decision = compilation.decide(compile, device, steps)
    patience = compilation.MIN_STEPS_TO_COMPILE if compile == "auto" and steps is None and decision[0] else 0
    placement = Placement(model, chosen, seed, phase_name, decision, stats_every, patience)
    for name, cells in placement.pointwise.items():
        rounded_layers.swap_in(model.get_submodule(name), rounded_layers.LayerPrecision(name, cells, placement))
    sums = placement.sums()
    for name, module in placement.modules.items():
        cells = placement.table[name]
        if "weight" not in module._parameters and not all(cells["update", r].untouched for r in optimizer_hooks.ROLES):
            raise ConfigError(
                f"{name}.weight is computed from other parameters (a parametrization): a backend that keeps gradients, "
                "momentum or weights in a low precision cannot round it; remove the parametrization, or set these "
                f"roles to fp32 for {name!r}"
            )
        if module.weight.dtype != torch.float32 and not chosen.untouched:
            raise ConfigError(f"{name}.weight is {module.weight.dtype}, precisions are simulated in float32: .float()")
        own = sums.get(name)
        if own is not None or not all(o.untouched for (phase, _), o in cells.items() if phase != "update"):
            rounded_layers.swap_in(module, rounded_layers.LayerPrecision(name, cells, placement, own))
    if (handle := placement.warn_if_left_out()) is not None:
        _warning_hooks[model] = handle
    return placement


def averaged(model: nn.Module) -> AveragedModel:
    """The running fp32 average of a network's weights (SWA), itself without any rounding.

    After each epoch from the backend's `swa["start"]` on: `average.update_parameters(model)`; at the end
    `torch.optim.swa_utils.update_bn(batches, average)`, since averaged weights have statistics of their own.
    """
    average = AveragedModel(model)
    remove(average)
    return average


def remove(model: nn.Module) -> None:
    """Make every layer the plain one it was. Optimizer hooks go with `Placement.detach`."""
    for module in model.modules():
        rounded_layers.swap_out(module)
    if (handle := _warning_hooks.pop(model, None)) is not None:
        handle.remove()
