"""Import torchvision, also beside a CPU-only torch.

PyPI's torchvision is built against the CUDA torch. Beside a CPU-only torch its compiled library does not load, so the
two operators that its Python code decorates at import time (`nms`, `qnms`) are never declared and the import stops
with `operator torchvision::nms does not exist`. Declaring just those two schemas is enough for everything that we use
(models, transforms, datasets): none of it calls them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # a torch Library takes its declarations with it when it is collected


def import_torchvision(module: str = "torchvision") -> ModuleType:
    """Return torchvision, or one of its sub-modules: `import_torchvision("torchvision.models")`."""
    try:
        return importlib.import_module(module)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    _declare_missing_operators()
    _forget_half_imported()
    return importlib.import_module(module)


def _declare_missing_operators() -> None:
    from torch.library import Library

    library = Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)


def _forget_half_imported() -> None:
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]
