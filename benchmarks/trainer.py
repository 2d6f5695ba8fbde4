"""How much faster than a plain loop: steps, evaluation, a scaled epoch, masks and shrunk networks, as ratios.

    python benchmarks/trainer.py [--quick] [--save] [--network PreResNet20 ...] [--part tickets] [--rounds N]

The reference is a plain Early-Bird loop as the authors' published code runs it, written anew from its description: a
channel-selection module after each block's first BatchNorm even where nothing is selected (index moved to numpy and
back in every forward), contiguous NCHW, the L1 term added module by module, SGD parameter by parameter, two `.item()`
a step, evaluation with the graph being built, and a mask drawn by walking the modules three times per ratio.

Two cases at a time alternate in processes of their own, on one thread each; times are CPU seconds, and a figure is the
median of the per-round ratios: on a shared machine only ratios of neighbors mean anything. `--save` writes
benchmarks/results/trainer.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ebsim import models, tickets
from ebsim.config import Train
from ebsim.training import TrainStep, evaluate, make_optimizer, train_epoch
from ebsim.training.allocator import keep_freed_memory
from ebsim.training.compilation import step_forward

RATIOS = (0.3, 0.5, 0.7)
PARTS = ("tickets", "step", "epoch", "masks")
Case = Callable[[], object]
Kernels = Literal["library", "fused"]
KERNELS: tuple[Kernels, ...] = ("library", "fused")
Ratios = dict[str, dict[str, float]]


class PlainSelection(nn.Module):
    """The reference's channel selection: every forward asks numpy which channels are wanted."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.indexes = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        chosen = np.squeeze(np.argwhere(self.indexes.data.cpu().numpy()))
        return x[:, np.resize(chosen, (1,)) if chosen.size == 1 else chosen, :, :]


def plain_network(name: str, depth: int, classes: int) -> nn.Module:
    """Our network with the reference's no-op selections after each block's first BatchNorm, NCHW."""
    model = models.build(name, depth=depth, classes=classes, seed=0)
    if name == "preresnet":
        for module in model.modules():
            if hasattr(module, "bn1") and isinstance(module.bn1, nn.BatchNorm2d):
                module.bn1 = nn.Sequential(module.bn1, PlainSelection(module.bn1.num_features))
    return model


def plain_step(model: nn.Module, sgd: torch.optim.SGD, x: Tensor, y: Tensor) -> None:
    """One training step of the reference."""
    model.train()
    sgd.zero_grad()
    output = model(x)
    loss = nn.functional.cross_entropy(output, y)
    loss.item()
    (output.data.max(1)[1] == y).sum().item()
    loss.backward()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.grad.data.add_(1e-4 * torch.sign(module.weight.data))
    sgd.step()


def plain_evaluation(model: nn.Module, x: Tensor, y: Tensor, batch: int) -> None:
    """Evaluation of the reference: the graph is built and thrown away."""
    model.eval()
    for part, labels in zip(x.split(batch), y.split(batch), strict=True):
        output = model(part)
        nn.functional.cross_entropy(output, labels, reduction="sum").item()
        (output.data.max(1)[1] == labels).sum().item()


def plain_masks(model: nn.Module) -> list[Tensor]:
    """Masks of the reference: per ratio three walks over the modules and a sort, kept channels counted on the way."""
    masks = []
    for ratio in RATIOS:
        layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        total = sum(m.weight.data.shape[0] for m in layers)
        flat, index = torch.zeros(total), 0
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                size = module.weight.data.shape[0]
                flat[index : index + size] = module.weight.data.abs().clone()
                index += size
        threshold = torch.sort(flat)[0][int(total * ratio)]
        mask, index, pruned, widths = torch.zeros(total), 0, 0, []
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                kept = module.weight.data.abs().clone().gt(threshold).float()
                pruned = pruned + kept.shape[0] - torch.sum(kept)
                widths.append(int(torch.sum(kept)))
                mask[index : index + kept.shape[0]] = kept
                index += kept.shape[0]
        masks.append(mask)
    return masks


def our_masks(model: nn.Module, layers: Mapping[str, int]) -> list[tickets.ChannelMask]:
    """As a trajectory does it after an epoch: the scales as one vector, one sort for all ratios."""
    return tickets.masks_from_scores(tickets.gammas(model).abs(), layers, RATIOS)


def sgd_of(model: nn.Module, foreach: bool | None = False) -> torch.optim.SGD:
    parameters = [p for p in model.parameters()]
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4, foreach=foreach)


def ours(model: nn.Module, x: Tensor, y: Tensor, amp: str, batch: int, kernels: Kernels = "library") -> Case:
    """An epoch of our loop over one fixed set of images (one step when they are one batch)."""
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sgd = make_optimizer(model, lr=1e-3, momentum=0.9, weight_decay=1e-4)
    x = x.contiguous(memory_format=torch.channels_last)
    batches = list(zip(x.split(batch), y.split(batch), strict=True))
    forward = step_forward(model, Train(kernels=kernels), rounded=False)
    step = TrainStep(model, forward, sgd, l1=1e-4, amp=amp)
    return lambda: train_epoch(step, batches)


def our_evaluation(model: nn.Module, x: Tensor, y: Tensor, amp: str, batch: int) -> Case:
    x = x.contiguous(memory_format=torch.channels_last)
    batches = list(zip(x.split(batch), y.split(batch), strict=True))
    return lambda: evaluate(model, batches, amp=amp)


class Child:
    """A case in a process of its own, because how an allocator behaves is a property of a process: ours keeps what a
    step frees (`ebsim.training.allocator`), the reference's is the system's. `run` returns CPU seconds.
    """

    def __init__(self, make: Callable[[], Case], ours: bool) -> None:
        fork = multiprocessing.get_context("fork")
        self._pipe, other = fork.Pipe()
        self._process = fork.Process(target=_serve, args=(make, ours, other), daemon=True)
        self._process.start()

    def run(self) -> float:
        self._pipe.send(None)
        return float(self._pipe.recv())

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def _serve(make: Callable[[], Case], ours: bool, pipe: Any) -> None:
    torch.set_num_threads(1)
    if ours:
        keep_freed_memory()
    case = make()
    while True:
        pipe.recv()
        began = time.process_time()
        case()
        pipe.send(time.process_time() - began)


def compare(base: Callable[[], Case], cases: dict[str, Callable[[], Case]], rounds: int, *, reference: bool) -> Ratios:
    """CPU time of the base over that of each case: median, smallest and largest ratio over alternating rounds.

    Each case runs against a base of its own, two processes at a time. reference: the base is the authors' loop, with
    the system's allocator; otherwise it is ours, too.
    """
    out: Ratios = {}
    for name, case in cases.items():
        pair = Child(base, ours=not reference), Child(case, ours=True)
        try:
            times = [(pair[0].run(), pair[1].run()) for _ in range(rounds + 1)][1:]
        finally:
            for child in pair:
                child.end()
        ratios = sorted(first / second for first, second in times)
        out[name] = {"ratio": statistics.median(ratios), "low": ratios[0], "high": ratios[-1], "rounds": rounds}
        out[name]["seconds"] = statistics.median(second for _, second in times)
        print(f"    {name}: x{out[name]['ratio']:.2f}", flush=True)
    return out


def random_gammas(model: nn.Module) -> None:
    """Scales as a trained network has them (all different), so that a mask prunes every layer some."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator))


def shrunk(name: str, depth: int, classes: int, ratio: float) -> nn.Module:
    """The ticket of a network with random scales: every layer loses some channels, and widths are ragged."""
    dense = models.build(name, depth=depth, classes=classes, seed=0)
    random_gammas(dense)
    return tickets.compact(dense, tickets.channel_mask(dense, ratio), torch.zeros(2, 3, 32, 32))


def macs(model: nn.Module) -> int:
    """Forward MACs of one image."""
    import hw_models

    return sum(layer.macs for layer in hw_models.trace(model, (3, 32, 32)))


def network_cases(
    name: str, depth: int, classes: int, batch: int, rounds: int, parts: tuple[str, ...]
) -> dict[str, Any]:
    """Steps, evaluation, tickets and masks of one network. parts: of PARTS."""
    torch.manual_seed(0)
    x, y = torch.randn(2 * batch, 3, 32, 32), torch.randint(classes, (2 * batch,))
    one, labels = x[:batch], y[:batch]

    def dense() -> nn.Module:
        return models.build(name, depth=depth, classes=classes, seed=0)

    def step(amp: str, ratio: float = 0.0, kernels: Kernels = "library") -> Callable[[], Case]:
        return lambda: ours(shrunk(name, depth, classes, ratio) if ratio else dense(), one, labels, amp, batch, kernels)

    def plain() -> Case:
        model = plain_network(name, depth, classes)
        sgd = sgd_of(model)
        return lambda: plain_step(model, sgd, one, labels)

    def plain_epoch() -> Case:
        model = plain_network(name, depth, classes)
        sgd = sgd_of(model)

        def run() -> None:
            for part, target in zip(x.split(batch), y.split(batch), strict=True):
                plain_step(model, sgd, part, target)
            plain_evaluation(model, one, labels, batch)

        return run

    def our_epoch(amp: str, kernels: Kernels) -> Callable[[], Case]:
        def make() -> Case:
            model = dense()
            train, test = ours(model, x, y, amp, batch, kernels), our_evaluation(model, one, labels, amp, batch)
            return lambda: (train(), test())

        return make

    amps = {"fp32": "none", "bf16": "bf16"}
    both: list[tuple[str, str, Kernels]] = [
        (f"{key}{', fused' * (kernels == 'fused')}", amp, kernels) for key, amp in amps.items() for kernels in KERNELS
    ]
    out: dict[str, Any] = {}
    if "tickets" in parts:
        whole = macs(dense())
        fewer = {f"ticket p={ratio:g}": whole / macs(shrunk(name, depth, classes, ratio)) for ratio in RATIOS}
        for key, amp, kernels in both:
            print(f"  tickets over the dense step, {key}", flush=True)
            cases = {f"ticket p={r:g}": step(amp, r, kernels) for r in RATIOS}
            found = compare(step(amp, 0.0, kernels), cases, rounds, reference=False)
            out[f"tickets over our own dense step, {key}"] = found
            for ticket, row in found.items():
                row["fewer MACs"] = fewer[ticket]
    if "step" in parts:
        print("  over the authors' loop: a step", flush=True)
        steps = {key: step(amp, 0.0, kernels) for key, amp, kernels in both}
        steps |= {f"{key}, ticket p=0.5": step(amp, 0.5, kernels) for key, amp, kernels in both}
        out["step over the reference"] = compare(plain, steps, rounds, reference=True)
    if "epoch" in parts:
        print("  over the authors' loop: two steps and an evaluation", flush=True)
        epochs = {key: our_epoch(amp, kernels) for key, amp, kernels in both}
        out["two steps and an evaluation over the reference"] = compare(plain_epoch, epochs, rounds, reference=True)
    if "masks" in parts:
        layers = tickets.bn_layers(dense())

        def masks(ours: bool) -> Callable[[], Case]:
            def make() -> Case:
                model = dense()
                random_gammas(model)
                draw = (lambda: our_masks(model, layers)) if ours else (lambda: plain_masks(model))
                return lambda: [draw() for _ in range(50)]

            return make

        found = compare(masks(False), {"ours": masks(True)}, max(rounds, 9), reference=True)
        out["masks of three ratios over the reference"] = found
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small networks and batches: does it run at all")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/trainer.json")
    parser.add_argument("--network", action="append", help="only this one, as PreResNet101 (may be given again)")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part (may be given again)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    nets = [("preresnet", 20, 10), ("preresnet", 101, 10), ("vgg", 16, 100)]
    if options.quick:
        nets = [("preresnet", 11, 10), ("vgg", 11, 10)]
    batch, rounds = (8, 2) if options.quick else (128, options.rounds)
    results: dict[str, Any] = {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "threads": 1,
        "batch": batch,
        "cases": {},
    }
    for name, depth, classes in nets:
        label = models.resolve(name, depth=depth, classes=classes).label
        if options.network and label not in options.network:
            continue
        print(label, flush=True)
        results["cases"][label] = network_cases(name, depth, classes, batch, rounds, tuple(options.part or PARTS))
        if options.save:
            path = Path(__file__).parent / "results" / "trainer.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
