"""Loads and validates an experiment: TOML and overrides -> a frozen `Experiment`, or every mistake in it at once.

Each mistake is one line: file and line, key path, value, the rule it breaks, and the nearest valid key or name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from ebsim.config.paths import is_profile_path, locate
from ebsim.config.sections import Experiment, Section
from ebsim.config.source import ExperimentSource, override, read
from ebsim.errors import ConfigError, nearest

Choices = Mapping[str, Callable[[], Iterable[str]]]
CrossCheck = Callable[[Experiment, frozenset[str]], Iterable[tuple[str, str]]]
CrossChecks = Sequence[CrossCheck]


class Mistake(NamedTuple):
    """One line for the user, and where it stands: (0, line of the file) or (1, number of the override)."""

    order: tuple[int, int]
    text: str


def load(
    path: str | Path, settings: Mapping[str, Any] | None = None, choices: Choices | None = None, rules: CrossChecks = ()
) -> Experiment:
    """Read and validate an experiment, its paths found (`config.paths`); `settings` are overrides {"train.epochs": 40}.

    `choices` maps a key to the names that it may have ({"data.name": list_datasets}). Each of `rules` gets the
    experiment and the keys that are wrong already (they have their defaults in it), and gives (key, what is wrong with
    it). The packages that own the names hand them in, so that this one knows none of them. Raises `ConfigError` with
    all mistakes, one per line; nothing has been written by then.
    """
    source = read(Path(path))
    override(source, dict(settings or {}))
    locate(source)
    return validate(source, choices, rules)


def validate(source: ExperimentSource, choices: Choices | None = None, rules: CrossChecks = ()) -> Experiment:
    """Check a source against the schema, the names of things, and the rules between keys."""
    experiment, mistakes = check(source, choices, rules)
    if experiment is None:
        raise refusal(mistakes)
    return experiment


def check(
    source: ExperimentSource, choices: Choices | None = None, rules: CrossChecks = ()
) -> tuple[Experiment | None, list[Mistake]]:
    """The experiment of a source, or None and every mistake in it, in the order of the file.

    A wrong key does not hide the mistakes of the others: what is wrong takes its default, and the rest is checked.
    Rules that speak of a wrong key are silent until it is right.
    """
    experiment, wrong = _by_schema(source)
    misspelt = {_meant(key) for key in wrong} - {""}
    broken = frozenset(wrong) | {key for key in misspelt if key not in source.places}
    names = [(key, line) for key, line in _unknown_names(source.values, choices or {}) if key not in broken]
    broken |= {key for key, _ in names}
    problems = [*_cross_checks(experiment), *(problem for rule in rules for problem in rule(experiment, broken))]
    found = [(key, text) for key, lines in wrong.items() for text in lines]
    found += names
    found += [
        (key, f"{key} {text}".replace(f"{key} :", f"{key}:")) for key, text in problems if _stands(key, text, broken)
    ]
    mistakes = [Mistake(source.order(key), f"{source.place(key)}: {text}") for key, text in found]
    return (None, sorted(mistakes, key=lambda mistake: mistake.order)) if mistakes else (experiment, [])


def _stands(key: str, text: str, broken: frozenset[str]) -> bool:
    """Whether a rule's finding holds although these keys are only defaults now."""
    return key not in broken and not any(other in text for other in broken)


def refusal(mistakes: Iterable[Mistake]) -> ConfigError:
    """One error that tells all mistakes, each once, in the order of the file."""
    unique = list(dict.fromkeys(mistake.text for mistake in sorted(mistakes, key=lambda mistake: mistake.order)))
    count = f"{len(unique)} error{'s' if len(unique) > 1 else ''}"
    return ConfigError("\n".join([*unique, f"{count}. Nothing was run."]))


def all_keys(section: type[Section] = Experiment, prefix: str = "") -> list[str]:
    """Every dotted key of the schema, tables included."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            keys.extend(all_keys(field.annotation, f"{prefix}{name}."))
    return keys


def _by_schema(source: ExperimentSource) -> tuple[Experiment, dict[str, list[str]]]:
    """The experiment with defaults in the place of what the schema refuses, and that: key -> what is wrong."""
    values, wrong = deepcopy(source.values), dict[str, list[str]]()
    while True:
        try:
            return Experiment.model_validate(values), wrong
        except ValidationError as error:
            for item in error.errors(include_url=False):
                key = _key(item)
                wrong.setdefault(key, []).append(_explain(item, key))
                _discard(values, key)


def _key(item: Any) -> str:
    """The dotted key of a pydantic mistake, as the user wrote it.

    A union adds its member's name to the path, a list its index: those are cut off.
    """
    parts = [str(part) for part in item["loc"]]
    known = set(all_keys())
    while len(parts) > 1 and ".".join(parts) not in known and ".".join(parts[:-1]) in known:
        if item["type"] == "extra_forbidden" and isinstance(item["loc"][-1], str):
            break
        parts.pop()
    return ".".join(parts)


def _discard(values: dict[str, Any], key: str) -> None:
    """Let a key take its default; one without a default gets a name."""
    *tables, last = key.split(".")
    table: Any = values
    for part in tables:
        if not isinstance(table, dict) or not isinstance(table.get(part), dict):
            break
        table = table[part]
    else:
        table.pop(last, None)
        if key == "name":
            table["name"] = "unnamed"
        return
    values.pop(key.split(".")[0], None)  # deeper than the schema goes: the whole section


def _hint(word: str, known: Iterable[str]) -> str:
    close = nearest(word, known)
    return f" Did you mean {close}?" if close else ""


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _explain(item: Any, key: str) -> str:
    """What one pydantic mistake is, without its place."""
    if item["type"] == "extra_forbidden":
        meant = _meant(key)
        return f"{key}: unknown key.{f' Did you mean {meant}?' if meant else ''}"
    if item["type"] == "missing":
        return f"{key}: missing; add it."
    message = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    message = f"must be {message}" if item["msg"].startswith("Input should be ") else message
    if item["type"] == "string_pattern_mismatch":
        message = "only letters, digits and . _ - (at most 64, the first a letter or digit)"
        if key == "train.device":
            message = "must be auto, cpu, cuda or cuda:N"
    if item["type"] == "model_type":
        message = f"must be a table: [{key}]"
    hint = ""
    if item["type"] == "literal_error" and isinstance(item["input"], str):
        options = [word.strip("' ") for word in item["ctx"]["expected"].replace(" or ", ",").split(",")]
        hint = _hint(item["input"], options)
    return f"{key} = {_show(item['input'])}: {message}{'.' if hint else ''}{hint}"


def _meant(key: str) -> str:
    """The key that an unknown one may stand for ("" if none): one beside it, or that of its name in another section."""
    known = all_keys()
    if key in known:
        return ""
    prefix, dot, last = key.rpartition(".")
    beside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == prefix]
    if close := nearest(last, beside):
        return f"{prefix}{dot}{close}"
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    return elsewhere[0] if len(elsewhere) == 1 else ""


def _cross_checks(experiment: Experiment) -> Iterable[tuple[str, str]]:
    """Rules between keys: (key, what is wrong with it)."""
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
    if train.batchnorm_parts > 1 and (train.compile or train.kernels != "library"):
        other = "train.compile" if train.compile else "train.kernels"
        yield "train.batchnorm_parts", f"= {train.batchnorm_parts}: is for torch's own layers; drop {other}"
    if train.batchnorm_parts > train.batch_size // 2:
        yield (
            "train.batchnorm_parts",
            f"= {train.batchnorm_parts}: leaves parts of one image; at most train.batch_size / 2",
        )
    low = [key for key in ("search", "retrain") if getattr(experiment.precision, key) != "fp32"]
    if train.amp != "none" and low:
        cure = f'set it to "none" or drop precision.{low[0]}'
        yield "train.amp", f'= "{train.amp}": precisions are simulated in fp32; {cure}'
    if len(set(prune.ratio)) != len(prune.ratio):
        yield "prune.ratio", f"= {list(prune.ratio)}: names a ratio twice"
    if len(set(experiment.methods)) != len(experiment.methods):
        yield "methods", f"= {list(experiment.methods)}: names a method twice"


def _unknown_names(values: Mapping[str, Any], choices: Choices) -> Iterable[tuple[str, str]]:
    """Names that nothing answers to, from the values as written: (key, the choices and the nearest of them)."""
    for key, names in choices.items():
        value: Any = values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        words = [word for word in (value if isinstance(value, list | tuple) else [value]) if isinstance(word, str)]
        if not words:
            continue
        known = sorted(names())
        for word in words:
            if key == "hardware.profile" and is_profile_path(word):
                if not Path(word).is_file():
                    yield key, f'{key} = "{word}": no such file, beside the experiment or in the current directory'
            elif word not in known:
                yield key, f'{key} = "{word}": not known.{_hint(word, known)} There are: {", ".join(known)}.'
