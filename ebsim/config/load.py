"""Experiment file + overrides -> a frozen `Experiment`, or every mistake in it at once.

Each mistake is one line: file and line, key path, value, the rule it breaks, and the nearest valid key or name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ebsim.config.paths import is_profile_path, locate
from ebsim.config.sections import Experiment, Section
from ebsim.config.source import Source, override, read
from ebsim.errors import ConfigError

Choices = Mapping[str, Callable[[], Iterable[str]]]
Rules = Sequence[Callable[[Experiment], Iterable[tuple[str, str]]]]


def load(
    path: str | Path, settings: Mapping[str, Any] | None = None, choices: Choices | None = None, rules: Rules = ()
) -> Experiment:
    """Read and validate an experiment, its paths found (`config.paths`); `settings` are overrides {"train.epochs": 40}.

    `choices` maps a key to the names that it may have ({"data.name": list_datasets}); each of `rules` looks at an
    experiment and gives (key, what is wrong with it). The rooms that own the names hand them in, so that this one
    knows of none of them. Raises `ConfigError` with all mistakes, one per
    line; nothing has been written by then.
    """
    source = read(Path(path))
    override(source, dict(settings or {}))
    locate(source)
    return validate(source, choices, rules)


def validate(source: Source, choices: Choices | None = None, rules: Rules = ()) -> Experiment:
    """Check a source against the schema, then the rules between keys and the names of things."""
    experiment, mistakes = check(source, choices, rules)
    if experiment is None:
        raise refusal(mistakes)
    return experiment


def check(source: Source, choices: Choices | None = None, rules: Rules = ()) -> tuple[Experiment | None, list[str]]:
    """The experiment of a source, or None and every mistake in it, one line each."""
    try:
        experiment = Experiment.model_validate(source.values)
    except ValidationError as error:
        return None, [_explain(item, source) for item in error.errors(include_url=False)]
    problems = [*_cross_checks(experiment), *_unknown_names(experiment, choices or {})]
    problems += [problem for rule in rules for problem in rule(experiment)]
    mistakes = [f"{source.place(key)}: {key} {problem}".replace(f"{key} :", f"{key}:") for key, problem in problems]
    return (None, mistakes) if mistakes else (experiment, [])


def refusal(mistakes: list[str]) -> ConfigError:
    """One error that tells all mistakes, each once."""
    unique = list(dict.fromkeys(mistakes))
    count = f"{len(unique)} error{'s' if len(unique) > 1 else ''}"
    return ConfigError("\n".join([*unique, f"{count}. Nothing was run."]))


def _nearest(word: str, choices: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" Did you mean {found[0]}?" if found else ""


def all_keys(section: type[Section] = Experiment, prefix: str = "") -> list[str]:
    """Every dotted key of the schema, tables included."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys.extend(all_keys(field.annotation, f"{prefix}{name}."))
    return keys


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _explain(item: Any, source: Source) -> str:
    """One line for one pydantic mistake."""
    # A union adds its member's name to the path, a list its index; keep what the user wrote.
    parts = [str(part) for part in item["loc"]]
    known = set(all_keys())
    while len(parts) > 1 and ".".join(parts) not in known and ".".join(parts[:-1]) in known:
        if item["type"] == "extra_forbidden" and isinstance(item["loc"][-1], str):
            break
        parts.pop()
    key = ".".join(parts)
    place = source.place(key)
    if item["type"] == "extra_forbidden":
        return f"{place}: {key}: unknown key.{_nearest(key, known)}"
    if item["type"] == "missing":
        return f"{place}: {key}: missing; add it."
    message = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    message = f"must be {message}" if item["msg"].startswith("Input should be ") else message
    if item["type"] == "string_pattern_mismatch":
        message = "only letters, digits and . _ - (at most 64, the first a letter or digit)"
        if key == "train.device":
            message = "must be auto, cpu, cuda or cuda:N"
    return f"{place}: {key} = {_show(item['input'])}: {message}"


def _cross_checks(experiment: Experiment) -> Iterable[tuple[str, str]]:
    """Rules between keys, and names that must be known: (key, what is wrong with it)."""
    train, prune = experiment.train, experiment.prune
    milestones = list(train.milestones)
    if milestones != sorted(set(milestones)) or any(epoch < 1 for epoch in milestones):
        yield "train.milestones", f"= {milestones}: must be rising epochs from 1 on"
    elif milestones and milestones[-1] >= train.epochs:
        yield (
            "train.milestones",
            (f"= {milestones}: must lie before train.epochs = {train.epochs}; shorten both together"),
        )
    if any(epoch > train.epochs for epoch in prune.draw_epochs):
        yield (
            "prune.draw_epochs",
            (f"= {list(prune.draw_epochs)}: must not lie after train.epochs = {train.epochs}; shorten both together"),
        )
    drawing = [name for name in experiment.methods if "-at-epoch" in name]
    if drawing and not prune.draw_epochs:
        yield "methods", f'has "{drawing[0]}", but prune.draw_epochs names no epoch to draw at'
    if prune.gating == "authors" and experiment.model.name == "resnet" and experiment.model.depth > 34:
        yield "prune.gating", '= "authors": the authors\' scripts leave no such network for a resnet deeper than 34'
    low = [key for key in ("search", "retrain") if getattr(experiment.precision, key) != "fp32"]
    if train.amp != "none" and low:
        cure = f'set it to "none" or drop precision.{low[0]}'
        yield "train.amp", f'= "{train.amp}": precisions are simulated in fp32; {cure}'
    if len(set(prune.ratio)) != len(prune.ratio):
        yield "prune.ratio", f"= {list(prune.ratio)}: names a ratio twice"
    if len(set(experiment.methods)) != len(experiment.methods):
        yield "methods", f"= {list(experiment.methods)}: names a method twice"


def _unknown_names(experiment: Experiment, choices: Choices) -> Iterable[tuple[str, str]]:
    """Names that nothing answers to: (key, the choices and the nearest of them)."""
    for key, names in choices.items():
        value: Any = experiment
        for part in key.split("."):
            value = getattr(value, part)
        known = sorted(names())
        for word in value if isinstance(value, tuple) else (value,):
            if key == "hardware.profile" and is_profile_path(word):
                if not Path(word).is_file():
                    yield key, f'= "{word}": no such file, beside the experiment or in the current directory'
            elif word not in known:
                yield key, f'= "{word}": not one of {", ".join(known)}.{_nearest(word, known)}'
