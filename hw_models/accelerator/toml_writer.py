"""Text of accelerator files (TOML) that this package writes: strings quoted so that any name is valid."""

from __future__ import annotations

import json


def quoted(text: str) -> str:
    """A TOML string; characters that a terminal would interpret (controls, escapes) become question marks."""
    return json.dumps("".join(c if c.isprintable() else "?" for c in text), ensure_ascii=False)
