"""What simulating a precision costs: quantizers as a ratio to `copy_`, training steps as a ratio to fp32.

    python benchmarks/precision.py [--quick] [--threads 2] [--out benchmarks/results/precision.json]

Every ratio is taken side by side: the two things alternate in one process. `wall` is the median of the rounds' ratios
of wall time with its quartiles, `cpu` that of CPU time, `best` the ratio of the fastest rounds' CPU times: the figure
that a busy machine disturbs least (its load is recorded too). Milliseconds, of CPU time, are shown for scale only.
The allocator keeps freed memory, as in a training (`ebsim.training.allocator`): else fresh pages dominate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

QUANTISERS = [(f, r) for f in ("bf16", "e4m3", "e5m2", "int8", "int8/row", "bfp8") for r in ("nearest", "stochastic")]
QUANTISERS += [("mxfp8", "nearest"), ("mxint8", "nearest")]


def stochastic(name: str) -> dict[str, Any]:
    """A preset's formats on the operands of all layers, stochastically; outputs and the update in fp32."""
    weight, activation, error = {
        "fp8": ("e4m3", "e4m3", "e5m2"),
        "int8": ("int8/row", "int8", "int8"),
        "bfp8": ("bfp8", "bfp8", "bfp8"),
    }[name]
    roles = {"weight": weight, "activation": activation, "error": error}
    return {"name": f"{name}_stochastic", **{role: f"{fmt} stochastic" for role, fmt in roles.items()}}


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall seconds, and the CPU seconds of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def ratios(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Case -> ratio to the first case, taken round by round."""
    for call in cases.values():
        call()
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, call in cases.items():
            seen[name].append(timed(call))
    first = next(iter(seen.values()))
    found = {}
    for name, times in seen.items():
        wall = [t[0] / base[0] for t, base in zip(times, first, strict=True)]
        low, mid, high = statistics.quantiles(wall, n=4, method="inclusive")
        cpu = statistics.median(t[1] / base[1] for t, base in zip(times, first, strict=True))
        ms = min(t[1] for t in times) * 1e3
        best = ms / (min(t[1] for t in first) * 1e3)
        figures = {"best": best, "cpu": cpu, "wall": mid, "low": low, "high": high, "ms": ms, "rounds": rounds}
        found[name] = {k: round(v, 3) for k, v in figures.items()}
        print(f"  {name:32} best {best:5.2f}  cpu {cpu:5.2f}  wall {mid:5.2f} [{low:.2f}..{high:.2f}]", flush=True)
    return found


def quantizers(rounds: int) -> dict[str, Any]:
    """One convolution's activation, 128 x 64 x 32 x 32 (8.4 million floats)."""
    import torch

    from ebsim.precision import quantize

    x = torch.randn(128, 64, 32, 32)
    into = torch.empty_like(x)
    cases: dict[str, Callable[[], Any]] = {"copy_": lambda: into.copy_(x)}
    for compile in (True, False):
        for fmt, rounding in QUANTISERS:
            name = f"{fmt} {rounding}, {'compiled' if compile else 'eager'}"
            cases[name] = lambda f=fmt, r=rounding, c=compile: quantize(x, f, rounding=r, compile=c)
    return ratios(cases, rounds)


def steps(network: str, depth: int, batch: int, rounds: int, last: bool) -> dict[str, Any]:
    """Forward, backward and SGD on random 32 x 32 images; every backend has a network of its own."""
    import torch

    from ebsim import models, precision

    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(batch, 3, 32, 32).contiguous(memory_format=layout)
    y = torch.randint(0, 10, (batch,))

    def training(backend: Any, compile: bool) -> Callable[[], None]:
        model = models.build(network, classes=10, depth=depth).to(memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        placement = precision.apply(model, backend, compile=compile)
        placement.attach(optimizer)

        def step() -> None:
            placement.set_step(placement.step + 1)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

        return step

    cases = {"fp32": training("fp32", False)}
    for compile in (True, False):
        how = "compiled" if compile else "eager"
        for name in ("fp8", "int8", "bfp8"):
            cases[f"{name}, {how}"] = training(name, compile)
            cases[f"{name} operands stochastic, {how}"] = training(stochastic(name), compile)
    return ratios(cases, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="few rounds, PreResNet-20 only (both layouts)")
    parser.add_argument("--threads", type=int, default=2, help="1 is the steadiest on a busy machine")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "precision.json")
    options = parser.parse_args()
    import torch

    import ebsim
    from ebsim.training.allocator import keep_freed_memory

    keep_freed_memory()

    torch.set_num_threads(options.threads)
    rounds = 5 if options.quick else 9
    networks = [
        ("preresnet", 20, 128, False), ("preresnet", 20, 128, True), ("vgg", 16, 64, False), ("vgg", 16, 64, True),
        ("preresnet", 101, 64, True),
    ]  # fmt: skip
    result: dict[str, Any] = {
        "versions": {"ebsim": ebsim.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": options.threads,
        "load_average": os.getloadavg(),
        "baseline": "copy_ into a ready buffer / the fp32 step, alternating in one process; medians and quartiles",
        "quantiser": quantizers(rounds),
        "step": {},
    }
    for network, depth, batch, last in networks[: 2 if options.quick else None]:
        name = f"{network}-{depth}, batch {batch}, {'channels_last' if last else 'contiguous'}"
        print(name, flush=True)
        result["step"][name] = steps(network, depth, batch, 3 if depth > 100 else rounds, last)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
