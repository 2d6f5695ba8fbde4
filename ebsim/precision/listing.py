"""What there is: the names, origins and one line about each number format and backend. No torch."""

from __future__ import annotations

import json

from ebsim.errors import ConfigError
from ebsim.precision import plugins
from ebsim.precision.backends import PRESETS, ROLES, backend
from ebsim.precision.formats import BUILTIN, NumberFormat, find_format, nearest_name
from ebsim.precision.plans import record


def list_formats() -> dict[str, str]:
    """name -> origin ("built in" or the plug-in's package and version)."""
    return dict.fromkeys(BUILTIN, "built in") | plugins.origins("formats")


def list_backends() -> dict[str, str]:
    """name -> origin."""
    return dict.fromkeys(PRESETS, "built in") | plugins.origins("backends")


def listing() -> str:
    """The text of `precision list`."""
    lines = ["formats"]
    for name, origin in list_formats().items():
        f = find_format(name)
        lines.append(f"  {name:11} {f.bits:2} bits  {f.mac:7}  {scale_of(f):34} {origin:9} {f.about}")
    lines.append("backends")
    for name, origin in list_backends().items():
        lines.append(f"  {name:11} {origin:9}  {backend(name).about}")
    return "\n".join(lines)


def scale_of(fmt: NumberFormat) -> str:
    """A format's scale in words."""
    if fmt.scaling == "none":
        return "unscaled"
    group = {0: "per tensor", "row": "per dim-0 slice"}.get(fmt.block, f"per {fmt.block} of the summed axis")
    return f"{fmt.scaling} {group}"


def show(name: str) -> str:
    """The text of `precision show NAME`: a format's figures, or a backend's roles, rules and record."""
    formats, backends = list_formats(), list_backends()
    lines = []
    if name in formats or "/" in name:
        f = find_format(name)
        lines.append(f"format {f.name} ({formats.get(name, 'variant')}): {f.about}")
        lines.append(f"  bits {f.bits}, mac {f.mac}, largest {f.top:g} x scale")
        lines.append(f"  {scale_of(f)}, scale bits {f.scale_bits}")
    if name in backends:
        b = backend(name)
        lines.append(f"backend {b.name} ({backends[name]}): {b.about}")
        lines += [f"  {role:16} {b.roles.get(role, 'fp32')}" for role in ROLES]
        lines += [f"  {'one_dimensional':16} {b.one_dimensional}", f"  {'accumulator':16} {b.accumulator}"]
        lines += [f"  rule {', '.join(r.layers)} {r.phase or 'all phases'}: {dict(r.roles)}" for r in b.rules]
        lines += [f"  swa {dict(b.swa)}"] if b.swa else []
        lines.append("  record, on a network of three layers: " + json.dumps(record(b, ["first", "middle", "last"])))
    if not lines:
        raise ConfigError(f"no format or backend is called {name!r}{nearest_name(name, [*formats, *backends])}")
    return "\n".join(lines)
