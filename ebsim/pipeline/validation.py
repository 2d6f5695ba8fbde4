"""Validates an experiment before anything runs: every name in it, and the precisions that its methods compute in.

No torch is needed to read the names; only rules with globs make a network, to see that they match one of its layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ebsim import config, models, precision
from ebsim.config import Experiment
from ebsim.data import catalogue
from ebsim.errors import ConfigError
from ebsim.experiment.precisions import backend
from ebsim.methods import METHODS
from ebsim.precision import plugins, registry
from ebsim.tickets.criteria import CRITERIA

if TYPE_CHECKING:
    from ebsim.precision.backends import Backend

KEYS = ("search", "retrain", "low")
LARGEST = (3, 224, 224)
"""The image shape that stands for one that is not known yet."""


def used(experiment: Experiment) -> dict[str, str]:
    """The keys of the section that say what is computed, with their backends; `low` only where a method works in it."""
    letters = "".join(METHODS[name].options.get("precision", "") for name in experiment.methods)
    keys = KEYS if "L" in letters else KEYS[:2]
    return {key: getattr(experiment.precision, key) for key in keys}


def identities(experiment: Experiment) -> dict[str, Any]:
    """What these backends do, as plain JSON: part of what defines a run. No paths, no unused tables."""
    found = {key: backend(experiment.precision, name) for key, name in used(experiment).items()}
    return {key: {"name": chosen.name, **precision.identity(chosen)} for key, chosen in found.items()}


def outsiders(experiment: Experiment) -> list[dict[str, str]]:
    """Formats and backends of these that are not built in: name, where from (package and version, or path), digest."""
    found: dict[tuple[str, str], dict[str, str]] = {}

    def note(kind: str, spec: str, name: str, digest: str) -> None:
        if (origin := registry.plugin_origin(kind, spec)) is not None:
            found[kind, name] = {"kind": kind, "name": name, "origin": origin, "digest": digest}

    for key in used(experiment).values():
        chosen = backend(experiment.precision, key)
        if key not in experiment.precision.backends:
            note("backends", key, chosen.name, precision.digest_of(chosen))
        for operand in chosen.operands():
            note("formats", operand.spec, operand.format.name, precision.fingerprint(operand.format))
    return list(found.values())


def network_mistakes(experiment: Experiment, broken: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it): a depth, stem or image size that the network family does not have."""
    model, entry = experiment.model, catalogue.DATASETS.get(experiment.data.name)
    if broken & {"model", "model.name"} or model.name not in models.FAMILIES:
        return
    depth_known = not broken & {"model.depth"} and model.depth in models.FAMILIES[model.name].depths
    # The image size of a folder is known when it is read; its network is then checked again.
    classes, shape = (entry.classes or 10, entry.shape or LARGEST) if entry is not None else (10, LARGEST)
    trials: dict[str, dict[str, Any]] = {"depth": {"depth": model.depth}, "stem": {"stem": model.stem}}
    for key, options in trials.items():
        if f"model.{key}" in broken or (key == "stem" and (not depth_known or "data.name" in broken)):
            continue
        try:
            models.resolve(model.name, classes=classes, input_shape=shape, **options)
        except ConfigError as error:
            yield f"model.{key}", f"= {_shown(options[key])}: {error}"
            break


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def mistakes(experiment: Experiment, broken: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it): plug-ins, backends of one's own, names, and rules that match no layer.

    broken: keys that are known to be wrong and have their defaults in `experiment`.
    """
    yield from _ignored(experiment, broken)
    section = experiment.precision
    for problem in registry.refused(section.plugins):
        yield "precision.plugins", f": {problem}"
    own: dict[str, Backend | None] = {}
    for name, table in section.backends.items():
        own[name], problems = registry.parse_backend(name, table)
        if plugins.unseen():  # its formats may be those of a plug-in that is only looked at
            continue
        for key, problem in problems:
            yield f"precision.backends.{name}.{key}".rstrip("."), f"{_value(table, key)}: {problem}"
    for key in KEYS:
        name = getattr(section, key)
        if f"precision.{key}" in broken or (name in own and own[name] is None):
            continue
        where = f"precision.backends.{name}" if name in section.backends else f"precision.{key}"
        try:
            chosen = own.get(name) or precision.backend(name)
        except plugins.NotRun:
            continue
        except ConfigError as error:
            if plugins.unseen():
                continue
            known = [*precision.list_backends(), *section.backends]
            unknown = registry.plugin_origin("backends", name) is None and ".py:" not in name
            yield where, f'= "{name}": {f"unknown precision{registry.meant(name, known)}" if unknown else error}'
            continue
        if chosen.sets("second_moment"):
            yield where, f'= "{name}": experiments train with SGD, which keeps no second moment (second_moment)'
        rules = len(section.backends.get(name, {}).get("rule", ()))
        if any(key.startswith(("model", "data")) for key in broken):
            continue  # its layers are not known yet
        for number, problem in chosen.unmatched(_layers(experiment).rounded if chosen.globs else ()):
            if where == f"precision.{key}":
                yield where, f'= "{name}": {problem}'
            else:
                yield f"{where}.rule.{number}.layers" if number < rules else f"{where}.base", f": {problem}"


def _ignored(experiment: Experiment, broken: frozenset[str]) -> Iterator[tuple[str, str]]:
    """`prune.ignore`: patterns that no BatchNorm layer has, and methods that cannot leave layers out."""
    patterns = experiment.prune.ignore
    if not patterns:
        return
    others = [m for m in experiment.methods if m in METHODS and m != "dense" and not METHODS[m].ranks_layers]
    if others:
        yield (
            "prune.ignore",
            f'= {list(patterns)}: the method "{others[0]}" does not rank the channels of BatchNorm layers',
        )
    if any(key.startswith(("model", "data")) for key in broken) or not (names := _layers(experiment).norms):
        return
    from ebsim.tickets.ranking import match_layers

    matched, unmatched = match_layers(names, patterns)
    for pattern in unmatched:
        few = ", ".join(names[:5])
        yield "prune.ignore", f'= "{pattern}": no BatchNorm layer has such a name; there are {few}, ...'
    if len(matched) == len(names):
        yield "prune.ignore", f"= {list(patterns)}: leaves no layer to prune"


def _value(table: Any, key: str) -> str:
    """A wrong value as it was written, where it is short."""
    for part in key.split(".") if key else ():
        if isinstance(table, Mapping) and part in table:
            table = table[part]
        elif isinstance(table, Sequence) and part.isdigit():
            table = table[int(part)]
        else:
            return ""
    return f"= {table!r}" if isinstance(table, str | int | float) else ""


class _LayerNames(NamedTuple):
    """Names of layers in a dense network: those that a precision rounds, and those whose channels are ranked."""

    rounded: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()


def _layers(experiment: Experiment) -> _LayerNames:
    """Layers of the experiment's dense network; none where it cannot be built."""
    entry, model = catalogue.DATASETS.get(experiment.data.name), experiment.model
    if entry is None:
        return _LayerNames()
    options = {"depth": model.depth, "stem": model.stem}
    return _layers_of(model.name, entry.classes or 10, entry.shape or LARGEST, **options)


@functools.cache
def _layers_of(name: str, classes: int, shape: tuple[int, ...], **options: Any) -> _LayerNames:
    from ebsim.precision.rounded_layers import layers
    from ebsim.tickets import bn_layers

    try:
        network = models.build(name, classes=classes, input_shape=shape, seed=0, **options)
        return _LayerNames(tuple(layers(network)), tuple(bn_layers(network)))
    except ConfigError:  # no such network: reported when it is built
        return _LayerNames()


def choices() -> dict[str, Callable[[], Iterable[str]]]:
    """Which names each key may have; none of these imports torch."""
    from importlib.resources import files

    import hw_models
    from ebsim.models import FAMILIES

    return {
        "data.name": lambda: catalogue.DATASETS,
        "model.name": lambda: FAMILIES,
        "methods": lambda: METHODS,
        "prune.criterion": lambda: CRITERIA,
        "hardware.reuse": lambda: hw_models.REUSE_MODELS,
        "hardware.profile": lambda: [
            path.name.removesuffix(".toml") for path in (files("hw_models") / "profiles").iterdir()
        ],
    }


CROSS_CHECKS: config.CrossChecks = (network_mistakes, mistakes)


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Read and validate an experiment file, names included. Raises `ConfigError`."""
    experiment = config.load(path, overrides, choices(), CROSS_CHECKS)
    if experiment.grid:
        raise ConfigError(
            f"{path}: has a [grid] table, so it is many experiments: python cli.py ablate {path} (or one of them: "
            "--set grid={} and values of your own)"
        )
    return experiment
