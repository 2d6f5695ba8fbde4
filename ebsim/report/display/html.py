"""Renders HTML pages from templates: text escaped, figures inline in theme colors, one script allowed by its hash."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from ebsim.report.display import text

_TEMPLATES = files("ebsim.report") / "templates"
# Colors of the figures' style that depend on the theme -> the page's names of them.
_THEME = {
    "#262626": "ink",
    "#737373": "faint",
    "#d9d9d9": "grid",
    "#d62728": "red",
    "#0072b2": "blue",
    "#ffffff": "paper",
}


def render(
    template: str,
    content: Mapping[str, Any],
    figures: Mapping[str, bytes],
    titles: Mapping[str, str],
    details: Mapping[str, Mapping[str, str]],
) -> str:
    """One self-contained HTML page.

    figures: {name: SVG}, each with its title in `titles`. details: figure -> {id of a group in it: what a pointer over
    it, or the keyboard on it, says}.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    script = _template("sort.js")
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: text.plain(value) if type(value) is str else value,
    )
    drawn = {
        name: Markup(inline_svg(name, data, titles[name], details.get(name, {}))) for name, data in figures.items()
    }
    return environment.get_template(template).render(
        **content,
        svg=drawn,
        script=Markup(script),
        script_hash=Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        css=Markup(_template("page.css")),
    )


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def inline_svg(name: str, data: bytes, label: str, details: Mapping[str, str] | None = None) -> str:
    """A figure's SVG ready to stand inside HTML: own ids, no fixed size, theme colors, a label for readers."""
    from markupsafe import escape

    svg = data.decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", svg)
    for color, role in _THEME.items():
        svg = svg.replace(color, f"var(--{role})")
    head, body = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    for group, said in (details or {}).items():
        safe = escape(text.plain(said))
        opened = f'<g id="{name}-{group}" tabindex="0" role="img" aria-label="{safe}"><title>{safe}</title>'
        body = body.replace(f'<g id="{name}-{group}">', opened)
    role = "group" if details else "img"
    return f'{head} role="{role}" aria-label="{escape(text.plain(label))}">{body}'
