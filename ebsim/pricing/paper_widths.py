"""Layer tables at the widths that the authors' pruning scripts leave, to reproduce the FLOPs of their tables.

Our tickets compute exactly what the masked network does, so a channel that is zero everywhere is gone everywhere. The
authors' residual networks keep the residual stream at full width and select from it instead (`channel_selection`):

    ResNet18 / 34   conv1 of a block reads the channels that the BatchNorm before the block keeps; the block's inner
                    channels are removed; conv2's outputs, the projections and the classifier stay at full width
    PreResNet       BatchNorms that read the stream stay whole, and conv1 and the classifier read the kept channels;
                    the block's two inner widths are removed; conv3's outputs and the projections stay at full width
    VGG             every pruned channel is removed, as here

Source: resprune.py, models/resnet_imagenet.py and models/preresnet.py of the authors' code. ResNet50 is left out: its
script only prints a list of widths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ebsim.errors import ConfigError
from ebsim.tickets import ChannelMask
from hw_models.workload.layer import CONTRACTIONS, Layer

Widths = dict[str, tuple[int | None, int | None]]  # layer -> channels read and made, None where all are


def layers(family: str, dense: Sequence[Layer], mask: ChannelMask) -> list[Layer] | None:
    """The dense network's table at the authors' widths; None where they are those of our ticket. Counts per image."""
    if family == "vgg":
        return None
    bottleneck = family == "resnet" and any(row.name.endswith("bn3") for row in dense)
    if family not in _RULES or bottleneck:
        raise ConfigError('prune.gating = "authors": only for vgg, preresnet, and resnet of depth 18 or 34.')
    widths = _RULES[family](mask.kept())
    made: dict[str, int] = {}
    found = []
    for row in dense:
        reads, makes = widths.get(row.name, (None, None))
        if row.kind in CONTRACTIONS:
            row = _resized(row, reads or row.channels[0], makes or row.channels[1])
        elif row.kind in ("bn", "relu", "maxpool"):
            width = reads or made.get(row.sources[0], row.channels[1])
            row = _resized(row, width, width)
        made[row.name] = row.channels[1]
        found.append(row)
    return found


def _resized(row: Layer, reads: int, makes: int) -> Layer:
    inputs, outputs = row.channels
    return replace(
        row,
        macs=row.macs * reads * makes // (inputs * outputs),
        inputs=row.inputs * reads // inputs,
        outputs=row.outputs * makes // outputs,
        channels=(reads, makes),
    )


def _preresnet(kept: Mapping[str, int]) -> Widths:
    widths: Widths = {"relu": (kept["bn"], None), "fc": (kept["bn"], None)}
    for block in (name.removesuffix(".bn1") for name in kept if name.endswith(".bn1")):
        first, second, third = (kept[f"{block}.bn{number}"] for number in (1, 2, 3))
        widths[f"{block}.relu"] = (first, None)
        widths[f"{block}.conv1"] = (first, second)
        widths[f"{block}.conv2"] = (second, third)
        widths[f"{block}.conv3"] = (third, None)
    return widths


def _resnet(kept: Mapping[str, int]) -> Widths:
    widths: Widths = {}
    before = "bn1"
    for block in (name.removesuffix(".bn1") for name in kept if name.endswith(".bn1")):
        inner = kept[f"{block}.bn1"]
        widths[f"{block}.conv1"] = (kept[before], inner)
        widths[f"{block}.conv2"] = (inner, None)
        before = f"{block}.bn2"
    return widths


_RULES: dict[str, Callable[[Mapping[str, int]], Widths]] = {"preresnet": _preresnet, "resnet": _resnet}
