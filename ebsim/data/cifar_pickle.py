"""Reads the arrays in CIFAR's "python version" files without unpickling them.

Those files are pickles, and loading a pickle runs whatever its writer put there. `pickletools.genops` only *lists* the
instructions of a pickle. `parse` replays that list on a stack of plain values, where a named global stays a name and a
call stays a record of what would have been called: nothing is imported, nothing is called. The few instructions that
data needs are known; any other is refused.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class PickledCall:
    """A call that the file asks for and that is not made: `function` is its dotted name."""

    function: Any
    arguments: Any
    state: Any = None


_MARK = object()
_LITERAL = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "GLOBAL",
}  # fmt: skip
_CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_IGNORED = {"PROTO", "FRAME", "STOP"}


def parse(content: bytes) -> Any:
    """The value a pickle describes, in plain lists, tuples, dictionaries, strings, numbers and `PickledCall` records.

    Raises `ValueError` for anything that is not a pickle of plain data.
    """
    machine = _Machine()
    try:
        for instruction, argument, _ in pickletools.genops(content):
            machine.step(instruction.name, argument)
        (value,) = machine.stack
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a pickle of plain data ({error})") from error
    return value


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack, pop = self.stack, self.stack.pop
        if name in _LITERAL:
            stack.append(argument)
        elif name in _CONSTANT:
            stack.append(_CONSTANT[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if name == "EMPTY_LIST" else {})
        elif name in ("LIST", "TUPLE"):
            stack.append(list(self._marked()) if name == "LIST" else tuple(self._marked()))
        elif name == "DICT":
            items = self._marked()
            stack.append(dict(zip(items[::2], items[1::2], strict=True)))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("APPEND", "APPENDS"):
            items = self._marked() if name == "APPENDS" else [pop()]
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._marked() if name == "SETITEMS" else stack[-2:]
            if name == "SETITEM":
                del stack[-2:]
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "STACK_GLOBAL":
            attribute, module = pop(), pop()
            stack.append(f"{module} {attribute}")
        elif name == "REDUCE":
            arguments, function = pop(), pop()
            stack.append(PickledCall(function, arguments))
        elif name == "BUILD":
            state = pop()
            stack[-1].state = state
        elif name not in _IGNORED:
            raise ValueError(f"the instruction {name} does not belong in a file of plain data")

    def _marked(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items


def as_bytes(value: Any) -> bytes:
    """A byte string, however the writer spelt it: Python 2's str, bytes, or a call of `_codecs.encode`."""
    if isinstance(value, PickledCall) and value.function == "_codecs encode":
        value = value.arguments[0]
    return value if isinstance(value, bytes) else value.encode("latin-1")


def byte_array(value: Any) -> np.ndarray:
    """The uint8 array that a pickled numpy array describes; raises `ValueError` for anything else."""
    try:
        _, shape, kind, column_order, data = value.state
        if not value.function.endswith("multiarray _reconstruct") or kind.arguments[0] != "u1" or column_order:
            raise ValueError("not a row-major array of bytes")
        return np.frombuffer(as_bytes(data), np.uint8).reshape(shape)
    except (AttributeError, TypeError, IndexError, UnicodeEncodeError) as error:
        raise ValueError(f"not a pickled numpy array ({error})") from error
