"""Schema of the files of a finished run, as typed, frozen records; unknown keys are ignored, not refused.

Field names are those of the files. Energies in joules, times in seconds, ratios and accuracies as fractions.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Epoch = Annotated[int, Field(ge=0)]


class Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Dataset(Record):
    name: str
    label: str
    classes: Annotated[int, Field(ge=1)]
    shape: tuple[int, ...]
    train_images: Count
    test_images: Annotated[int, Field(ge=1)]
    digest: str


class Network(Record):
    name: str
    depth: Count = 0
    label: str
    parameters: Count
    macs: Count
    channels: Count


class Train(Record):
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    lr: float
    milestones: tuple[int, ...] = ()
    amp: str = "none"
    tf32: bool = False

    @property
    def arithmetic(self) -> str:
        """What the products are computed in beside the simulated precision: fp32, TF32 or bf16 autocast."""
        return {"bf16": "bf16 autocast"}.get(self.amp, "TF32" if self.tf32 else "fp32")


class Prune(Record):
    rule: str
    threshold: Fraction
    window: Annotated[int, Field(ge=1)]
    ratios: tuple[Fraction, ...]
    ignore: tuple[str, ...] = ()
    """Patterns of the BatchNorm layers that keep every channel."""


class StageEnergy(Record):
    stage: str
    joules: Amount


class Saving(Record):
    """Against the dense row on the same accelerator, with its 90 % band."""

    value: float
    low: float
    high: float
    sensitivity: dict[str, float] = {}
    """Constant -> change of the energy ratio in % when the constant is 1 % larger; the strongest few."""


class Energy(Record):
    joules: Amount
    low: Amount
    high: Amount
    seconds: Amount
    stages: tuple[StageEnergy, ...]
    components: dict[str, Amount]
    derived_share: Fraction | None = None
    """Share that rests on derived constants (computed from published values)."""
    accelerator_digest: str | None = None
    saving: Saving | None = None

    @property
    def energy_delay(self) -> tuple[float, float, float]:
        """Energy-delay product in J s, and its band: that of the energy, since a modelled time has none."""
        return self.joules * self.seconds, self.low * self.seconds, self.high * self.seconds


class LedgerEntry(Record):
    stage: str
    network: str
    precision: str | int | dict[str, Any] = "fp32"
    epochs: Count
    batch_size: Annotated[int, Field(ge=1)]
    images_per_epoch: Count
    steps_per_epoch: Count
    measured_joules: Amount | None = None
    """From a real sensor, never modelled; None where there was no reading."""
    measured_source: str | None = None
    """Which sensor, or why there is no reading; None where none was asked for."""


class Row(Record):
    method: str
    label: str
    ratio: Fraction | None
    precision: str
    search_precision: str | None
    retrain_precision: str | None
    epoch_drawn: Epoch | None
    emerged: bool | None
    accuracy: Fraction | None
    """None where no ticket emerged: nothing was retrained."""
    best_accuracy: Fraction | None
    accuracy_top5: Fraction | None = None
    parameters: Count | None
    macs: Count | None
    channels_kept: Count | None
    kept_floor: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    weights_kept: Fraction | None = None
    """Fraction of the prunable weights, where they are pruned one by one."""
    averaged: bool = False
    """The accuracy is that of averaged weights (SWA)."""
    train_macs: Amount
    train_flops: Amount
    train_pflops_paper: Amount | None
    energy: Energy
    saving_vs_dense: float | None
    ledger: tuple[LedgerEntry, ...]
    curve: str | None
    trajectory: str | None

    @property
    def images_per_s(self) -> float:
        """Training images per modelled second, evaluation and mask draws within that time: at most so many."""
        images = sum(entry.images_per_epoch * entry.epochs for entry in self.ledger)
        return images / self.energy.seconds if self.energy.seconds else 0.0


class Results(Record):
    schema_: Annotated[int, Field(alias="schema", ge=1, le=1)]
    name: str
    seed: int
    dataset: Dataset
    network: Network
    train: Train
    prune: Prune
    hardware: str
    reuse: str = "closed"
    """Which of the hardware model's reuse models priced the rows."""
    hypothetical: tuple[str, ...] = ()
    """Number formats that the rows use and the accelerator does not have."""
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    seconds: Amount
    epochs_trained: Count
    epochs_reused: Count


class Seen(Record):
    """Sampled quantization of one layer and role: number of elements, shares of them, SQNR, largest magnitude."""

    count: Amount
    nonfinite: Fraction = 0.0
    overflow: Fraction = 0.0
    underflow: Fraction = 0.0
    sqnr_db: float | None = None
    absmax: float | None = None


class CurvePoint(Record):
    """One epoch of a curve; the test figures are absent in epochs that were not evaluated."""

    epoch: Epoch
    lr: float | None = None
    loss: float | None = None
    accuracy: Fraction | None = None
    test_loss: float | None = None
    test_accuracy: Fraction | None = None
    average_accuracy: Fraction | None = None
    """Of averaged weights (SWA), on the test set."""
    precision: dict[str, dict[str, Seen]] = {}
    """{layer: {role: what its quantizer saw}}, in epochs that were sampled."""


class RatioMasks(Record):
    """`distances[i]` compares the masks after epochs i+1 and i; `map` is symmetric over epochs 0..E."""

    distances: tuple[Fraction, ...]
    emerged: Epoch | None
    map: tuple[tuple[Fraction, ...], ...]

    @model_validator(mode="after")
    def _square(self) -> RatioMasks:
        if any(len(line) != len(self.map) for line in self.map):
            raise ValueError("the epoch x epoch map is not square")
        return self


class Masks(Record):
    channels: Count
    layers: dict[str, int]
    ratios: dict[Annotated[str, Field(pattern=r"^0(\.\d+)?$|^1(\.0+)?$|^\d(\.\d+)?e-\d+$")], RatioMasks]


class Provenance(BaseModel):
    """Where the numbers come from; whatever else the run recorded is kept and shown."""

    model_config = ConfigDict(extra="allow", frozen=True)

    commit: str | None = None
    dirty: bool | None = None
    versions: dict[str, Any] = {}
    argv: tuple[str, ...] = ()
    hardware_digest: str | None = None
    """Of the content of the accelerator profile that priced the run."""
    hardware_model: int | None = None
    """Revision of the hardware model that priced the run."""
    precision_plugins: tuple[dict[str, str], ...] = ()
    """Formats and backends that are not built in: kind, name, origin, digest."""
    folder: str | None = None
    """The run folder as seen from where the run was started."""
