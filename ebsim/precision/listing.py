"""The available formats and backends as text: name, origin and a line about each. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from ebsim.errors import ConfigError, did_you_mean
from ebsim.precision.backends import ROLES, UNROUNDED, Rule
from ebsim.precision.formats.builtin import BUILTIN
from ebsim.precision.formats.number_format import NumberFormat
from ebsim.precision.formats.registry import FORMATS, find_format, list_formats, operand
from ebsim.precision.plugins import load_file
from ebsim.precision.records import record
from ebsim.precision.registry import BACKENDS, backend, list_backends


def listing() -> str:
    """The text of `precision list`. A plug-in that cannot be used is a line of its own, and the rest is listed."""
    formats = _lines(list_formats, dict.fromkeys(BUILTIN, "built in"), _format_line)
    backends = _lines(list_backends, dict.fromkeys(BACKENDS.builtin, "built in"), _backend_line)
    return "\n".join(["formats", *formats, "backends", *backends])


def _lines(
    every: Callable[[], dict[str, str]], builtin: dict[str, str], line: Callable[[str, str], str]
) -> Iterator[str]:
    names = builtin
    try:
        names = every()
    except ConfigError as error:
        yield f"  UNUSABLE    {error}"
    for name, origin in names.items():
        try:
            yield line(name, origin)
        except ConfigError as error:
            yield f"  {name:11} UNUSABLE  {error}"


def _format_line(name: str, origin: str) -> str:
    f = find_format(name)
    return f"  {name:11} {f.bits:2} bits  {f.mac:7}  {scale_of(f):34} {origin:9} {f.about}"


def _backend_line(name: str, origin: str) -> str:
    return f"  {name:11} {origin:9}  {backend(name).about or '-'}"


def scale_of(fmt: NumberFormat) -> str:
    """A format's scale in words."""
    if fmt.scaling == "none":
        return "unscaled"
    group = {0: "per tensor", "row": "per dim-0 slice"}.get(fmt.block, f"per {fmt.block} of the summed axis")
    return f"{fmt.scaling} {group}"


def show(name: str) -> str:
    """The text of `precision show NAME`: a format's figures, or a backend's roles, rules and record.

    NAME may be what a role may be set to ("int8/row stochastic"), or "file.py:NAME".
    """
    formats, backends = list_formats(), list_backends()
    if ".py:" in name:
        spec = FORMATS.plugin_origin(name) or name
        known = formats if isinstance(load_file(spec), NumberFormat) else backends
        known[name] = spec
    word = name if ".py:" in name else name.partition(" ")[0].partition("/")[0]
    lines = []
    if word in formats:
        f = operand(name).format
        lines.append(f"format {f.name} ({formats[word]}): {f.about}")
        lines.append(f"  bits {f.bits}, mac {f.mac}, largest {f.top:g} x scale")
        lines.append(f"  {scale_of(f)}, scale bits {f.scale_bits}")
    if name in backends:
        b = backend(name)
        lines.append(f"backend {b.name} ({backends[name]}): {b.about}")
        lines += [f"  {role:16} {b.roles.get(role, UNROUNDED).spec}" for role in ROLES]
        lines += [f"  {'one_dimensional':16} {b.one_dimensional.spec}", f"  {'accumulator':16} {b.accumulator}"]
        lines += [f"  rule {', '.join(r.layers)} {r.phase or 'all phases'}: {_specs(r)}" for r in b.rules]
        lines += [f"  swa {dict(b.swa)}"] if b.swa else []
        lines.append("  record, on a network of three layers: " + json.dumps(record(b, ["first", "middle", "last"])))
    if not lines:
        close = did_you_mean(word, [*formats, *backends])
        raise ConfigError(f"no format or backend is called {word!r}{close}")
    return "\n".join(lines)


def _specs(rule: Rule) -> dict[str, str]:
    return {role: operand.spec for role, operand in rule.roles.items()}
