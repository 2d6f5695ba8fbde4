"""The accelerator profile that priced a run: its copy in the run folder, and the formats that it lacks.

A profile is read once, when a run is priced. The copy is all that is read of it afterwards, so nothing mixes two
versions of a file that its owner goes on editing.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ebsim.config import PROFILE_COPY
from ebsim.config.write import toml
from hw_models.workload.layer import CONTRACTIONS

if TYPE_CHECKING:
    from hw_models import Accelerator

__all__ = ["PROFILE_COPY", "Profile", "lacking", "lacking_in", "read"]


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
    # What prices is made of the copy: sums then have the order, and so the last bits, of whoever reads it later.
    return Profile(loader.build(toml_reader.Source(source.path, tomllib.loads(text), source.lines)), text)


def lacking(chip: Accelerator, record: Any, layers: Iterable[str]) -> list[str]:
    """Formats that these convolution and linear layers multiply under a precision record and the chip cannot."""
    from hw_models.precision.formats import parse_precision

    used = {fmt for pair in parse_precision(record).multiplied(layers) for fmt in pair}
    return sorted({fmt.name for fmt in used if not chip.supports(fmt)})


def lacking_in(
    chip: Accelerator, ledgers: Iterable[Iterable[Mapping[str, Any]]], networks: Mapping[str, Iterable[Any]]
) -> list[str]:
    """Formats that any entry of some ledgers needs and the chip lacks; `networks` as in networks.json."""
    found: set[str] = set()
    for entry in (entry for ledger in ledgers for entry in ledger):
        layers = [layer["name"] for layer in networks[entry["network"]] if layer["kind"] in CONTRACTIONS]
        found.update(lacking(chip, entry["precision"], layers))
    return sorted(found)
