"""Resolves the precision backends that an experiment names; reading the names needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebsim import precision

if TYPE_CHECKING:
    from ebsim.config import Precision
    from ebsim.precision import Backend


def backend(section: Precision, name: str) -> Backend:
    """The backend `name` of a [precision] section: one of its own tables, else whatever is known by that name."""
    own = section.backends
    return precision.backend({**own[name], "name": name} if name in own else name)
