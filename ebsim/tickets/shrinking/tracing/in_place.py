"""Detects operations that overwrite their first argument (in-place operations)."""

from __future__ import annotations

from torch import fx

from ebsim.tickets.shrinking.run_time import assigned


def changes_in_place(node: fx.Node) -> bool:
    """Whether a node overwrites its first argument: `a += b`, `a.relu_()`, `a[i] = b`, F.relu_(a)."""
    if node.op == "call_method":
        return is_in_place(str(node.target))
    name = getattr(node.target, "__name__", "")
    own = node.op == "call_function" and (node.target is assigned or name in _IN_PLACE or is_in_place(name))
    return own or (node.op == "call_function" and bool(node.kwargs.get("inplace")))


def is_in_place(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


_IN_PLACE = {"iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"}
