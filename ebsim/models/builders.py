"""Networks built and initialized from their names; `catalogue.FAMILIES` says which there are.

How to add one: a function `NetworkSpec -> nn.Module` here, and an entry in `FAMILIES` that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from ebsim.models.catalogue import FAMILIES, NetworkSpec, resolve
from ebsim.models.init_weights import initialize
from ebsim.models.preresnet import PreResNet
from ebsim.models.vgg import VGG


def build(
    name: str,
    *,
    classes: int,
    input_shape: Iterable[int] = (3, 32, 32),
    depth: int | None = None,
    stem: str = "auto",
    gamma_init: float | None = None,
    seed: int | None = None,
) -> nn.Module:
    """Build and initialize a network that maps [N, *input_shape] to logits [N, classes].

    name: "preresnet" (depth 9n+2), "vgg" (11, 13, 16, 19) or "resnet" (18, 34, 50; stem "imagenet", "small_images" or
    "auto", by the image size). With a `seed` the weights depend on nothing else and torch's global generator is left
    as it was. gamma_init: the BatchNorm scale at the start, 0.5 for the CIFAR networks and 1.0 for ImageNet's.
    Raises `ConfigError` for a name, depth, stem or image size that does not exist, naming the choices.
    """
    spec = resolve(
        name, classes=classes, input_shape=input_shape, depth=depth, stem=stem,
        gamma_init=gamma_init,
    )  # fmt: skip
    construct: Callable[[NetworkSpec], nn.Module] = globals()[FAMILIES[name].builder]
    if seed is None:
        model = construct(spec)
    else:
        with torch.random.fork_rng(devices=[]):  # constructors draw default weights, to be replaced
            model = construct(spec)
    return initialize(model, family=name, gamma_init=spec.gamma_init, seed=seed)


def preresnet(spec: NetworkSpec) -> nn.Module:
    return PreResNet((spec.depth - 2) // 9, spec.classes, spec.input_shape[0])


def vgg(spec: NetworkSpec) -> nn.Module:
    return VGG(spec.depth, spec.classes, spec.input_shape[0], min(spec.input_shape[1:]))


def resnet(spec: NetworkSpec) -> nn.Module:
    from ebsim.torchvision_shim import import_torchvision

    models = import_torchvision("torchvision.models")
    model = getattr(models, f"resnet{spec.depth}")(weights=None, num_classes=spec.classes)
    channels = spec.input_shape[0]
    if spec.stem == "small_images":  # full resolution for the first stage: 32x32 ends at 4x4
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    return model
