"""Generated experiment files: each is an experiment, or a `ConfigError`; never anything else."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from ebsim import pipeline
from ebsim.config import all_keys
from ebsim.config.write import to_toml
from ebsim.errors import EbsimError
from hw_models.errors import HardwareError

KEYS = [key for key in all_keys() if key not in ("name", "companions")]
PLAIN: list[Any] = [
    0, 1, 2, 5, 20, 101, 160, -1, 2**31, 2**63 - 1, 10**30, 0.0, 0.1, 0.5, 0.99, 1.0, 5e-05, 1e-300, 1e30, 1e308, -0.5,
    math.inf, math.nan, True, False, "", "fp32", "int8", "bfp8", "fp8", "cpu", "auto", "gamma", "dense", "eb-train",
    "preresnet", "vgg", "resnet", "digits", "cifar10", "paper", "authors", "closed", "horowitz-45nm", "nonesuch",
    "a.py:B", "../x.toml", "\0", "\u202e", "e4m3", "x" * 300,
]  # fmt: skip


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if depth < 3 and kind < 0.15:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if depth < 3 and kind < 0.25:
        words = ("weight", "activation", "error", "gradient", "momentum", "base", "rule", "layers", "swa", "start", "x")
        return {rng.choice(words): value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return rng.choice(PLAIN)


def attempt(folder: Path, rng: random.Random) -> str:
    settings = {rng.choice(KEYS): value(rng) for _ in range(rng.choice((1, 1, 2, 5)))}
    if rng.random() < 0.3:
        settings[rng.choice(KEYS) + rng.choice(["x", ".y", ""])] = value(rng)
    try:
        experiment = pipeline.load(folder / "a.toml", settings)
    except (EbsimError, HardwareError) as error:
        assert getattr(error, "exit_code", 2) == 2, (settings, error)
        return "refused"
    (folder / "again.toml").write_text(to_toml(experiment))
    again = pipeline.load(folder / "again.toml")
    assert again.model_dump(mode="json") == experiment.model_dump(mode="json")
    return "accepted"


def generated(folder: Path, count: int, seed: int) -> dict[str, int]:
    (folder / "a.toml").write_text('name = "a"\n')
    rng, ends = random.Random(seed), {"accepted": 0, "refused": 0}
    for _ in range(count):
        ends[attempt(folder, rng)] += 1
    return ends


def mutated(folder: Path, count: int, seed: int) -> int:
    """A shipped experiment with some of its bytes changed; how many were refused."""
    whole = (Path(__file__).parents[2] / "experiments" / "preresnet101.toml").read_bytes()
    rng, refused = random.Random(seed), 0
    for _ in range(count):
        broken = bytearray(whole)
        for _ in range(rng.choice((1, 2, 5))):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        (folder / "b.toml").write_bytes(broken[: rng.choice((None, rng.randrange(len(broken))))])
        try:
            pipeline.load(folder / "b.toml")
        except (EbsimError, HardwareError):
            refused += 1
    return refused


def test_some(tmp_path: Path) -> None:
    ends = generated(tmp_path, 800, 0)
    assert ends["accepted"] > 5 and ends["refused"] > 40
    assert mutated(tmp_path, 40, 0) > 10


@pytest.mark.slow
def test_ten_thousand(tmp_path: Path) -> None:
    ends, refused = generated(tmp_path, 10_000, 1), mutated(tmp_path, 2_000, 1)
    print(ends, f"{refused} of 2000 mutated files refused")


def test_an_empty_folder_is_none_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "a"\n[data]\nroot = ""\n')
    assert pipeline.load(tmp_path / "a.toml").data.root == ""
