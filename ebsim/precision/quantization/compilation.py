"""Compiling a quantizer once, for all sizes, and failing aloud when torch would compile it again and again.

A graph per call site would be recompiled for every layer shape, reach torch's recompile limit and from then on run
eagerly without a word. So: sizes marked dynamic, one code object per kernel (the limit is counted per code object), and
`fullgraph`, which turns the limit into an error.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ebsim.errors import EbsimError

MIN_STEPS_TO_COMPILE = 200  # training steps after which 6-28 s of compiling have been earned back on a CPU


def compile_once(
    function: Callable[..., Any], name: str, example: Mapping[Any, tuple[int, ...]], threads: int
) -> Callable[..., Any]:
    """Compile `function` under a code object of its own; `example` maps each argument to its dynamic dimensions.

    Not `dynamic=True`: that also makes variables of the Python integers which a format closes over, and the kernel
    then computes with them (wrongly, for bit masks, in torch 2.13).
    """
    function.__code__ = function.__code__.replace(co_name=name)
    # the number of threads is built into a kernel, but is part of the key of torch's cache on disk only if given here
    options: dict[str, Any] = {"cpp.threads": threads}
    if "eager_numerics.division_rounding" in torch._inductor.list_options():
        options["eager_numerics.division_rounding"] = True  # CUDA: true division, as eager does
    fast = torch.compile(function, fullgraph=True, options=options)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        try:
            return fast(*args)
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise EbsimError(
                f"{name} was compiled too often (torch's recompile limit): {error}; use compile=False and report it"
            ) from error

    for argument, dimensions in example.items():
        for dimension in dimensions:
            torch._dynamo.mark_dynamic(argument, dimension)
    call(*example)
    return call


def decide(compile: bool | str, device: torch.device, steps: int | None) -> tuple[bool, str]:
    """Whether to compile, and a sentence saying why."""
    if compile is True:
        return True, "compiled, as asked"
    if compile is False:
        return False, "eager, as asked"
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        return False, "eager: no C++ compiler found"
    if device.type not in ("cpu", "cuda"):
        return False, f"eager: not compiled on {device.type}"
    if steps is not None and steps < MIN_STEPS_TO_COMPILE:
        return False, f"eager: {steps} steps do not earn back the compile time"
    return True, "compiled"
