"""Every method opens with a card, and the page of methods is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebsim.methods import METHODS
from ebsim.methods.cards import PARTS, card, markdown

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"


@pytest.mark.parametrize("module", sorted({method.module for method in METHODS.values()}))
def test_a_card_says_it_all(module: str) -> None:
    text = card(module)
    places = [text.find(f"\n{part}: ") for part in PARTS]
    assert -1 not in places
    assert places == sorted(places)
    assert "arXiv" in text


def test_the_page_is_up_to_date() -> None:
    assert DOCS.read_text() == markdown(), "run  python -m ebsim.methods.cards > docs/methods.md"
