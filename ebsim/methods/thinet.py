"""thinet: choose a layer's channels by how well the next layer can do without the others.

Idea: what a pruned channel contributed to the next layer's outputs is what is lost; remove, one by one, the channels
whose summed contributions stay smallest, then let the next layer's weights make up for the rest.

Equation: with x_j the contribution of channel j to sampled outputs of the next layer, grow T greedily by
argmin_j |sum_(T + j) x|^2 until p n channels are in it; rescale the kept by w = argmin |sum_j x_j - X_kept w|^2.

Source: Luo et al., ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression, ICCV 2017
(arXiv 1707.06342).

Options: samples = outputs of the next layer that are looked at, per image of one training batch.

Deviations: channels that more than one layer reads (residual sums) are kept, as ThiNet keeps a block's last layer; all
layers are pruned front to back on the network pruned so far, without its epoch of training after each; then N epochs
with the full schedule, as the EB paper counts it (theirs are about a dozen).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ebsim import tickets
from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.result import MethodResult
from ebsim.experiment.retraining import ticket
from ebsim.experiment.training_stages import dense_training, scoring
from ebsim.seeds import seed_of


def run(context: ExperimentContext, ratio: float, samples: int = 10) -> MethodResult:
    """Train densely to epoch N, choose channels layer by layer, train the pruned network for N epochs."""
    result = MethodResult("thinet", "ThiNet", ratio, *context.precisions(), epoch_drawn=context.epochs)
    dense = dense_training(context, result.search_precision)
    dense.train()
    result.trajectory = dense.stage
    result.ledger.append(dense.ledger("dense"))

    model = context.dense_network()
    model.load_state_dict(dense.trajectory.state_at(context.epochs))
    images = context.batch[0]
    seed = seed_of(context.seed, "thinet")
    mask, rescaling = select(model.to(context.device), images.to(context.device), ratio, samples, seed)
    result.ledger.append(scoring(context, len(images), len(rescaling.factors), forward=True))  # one pass for each layer
    scored = len(images) * len(rescaling.factors)  # forward passes, of three that training makes for an image
    share = scored / (scored + 3 * 2 * context.epochs * context.data.train_images)
    if share > 0.1:
        result.notes.append(
            f"choosing channels takes a forward pass of {len(images)} images for each of {len(rescaling.factors)} "
            f"layers, about {share:.0%} of all that is computed: with so few training images it dominates the energy"
        )
    return result.record_final_training(
        ticket(context, dense, mask, context.epochs, "fine-tune", result.retrain_precision, rescaling), mask=mask
    )


@dataclass(frozen=True)
class Rescaling:
    """Layer -> one factor per input channel of its weights."""

    factors: dict[str, Tensor]

    @property
    def digest(self) -> str:
        """SHA-256 of the names and factors."""
        content = hashlib.sha256()
        for name, factor in self.factors.items():
            content.update(name.encode() + factor.numpy().tobytes())
        return content.hexdigest()

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        for name, factor in self.factors.items():
            weight: Tensor = model.get_parameter(f"{name}.weight")
            parts = weight.shape[1] // len(factor)  # a linear layer may read several pixels of each channel
            wide = factor.repeat_interleave(parts).to(weight.device)
            weight.mul_(wide.view(1, -1, *[1] * (weight.ndim - 2)))


@torch.no_grad()
def select(
    model: nn.Module, images: Tensor, ratio: float, samples: int, seed: int
) -> tuple[tickets.ChannelMask, Rescaling]:
    """Prune `model` front to back, in place, by rescaling each next layer (a pruned channel's weights by zero)."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    layers = tickets.bn_layers(model)
    bits: dict[str, Tensor] = {name: torch.ones(size, dtype=torch.bool) for name, size in layers.items()}
    factors = {}
    for name, next_layer in tickets.reader(model).items():
        reader = None if next_layer is None else model.get_submodule(next_layer)
        if next_layer is None or reader is None or getattr(reader, "groups", 1) != 1:
            continue
        x = contributions(reader, _input_of(model, reader, images), layers[name], samples, generator).double()
        kept = choose(x, max(1, round((1 - ratio) * layers[name])))
        factor = torch.zeros(layers[name])
        factor[kept] = torch.linalg.lstsq(x[:, kept], x.sum(1, keepdim=True)).solution[:, 0].float()
        bits[name] = torch.zeros(layers[name], dtype=torch.bool)
        bits[name][kept] = True
        factors[next_layer] = factor
        Rescaling({next_layer: factor}).apply(model)
    mask = tickets.ChannelMask(torch.cat([bits[name] for name in layers]).numpy(), layers)
    return mask, Rescaling(factors)


def choose(x: Tensor, keep: int) -> Tensor:
    """Indices (ascending) of the channels that the greedy removal leaves; x [samples, channels].

    With the Gram matrix G = x^T x, adding j to the removed set T adds G_jj + 2 sum_(t in T) G_tj to |sum_T x|^2.
    """
    gram = x.T @ x
    cost = gram.diagonal().clone()
    left = torch.ones(len(gram), dtype=torch.bool)
    for _ in range(len(gram) - keep):
        j = int(torch.where(left, cost, torch.inf).argmin())
        left[j] = False
        cost += 2 * gram[j]
    return left.nonzero()[:, 0]


def contributions(layer: nn.Module, inputs: Tensor, channels: int, samples: int, generator: torch.Generator) -> Tensor:
    """What each input channel adds to randomly chosen outputs of a layer, [images * samples, channels], on the CPU."""
    weight = layer.get_parameter("weight").detach()
    images = len(inputs)
    found = []
    for _ in range(samples):
        outputs = torch.randint(len(weight), (images,), generator=generator)
        if isinstance(layer, nn.Conv2d):
            patches, filters = _patches(layer, inputs, generator), weight[outputs].flatten(2)
        else:
            patches, filters = inputs.view(images, channels, -1), weight[outputs].view(images, channels, -1)
        found.append((patches * filters).sum(2).cpu())
    return torch.cat(found)


def _patches(layer: nn.Conv2d, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """The window of one random output pixel of every image, [images, channels, window]."""
    (up, left), (down, right) = layer.stride, layer.dilation
    high, wide = (int(size) for size in layer.padding)
    padded = functional.pad(inputs, (wide, wide, high, high))
    kernel_h, kernel_w = layer.kernel_size
    rows = (padded.shape[2] - down * (kernel_h - 1) - 1) // up + 1
    columns = (padded.shape[3] - right * (kernel_w - 1) - 1) // left + 1
    images = len(inputs)
    y = torch.randint(rows, (images, 1, 1), generator=generator) * up + torch.arange(kernel_h)[:, None] * down
    x = torch.randint(columns, (images, 1, 1), generator=generator) * left + torch.arange(kernel_w) * right
    return padded[torch.arange(images)[:, None, None], :, y, x].permute(0, 3, 1, 2).flatten(2)


def _input_of(model: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """What a layer reads when the network sees these images."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    model(images)
    handle.remove()
    return seen[0]
