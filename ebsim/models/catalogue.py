"""Which networks there are and what each accepts: plain data, importable without torch.

How to add one: an entry in `FAMILIES` here, and the function that it names in `builders.py`.

`resolve` turns a name and options into a checked `NetworkSpec`; the configuration and `build` both go through it, so
a wrong depth is found before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ebsim.errors import ConfigError, nearest

LARGE_SIDE = 64  # from this many pixels a side on, stem "auto" is ImageNet's


@dataclass(frozen=True)
class Family:
    """One kind of network: how it is labelled, which depths and stems it has, how it starts, and what builds it.

    builder: name of a function of `builders.py`, NetworkSpec -> nn.Module.

    `gamma_init` and `smallest_side` are given per stem; a family without a choice of stems has the one stem "".
    `linear_init` is "uniform" (torch's default for a linear layer) or "normal" (N(0, 0.01), zero bias).
    """

    title: str
    depths: tuple[int, ...]
    depth_rule: str
    default_depth: int
    gamma_init: dict[str, float]
    smallest_side: dict[str, int]
    linear_init: str
    builder: str

    @property
    def stems(self) -> tuple[str, ...]:
        return tuple(self.gamma_init)


FAMILIES: dict[str, Family] = {
    "preresnet": Family(
        title="PreResNet",
        depths=tuple(range(11, 1002, 9)),
        depth_rule="9n+2, n >= 1 (bottleneck blocks; 101 is the paper's)",
        default_depth=101,
        gamma_init={"": 0.5},
        smallest_side={"": 4},
        linear_init="uniform",
        builder="preresnet",
    ),
    "vgg": Family(
        title="VGG",
        depths=(11, 13, 16, 19),
        depth_rule="11, 13, 16 or 19",
        default_depth=16,
        gamma_init={"": 0.5},
        smallest_side={"": 4},
        linear_init="normal",
        builder="vgg",
    ),
    "resnet": Family(
        title="ResNet",
        depths=(18, 34, 50),
        depth_rule="18, 34 or 50",
        default_depth=18,
        gamma_init={"imagenet": 1.0, "small_images": 0.5},
        smallest_side={"imagenet": 32, "small_images": 8},
        linear_init="uniform",
        builder="resnet",
    ),
}


@dataclass(frozen=True)
class NetworkSpec:
    """A network that can be built: every field checked, every default filled in."""

    name: str
    depth: int
    classes: int
    input_shape: tuple[int, int, int]
    stem: str
    gamma_init: float

    @property
    def label(self) -> str:
        """What tables call it, for example "PreResNet101"."""
        return f"{FAMILIES[self.name].title}{self.depth}"

    def describe(self) -> dict[str, object]:
        """Plain JSON: enough to build the same architecture again with `build(**describe())`."""
        plain: dict[str, object] = {
            "name": self.name,
            "depth": self.depth,
            "classes": self.classes,
            "input_shape": list(self.input_shape),
            "gamma_init": self.gamma_init,
        }
        return {**plain, "stem": self.stem} if self.stem else plain


def resolve(
    name: str,
    *,
    classes: int,
    input_shape: Iterable[int] = (3, 32, 32),
    depth: int | None = None,
    stem: str = "auto",
    gamma_init: float | None = None,
) -> NetworkSpec:
    """Check a network's name and options and fill in the defaults; raises `ConfigError` naming the choices.

    stem "auto" goes by the image size: ImageNet's from 64 pixels a side on, that for small images below.
    """
    if name not in FAMILIES:
        raise ConfigError(f"unknown network {name!r}{_hint(name)}; there are {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    depth = family.default_depth if depth is None else depth
    if depth not in family.depths:
        nearest = min(family.depths, key=lambda known: (abs(known - depth), known))
        raise ConfigError(f"{family.title} has no depth {depth}; it comes in {family.depth_rule}; nearest: {nearest}")
    if classes < 1:
        raise ConfigError(f"{family.title}{depth} needs at least 1 class, not {classes}")
    shape = tuple(input_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigError(f"input_shape must be (channels, height, width), not {shape}")
    side = min(shape[1:])
    stem = _resolve_stem(family, stem, side)
    smallest = family.smallest_side[stem]
    if side < smallest:
        cure = "; use stem = 'small_images'" if stem == "imagenet" else ""
        raise ConfigError(
            f"{family.title}{depth} needs images of at least {smallest}x{smallest}, not {shape[1]}x{shape[2]}{cure}"
        )
    gamma_init = family.gamma_init[stem] if gamma_init is None else float(gamma_init)
    if not 0 < gamma_init < float("inf"):
        raise ConfigError(f"gamma_init must be a positive number, not {gamma_init}")
    return NetworkSpec(name, depth, classes, shape, stem, gamma_init)


def _resolve_stem(family: Family, stem: str, side: int) -> str:
    if stem == "auto":
        return family.stems[0] if side >= LARGE_SIDE else family.stems[-1]
    if stem in family.stems:
        return stem
    choices = ", ".join(map(repr, ("auto", *family.stems))) if all(family.stems) else "no choice of stem"
    raise ConfigError(f"{family.title} has no stem {stem!r}; it has {choices}")


def _hint(name: str) -> str:
    """A family whose name begins or resembles what was typed, with the depth that may be glued to it."""
    stripped = name.rstrip("0123456789").lower().replace("-", "").replace("_", "")
    close = nearest(stripped, FAMILIES)
    if not close:
        return ""
    digits = name[len(name.rstrip("0123456789")) :]
    depth = f" with depth = {digits}" if digits else ""
    return f" (did you mean {close!r}{depth}?)"
