"""Early-Bird tickets inside other training frameworks: callbacks, and the step that they share.

`adapters.lightning` and `adapters.transformers` import their framework, this module only torch. A callback watches the
BatchNorm scales after every epoch; once the ticket has emerged it replaces the network by the really smaller one, in
the running training. See docs/frameworks.md.
"""

from __future__ import annotations

from ebsim.adapters.replace import Watch, shrink_in_place

__all__ = ["Watch", "shrink_in_place"]
