"""Numbers and free text on their way to a page: what is written means what was meant, wherever it is written."""

from __future__ import annotations

import csv
import io
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebsim.report.display import text, value
from ebsim.report.display.latex import escape

PREFIX = {
    "p": 1e-12,
    "n": 1e-9,
    "µ": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
}
ANY = st.text(max_size=40) | st.sampled_from(["\x1b[31mred\x1b[0m", "=1+1", " @x", "a\nb", "\\input{x}", "`|`", "‮abc"])


@given(st.floats(1e-11, 1e20))
def test_a_quantity_reads_back_to_three_digits(number: float) -> None:
    shown, unit = value.quantity(number, "J").text.split(" ")
    assert float(shown) * PREFIX[unit[:-1]] == pytest.approx(number, rel=5.1e-3)
    assert 0.99 < float(shown) < 1000 or unit == "EJ"


def test_nought_has_no_sign_and_intervals_are_not_misread() -> None:
    assert [value.fixed(number, 0) for number in (-0.4, 0.4, -0.6, -0.0)] == ["0", "0", "-1", "0"]
    assert value.fixed(-0.0004, 2, "+") == "+0.00" and value.percent(-0.0001).text == "0.0 %"
    ends = [value.Value(number, value.fixed(number, 0)) for number in (-9.0, -0.3, 18.0)]
    assert "".join(map(str, value.between(ends[1], ends[2]))) == "0–18"
    assert "".join(map(str, value.between(ends[0], ends[2]))) == "-9 to 18"
    assert [value.counted(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]


@given(st.lists(st.floats(1e-11, 1e17), min_size=1, max_size=5))
def test_a_column_shares_one_unit_that_fits_its_largest(numbers: list[float]) -> None:
    own = value.scale(numbers, "J")
    assert own.factor == PREFIX[own.unit[:-1]]
    assert 1 <= float(f"{max(numbers) / own.factor:.2e}") < 1000


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.0, "0"),
        (999.6, "1000"),
        (12.34, "12.3"),
        (0.004567, "0.00457"),
        (123456.0, "123456"),
        (-1.234, "-1.23"),
        (9.999, "10.0"),
    ],
)
def test_significant_digits(number: float, shown: str) -> None:
    assert value.significant(number) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (value.quantity(999.9996e6, ""), "1.00 G"),
        (value.quantity(48100.0, "J"), "48.1 kJ"),
        (value.percent(0.9746), "97.5 %"),
        (value.count(1059050), "1,059,050"),
        (value.times(3.94), "3.9×"),
        (value.duration(301.5), "5.0 min"),
        (value.duration(59.0), "59.0 s"),
        (value.duration(7200.0), "2.0 h"),
        (value.quantity(0.0, "J"), "0 J"),
    ],
)
def test_written_values(value: value.Value, shown: str) -> None:
    assert str(value) == shown


def test_a_value_in_html_keeps_its_number() -> None:
    assert value.Value(0.1 + 0.2, "0.3 <J>").__html__() == '<data value="0.30000000000000004">0.3 &lt;J&gt;</data>'


@given(ANY)
def test_plain_text_has_no_controls_and_no_hidden_direction(raw: str) -> None:
    shown = text.plain(raw)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", shown)
    assert text.plain(shown) == shown


@given(ANY)
def test_a_csv_cell_is_one_cell_and_never_a_formula(raw: str) -> None:
    line = text.csv(("a", "b"), [(raw, 1)])
    rows = list(csv.reader(io.StringIO(line)))
    assert rows[0] == ["a", "b"] and len(rows) == 2 and rows[1][1] == "1"
    assert not rows[1][0].lstrip().startswith(("=", "+", "-", "@"))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_in_csv_is_itself(number: float) -> None:
    assert float(text.csv_cell(number)) == number and math.copysign(1, float(text.csv_cell(number))) == math.copysign(
        1, number
    )


@given(ANY)
def test_latex_text_is_ascii_without_active_characters(raw: str) -> None:
    shown = escape(raw)
    assert shown.isascii()
    # What is left after commands with their arguments, escapes and mathematics has no active character.
    bare = re.sub(r"\$[^$]*\$", "", re.sub(r"\\[{}$&#_%]", "", shown))
    bare = re.sub(r"\\(?:[a-zA-Z]+|[`'^~\"=.])(?=\{)", "", bare)
    assert not re.search(r"[\\$&#_%~^]", bare.replace("\\char34", "").replace("~", ""))
    assert bare.count("{") == bare.count("}")


@given(ANY)
def test_markdown_text_has_no_markup(raw: str) -> None:
    shown = text.markdown(raw)
    assert "<" not in shown and ">" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]|~#!]", re.sub(r"\\\\", "", shown))


@given(ANY)
def test_a_code_span_cannot_be_left(raw: str) -> None:
    shown = text.code(raw)
    fence = re.match(r"`+", shown)
    assert fence is not None and "|" not in shown
    assert not re.search(rf"(?<!`)`{{{len(fence[0])}}}(?!`)", shown[len(fence[0]) : -len(fence[0])])
