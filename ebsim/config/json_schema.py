"""JSON Schema (draft 2020-12) of an experiment file, for editors: completion, descriptions and errors while typing.

Made from the sections themselves, with the names that the registries know. It says what a single key may be; rules
between keys (milestones before the last epoch, say) are those of `check` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ebsim.config.sections import Experiment, Section

DRAFT = "https://json-schema.org/draft/2020-12/schema"

Names = Mapping[str, Iterable[str]]


def experiment_schema(names: Names) -> dict[str, Any]:
    """The schema of an experiment file. names: dotted key -> what it may be called ("model.name": ["vgg", ...]).

    A key in `names` that may also be a path of the user's own (`hardware.profile`) or something defined in the same
    file (precisions) keeps taking any text: its names are examples, which editors offer.
    """
    made = _section(Experiment, "", names)
    made["properties"].pop("companions")
    grid = _grid(made["properties"], made["properties"].pop("grid")["description"])
    made["properties"]["grid"] = grid
    return {"$schema": DRAFT, "title": "ebsim experiment", **made}


OPEN = ("hardware.profile", "precision.search", "precision.retrain", "precision.low")
"""Keys that take a path or a name of the user's own beside those that the registries know."""


def _section(section: type[Section], prefix: str, names: Names) -> dict[str, Any]:
    whole = section.model_json_schema()
    properties: dict[str, Any] = {}
    for key, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            properties[key] = _section(inner, f"{prefix}{key}.", names)
            continue
        own = _plain(whole["properties"][key], whole.get("$defs", {}))
        if f"{prefix}{key}" in names:
            _name(own, f"{prefix}{key}", sorted(names[f"{prefix}{key}"]))
        properties[key] = own
    required = [key for key, field in section.model_fields.items() if field.is_required()]
    summary = (section.__doc__ or "").strip() if section.__doc__ and section is not Section else ""
    return {
        "type": "object",
        **({"description": summary} if summary else {}),
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _plain(own: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A key's schema in the shapes that TOML has: no null, one value in the place of a list of one."""
    own = dict(own)
    own.pop("title", None)
    if "$ref" in own:
        own = {**definitions[own.pop("$ref").rpartition("/")[2]], **own}
    if "anyOf" in own:
        choices = [choice for choice in own.pop("anyOf") if choice.get("type") != "null"]
        own = {**(choices[0] if len(choices) == 1 else {"anyOf": choices}), **own}
    if own.get("default", "") is None:
        own.pop("default")
    own.pop("maxItems", None)
    if own.get("type") == "array":
        described: dict[str, Any] = {key: own.pop(key) for key in ("description", "default") if key in own}
        if "minLength" in own:
            own["minItems"] = own.pop("minLength")
        return {"anyOf": [own, own["items"]], **described}
    return own


def _name(own: dict[str, Any], key: str, known: list[str]) -> None:
    """Put names into a key's schema (or into that of its items)."""
    targets = [own]
    if "anyOf" in own:
        one = {"type": "string"}
        own["anyOf"] = [{"type": "array", "items": one, "minItems": 1}, one]
        targets = [one]
    for target in targets:
        target.pop("pattern", None)
        if key in OPEN:
            target["anyOf"] = [{"enum": known}, {"type": "string"}]
            target.pop("type", None)
        else:
            target["enum"] = known


def _grid(properties: Mapping[str, Any], description: str) -> dict[str, Any]:
    """Axes: each key of the experiment with a list of its values (or of ranges "0..4"), nested or written dotted."""
    axes: dict[str, Any] = {}
    dotted: dict[str, Any] = {}
    for key, own in properties.items():
        if key in ("name", "cluster"):
            continue
        if "properties" in own:
            inner = {name: _axis(value) for name, value in own["properties"].items()}
            axes[key] = {"type": "object", "properties": inner, "additionalProperties": False}
            dotted |= {f"{key}.{name}": value for name, value in inner.items()}
        else:
            axes[key] = _axis(own)
    return {
        "type": "object", "description": description, "properties": {**axes, **dotted}, "additionalProperties": False,
    }  # fmt: skip


def _axis(own: Mapping[str, Any]) -> dict[str, Any]:
    value = {key: item for key, item in own.items() if key not in ("description", "default")}
    values = {"anyOf": [value, {"type": "string", "pattern": r"^\s*-?\d+\s*\.\.\s*-?\d+\s*$"}]}
    return {"type": "array", "items": values, "minItems": 1, "description": own.get("description", "")}
