"""Tables in a terminal: at any width every number is there whole, or its column is named as left out."""

from __future__ import annotations

import io
import random
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from ebsim.report.display.table import Column, Table
from ebsim.report.display.terminal import as_lines, terminal
from ebsim.report.display.value import Value
from tests.report.hostile import STRINGS

WIDTHS = (60, 80, 100, 200)


def random_table(dice: random.Random, columns: int, rows: int) -> Table:
    """Texts of all lengths, numbers of up to 16 digits, priorities from 0 to 5; every number occurs once."""
    made = []
    for number in range(columns):
        heading = " ".join("abcdefghijklmnop"[: dice.randint(1, 14)] for _ in range(dice.randint(1, 4)))
        if number == 0 or dice.random() < 0.2:
            cells = tuple(("x" * dice.randint(1, 50) + f" {number}.{row}",) for row in range(rows))
            made.append(Column(f"T{number} {heading}", cells, numeric=False, priority=0 if number == 0 else 1))
            continue
        texts = [f"{number}{row:03d}.{dice.randint(10, 10 ** dice.randint(2, 12))}" for row in range(rows)]
        cells = tuple((Value(float(text), text), " ± ", Value(0.5, "0.5")) for text in texts)
        made.append(Column(f"N{number} {heading}", cells, priority=dice.randint(0, 5)))
    return Table("random", "A random table", tuple(made))


@pytest.mark.parametrize("width", WIDTHS)
def test_no_number_is_cut_at_any_width(width: int) -> None:
    dice = random.Random(width)
    blocks = dropped = 0
    for _ in range(60):
        table = random_table(dice, dice.randint(1, 14), dice.randint(1, 4))
        lines, left_out = as_lines(table, width)
        assert max(map(cell_len, lines)) <= width
        words = " ".join(lines).split()
        for column in table.columns:
            numbers = [piece.text for cell in column.cells for piece in cell if isinstance(piece, Value)]
            if column in left_out:
                assert column.priority > 0
                assert not any(text in words for text in numbers if text != "0.5")
            else:
                assert all(text in words for text in numbers)
        kept = [column.priority for column in table.columns if column not in left_out]
        assert not left_out or min(column.priority for column in left_out) >= max(kept)
        dropped += bool(left_out)
        blocks += not left_out and len(lines) > 6 * len(table.rows)
    assert dropped and (width > 100 or blocks)  # both ways out were taken


@pytest.mark.parametrize("width", WIDTHS)
def test_the_console_prints_the_lines_as_they_are(width: int) -> None:
    """Nothing between the layout and the screen cuts or wraps a line again; what was left out is said."""
    dice = random.Random(width)
    for _ in range(20):
        table = random_table(dice, 9, 2)
        console = Console(width=width, file=io.StringIO(), color_system=None, highlight=False)
        console.print(terminal(table, width))
        assert isinstance(console.file, io.StringIO)
        printed = [line.rstrip() for line in console.file.getvalue().splitlines()]
        lines, left_out = as_lines(table, width)
        assert all(line.rstrip() in printed for line in lines)
        assert ("Not shown in" in console.file.getvalue()) == bool(left_out)


def test_one_block_per_row_shows_every_column() -> None:
    keys = [Column(f"axis key.{n}", ((f"value-{n}",),), numeric=False) for n in range(6)]
    numbers = (Column("Accuracy (%)", ((Value(0.9378, "93.78"),),)), Column("Energy (J)", ((Value(87.3, "87.3"),),)))
    lines, left_out = as_lines(Table("t", "c", (*keys, *numbers)), 60)
    assert not left_out
    assert any(re.search(r"Accuracy \(%\) +93\.78$", line) for line in lines)
    assert sum("value-" in line for line in lines) == 6


@pytest.mark.parametrize("text", STRINGS)
def test_hostile_names_stay_on_their_lines(text: str) -> None:
    table = Table(
        text,
        text,
        (
            Column(text, ((text,), (text,)), numeric=False),
            Column("Accuracy", ((Value(0.5, "50.25"),), (Value(0.5, "50.50"),))),
        ),
        ((text,),),
    )
    for width in WIDTHS:
        console = Console(width=width, file=io.StringIO(), color_system=None)
        console.print(terminal(table, width))
        assert isinstance(console.file, io.StringIO)
        out = console.file.getvalue()
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b]", out)
        assert "50.25" in out and "50.50" in out
        assert max(map(cell_len, out.splitlines())) <= width
