"""Which BatchNorm networks of timm does `compact` shrink at their default input size, and how many does it refuse?

Of every module of timm.models the smallest network (of up to --tried, spread over its names) that has a BatchNorm2d;
random weights and scales, p = 0.5. `compact` verifies each result in float64, both modes. One line per network, then
the share.

    python -m benchmarks.compact_timm [--only REGEX] [--tried 8]
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ebsim.errors import CompactError
from ebsim.tickets import channel_mask, compact
from ebsim.torchvision_shim import import_torchvision


def members(tried: int, only: str) -> Iterator[tuple[str, str]]:
    """(module of timm, its smallest network with BatchNorm2d)."""
    import_torchvision("torchvision")
    import timm

    names: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        module = timm.model_entrypoint(name).__module__.rpartition(".")[2]
        names[module].append(name)
    for module, all_of_it in sorted(names.items()):
        if not re.search(only, module):
            continue
        step = max(1, len(all_of_it) // tried)
        sizes = {}
        for name in all_of_it[::step]:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    model = timm.create_model(name)
                except Exception as error:  # some cannot be made without memory
                    print(f"{module:24s} {name:36s} not made on the meta device: {type(error).__name__}")
                    continue
            if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
                sizes[name] = sum(p.numel() for p in model.parameters())
        if sizes:
            yield module, min(sizes, key=lambda name: sizes[name])


def shrink(name: str) -> tuple[float, float]:
    """(parameters kept, CPU seconds) of one network. CompactError where it is refused."""
    import timm

    torch.manual_seed(0)
    model: Any = timm.create_model(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight)
    example = torch.randn(2, *model.default_cfg["input_size"])
    start = time.process_time()
    small = compact(model, channel_mask(model, 0.5), example)
    seconds = time.process_time() - start
    return sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters()), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="modules of timm.models whose names match")
    parser.add_argument("--tried", type=int, default=8, help="networks of a module that are looked at")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    done = refused = 0
    for module, name in members(chosen.tried, chosen.only):
        try:
            kept, seconds = shrink(name)
            print(f"{module:24s} {name:36s} kept {kept:.3f}  {seconds:6.1f} s", flush=True)
        except CompactError as error:
            refused += 1
            print(f"{module:24s} {name:36s} REFUSED {error}", flush=True)
        done += 1
    print(f"{done} networks, {refused} refused ({100 * refused / max(1, done):.1f} %)")


if __name__ == "__main__":
    main()
