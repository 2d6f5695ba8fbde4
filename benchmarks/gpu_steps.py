"""Times, memory and energy of the training step on a GPU, for benchmarks/gpu.py.

A case is a network, an arithmetic (fp32, TF32, bf16, or a simulated format) and a way of running the step (eager, a
replayed CUDA graph, compiled and replayed). Every case trains on one batch that stays on the device, for at least
`seconds` after warming up, inside a window of the energy sensor; a figure is the median over blocks of steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from gpu_checks import random_scales
from torch import Tensor, nn

import hw_models
from ebsim import models, precision, tickets
from ebsim.training import StepGraphs, TrainStep, cuda_recorder, make_optimizer, on_stream

WARM_UP, BLOCKS = 8, 5
Sensor = Callable[[Callable[[], None]], Any]  # runs the work inside a measurement window
Write = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Case:
    """One thing to time. ratio: of the ticket (0: dense). low: a simulated precision. mode: eager, graph (replayed),
    compiled (and replayed), or reference (the authors' loop as benchmarks/trainer.py writes it). energy: also measured.
    """

    network: str
    depth: int
    batch: int
    arithmetic: str = "fp32"
    mode: str = "graph"
    ratio: float = 0.0
    low: str = "fp32"
    side: int = 32
    classes: int = 10
    energy: bool = False

    @property
    def name(self) -> str:
        what = f"{self.network}{self.depth}" + (f" p={self.ratio:g}" if self.ratio else "")
        arithmetic = self.arithmetic if self.low == "fp32" else f"simulated {self.low}"
        measured = ", with energy" if self.energy else ""
        return f"{what}, {self.side}x{self.side}, batch {self.batch}, {arithmetic}, {self.mode}{measured}"


def cases(quick: bool) -> list[Case]:
    """What is timed, most important first."""
    if quick:
        return [Case("preresnet", 11, 8, mode="eager"), Case("preresnet", 11, 8, "bf16", ratio=0.5, mode="graph")]
    main: dict[str, Any] = {"network": "preresnet", "depth": 101, "batch": 256}
    vgg: dict[str, Any] = {"network": "vgg", "depth": 16, "batch": 256}
    small: dict[str, Any] = {"network": "preresnet", "depth": 20, "batch": 128}
    large: dict[str, Any] = {"network": "resnet", "depth": 50, "batch": 128, "side": 224, "classes": 1000}
    found = [Case(**main, arithmetic="bf16", energy=True), Case(**main, arithmetic="bf16", mode="eager")]
    found += [Case(**main, arithmetic=a, mode=m) for a in ("fp32", "tf32") for m in ("graph", "eager")]
    found += [Case(**main, arithmetic="tf32", mode="reference")]
    found += [Case(**main, arithmetic="bf16", ratio=p) for p in (0.5, 0.3, 0.7)]
    found += [Case(**small, arithmetic=a, mode=m) for a in ("bf16", "fp32") for m in ("graph", "eager")]
    found += [Case(**small, arithmetic=a, ratio=p) for a in ("bf16", "fp32") for p in (0.3, 0.5)]
    found += [Case(**vgg, arithmetic="bf16", energy=True), Case(**vgg, arithmetic="bf16", mode="eager")]
    found += [Case(**vgg, arithmetic="tf32", mode="reference")]
    found += [Case(**vgg, arithmetic="bf16", ratio=p) for p in (0.3, 0.5, 0.7)]
    found += [Case(**main, low=low, mode="eager") for low in ("fp8", "int8", "bfp8")]
    found += [Case(**large, arithmetic="bf16", energy=True), Case(**large, arithmetic="bf16", mode="eager")]
    found += [Case(**small, low=low, mode="eager") for low in ("bfp8", "fp8")]
    found += [Case(**main, arithmetic="bf16", ratio=0.5, energy=True), Case(**main, arithmetic="fp32", energy=True)]
    found += [Case(**vgg, arithmetic=a, energy=True) for a in ("fp32", "tf32")]
    found += [Case(**main, arithmetic="fp32", ratio=p) for p in (0.5, 0.3, 0.7)]
    found += [Case(**small, arithmetic="bf16", mode="compiled"), Case(**vgg, arithmetic="bf16", mode="compiled")]
    return [*found, Case(**main, arithmetic="bf16", mode="compiled")]


def case_of(row: dict[str, Any]) -> Case:
    """The case of a result row."""
    return Case(**{field.name: row[field.name] for field in fields(Case)})


def ceilings(device: torch.device, size: int = 8192) -> dict[str, float]:
    """What the machine reaches at its best: bytes read and written by a copy, FLOP/s of a matrix product."""
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)

    def fastest(work: Callable[[], object], rounds: int = 8) -> float:
        times = []
        for _ in range(rounds):
            wait()
            start = time.perf_counter()
            work()
            wait()
            times.append(time.perf_counter() - start)
        return min(times)

    source = torch.empty(size * size * 8, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found = {"copy_gbytes_per_s": 2 * source.numel() / fastest(lambda: target.copy_(source)) / 1e9}
    kinds = (("fp32", torch.float32, False), ("tf32", torch.float32, True), ("bf16", torch.bfloat16, False))
    for name, dtype, tf32 in kinds:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a = torch.randn(size, size, device=device).to(dtype)
        found[f"{name}_tflops"] = 2 * size**3 / fastest(lambda a=a: a @ a) / 1e12
    return found


def build(case: Case) -> nn.Module:
    """The network of a case, with scales as after a training and shrunk to its ticket."""
    shape = (3, case.side, case.side)
    model = models.build(case.network, depth=case.depth, classes=case.classes, input_shape=shape, seed=0)
    if not case.ratio:
        return model
    random_scales(model)
    return tickets.compact(model, tickets.channel_mask(model, case.ratio), torch.zeros(2, *shape))


def stepper(case: Case, device: torch.device) -> tuple[Callable[[], None], Callable[[], float]]:
    """(one step, the mean loss of all steps so far)."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = case.arithmetic == "tf32"
    model = build(case).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model, lr=1e-3, momentum=0.9, weight_decay=1e-4)
    placement = precision.apply(model, case.low, steps=10_000)
    placement.attach(optimizer)
    forward = torch.compile(model) if case.mode == "compiled" else model
    amp = "bf16" if case.arithmetic == "bf16" else "none"
    step = TrainStep(model, forward, optimizer, l1=1e-4, amp=amp)
    images = torch.randn(case.batch, 3, case.side, case.side, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(case.classes, (case.batch,), device=device)
    run: Callable[[Tensor, Tensor], None] = step
    if case.mode in ("graph", "compiled") and device.type == "cuda":
        stream = torch.cuda.current_stream(device)
        run = StepGraphs(step, lambda: 0, cuda_recorder(stream), _refuse)
    step.begin()
    count = 0

    def one() -> None:
        nonlocal count
        placement.set_step(count)
        run(images, labels)
        count = step.count(case.batch)

    return one, lambda: step.totals().loss


def reference(case: Case, device: torch.device) -> tuple[Callable[[], None], Callable[[], float]]:
    """The authors' loop: NCHW, selections that ask numpy, reads in every step, TF32 convolutions (torch's default)."""
    from trainer import plain_network, plain_step, sgd_of

    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    model = plain_network(case.network, case.depth, case.classes).to(device)
    sgd = sgd_of(model)
    images = torch.randn(case.batch, 3, case.side, case.side, device=device)
    labels = torch.randint(case.classes, (case.batch,), device=device)
    return lambda: plain_step(model, sgd, images, labels), lambda: 0.0


def _refuse(reason: str) -> None:
    raise RuntimeError(reason)


def measure(
    case: Case, device: torch.device, seconds: float, sensor: Callable[[Callable[[], None]], Any]
) -> dict[str, Any]:
    """Time, memory and energy of a case; `sensor(work)` runs the work inside a measurement window."""
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    if stream is not None:
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    with on_stream(stream):
        one, loss = (reference if case.mode == "reference" else stepper)(case, device)
        for _ in range(WARM_UP):
            one()
        wait()
        ready = time.perf_counter()
        one()
        wait()
        block = max(1, round(seconds / BLOCKS / max(time.perf_counter() - ready, 1e-4)))
        times: list[float] = []

        def work() -> None:
            for _ in range(BLOCKS):
                start = time.perf_counter()
                for _ in range(block):
                    one()
                wait()
                times.append((time.perf_counter() - start) / block)

        reading: Any = sensor(work) if case.energy else work()
        final = loss()
    middle = statistics.median(times)
    joules = getattr(reading, "joules", None)
    return {
        **asdict(case),
        "name": case.name,
        "step_ms": 1e3 * middle,
        "step_ms_range": [1e3 * min(times), 1e3 * max(times)],
        "images_per_s": case.batch / middle,
        "steps": len(times) * block,
        "warm_up_s": ready - began,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if stream is not None else None,
        "measured_joules_per_step": None if joules is None else joules / (BLOCKS * block),
        "measured_source": getattr(reading, "source", "not measured"),
        "finite": final == final,
    }


def run_all(
    device: torch.device,
    seconds: float,
    quick: bool,
    write: Write,
    left: Callable[[], float],
    first: int = 0,
) -> None:
    """Time every case from number `first` on, as long as `left()` seconds allow; `write(name, result)` after each."""
    from hw_models.sensors import measure as window

    def sensor(work: Callable[[], None]) -> Any:
        return window(work, repeat=True)

    write("ceilings", ceilings(device, 256 if quick else 8192))
    for case in cases(quick)[first:]:
        if left() < 0:
            write(case.name, {**asdict(case), "name": case.name, "skipped": "no time left"})
            continue
        try:
            result = measure(case, device, seconds, sensor)
        except Exception as error:  # a case must not keep the others from being timed
            result = {**asdict(case), "name": case.name, "error": f"{type(error).__name__}: {error}"[:500]}
        write(case.name, result)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def calibration_rows(results: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(layer tables by name, rows of a calibration CSV) of the measured steps that replayed a graph."""
    networks: dict[str, Any] = {}
    rows = []
    for row in results.values():
        if row.get("measured_joules_per_step") is None or row["mode"] != "graph":
            continue
        case = case_of(row)
        name = f"{case.network}{case.depth}" + (f" p={case.ratio:g}" if case.ratio else "")
        if name not in networks:
            networks[name] = hw_models.trace(build(case), (3, case.side, case.side))
        joules, seconds = row["measured_joules_per_step"], row["step_ms"] / 1e3
        arithmetic = {"precision": case.arithmetic, "batch": case.batch}
        rows.append({"network": name, **arithmetic, "joules": joules, "seconds": seconds})
    return networks, rows
