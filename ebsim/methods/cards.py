"""docs/methods.md from the cards that the methods' files open with:  python -m ebsim.methods.cards > docs/methods.md

Read as text, so that nothing of torch is imported.
"""

from __future__ import annotations

import ast
import re
from importlib.resources import files

from ebsim.methods import METHODS

PARTS = ("Idea", "Equation", "Source", "Options", "Deviations")

HEAD = """\
# Methods

What `methods = [...]` of an experiment may name. Each is one short file in `ebsim/methods/`; this page is made of the
cards that the files open with (`python -m ebsim.methods.cards > docs/methods.md`). N is `train.epochs`, p a ratio.

| method | what it does |
|---|---|
"""


def card(module: str) -> str:
    """The docstring of a method's file."""
    source = (files("ebsim.methods") / f"{module}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def markdown() -> str:
    """The whole page."""
    rows = "".join(f"| `{name}` | {method.summary} |\n" for name, method in METHODS.items())
    sections = [_section(module) for module in dict.fromkeys(method.module for method in METHODS.values())]
    return HEAD + rows + "".join(sections)


def _section(module: str) -> str:
    title, _, body = card(module).partition("\n")
    names = ", ".join(f"`{name}`" for name, method in METHODS.items() if method.module == module)
    body = re.sub(rf"^({'|'.join(PARTS)}):", r"**\1:**", body.strip(), flags=re.MULTILINE)
    name, _, summary = title.partition(": ")
    where = f"Names: {names}. File: `ebsim/methods/{module}.py`."
    return f"\n## {name}\n\n{summary[0].upper()}{summary[1:]}\n\n{where}\n\n{body}\n"


if __name__ == "__main__":
    print(markdown(), end="")
