"""What there is: the names, origins and one line about each number format and backend. No torch."""

from __future__ import annotations

from ebsim.precision import plugins
from ebsim.precision.backends import PRESETS, backend
from ebsim.precision.formats import BUILTIN, find_format


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
        block = {0: "tensor", "row": "dim-0 slice"}.get(f.block, f"{f.block} along the sum")
        lines.append(
            f"  {name:11} {f.bits:2} bits  mac {f.mac:7}  scale {f.scaling:10} per {block:16} {origin:9}  {f.about}"
        )
    lines.append("backends")
    for name, origin in list_backends().items():
        lines.append(f"  {name:11} {origin:9}  {backend(name).about}")
    return "\n".join(lines)
