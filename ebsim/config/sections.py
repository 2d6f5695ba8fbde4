"""The experiment schema: one frozen section per component, every key with its meaning, range and default.

The string under a key is its help text. A key marked `ResultNeutral` says where or how something runs and changes
no result (a folder, a thread count): it is not part of the identity of a stage or run. A key that is added later must
be marked `AddedLater(noop)`: while it has its no-op value it is left out of the identity, so old results stay valid.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


@dataclass(frozen=True)
class ResultNeutral:
    """Marks a key that does not change any result."""


@dataclass(frozen=True)
class AddedLater:
    """Marks a key added after the first release; left out of the identity while it equals `noop`."""

    noop: Any


def _as_tuple(value: Any) -> Any:
    """TOML has lists, frozen sections have tuples; one value may stand for a list of one."""
    if isinstance(value, list | tuple):
        return tuple(value)
    return (value,)


def dotted(value: Any, prefix: str = "") -> Any:
    """`precision.search = [...]` in a TOML table is a nested table; one flat {dotted key: list}."""
    if not isinstance(value, dict):
        return value
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= dotted(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {prefix + key: inner}
    return flat


Epoch = Annotated[int, Field(ge=0, le=100_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Ratio = Annotated[float, Field(ge=0.0, lt=1.0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def identity(self) -> dict[str, Any]:
        """JSON-able values of the keys that define the result (no `ResultNeutral` ones, no later no-ops)."""
        out: dict[str, Any] = {}
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if any(isinstance(mark, ResultNeutral) for mark in field.metadata):
                continue
            if any(isinstance(mark, AddedLater) and value == mark.noop for mark in field.metadata):
                continue
            out[key] = value.identity() if isinstance(value, Section) else _plain(value)
        return out


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


class Data(Section):
    name: Name = "digits"
    """Dataset: digits (embedded), cifar10, cifar100, imagefolder."""
    root: Annotated[str, ResultNeutral()] = "data"
    """Folder that holds the dataset (not used by digits); of imagefolder also a file made by `data prepare`."""
    download: Annotated[bool, ResultNeutral()] = False
    """Fetch a missing dataset first (a run never opens a socket otherwise)."""
    subset: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Only the first n training and n test images, balanced over the classes; for quick trials."""
    augment: bool = True
    """The dataset's own augmentation in training (pad-crop, flip); see `data list`."""
    workers: Annotated[int, Field(ge=0, le=1024), ResultNeutral()] = 0
    """Decoding processes; used by large images (ImageNet) only."""
    decode: Annotated[Literal["exact", "fast", "dali"], AddedLater("exact")] = "exact"
    """Large images: exact, torchvision's pixels; fast, decoded at the size that is needed; dali, by a GPU (not run)."""


class Model(Section):
    name: Name = "preresnet"
    """Network family: preresnet, vgg, resnet."""
    depth: Annotated[int, Field(ge=1, le=10_000)] = 101
    """preresnet 9n+2; vgg 11, 13, 16, 19; resnet 18, 34, 50."""
    stem: Literal["auto", "imagenet", "small_images"] = "auto"
    """Stem of resnet: 7x7 stride 2 and max-pool, or 3x3 stride 1; auto goes by the image size."""
    gamma_init: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Start of every gamma; left out: 0.5 for CIFAR networks, 1.0 for ImageNet ones."""


class Train(Section):
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 160
    """N, the length of one full training; search and retrain together make N."""
    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 256
    """Images per step; the last partial batch is kept."""
    lr: Annotated[float, Field(gt=0, le=1e30)] = 0.1
    """Learning rate at epoch 1."""
    milestones: Annotated[tuple[Epoch, ...], BeforeValidator(_as_tuple), Field(max_length=1000)] = (80, 120)
    """Epochs after which the learning rate is multiplied by lr_decay (absolute, also in retraining)."""
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor at each milestone."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD momentum (no Nesterov)."""
    weight_decay: Annotated[float, Field(ge=0, le=1e30)] = 1e-4
    """On every parameter, BatchNorm included, as in the paper."""
    l1: Annotated[float, Field(ge=0, le=1e30)] = 1e-4
    """Strength of the L1 sub-gradient on gamma, in search and retrain."""
    amp: Literal["none", "bf16"] = "none"
    """bf16: mixed precision by autocast (speed, not a simulated format)."""
    tf32: bool = False
    """Let a GPU round fp32 products to TF32; off means fp32 really is fp32."""
    compile: bool | Literal["blocks", "max-autotune"] = False
    """torch.compile the network: true (as a whole), blocks (block by block), max-autotune (tries more kernels)."""
    kernels: Annotated[Literal["library", "fused"], AddedLater("library")] = "library"
    """On a CPU: fused runs selection, BatchNorm and ReLU as one kernel, compiled here (needs a C++ compiler)."""
    batchnorm_parts: Annotated[int, Field(ge=1, le=1024), AddedLater(1)] = 1
    """Parts of a batch that BatchNorm takes its statistics over, as so many processes do without synchronization."""
    graph: Annotated[Literal["auto", "on", "off"], ResultNeutral()] = "auto"
    """CUDA graphs of the training step, the same bits as without: auto falls back with a reason, on insists."""
    eval_every: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Test-set evaluation every so many epochs (the last epoch always)."""
    keep_every: Annotated[Count, ResultNeutral()] = 0
    """Keep the dense network's state after every so many epochs too; 0: only where a ticket emerges, and the last."""
    checkpoint_minutes: Annotated[float, Field(ge=0, le=1e6), ResultNeutral()] = 15.0
    """Minutes between two checkpoints within an epoch, for epochs that are longer; 0: at the end of epochs only."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), ResultNeutral()] = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: Annotated[int, Field(ge=1, le=1024), ResultNeutral()] = 1
    """Processes of this machine that train together, a GPU (or with gloo a share of the CPUs) each; or use torchrun."""
    threads: Annotated[int, Field(ge=0, le=1024), ResultNeutral()] = 0
    """CPU threads; 0 leaves torch's choice. Bit-identical reruns need the same number."""


class Prune(Section):
    ratio: Annotated[tuple[Ratio, ...], BeforeValidator(_as_tuple), Field(min_length=1, max_length=1000)] = (0.5,)
    """Prune ratio p, or several: all are followed in one search."""
    rule: Literal["paper", "authors"] = "paper"
    """Emergence rule: the paper's text, or the authors' code."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Mask distance under which a mask counts as settled."""
    window: Annotated[int, Field(ge=2, le=1000)] = 5
    """Length of the FIFO."""
    min_channels: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    """Channels that every layer keeps at least; 0 makes a layer that would lose all an error."""
    ignore: Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(max_length=1000), AddedLater(())] = ()
    """BatchNorm layers that keep every channel and are not ranked: names, or patterns as "stem.*"."""
    criterion: Annotated[str, AddedLater("gamma")] = "gamma"
    """What ranks the channels, after every epoch of the search: see `ebsim.tickets.CRITERIA`."""
    draw_epochs: Annotated[tuple[Epoch, ...], BeforeValidator(_as_tuple), Field(max_length=1000), AddedLater(())] = ()
    """Epochs at which prune-at-epoch draws its masks (0: untrained)."""
    gating: Annotated[Literal["exact", "authors"], AddedLater("exact")] = "exact"
    """Which widths the authors' FLOPs column counts: those of our tickets, or those that their scripts leave."""


class Precision(Section):
    search: str = "fp32"
    """Precision backend of the search (the dense network): see `precision list`."""
    retrain: str = "fp32"
    """Precision backend of the retraining (the ticket)."""
    low: Annotated[str, AddedLater("bfp8")] = "bfp8"
    """What L stands for in eb-train-lf, eb-train-ll and eb-train-fl (the paper's 8 bits are block floating point)."""
    stats_every: Annotated[Count, ResultNeutral()] = 0
    """Sample overflow, underflow and SQNR every so many steps; 0 is off."""
    backends: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Backends of your own, by name: role -> format, with rules per layer and phase."""
    plugins: tuple[str, ...] | list[str] = ()
    """Number formats and backends of your own: "file.py:Name"."""


class Hardware(Section):
    profile: str = "horowitz-45nm"
    """Accelerator that prices the run: a shipped name (`hw list`) or the path of a TOML."""
    hypothetical: Annotated[bool, AddedLater(False)] = False
    """Price number formats that the accelerator does not have, as a what-if; the report says so."""
    reuse: str = "closed"
    """Reuse model: macs, compulsory, closed, search."""
    measure: Annotated[bool, ResultNeutral()] = False
    """Read this machine's energy sensor around every epoch (needs the extra `measure`); never mixed with the model."""


RESERVED = ("array", "chdir", "dependency", "error", "job-name", "no-requeue", "open-mode", "output", "parsable",
            "requeue", "signal", "test-only", "wait", "wrap")  # fmt: skip
"""Options of sbatch that the scripts of a grid set themselves."""


def _text(pattern: str, message: str) -> AfterValidator:
    """A check of a whole text; the message says what it has to be."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError(message)
        return value

    return AfterValidator(check)


def _sbatch_option(value: str) -> str:
    found = re.fullmatch(r"--([a-z][a-z-]*)(=.*)?", value)
    if found is None or not value.isprintable() or len(value) > 1000:
        raise ValueError('must be options of sbatch, each one line of text like "--account=mine"')
    if any(option.startswith(found[1]) for option in RESERVED):  # sbatch takes any unique beginning of a name
        raise ValueError(f"--{found[1]} is set by the scripts themselves")
    return value


def _minutes(value: Any) -> Any:
    return str(value) if type(value) is int else value


Partition = Annotated[str, _text(r"[\w.+,-]{1,200}", "must be a partition, or several as a,b")]
Minutes = Annotated[
    str,
    BeforeValidator(_minutes, json_schema_input_type=str | Annotated[int, Field(ge=1, le=10_000_000)]),
    _text(r"(\d{1,4}-)?\d{1,7}(:\d{1,2}){0,2}", 'must be minutes, "HH:MM:SS" or "days-HH:MM:SS"'),
]
Memory = Annotated[str, _text(r"\d{1,9}[KMGT]?", 'must be like "8G" (MB without a letter)')]
SbatchOption = Annotated[str, AfterValidator(_sbatch_option)]


class Cluster(Section):
    """What a task of a grid asks of Slurm (`ablate --on slurm`); it changes no result."""

    partition: Partition | None = None
    """Partition, or several separated by commas; left out: the cluster's default."""
    time: Minutes | None = None
    """Time limit of a task: "30" minutes, "02:00:00" or "1-00:00:00"; what has not ended by then is queued again."""
    memory: Memory | None = None
    """Memory of a task: "8G"."""
    gpus: Annotated[int, Field(ge=0, le=1024)] = 0
    """GPUs of a task."""
    warning: Annotated[int, Field(ge=10, le=65535)] = 120
    """Seconds before its time limit at which a task is told to write a checkpoint; it is then queued again."""
    sbatch: Annotated[tuple[SbatchOption, ...], BeforeValidator(_as_tuple), Field(max_length=100)] = ()
    """Further options of sbatch, each as it would be typed: "--account=mine"."""


class Companion(Section):
    """What another experiment will ask of the same dense training."""

    epochs: Annotated[int, Field(ge=1, le=100_000)]
    prune: Prune


class Experiment(Section):
    name: Name
    """Name of the run folder (a hash of everything that defines the run is added)."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """Everything random follows from it."""
    methods: Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = (
        "dense", "eb-train")  # fmt: skip
    """What is trained and compared: dense, eb-train, ..."""
    data: Data = Field(default_factory=Data)
    model: Model = Field(default_factory=Model)
    train: Train = Field(default_factory=Train)
    prune: Prune = Field(default_factory=Prune)
    precision: Precision = Field(default_factory=Precision)
    hardware: Hardware = Field(default_factory=Hardware)
    grid: Annotated[dict[str, list[Any]], BeforeValidator(dotted), ResultNeutral()] = Field(default_factory=dict)
    """A grid of experiments for `ablate`: dotted key -> its values, one experiment per combination."""
    cluster: Annotated[Cluster, ResultNeutral()] = Field(default_factory=Cluster)
    companions: Annotated[tuple[Companion, ...], BeforeValidator(_as_tuple), ResultNeutral()] = ()
    """Other experiments whose dense states are kept too, so that none trains an epoch again; `ablate` fills it in."""
