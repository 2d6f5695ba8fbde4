"""Measure training steps on this machine's GPU, as `ebsim hw calibrate` reads them.

    python -m benchmarks.gpu_energy --out steps.csv [--minutes 4] [--device 0]
    ebsim hw calibrate h100 steps.csv --out mine.toml

Synthetic images, channels last, SGD with momentum; each case is warmed up, then repeated in one window of at least five
seconds (50 periods of the board's counter). Rows are written as they come; the order is such that a cut leaves a
usable file.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hw_models.sensors import measure

CASES = list(itertools.product((128, 32, 512), ("bf16", "tf32", "fp32"), ("resnet50", "resnet18", "vgg16")))
SHAPES = {"resnet50": (3, 224, 224), "resnet18": (3, 224, 224), "vgg16": (3, 32, 32)}


def network(name: str) -> Any:
    """The torch network that the reference table of that name describes."""
    if name == "vgg16":
        import ebsim

        return ebsim.models.build("vgg", depth=16, classes=100, input_shape=(3, 32, 32), seed=0)
    from ebsim.torchvision_shim import import_torchvision

    return getattr(import_torchvision("torchvision.models"), name)()


def step(name: str, precision: str, batch: int, device: str) -> Callable[[], None]:
    """One training step, ready to be called again and again."""
    import torch
    from torch import nn

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    model = network(name).to(device, memory_format=torch.channels_last).train()
    images = torch.randn(batch, *SHAPES[name], device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 100, (batch,), device=device)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def once() -> None:
        sgd.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        sgd.step()

    return once


def steps(once: Callable[[], None], count: int) -> Callable[[], None]:
    return lambda: [once() for _ in range(count)] and None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("steps.csv"))
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--device", type=int, default=0)
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit("no GPU that torch can use")
    torch.cuda.set_device(options.device)
    name = torch.cuda.get_device_name(options.device)
    start = time.monotonic()
    with options.out.open("w", encoding="utf-8") as file:
        file.write(f"# {name}, torch {torch.__version__}; board energy (NVML) of one training step, synthetic images\n")
        file.write("network,precision,batch,joules,seconds\n")
        for batch, precision, which in CASES:
            if time.monotonic() - start > 60 * options.minutes - 10:
                break
            try:
                once = step(which, precision, batch, f"cuda:{options.device}")
                steps(once, 5)()
                torch.cuda.synchronize(options.device)
                began = time.perf_counter()
                steps(once, 3)()
                torch.cuda.synchronize(options.device)
                count = max(1, round(0.5 / ((time.perf_counter() - began) / 3)))  # half a second between two waits
                found = measure(steps(once, count), rail=f"GPU {options.device}", repeat=True)
            except torch.cuda.OutOfMemoryError:
                continue
            finally:
                torch.cuda.empty_cache()
            if found.joules is None:
                sys.exit(found.source)
            file.write(f"{which},{precision},{batch},{found.joules / count!r},{found.seconds / count!r}\n")
            file.flush()
            watts = found.joules / found.seconds
            print(
                f"{which} {precision} {batch}: {batch * count / found.seconds:,.0f} images/s, {watts:.0f} W", flush=True
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
