"""Correctness of the GPU path, each check a function that returns what it measured; used by benchmarks/gpu.py.

A check returns {"passed": bool, ...figures}; one that raises has failed, and its error is its result. Everything runs
on a small network with random images, so that all of them together take well under a minute. On a CPU the checks run
too (both sides are then the CPU): that is how they are tested without a GPU.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebsim import models, precision, tickets
from ebsim.errors import DivergedError
from ebsim.training import StepGraphs, TrainStep, cuda_recorder, make_optimizer, on_stream, train_epoch

FORMATS = ("bf16", "e4m3", "e5m2", "int8", "bfp8", "mxfp8")
Result = dict[str, Any]
Batch = tuple[Tensor, Tensor]


def network() -> nn.Module:
    return models.build("preresnet", depth=11, classes=10, seed=0)


def batches(sizes: list[int], device: torch.device) -> list[Batch]:
    """Random images and labels, the same on every device, channels_last."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for size in sizes:
        images = torch.randn(size, 3, 32, 32, generator=generator)
        labels = torch.randint(10, (size,), generator=generator)
        found.append((images.to(device, memory_format=torch.channels_last), labels.to(device)))  # type: ignore[call-overload]
    return found


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """Deterministic cuDNN kernels and no TF32: the conditions under which two runs must agree in every bit."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = True, False, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before


def passes_in_float64(device: torch.device) -> Result:
    """Loss and every gradient of a dense network and of its ticket, GPU against CPU, in float64."""
    worst = 0.0
    dense = network()
    random_scales(dense)
    ticket = tickets.compact(dense, tickets.channel_mask(dense, 0.5), torch.zeros(2, 3, 32, 32))
    for model in (dense, ticket):
        sides = []
        for place in (torch.device("cpu"), device):
            own = copy.deepcopy(model).double().to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
            ((images, labels),) = batches([16], place)
            loss = functional.cross_entropy(own.train()(images.double()), labels)
            gradients = torch.autograd.grad(loss, list(own.parameters()))
            sides.append([loss.detach().cpu(), *(g.cpu() for g in gradients)])
        for ours, theirs in zip(*sides, strict=True):
            worst = max(worst, float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30)))
    return {"passed": worst < 1e-9, "largest_relative_difference": worst}


def random_scales(model: nn.Module) -> None:
    """Scales as a trained network has them (all different), so that a mask prunes every layer some."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.num_features, generator=generator))


def drift_in_float32(device: torch.device, steps: int = 8) -> Result:
    """The recipe in fp32 for a few steps, GPU against CPU: how far rounding alone moves the loss and the mask."""
    sides = []
    with reproducible():
        for place in (torch.device("cpu"), device):
            model, _, losses = trained(place, [64] * steps)
            sides.append((losses, tickets.channel_mask(model.cpu(), 0.5)))
    (ours, mask), (theirs, other) = sides
    difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    return {"passed": difference < 0.05, "loss_difference": difference, "mask_distance": mask.distance(other)}


def trained(
    device: torch.device,
    sizes: list[int],
    *,
    amp: str = "none",
    graphs: bool = False,
    rates: tuple[float, ...] = (0.1,),
) -> tuple[nn.Module, Any, list[float]]:
    """A network trained on random batches, one epoch per learning rate: (network, its graphs or None, mean losses)."""
    model = network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, lr=rates[0], momentum=0.9, weight_decay=1e-4)
    step = TrainStep(model, model, optimizer, l1=1e-4, amp=amp)
    run, losses = None, []
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    if graphs and stream is not None:
        notes: list[str] = []
        run = StepGraphs(step, lambda: optimizer.param_groups[0]["lr"], cuda_recorder(stream), notes.append)
    with on_stream(stream):
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            losses.append(train_epoch(step, batches(sizes, device), run=run).loss)
    if run is not None and notes:
        raise RuntimeError(notes[0])
    return model, run, losses


def graph_bits(device: torch.device, amp: str = "none", tf32: bool = False) -> Result:
    """Two epochs with a partial batch each and a milestone between: replayed graphs against eager mode, bit for bit."""
    sizes, rates = [64] * 6 + [24], (0.1, 0.01)
    with reproducible():
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        eager, _, losses = trained(device, sizes, amp=amp, rates=rates)
        again, _, _ = trained(device, sizes, amp=amp, rates=rates)
        graphed, run, replayed = trained(device, sizes, amp=amp, rates=rates, graphs=True)
    same = _equal(eager, graphed) and losses == replayed
    return {
        "passed": same,
        "eager_repeats_itself": _equal(eager, again),
        "largest_difference": _difference(eager, graphed),
        "replayed_steps": getattr(run, "replayed", None),
        "steps": len(sizes) * len(rates),
    }


def _equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def _difference(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


def no_waiting(device: torch.device) -> Result:
    """An epoch in which every wait for the device is an error; only its totals are read, afterwards."""
    model = network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=1e-4)
    step = TrainStep(model, model, optimizer, l1=1e-4)
    data = batches([32] * 4, device)
    train_epoch(step, data)  # cuDNN's first calls wait
    if device.type != "cuda":
        return {"passed": True, "skipped": "no GPU: a test counts the reads"}
    step.begin()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for images, labels in data:
            step(images, labels)
            step.count(len(labels))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"passed": True, "loss": step.totals().loss}


def divergence(device: torch.device) -> Result:
    """NaN images in the third of four batches: the error names that step, and no weight has moved since."""
    model = network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=1e-4)
    step = TrainStep(model, model, optimizer, l1=1e-4)
    data = batches([16] * 4, device)
    data[2] = data[2][0] * float("nan"), data[2][1]
    before: dict[str, Tensor] = {}

    def after(done: int) -> None:
        if done == 2:
            before.update({name: p.detach().clone() for name, p in model.named_parameters()})

    message = ""
    try:
        train_epoch(step, data, after_step=after)
    except DivergedError as error:
        message = str(error)
    still = all(torch.equal(before[name], p) for name, p in model.named_parameters())
    return {"passed": "step 3 of the epoch" in message and still, "weights_untouched": still, "message": message}


def rounding(device: torch.device) -> Result:
    """Every number format rounds to the same bits on the GPU as on the CPU, to nearest and stochastically."""
    x = torch.randn(64, 32, 8, 8, generator=torch.Generator().manual_seed(2)) * 3
    wrong = []
    for name in FORMATS:
        for how in ("nearest", "stochastic"):
            options = {"rounding": how, "seed": 7, "step": 3, "layer": "conv", "role": "activation"}
            here = precision.quantize(x, name, **options)
            there = precision.quantize(x.to(device), name, **options).cpu()
            if not torch.equal(here, there):
                wrong.append(f"{name} ({how}): {int((here != there).sum())} of {x.numel()}")
    return {"passed": not wrong, "different": wrong, "formats": list(FORMATS)}


def data_bits(device: torch.device, root: str | None) -> Result:
    """The first training and test batch of the image folder, GPU against CPU, bit for bit."""
    from ebsim import data

    if root is None:
        return {"passed": True, "skipped": "no data given"}
    sides = []
    for place in (torch.device("cpu"), device):
        own = data.load("imagefolder", root=root, device=place, subset=1000)
        first = next(iter(own.train_batches(128, seed=1, epoch=1, memory_format=torch.channels_last)))
        test = next(iter(own.test_batches(128, memory_format=torch.channels_last)))
        sides.append([tensor.cpu() for tensor in (*first, *test)])
    return {"passed": all(torch.equal(a, b) for a, b in zip(*sides, strict=True))}


def compiled_step(device: torch.device) -> Result:
    """`torch.compile` of the network: one step against eager mode."""
    losses = []
    for compiled in (False, True):
        model = network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        forward = torch.compile(model) if compiled else model
        optimizer = make_optimizer(model, lr=0.1, momentum=0.9, weight_decay=1e-4)
        step = TrainStep(model, forward, optimizer, l1=1e-4)
        losses.append([train_epoch(step, batches([32], device)).loss for _ in range(2)])
    difference = max(abs(a - b) for a, b in zip(*losses, strict=True))
    return {"passed": difference < 0.05, "loss_difference": difference}


def checks(device: torch.device, root: str | None) -> dict[str, Callable[[], Result]]:
    """All checks by name, most important first."""
    return {
        "float64 passes, GPU = CPU": lambda: passes_in_float64(device),
        "graph = eager, fp32": lambda: graph_bits(device),
        "graph = eager, tf32": lambda: graph_bits(device, tf32=True),
        "graph = eager, bf16": lambda: graph_bits(device, amp="bf16"),
        "no waiting inside an epoch": lambda: no_waiting(device),
        "divergence is caught": lambda: divergence(device),
        "number formats, GPU = CPU": lambda: rounding(device),
        "batches, GPU = CPU": lambda: data_bits(device, root),
        "fp32 drift, GPU to CPU": lambda: drift_in_float32(device),
        "compiled = eager": lambda: compiled_step(device),
    }


def run_all(device: torch.device, root: str | None, write: Callable[[str, Result], None]) -> None:
    """Run every check; `write(name, result)` is called after each."""
    for name, check in checks(device, root).items():
        try:
            result = check()
        except Exception as error:  # a check must not keep the others from running
            result = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
        write(name, result)
