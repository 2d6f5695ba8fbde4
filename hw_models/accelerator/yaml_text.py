"""YAML files of other tools: read safely, tags kept, every error with file and line.

`!Container` and the like become the key `TAG` of their mapping. No tag ever constructs an object.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from hw_models.errors import ProfileError

TAG = "!tag"
MAX_BYTES = 1024 * 1024
MAX_ALIASES = 200  # a file that repeats itself by reference can be small and endless


class _Loader(yaml.SafeLoader):
    """Plain values only; an application's own tag is kept as text."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise yaml.YAMLError(f"more than {MAX_ALIASES} aliases")
        return super().compose_node(parent, index)


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {TAG: suffix, **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return {TAG: suffix, "nodes": loader.construct_sequence(node, deep=True)}
    return {TAG: suffix}


_Loader.add_multi_constructor("!", _tagged)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML file; raises `ProfileError` naming the file, and the line where it is not YAML."""
    file = Path(path)
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ProfileError(f"{file}: larger than {MAX_BYTES // 1024} KiB, which no architecture file is")
        return yaml.load(raw.decode("utf-8"), _Loader)
    except OSError as error:
        raise ProfileError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ProfileError(f"{file}: is not UTF-8 text") from error
    except RecursionError as error:
        raise ProfileError(f"{file}: nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        jinja = "; templates ({{ ... }}) must be rendered first" if b"{{" in raw else ""
        raise ProfileError(
            f"{file}{line}: not valid YAML: {getattr(error, 'problem', None) or error}{jinja}"
        ) from error
