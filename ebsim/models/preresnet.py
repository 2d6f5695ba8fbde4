"""Pre-activation ResNet with bottleneck blocks, depth 9n+2, for small images.

Three stages of n blocks with widths 16, 32, 64 (times 4 at a block's output). A block is BN-ReLU-1x1, BN-ReLU-3x3,
BN-ReLU-1x1, added to its input; the first block of a stage projects the raw input with a 1x1 convolution. The stem
convolution has no BN, the last BN comes before the pooling. He et al. 2016 (arXiv 1603.05027), in the variant of the
Early-Bird authors' code, without its selection modules: a dense network has nothing to select.
"""

from __future__ import annotations

import torch
from torch import nn

WIDTHS = (16, 32, 64)
EXPANSION = 4


class Bottleneck(nn.Module):
    """[N, inputs, H, W] -> [N, 4 width, H / stride, W / stride]."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        changes_shape = stride != 1 or inputs != outputs
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if changes_shape else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(self.relu(self.bn1(x)))
        out = self.conv2(self.relu(self.bn2(out)))
        out = self.conv3(self.relu(self.bn3(out)))
        return out + (x if self.downsample is None else self.downsample(x))


def stage(blocks: int, inputs: int, width: int, stride: int) -> nn.Sequential:
    """One block that changes width and resolution, then `blocks - 1` that keep them."""
    first = Bottleneck(inputs, width, stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1)))


class PreResNet(nn.Module):
    """[N, channels, H, W] -> logits [N, classes]; `blocks` is n in depth = 9n+2."""

    def __init__(self, blocks: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.layer1 = stage(blocks, WIDTHS[0], WIDTHS[0], stride=1)
        self.layer2 = stage(blocks, EXPANSION * WIDTHS[0], WIDTHS[1], stride=2)
        self.layer3 = stage(blocks, EXPANSION * WIDTHS[1], WIDTHS[2], stride=2)
        self.bn = nn.BatchNorm2d(EXPANSION * WIDTHS[2])
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(EXPANSION * WIDTHS[2], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        # mean rather than AvgPool2d: any image size, and a deterministic backward on every device
        return self.fc(self.relu(self.bn(x)).mean((2, 3)))
