"""Checks, before any training, that an accelerator has the number formats that the training multiplies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ebsim.errors import ConfigError
from hw_models.workload.layer import CONTRACTIONS

if TYPE_CHECKING:
    from hw_models import Accelerator


def missing_formats(chip: Accelerator, record: Any, layers: Iterable[str]) -> list[str]:
    """Formats that these convolution and linear layers multiply under a precision record and the chip cannot."""
    from hw_models.precision.formats import parse_precision

    used = {fmt for pair in parse_precision(record).multiplied(layers) for fmt in pair}
    return sorted({fmt.name for fmt in used if not chip.supports(fmt)})


def missing_in_ledgers(
    chip: Accelerator, ledgers: Iterable[Iterable[Mapping[str, Any]]], networks: Mapping[str, Iterable[Any]]
) -> list[str]:
    """Formats that any entry of some ledgers needs and the chip lacks; `networks` as in networks.json."""
    found: set[str] = set()
    for entry in (entry for ledger in ledgers for entry in ledger):
        layers = [layer["name"] for layer in networks[entry["network"]] if layer["kind"] in CONTRACTIONS]
        found.update(missing_formats(chip, entry["precision"], layers))
    return sorted(found)


def refuse_missing_formats(profile: str, chip: Accelerator, missing: Mapping[str, Iterable[str]]) -> None:
    """`ConfigError` naming who needs which formats; nothing where `missing` (who -> formats) is empty."""
    needs = "; ".join(f"{who} needs {', '.join(formats)}" for who, formats in missing.items() if formats)
    if needs:
        raise ConfigError(
            f'hardware.profile = "{profile}": has {", ".join(chip.formats)}, but {needs}. Choose '
            "another accelerator or precision, or set hardware.hypothetical = true to price it as if the accelerator "
            "had them. Nothing was trained."
        )


def check_formats(profile: str, chip: Accelerator, records: Mapping[str, Any], layers: Iterable[str]) -> None:
    """`ConfigError` if a layer will multiply formats that the accelerator does not have.

    profile: its name in the experiment. records: who -> precision record. layers: names of the convolution and linear
    layers.
    """
    names = list(layers)
    missing = {who: missing_formats(chip, record, names) for who, record in records.items()}
    refuse_missing_formats(profile, chip, missing)
