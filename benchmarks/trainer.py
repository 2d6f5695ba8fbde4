"""How much faster than a plain loop: steps, evaluation, a scaled epoch, masks and shrunk networks, as ratios.

    python benchmarks/trainer.py [--quick] [--save]

The reference is a plain Early-Bird loop as the authors' published code runs it, written anew from its description: a
channel-selection module after each block's first BatchNorm even where nothing is selected (index moved to numpy and
back in every forward), contiguous NCHW, the L1 term added module by module, SGD parameter by parameter, two `.item()`
a step, evaluation with the graph being built, and a mask drawn by walking the modules three times per ratio.

Cases alternate within a round, times are CPU seconds of this process on one thread, and a figure is the median of the
per-round ratios: on a shared machine only ratios of neighbours mean anything. `--save` writes
benchmarks/results/trainer.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ebsim import models, tickets
from ebsim.training import TrainStep, evaluate, make_optimizer, train_epoch

RATIOS = (0.3, 0.5, 0.7)
Case = Callable[[], object]


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


def ours(model: nn.Module, x: Tensor, y: Tensor, amp: str, batch: int) -> Case:
    """An epoch of our loop over one fixed set of images (one step when they are one batch)."""
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sgd = make_optimizer(model, lr=1e-3, momentum=0.9, weight_decay=1e-4)
    x = x.contiguous(memory_format=torch.channels_last)
    batches = list(zip(x.split(batch), y.split(batch), strict=True))
    step = TrainStep(model, model, sgd, l1=1e-4, amp=amp)
    return lambda: train_epoch(step, batches)


def our_evaluation(model: nn.Module, x: Tensor, y: Tensor, amp: str, batch: int) -> Case:
    x = x.contiguous(memory_format=torch.channels_last)
    batches = list(zip(x.split(batch), y.split(batch), strict=True))
    return lambda: evaluate(model, batches, amp=amp)


def compare(cases: dict[str, Case], rounds: int) -> dict[str, dict[str, float]]:
    """First case over each other one: median, smallest and largest ratio of CPU time over the rounds."""
    for case in cases.values():
        case()
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            began = time.process_time()
            case()
            times[name].append(time.process_time() - began)
    base, *others = cases
    out = {}
    for name in others:
        ratios = sorted(a / b for a, b in zip(times[base], times[name], strict=True))
        out[name] = {"ratio": statistics.median(ratios), "low": ratios[0], "high": ratios[-1], "rounds": rounds}
    return out


def random_gammas(model: nn.Module) -> None:
    """Scales as a trained network has them (all different), so that a mask prunes every layer some."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator))


def shrunk(name: str, depth: int, classes: int) -> tuple[nn.Module, float]:
    """The p = 0.5 ticket of a network with random scales, and by how much its forward MACs are fewer."""
    import hw_models

    dense = models.build(name, depth=depth, classes=classes, seed=0)
    random_gammas(dense)
    small = tickets.compact(dense, tickets.channel_mask(dense, 0.5), torch.zeros(2, 3, 32, 32))
    macs = [sum(layer.macs for layer in hw_models.trace(model, (3, 32, 32))) for model in (dense, small)]
    return small, macs[0] / macs[1]


def network_cases(name: str, depth: int, classes: int, batch: int, rounds: int) -> dict[str, Any]:
    """Step, evaluation, scaled epoch, masks and the shrunk step of one network."""
    torch.manual_seed(0)
    x, y = torch.randn(2 * batch, 3, 32, 32), torch.randint(classes, (2 * batch,))
    one, labels = x[:batch], y[:batch]
    plain, clean = plain_network(name, depth, classes), models.build(name, depth=depth, classes=classes, seed=0)
    half = models.build(name, depth=depth, classes=classes, seed=0)
    sgd, small_and_macs = sgd_of(plain), shrunk(name, depth, classes)
    small, fewer = small_and_macs
    out: dict[str, Any] = {}
    out["step over the reference"] = compare(
        {
            "reference": lambda: plain_step(plain, sgd, one, labels),
            "fp32": ours(clean, one, labels, "none", batch),
            "bf16": ours(half, one, labels, "bf16", batch),
            "fp32, ticket p=0.5": ours(small, one, labels, "none", batch),
        },
        rounds,
    )
    out["step over our own dense step"] = compare(
        {"dense": ours(clean, one, labels, "none", batch), "ticket p=0.5": ours(small, one, labels, "none", batch)},
        rounds,
    ) | {"fewer MACs": fewer}

    def plain_epoch() -> None:
        for part, target in zip(x.split(batch), y.split(batch), strict=True):
            plain_step(plain, sgd, part, target)
        plain_evaluation(plain, one, labels, batch)

    def our_epoch(model: nn.Module, amp: str) -> Case:
        train = ours(model, x, y, amp, batch)
        test = our_evaluation(model, one, labels, amp, batch)
        return lambda: (train(), test())

    out["two steps and an evaluation over the reference"] = compare(
        {"reference": plain_epoch, "fp32": our_epoch(clean, "none"), "bf16": our_epoch(half, "bf16")}, rounds
    )
    random_gammas(plain)
    random_gammas(clean)
    layers = tickets.bn_layers(clean)
    out["masks of three ratios over the reference"] = compare(
        {
            "reference": lambda: [plain_masks(plain) for _ in range(50)],
            "ours": lambda: [our_masks(clean, layers) for _ in range(50)],
        },
        max(rounds, 9),
    )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small networks and batches: does it run at all")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/trainer.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    nets = [("preresnet", 11, 10), ("vgg", 11, 10)] if options.quick else [("preresnet", 101, 10), ("vgg", 16, 100)]
    batch, rounds = (8, 3) if options.quick else (128, 3)
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
        results["cases"][label] = found = network_cases(name, depth, classes, batch, rounds)
        for group, rows in found.items():
            print(f"{label}: {group}")
            for case, row in rows.items():
                whole = row if isinstance(row, float) else row["ratio"]
                spread = "" if isinstance(row, float) else f" ({row['low']:.2f}..{row['high']:.2f})"
                text = f"x{whole:.2f}{spread}"
                print(f"  {case:24} {text}", flush=True)
    if options.save:
        path = Path(__file__).parent / "results" / "trainer.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
