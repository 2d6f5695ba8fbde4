"""The reference page of the accelerator file names exactly the keys that the loader reads."""

from __future__ import annotations

import re
from pathlib import Path

from hw_models.accelerator import loader
from hw_models.accelerator.sram_energy import SRAM_LAWS
from hw_models.accelerator.toml_reader import SHIPPED, read
from hw_models.cost.vector_ops import FORWARD
from hw_models.precision.formats import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "accelerator-file.md").read_text()
OF_A_CONSTANT = ("value", "band", "source", "derived")


def _pattern(key: str) -> str:
    """A key with its free names replaced: memory.<name>.kib, mac.<format>."""
    key = re.sub(r"^memory\.[^.]+", "memory.<name>", key)
    key = re.sub(r"^registers\.[^.]+", "registers.<operand>", key)
    return ".".join("<format>" if part in FORMATS else part for part in key.split("."))


def _read_by_the_loader() -> set[str]:
    """What building the shipped profiles asks for, without tables and without what belongs to any constant or table."""
    keys = {"extends"}
    for path in SHIPPED.glob("*.toml"):
        source = read(path.stem)
        loader.build(source)
        keys |= {_pattern(key) for key in source.seen if "." not in key or key.rpartition(".")[2] not in OF_A_CONSTANT}
    return {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}


def test_the_table_names_exactly_the_keys_that_are_read() -> None:
    told = [key for row in re.findall(r"^\| (`[^|]+) \|", PAGE, re.MULTILINE) for key in re.findall(r"`([^`]+)`", row)]
    assert len(told) == len(set(told))
    assert set(told) == _read_by_the_loader()


def test_every_name_that_may_be_chosen_stands_there() -> None:
    listed = re.search(r"^Formats: (.*)\.$", PAGE, re.MULTILINE)
    assert listed is not None and listed[1].split(", ") == list(FORMATS)
    row = next(line for line in PAGE.splitlines() if line.startswith("| `array.fused`"))
    assert set(row.split("|")[3].strip().split(", ")) == set(FORWARD)
    assert all(law in PAGE for law in SRAM_LAWS)
