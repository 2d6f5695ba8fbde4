"""Operation counts of a network (MACs, FLOPs) under a named counting convention.

    exact    multiply-accumulates (MACs) of convolutions and matrix products; FLOPs = 2 x MAC
    fvcore   what fvcore's FlopCountAnalysis prints in evaluation mode: MACs, + 2 per BatchNorm output, + 1 per
             input of an adaptive average pool; everything else is "unsupported" there
    torch    what torch.utils.flop_counter prints for a forward pass: 2 x MAC, nothing else
    paper    the authors' hooks: 2 per MAC + biases, 2 per BatchNorm output, 1 per ReLU output, k^2 per pooled
             output of MaxPool2d and AvgPool2d (not of adaptive or functional means)

A training total multiplies by images and passes. `exact`: forward, input gradient (not of the first layer),
weight gradient. `paper`: the forward count rounded to 0.01 G, as the authors' tool prints it, times 3; the
rounding is part of the published numbers (VGG16: 0.63 G; unrounded it would miss by 0.4 %).
"""

from __future__ import annotations

from collections.abc import Sequence

from hw_models.errors import HardwareError
from hw_models.workload.layer import CONTRACTIONS, Layer

CONVENTIONS = ("exact", "fvcore", "torch", "paper")


def forward_count(layers: Sequence[Layer], convention: str = "exact") -> int:
    """Operations of one forward pass of one image; MACs for `exact` and `fvcore`, FLOPs for the others."""
    _known(convention)
    return sum(_layer_count(layer, convention) for layer in layers)


def _known(convention: str) -> None:
    if convention not in CONVENTIONS:
        raise HardwareError(f"unknown counting convention {convention!r}; choose one of {', '.join(CONVENTIONS)}")


def _layer_count(layer: Layer, convention: str) -> int:
    if layer.kind in CONTRACTIONS:
        if convention == "paper":
            return 2 * layer.macs + (layer.outputs if layer.bias else 0)
        return layer.macs * (2 if convention == "torch" else 1)
    if convention in ("exact", "torch"):
        return 0
    if layer.kind == "bn":
        return 2 * layer.outputs
    if convention == "fvcore":
        return layer.inputs if _adaptive(layer) else 0
    if layer.kind == "relu":
        return layer.outputs
    if layer.kind in ("maxpool", "avgpool") and not _adaptive(layer) and layer.op not in ("mean", "sum"):
        return layer.outputs * layer.kernel[0] * layer.kernel[1]
    return 0


def _adaptive(layer: Layer) -> bool:
    return layer.kind == "avgpool" and layer.adaptive


def step_macs(layers: Sequence[Layer]) -> int:
    """Exact MACs of training on one image: forward, input gradient where needed, weight gradient."""
    return sum(layer.macs * (2 if layer.first else 3) for layer in layers)


def training_count(layers: Sequence[Layer], images: int, convention: str = "exact") -> float:
    """Operations of training on `images` images (epochs x images per epoch), under the convention.

    `exact`: MACs of the three passes. `fvcore`, `torch`: three times the forward count (as their users do).
    `paper`: three times the forward FLOPs rounded to 0.01 G.
    """
    _known(convention)
    if convention == "exact":
        return float(step_macs(layers)) * images
    forward = float(forward_count(layers, convention))
    if convention == "paper":
        forward = paper_gflops(layers) * 1e9
    return 3 * forward * images


def paper_gflops(layers: Sequence[Layer]) -> float:
    """Forward GFLOPs as the authors' tool prints them: two decimals."""
    return float(f"{forward_count(layers, 'paper') / 1e9:.2f}")


def paper_pflops(phases: Sequence[tuple[float, float]], images_per_epoch: int) -> float:
    """Training PFLOPs by the paper's law: 3 x images x sum of epochs x printed forward GFLOPs.

    `phases`: (epochs, printed GFLOPs) of each stage, e.g. [(11, 3.64), (79, 3.37)] for search and retrain.
    """
    return 3 * images_per_epoch * sum(epochs * gflops * 1e9 for epochs, gflops in phases) / 1e15
