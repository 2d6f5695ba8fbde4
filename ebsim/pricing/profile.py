"""The accelerator profile that prices a run, and the copy of it that the run folder keeps.

A profile is read once, when a run is priced. The copy is all that is read of it afterwards, so nothing mixes two
versions of a file that its owner goes on editing.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ebsim.config import PROFILE_COPY
from ebsim.config.write import toml

if TYPE_CHECKING:
    from hw_models import Accelerator

__all__ = ["PROFILE_COPY", "Profile", "read"]


@dataclass(frozen=True)
class Profile:
    """A profile as it is now. text: all of it, `extends` merged, as TOML that `hw_models.load` takes again."""

    chip: Accelerator
    text: str

    @property
    def digest(self) -> str:
        """Of its content: comments and layout do not count."""
        return self.chip.digest


def read(name: str) -> Profile:
    """A shipped profile or a file; raises `hw_models.ProfileError` for one that cannot be accepted."""
    from hw_models.accelerator import loader, toml_reader

    source = toml_reader.read(name)
    digest = loader.build(source).digest
    head = f"# The accelerator that priced this run, {json.dumps(name)}, whole and as it was then."
    text = f"{head}\n# Digest of its content: {digest}\n\n{toml(source.data)}"
    # What prices is made of the copy: sums then have the order, and so the last bits, of a later reader.
    return Profile(loader.build(toml_reader.ProfileSource(source.path, tomllib.loads(text), source.lines)), text)
