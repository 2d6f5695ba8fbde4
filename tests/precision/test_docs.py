"""The documentation page says what the code does: its tables are regenerated and compared, its example is run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from ebsim.precision import backend, conformance, tables

PAGE = (Path(__file__).parents[2] / "docs" / "precision.md").read_text()


def test_tables_are_those_of_the_code() -> None:
    cure = "run: python -m ebsim.precision.tables docs/precision.md"
    assert set(re.findall(r"<!-- table (\S+) -->", PAGE)) == set(tables.TABLES)
    assert tables.rewrite(PAGE) == PAGE, cure


def test_the_format_in_the_page_conforms() -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "INT4 =" in block)
    assert len(code.strip().splitlines()) <= 10
    made: dict[str, object] = {}
    exec(code, made)
    assert conformance.check(made["INT4"], compile=False).passed  # type: ignore[arg-type]


def test_the_toml_in_the_page_is_a_backend() -> None:
    text = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert text
    table = tomllib.loads(text[1])["precision"]["backends"]["mine"]
    made = backend({"name": "mine", **table})
    assert made.swa == {"start": 0.75}
    assert [rule.layers for rule in made.rules] == [("layer3.*",), ("@first", "@last"), ("@last",)]
