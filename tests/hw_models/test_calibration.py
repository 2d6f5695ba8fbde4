"""A fitted profile predicts what it says: on steps of known devices, and on a published trace of a real one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hw_models import HardwareError, ProfileError, commands, load, reference, training_cost
from hw_models.analysis.calibration import Fit, fit, read_steps

NETWORKS = ("vgg16", "resnet18", "resnet50", "vgg16-imagenet")
TRUTH = """extends = "h100"
name = "truth"
summary = "a device whose constants the fit does not know"
[device]
eta_compute = 0.3
launch_us = 11
half_batch = 64
source = "made up"
[device.eta]
fp32 = 0.55
[pj_per_flop]
source = "made up"
fp32 = 9.0
bf16 = 0.8
[op]
source = "made up"
add = 9.0
multiply = 9.0
compare = 9.0
integer = 9.0
random = 45
[dram]
gbytes_per_s = 1900
pj_per_bit = { value = 6, source = "made up" }
[static]
watts = { value = 120, source = "made up" }
"""


def _device(folder: Path, text: str = TRUTH) -> str:
    path = folder / "truth.toml"
    path.write_text(text)
    return str(path)


def _measured(
    path: Path,
    device: str,
    networks: tuple[str, ...] = NETWORKS,
    batches: tuple[int, ...] = (8, 32, 128),
    noise: float = 0,
) -> Path:
    """Steps that the device would give."""
    rng = np.random.default_rng(1)
    lines = ["network,precision,batch,joules,seconds"]
    for name in networks:
        for precision in ("fp32", "bf16"):
            for batch in batches:
                cost = training_cost(reference.network(name), device, precision, batch)
                off = np.exp(noise * rng.standard_normal(2))
                lines.append(
                    f"{name},{precision},{batch},{float(cost.total * off[0])!r},{float(cost.seconds * off[1])!r}"
                )
    path.write_text("\n".join(lines) + "\n")
    return path


def measurements(path: Path) -> Path:
    """A file of measured steps that a profile can be fitted to."""
    return _measured(path, "h100")


def _fit(path: Path) -> Fit:
    return fit(read_steps(path, "h100"), "h100")


def test_the_constants_of_a_known_device_come_back(tmp_path: Path) -> None:
    found = _fit(_measured(tmp_path / "m.csv", _device(tmp_path)))
    c = found.constants
    assert set(found.time_constants) == {"gbytes_per_s", "launch_us", "half_batch"}
    assert c.eta == pytest.approx({"fp32": 0.55, "bf16": 0.3}, rel=0.02)
    assert (c.gbytes_per_s, c.launch_us, c.half_batch) == pytest.approx((1900, 11, 64), rel=0.02)
    assert (c.static_w, c.pj_per_bit) == pytest.approx((120, 6), rel=0.02)
    assert c.pj_per_flop == pytest.approx({"fp32": 9.0, "bf16": 0.8}, rel=0.02)
    assert found.left_out == ("networks", "batch sizes") and set(found.held_out) == set(found.held_out_seconds)
    corners = {f"{name} at batch {batch}" for name in NETWORKS for batch in (8, 128)}
    assert set(found.held_out) == {*NETWORKS, "batch 8", "batch 32", "batch 128", *corners}
    assert json.loads(json.dumps(found.to_dict()))["constants"]["half_batch"] == c.half_batch
    assert found.held_out_error < 5e-3 and max(found.held_out_seconds.values()) < 5e-3


def test_the_error_stated_is_the_error_made(tmp_path: Path) -> None:
    """The written profile, on networks and batches that were not measured: within what was stated for left-out ones."""
    device = _device(tmp_path)
    found = _fit(_measured(tmp_path / "m.csv", device, NETWORKS[:3], noise=0.05))
    _, text = commands.calibrate("h100", tmp_path / "m.csv", tmp_path / "mine.toml")
    made = []
    for name in ("vgg16-imagenet", "preresnet101", "alexnet"):
        for batch in (16, 64, 512):
            truth = training_cost(reference.network(name), device, "bf16", batch)
            mine = training_cost(reference.network(name), tmp_path / "mine.toml", "bf16", batch)
            made += [abs(mine.total / truth.total - 1), abs(mine.seconds / truth.seconds - 1)]
    stated = max(found.held_out_error, float(np.mean(list(found.held_out_seconds.values()))))
    assert 0.01 < stated < 0.15 and np.mean(made) < 2 * stated
    mean, least, worst = (100 * error for error in found.stated)
    assert f"{mean:.1f} % ({least:.1f} to {worst:.1f} %) on left-out networks and batch sizes" in text


TRUTHS = {  # seconds of a step, of its roofline on an H100 that the fit starts from
    "grows with small batches": lambda cost, batch: 1.4 * cost.seconds * (1 + 64 / batch),
    "a power of the batch": lambda cost, batch: 3 * cost.seconds * batch**-0.2,
    "small kernels are slow": lambda cost, batch: (1.2 * cost.row_seconds + 3e-3 * cost.row_seconds**0.5).sum(),
    "a constant, and batches": lambda cost, batch: 1.3 * cost.seconds * (1 + 16 / batch) + 0.004,
}


@pytest.mark.parametrize("form", TRUTHS)
def test_the_stated_range_holds_the_error_made_whatever_the_truth_is(tmp_path: Path, form: str) -> None:
    """Nine steps of one format, of truths in and out of the fitted form. Errors are made on networks that were not
    measured too, at batches to a factor of two outside."""

    def truth(name: str, batch: int) -> tuple[float, float]:
        cost = training_cost(reference.network(name), "h100", "fp32", batch)
        seconds = float(TRUTHS[form](cost, batch))
        return 1.1 * cost.total + 150 * seconds, seconds

    lines = ["network,precision,batch,joules,seconds"]
    for name in NETWORKS[:3]:
        for batch in (8, 32, 128):
            joules, seconds = truth(name, batch)
            lines.append(f"{name},fp32,{batch},{joules!r},{seconds!r}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    found, _ = commands.calibrate("h100", tmp_path / "m.csv", tmp_path / "mine.toml")
    made = []
    for name in NETWORKS:
        for batch in (4, 8, 32, 128, 256):
            mine = training_cost(reference.network(name), tmp_path / "mine.toml", "fp32", batch)
            made.append([abs(m / t - 1) for m, t in zip((mine.total, mine.seconds), truth(name, batch), strict=True)])
    for made_error, (mean, least, worst) in zip(
        np.mean(made, axis=0), (found.stated, found.stated_seconds), strict=True
    ):
        assert least <= mean <= worst and made_error <= worst + 1e-6
        assert made_error <= 2 * mean + 1e-3


def test_time_that_grows_with_small_batches_is_predicted(tmp_path: Path) -> None:
    """A device that takes (1 + 64 / batch) times its roofline: batches left out are met, not only those fitted."""
    device = _device(tmp_path, TRUTH.replace("half_batch = 64", "half_batch = 0"))
    lines = ["network,precision,batch,joules,seconds"]
    for batch in (4, 8, 16, 32, 64, 256):
        cost = training_cost(reference.resnet50(), device, "fp32", batch)
        seconds = cost.seconds * (1 + 64 / batch)
        lines.append(f"resnet50,fp32,{batch},{cost.total + 120 * (seconds - cost.seconds)!r},{seconds!r}")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    found = _fit(tmp_path / "m.csv")
    assert (
        found.left_out == ("batch sizes",)
        and "batch 32" in found.held_out
        and any("no networks could be left out" in d for d in found.doubts)
    )
    assert found.constants.half_batch == pytest.approx(64, rel=0.1)
    assert found.held_out_error < 0.02 and max(found.held_out_seconds.values()) < 0.03


def test_a_profile_of_a_published_trace_predicts_the_batches_left_out() -> None:
    """ResNet-50 on a V100 at 250 W, batches 8 to 360 (Zeus, NSDI 2023): joules and seconds of left-out batches."""
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "v100_resnet50_zeus.csv"
    found = fit(read_steps(path, "v100"), "v100")
    assert len(found.held_out) == found.steps == 8
    assert found.held_out_error < 0.06 and float(np.mean(list(found.held_out_seconds.values()))) < 0.06


def test_a_fit_through_every_step_says_that_its_error_says_nothing(tmp_path: Path) -> None:
    full = _measured(tmp_path / "m.csv", _device(tmp_path)).read_text().splitlines()
    assert _fit(tmp_path / "m.csv").doubts == []
    few = tmp_path / "few.csv"
    few.write_text("\n".join([full[0], *(line for line in full if ",fp32," in line)][:4]) + "\n")
    found = _fit(few)
    assert found.steps == 3 and found.held_out == {}
    assert "3 steps for 3 constants" in found.doubts[0] and "unknown" in found.doubts[1]
    assert "unknown, nothing left out" in commands.calibrate("h100", few)[1]


def test_a_calibrated_profile_loads_and_is_what_was_scored(tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    found, text = commands.calibrate("h100", _measured(tmp_path / "m.csv", _device(tmp_path)), out)
    chip = load(out)
    assert chip.name == "mine" and "left-out" in text and "m.csv" in chip.calibrated_on
    steps = read_steps(tmp_path / "m.csv", "h100")
    costs = [training_cost(reference.network(s.network), chip, s.precision, s.batch) for s in steps]
    errors = [abs(c.total / s.joules - 1) for c, s in zip(costs, steps, strict=True)]
    assert np.mean(errors) == pytest.approx(found.fitted_error, abs=1e-4)
    errors = [abs(c.seconds / s.seconds - 1) for c, s in zip(costs, steps, strict=True)]
    assert np.mean(errors) == pytest.approx(found.fitted_seconds_error, abs=1e-4)
    with pytest.raises(ProfileError, match="exists already"):
        commands.calibrate("h100", tmp_path / "m.csv", out)


HEAD = "network,precision,batch,joules,seconds\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs the columns"),
        ("a,b\n1,2\n", "needs the columns"),
        (HEAD, "at least one row"),
        (f"{HEAD}vgg16,fp32,16,-1,1\n", ":2: joules is '-1'"),
        (f"# where from\n{HEAD}vgg16,fp32,16,nan,1\n", ":3: joules"),
        (f"{HEAD}vgg16,fp31,16,1,1\n", ":2: precision 'fp31'"),
        (f"{HEAD}lenet,fp32,16,1,1\n", "no reference network 'lenet'"),
        (f"{HEAD}vgg16,fp32,16,1,1\n", "cannot fix 3 constants"),
        (f"{HEAD}vgg16,int4,16,1,1\n", "int4: h100 states no peak"),
    ],
)
def test_measurements_that_cannot_be_used_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(HardwareError, match=words):
        _fit(path)
    with pytest.raises(HardwareError, match="cannot be read"):
        read_steps(tmp_path / "none.csv", "h100")


def test_an_array_cannot_be_calibrated(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="only a device"):
        commands.calibrate("horowitz-45nm", _measured(tmp_path / "m.csv", _device(tmp_path)))
