"""Prices a ledger of what was executed (networks, epochs, images, precisions): joules, seconds, grams of CO2.

A ledger entry is one stage of a method; see `price`. Nothing here needs the run or the training: a finished
ledger can be priced again on any accelerator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from hw_models.accelerator.constant import Number
from hw_models.accelerator.description import Accelerator
from hw_models.accelerator.loader import load
from hw_models.cost.inference import forward_cost
from hw_models.cost.step_cost import COMPONENTS, Cost
from hw_models.cost.training_step import FUSED, MODELS, reuse_model, training_cost
from hw_models.cost.vector_ops import AVERAGE_ADD, AVERAGE_MULTIPLY, mask_draw
from hw_models.errors import ConservationError, LedgerError, did_you_mean
from hw_models.units import PJ, kwh, show_joules
from hw_models.workload.layer import Layer
from hw_models.workload.shapes import Shapes, shapes

ENTRY = {  # keys of a ledger entry, see `price`
    "stage",
    "network",
    "precision",
    "epochs",
    "batch_size",
    "images_per_epoch",
    "steps_per_epoch",
    "eval_images",
    "evaluations",
    "statistics_images",
    "weight_averages",
    "mask_draws",
    "channels",
    "l1",
    "masked",
    "images",
    "steps",
    "density",
    "measured_joules",
    "measured_source",  # recorded beside, not priced
}


@dataclass(frozen=True)
class PricedStage:
    """One priced ledger entry. Energies in J (modelled), seconds a lower bound, MACs exact."""

    stage: str
    network: str
    precision: str
    joules: float
    seconds: float
    macs: float
    bytes: float
    images: int
    steps: int
    work: dict[str, float]  # J by training, evaluation, mask drawing
    components: dict[str, float]
    constants: dict[str, float]  # J by constant of the profile
    brackets: dict[str, float]  # J by the simpler models of the ladder


@dataclass(frozen=True)
class EnergyReport:
    """A priced ledger: its stages and their sums."""

    chip: Accelerator
    model: str
    stages: tuple[PricedStage, ...]
    numbers: dict[str, Number] = field(repr=False)

    def __repr__(self) -> str:
        return f"<EnergyReport {self.statement}>"

    @property
    def joules(self) -> float:
        return sum(s.joules for s in self.stages)

    @property
    def total(self) -> float:
        """`joules`, by the name that a `Cost` has for it."""
        return self.joules

    @property
    def seconds(self) -> float:
        return sum(s.seconds for s in self.stages)

    @property
    def macs(self) -> float:
        """Training MACs: forward and both backward passes, evaluation not included."""
        return sum(s.macs for s in self.stages)

    @property
    def bytes(self) -> float:
        return sum(s.bytes for s in self.stages)

    @property
    def kwh(self) -> float:
        return kwh(self.joules)

    @property
    def components(self) -> dict[str, float]:
        return _sum(s.components for s in self.stages)

    @property
    def brackets(self) -> dict[str, float]:
        """Joules by the simpler models, `macs` and `compulsory`: what the chosen model adds to them is its own."""
        return _sum(s.brackets for s in self.stages)

    @property
    def by_constant(self) -> dict[str, float]:
        """Joules by constant of the profile; sums to `joules`."""
        return _sum(s.constants for s in self.stages)

    @property
    def low(self) -> float:
        """Lower end of the 90 % band of `joules`."""
        return self.band[0]

    @property
    def high(self) -> float:
        return self.band[1]

    @cached_property
    def band(self) -> tuple[float, float]:
        """The 90 % band of `joules`."""
        from hw_models.cost.uncertainty import band

        return band(self)

    @property
    def derived_share(self) -> float:
        """Share of the energy that rests on derived constants (computed from published values)."""
        from hw_models.cost.uncertainty import derived_share

        return derived_share(self)

    @property
    def statement(self) -> str:
        """One line: the energy with its band, what it was modelled on, and how much of it is derived."""
        return (
            f"{show_joules(self.joules, *self.band)} modelled on {self.chip.name} ({self.model}); "
            f"{self.derived_share:.0%} of it rests on derived constants"
        )

    def gco2(self, grid: str = "world") -> float:
        """Grams of CO2 equivalent if that energy came from `grid` (see `hw_models.cost.carbon`)."""
        from hw_models.cost.carbon import intensity

        return self.kwh * intensity(grid).grams_per_kwh

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: total, band, time, stages and components."""
        low, high = self.band
        return {
            "joules": self.joules,
            "low": low,
            "high": high,
            "kwh": self.kwh,
            "seconds": self.seconds,
            "macs": self.macs,
            "bytes": self.bytes,
            "derived_share": self.derived_share,
            "model": self.model,
            "brackets": self.brackets,
            "accelerator": self.chip.name,
            "accelerator_digest": self.chip.digest,
            "components": self.components,
            "stages": [
                {
                    "stage": s.stage,
                    "network": s.network,
                    "precision": s.precision,
                    "joules": s.joules,
                    "seconds": s.seconds,
                    "macs": s.macs,
                    "bytes": s.bytes,
                    "images": s.images,
                    "steps": s.steps,
                    **s.work,
                }
                for s in self.stages
            ],
        }

    def check(self) -> None:
        """Raise `ConservationError` unless each stage's work, components and constants sum to its joules, and its DRAM
        energy is that of the bytes it reports (training, evaluation and mask draws alike)."""
        dram = {key: number.value * PJ for key, number in self.chip.dram_constants}
        for s in self.stages:
            sums = {
                name: sum(parts.values())
                for name, parts in (("work", s.work), ("components", s.components), ("constants", s.constants))
            }
            for name, found, total in (
                *((n, j, s.joules) for n, j in sums.items()),
                ("bits of DRAM", sum(s.constants.get(k, 0.0) / joules for k, joules in dram.items()), 8 * s.bytes),
            ):
                if not abs(found - total) <= 1e-9 * abs(total):  # written so that nan is an error too
                    raise ConservationError(f"stage {s.stage!r}: {name} sum to {found}, the total is {total}")


Bill = EnergyReport  # the class's name until 0.1, kept for scripts


def _sum(tables: Any) -> dict[str, float]:
    out: dict[str, float] = {}
    for table in tables:
        for key, value in table.items():
            out[key] = out.get(key, 0.0) + value
    return out


def price(
    entries: Sequence[Mapping[str, Any]],
    networks: Mapping[str, Sequence[Any]],
    chip: Accelerator | str,
    *,
    model: str = "closed",
    hypothetical: bool = False,
    fuse: bool = False,
    known: dict[Any, Any] | None = None,
) -> EnergyReport:
    """Price ledger entries on an accelerator.

    An entry: {"stage", "network": key into `networks`, "precision": record or name, "epochs", "batch_size",
    "images_per_epoch", "eval_images": images evaluated in the whole stage, "evaluations": passes over a test set that
    these are (default 1), "statistics_images": images of forward passes that only gather BatchNorm statistics,
    "weight_averages": updates of a running mean of all parameters (fp32),
    "mask_draws", "channels": length of the mask, "l1": bool, "masked": bool}. `networks`: layer tables (`Layer`s or
    their dictionaries). The images of an epoch, or of a pass over a test set, are full batches and one rest batch;
    forward passes are those of `hw_models.cost.inference`. `fuse` (or a `model` "closed+fused"): layers fused as by
    `training_cost`; in the simpler models beside it (`brackets`) they are not. `known`: costs of single steps, kept for
    the next call with the same accelerator, options and meaning of the networks' names; a growing ledger is then cheap.
    Raises `LedgerError` naming entry and key, `FormatError` for formats the accelerator lacks.
    """
    chip, (rung, fuse) = load(chip), reuse_model(model, fuse)
    memo = {} if known is None else known
    tables = {name: _once(memo, ("table", name), partial(_table, name, rows)) for name, rows in networks.items()}
    numbers: dict[str, Number] = {}
    stages = tuple(_stage(i, e, tables, chip, rung, hypothetical, fuse, numbers, memo) for i, e in enumerate(entries))
    bill = EnergyReport(chip, rung + FUSED * fuse, stages, numbers)
    bill.check()
    return bill


def _once(known: dict[Any, Any], key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
    """What `key` stands for, made when it is asked for first."""
    if key not in known:
        known[key] = make()
    return known[key]


def _table(name: str, rows: Sequence[Any]) -> tuple[list[Layer], Shapes]:
    try:
        layers = [r if isinstance(r, Layer) else Layer.from_dict(r) for r in rows]
        return layers, shapes(layers)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"network {name!r}: not a table of layers ({error})") from error


def _stage(
    i: int,
    e: Mapping[str, Any],
    tables: Mapping[str, tuple[list[Layer], Shapes]],
    chip: Accelerator,
    model: str,
    hypothetical: bool,
    fuse: bool,
    numbers: dict[str, Number],
    known: dict[Any, Any],
) -> PricedStage:
    def count(key: str, default: int | None = None) -> int:
        value = e.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise LedgerError(f"ledger entry {i}: {key} is {value!r}, must be a whole number from 0")
        return value

    if strange := [key for key in e if key not in ENTRY]:
        meant = did_you_mean(str(strange[0]), sorted(ENTRY), len(ENTRY))
        raise LedgerError(f"ledger entry {i}: {strange[0]}: is not a known key{meant}")
    network = str(e.get("network"))
    if network not in tables:
        raise LedgerError(f"ledger entry {i}: network {network!r} is not among {', '.join(tables) or 'none'}")
    batch, per_epoch, epochs = count("batch_size"), count("images_per_epoch"), count("epochs")
    if batch == 0:
        raise LedgerError(f"ledger entry {i}: batch_size is 0")
    steps_per_epoch = -(-per_epoch // batch)
    if e.get("steps_per_epoch", steps_per_epoch) not in (per_epoch // batch, steps_per_epoch):
        raise LedgerError(
            f"ledger entry {i}: steps_per_epoch is {e['steps_per_epoch']}, but {per_epoch} images "
            f"in batches of {batch} make {steps_per_epoch}"
        )
    tested, evaluations = count("eval_images", 0), count("evaluations", 1)
    if tested and (evaluations == 0 or tested % evaluations):
        raise LedgerError(
            f"ledger entry {i}: eval_images is {tested}, which {evaluations} evaluations (all of one "
            "test set) cannot make"
        )
    gathered, averages = count("statistics_images", 0), count("weight_averages", 0)
    draws, channels = count("mask_draws", 0), count("channels", 0)
    (layers, table), steps, precision = tables[network], epochs * steps_per_epoch, e.get("precision")
    wanted = json.dumps(precision, sort_keys=True, default=repr)

    def work_by(rung: str, fuse: bool = False) -> dict[str, _Sum]:
        what = layers if fuse else table

        def step(size: int, price_step: Callable[..., Cost], **options: bool) -> Cost:
            key = (network, wanted, size, rung, fuse, price_step.__name__, *options.values())
            return _once(  # type: ignore[no-any-return]
                known,
                key,
                lambda: price_step(what, chip, precision, size, rung, hypothetical=hypothetical, fuse=fuse, **options),
            )

        def forward(size: int, statistics: bool) -> Cost:
            return step(size, forward_cost, statistics=statistics)

        train, evaluate, mask = _Sum(), _Sum(), _Sum()
        for size, times in _batches(per_epoch, batch, epochs):
            train.add(step(size, training_cost, l1=bool(e.get("l1", False))), times)
        for size, times in _batches(tested // max(evaluations, 1), batch, evaluations):
            evaluate.add(forward(size, statistics=False), times)
        for size, times in _batches(gathered, batch, 1):
            evaluate.add(forward(size, statistics=True), times)
        if rung != "macs":
            compares, bits = mask_draw(channels)
            reads, writes = (key for key, _ in chip.dram_constants)
            mask.use(chip, draws, {"op.compare": compares}, {reads: bits})
            products = steps * float(table.weights.sum()) * bool(e.get("masked"))  # a mask bit read, a product
            mask.use(chip, products, {"op.multiply": 1.0}, {reads: 1.0})
            parameters = averages * float(table.weights.sum())  # mean and parameter read, mean written
            mask.use(chip, parameters, {"op.multiply": AVERAGE_MULTIPLY, "op.add": AVERAGE_ADD}, {reads: 64.0})
            mask.use(chip, parameters, {}, {writes: 32.0})
        return {"train": train, "evaluate": evaluate, "mask": mask}

    work = work_by(model, fuse)
    for part in work.values():
        numbers |= part.numbers
    constants = _sum(part.constants for part in work.values())
    train, evaluate = work["train"], work["evaluate"]
    return PricedStage(
        stage=str(e.get("stage", "")),
        network=network,
        precision=train.precision or evaluate.precision or "fp32",
        joules=sum(constants.values()),
        seconds=train.seconds + evaluate.seconds,
        macs=train.macs,
        bytes=sum(p.bytes for p in work.values()),
        images=per_epoch * epochs,
        steps=steps,
        work={k: p.joules for k, p in work.items()},
        components=_sum([dict.fromkeys(COMPONENTS, 0.0), *(p.components for p in work.values())]),
        constants=constants,
        brackets={
            rung: sum(p.joules for p in work_by(rung).values())
            for rung in MODELS[:2]
            if MODELS.index(rung) < MODELS.index(model)
        },
    )


def _batches(images: int, batch: int, times: int) -> list[tuple[int, int]]:
    """(batch size, how often) of `times` passes over `images` images: full batches and one rest batch."""
    full, rest = divmod(images, batch)
    return [(size, n) for size, n in ((batch, full * times), (rest, times)) if size and n]


class _Sum:
    """Costs added up: J by constant and component, seconds, MACs, bytes."""

    def __init__(self) -> None:
        self.constants: dict[str, float] = {}
        self.components: dict[str, float] = {}
        self.numbers: dict[str, Number] = {}
        self.seconds = self.macs = self.bytes = 0.0
        self.precision = ""

    @property
    def joules(self) -> float:
        return sum(self.constants.values())

    def add(self, cost: Cost, times: float) -> None:
        """`times` steps of `cost`."""
        for part, uses in zip(cost.parts, cost.uses, strict=True):
            self._joules(part.key, part.component, part.constant, uses * part.constant.value * PJ * times)
        self.seconds += cost.seconds * times
        self.macs += cost.macs * times
        self.bytes += cost.bytes * times
        self.precision = cost.precision

    def use(self, chip: Accelerator, times: float, counts: Mapping[str, float], dram: Mapping[str, float]) -> None:
        """`times` x `counts` operations and `dram` bits outside any layer."""
        for component, uses in (("vector", counts), ("dram", dram)):
            for key, count in uses.items() if times else ():
                constant = chip.constants[key]
                self._joules(key, component, constant, times * count * constant.value * PJ)
        self.bytes += times * sum(dram.values()) / 8

    def _joules(self, key: str, component: str, constant: Number, joules: float) -> None:
        self.numbers[key] = constant
        self.constants[key] = self.constants.get(key, 0.0) + joules
        self.components[component] = self.components.get(component, 0.0) + joules
