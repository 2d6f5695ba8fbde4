"""Finds the line of a network's own code in which an error was raised."""

from __future__ import annotations

import linecache
import traceback


def place_of(error: BaseException) -> str:
    """Where in the network's own code an error came up: "file:line: code"; empty where that is not known."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_library(f.filename)]
    if not frames:
        return ""
    last = frames[-1]
    code = linecache.getline(last.filename, last.lineno or 0).strip()
    return f"{last.filename.rpartition('/')[2]}:{last.lineno}: {code}"


def _is_library(path: str) -> bool:
    return any(part in path for part in ("/torch/", "ebsim/tickets/", "<eval_with_key>", "<frozen"))
