"""VGG 11/13/16/19 with BatchNorm and a single linear layer, for small images.

Simonyan & Zisserman 2014 (arXiv 1409.1556), configurations A, B, D and E, in the Early-Bird authors' CIFAR variant:
convolutions without bias, each followed by BN and ReLU, a max-pool after each of the first four groups, one average
over what is left, one linear layer. At 32x32 the last group works on 2x2 maps. Smaller images get fewer max-pools, so
that no map is ever smaller than 2x2 (on 1x1 maps eight of nine weights of a 3x3 convolution would only see padding):
at 8x8 the first two pools remain. Parameters do not depend on the image size.
"""

from __future__ import annotations

import torch
from torch import nn

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {  # per group of equal width
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def max_pools(side: int) -> int:
    """How many of the four max-pools an image of `side` pixels can take before its map falls below 2x2."""
    return min(len(WIDTHS) - 1, max(0, side.bit_length() - 2))


class VGG(nn.Module):
    """[N, channels, H, W] -> logits [N, classes]; `side` = min(H, W) decides the number of max-pools."""

    def __init__(self, depth: int, classes: int, channels: int = 3, side: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential()
        inputs = channels
        for group, (width, count) in enumerate(zip(WIDTHS, CONVOLUTIONS[depth], strict=True)):
            for _ in range(count):
                self.features.append(nn.Conv2d(inputs, width, 3, padding=1, bias=False))
                self.features.append(nn.BatchNorm2d(width))
                self.features.append(nn.ReLU(inplace=True))
                inputs = width
            if group < max_pools(side):
                self.features.append(nn.MaxPool2d(2))
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))
