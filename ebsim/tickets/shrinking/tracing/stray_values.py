"""Traced values that outlive their tracing, in a memo that the network's code keeps outside of itself.

A function under `functools.lru_cache`, a dictionary by size: what was put there while a network was traced must not
reach the dense network, nor the next tracing. Caches that hold such values are emptied; what stays elsewhere stands for
the number that it was, or for the tensor that the code made of such numbers.
"""

from __future__ import annotations

import functools
import gc
from typing import Any

from torch import Tensor, fx, nn

from ebsim.errors import CompactError


def forget(values: list[Any]) -> None:
    """Empty the caches that hold any of these, and take them out of dictionaries that have them as keys."""
    found, seen = list(values), {id(values)}
    for _ in range(_DEPTH):
        seen |= {id(one) for one in found} | {id(found)}
        above = [one for one in gc.get_referrers(*found) if id(one) not in seen]
        for one in above:
            if isinstance(one, functools._lru_cache_wrapper):
                one.cache_clear()
            elif type(one) is dict:
                for key in [key for key in one if any(key is value for value in found)]:
                    del one[key]
        found = [one for one in above if type(one).__name__ in _BETWEEN]
        if not found:
            return


_DEPTH = 5  # a value in the key, a tuple, of an element of the list of a cache
_BETWEEN = ("tuple", "list", "dict", "_lru_list_elem", "_HashedSeq", "Size")


def meaning(node: fx.Node, root: nn.Module) -> Any:
    """What a traced value stands for after tracing. CompactError for a tensor that depends on the input."""
    value = node.meta["val"]
    if not isinstance(value, Tensor):
        return value
    if "constant" in node.meta:
        return node.meta["constant"]
    if node.op not in ("call_function", "call_method"):
        raise CompactError(
            "the network's code keeps a tensor of its forward outside of the network and reads it later; "
            "such a network cannot be shrunk"
        )
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: meaning(n, root))
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)
