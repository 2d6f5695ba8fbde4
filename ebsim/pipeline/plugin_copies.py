"""Copies the plug-in files of a run into its folder, so that its stored experiment runs wherever the folder is.

An experiment names a plug-in by path ("formats/int4.py:INT4"). The stored experiment names the copy instead, which is
looked for beside it (`config.paths`). Paths are no part of what identifies a run, so both name the same run.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ebsim.config import Experiment
from ebsim.errors import ConfigError
from ebsim.files import file_digest, write_atomic

FOLDER = "plugins"
_SPEC = re.compile(r"^(?P<path>.+\.py)(?P<rest>:.+)$", re.DOTALL)


def keep(experiment: Experiment, folder: Path) -> Experiment:
    """Copy the plug-in files of an experiment into `folder`/plugins; the experiment with its paths to the copies.

    Files of one name from two places get a digest in their names. Plug-ins of installed packages have no path; they are
    named with their version in provenance.json. Raises `ConfigError` for a file that cannot be read.
    """
    section = experiment.precision
    values = {name: getattr(section, name) for name in ("search", "retrain", "low", "plugins", "backends")}
    paths: dict[str, None] = {}
    _each(values, lambda path: paths.setdefault(path) or path)
    names = _names(list(paths))
    for path, name in names.items():
        if (folder / name).resolve() != Path(path).resolve():
            write_atomic(folder / name, _read(Path(path)))
    if not names:
        return experiment
    changed = _each(values, lambda path: names[path])
    return experiment.model_copy(update={"precision": section.model_copy(update=changed)})


def _each(value: Any, change: Callable[[str], str]) -> Any:
    """A value with the path of every plug-in in it changed."""
    if isinstance(value, dict):
        return {key: _each(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_each(item, change) for item in value)
    if isinstance(value, str) and (found := _SPEC.match(value)):
        return change(found["path"]) + found["rest"]
    return value


def _names(paths: list[str]) -> dict[str, str]:
    """Path -> name in the run folder; one name for one content."""
    contents = {path: file_digest(Path(path)) for path in paths if Path(path).is_file()}
    for path in paths:
        if path not in contents:
            raise ConfigError(f"precision plug-in {path}: no such file, so it cannot be kept with the run")
    out = {}
    for path in paths:
        stem = Path(path).stem
        alone = len({contents[other] for other in paths if Path(other).stem == stem}) == 1
        out[path] = f"{FOLDER}/{stem}.py" if alone else f"{FOLDER}/{stem}-{contents[path][:8]}.py"
    return out


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"precision plug-in {path}: cannot be read ({error.strerror})") from error
