"""The context that the methods of one experiment share: recipe, dataset, store, networks, trajectories and masks.

A method asks the context for networks, trajectories and layer tables; `training_stages` and `retraining` make of them
the dense training and the trainings of pruned networks. What two methods share (the dense training, say) is the same
stage of the store, so it is trained once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ebsim import models, precision, tickets
from ebsim.config import Experiment, Prune, Train
from ebsim.experiment.precisions import backend
from ebsim.precision import rounded_layers
from ebsim.runs.store import Store
from ebsim.seeds import seed_of
from ebsim.training import Averaging, Progress, Silent, Trajectory


@dataclass
class ExperimentContext:
    """Everything that the methods of one experiment need.

    `networks` collects the layer table of every network used, `facts` its parameters and forward MACs per image,
    `masks` the channel masks of the shrunk ones; all by the key that ledger entries name. `trainings` are what was
    asked for so far (`training_stages.Training`), by stage; `charged` the ledger entries so far of the row under way.
    `make_trajectory` is `Trajectory`, or for a dry run something with its interface that does not train.
    """

    experiment: Experiment
    data: Any
    store: Store
    device: torch.device
    progress: Progress = field(default_factory=Silent)
    make_trajectory: Callable[..., Trajectory] = Trajectory
    strict: bool = False
    networks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    facts: dict[str, dict[str, int]] = field(default_factory=dict)
    masks: dict[str, tickets.ChannelMask] = field(default_factory=dict)
    trajectories: dict[str, Trajectory] = field(default_factory=dict)
    trainings: dict[str, Any] = field(default_factory=dict)
    charged: list[dict[str, Any]] = field(default_factory=list)
    _layer_names: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of the layers that a precision may round

    def __post_init__(self) -> None:
        precision.register(*self.experiment.precision.plugins)

    # -- facts ---------------------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """The seed of the experiment; what is random takes its own from `ebsim.seeds`."""
        return self.experiment.seed

    @property
    def train(self) -> Train:
        """The training recipe."""
        return self.experiment.train

    @property
    def prune(self) -> Prune:
        """How channels are ranked, and when the ticket is drawn."""
        return self.experiment.prune

    @property
    def epochs(self) -> int:
        """N, the epochs of one full training."""
        return self.train.epochs

    @cached_property
    def layers(self) -> dict[str, int]:
        """BatchNorm layers of the dense network: name -> channels, in module order."""
        return tickets.bn_layers(self.dense_network())

    def backend(self, name: str) -> precision.Backend:
        """A precision backend by its name in the experiment."""
        return backend(self.experiment.precision, name)

    def precisions(self, letters: str = "") -> tuple[str, str]:
        """Backends of search and retrain: the experiment's, or as the paper's letters say (F = fp32, L = low)."""
        section = self.experiment.precision
        if not letters:
            return section.search, section.retrain
        search, retrain = ({"F": "fp32", "L": section.low}[letter] for letter in letters)
        return search, retrain

    # -- networks ------------------------------------------------------------------------------------------------

    @cached_property
    def spec(self) -> models.NetworkSpec:
        """The dense network, checked and with every default filled in."""
        model = self.experiment.model
        return models.resolve(
            model.name,
            classes=self.data.classes,
            input_shape=self.data.shape,
            depth=model.depth,
            stem=model.stem,
            gamma_init=model.gamma_init,
        )

    def dense_network(self) -> nn.Module:
        """The dense network with the weights it starts from (a function of the seed), on the CPU."""
        return models.build(**self.spec.describe(), seed=seed_of(self.seed, "init"))

    def example(self) -> Tensor:
        """A batch of two blank images, [2, C, H, W]: enough to trace a network with."""
        return torch.zeros(2, *self.data.shape)

    @cached_property
    def shrinker(self) -> tickets.Shrinker:
        """The dense network traced once; every ticket is verified the first time that it is shrunk to."""
        return tickets.Shrinker(self.dense_network(), self.example())

    def shrunk(self, mask: tickets.ChannelMask) -> nn.Module:
        """The start of the dense network as the really smaller network of a channel mask."""
        return self.shrinker.shrink(self.dense_network(), mask)

    def ticket_key(self, mask: tickets.ChannelMask) -> str:
        """The key of a mask's shrunk network, which is remembered."""
        key = f"ticket-{mask.digest[:12]}"
        self.masks[key] = mask
        return key

    @cached_property
    def batch(self) -> tuple[Tensor, Tensor]:
        """The first training batch of an epoch 0 that is never trained: images [B, C, H, W] and labels [B]."""
        size, seed = self.train.batch_size, self.seed
        return next(iter(self.data.train_batches(size, seed=seed, epoch=0, memory_format=torch.channels_last)))

    def workload(self, key: str, network: Callable[[], nn.Module]) -> str:
        """Trace a network once and remember its layers under `key`, which is returned."""
        if key not in self.networks:
            import hw_models

            model = network()
            self._layer_names[key] = tuple(rounded_layers.layers(model))
            layers = hw_models.trace(model, tuple(self.data.shape))
            self.networks[key] = [layer.to_dict() for layer in layers]
            self.facts[key] = {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "macs": sum(layer.macs for layer in layers),
            }
        return key

    def precision_record(self, key: str, network: Callable[[], nn.Module], chosen: precision.Backend) -> dict[str, Any]:
        """What a backend rounds in the network of `key`, as the hardware model reads it."""
        if key not in self._layer_names:
            self._layer_names[key] = tuple(rounded_layers.layers(network()))
        return precision.record(chosen, self._layer_names[key])

    # -- trajectories --------------------------------------------------------------------------------------------

    def _recipe(self, backend: Any) -> dict[str, Any]:
        """The part of every stage's identity that is the same for dense and shrunk networks."""
        experiment = self.experiment
        train = experiment.train.identity()
        del train["epochs"]  # a trajectory can be extended; milestones are absolute
        return {
            "data": {**experiment.data.identity(), "digest": self.data.digest},
            "model": self.spec.describe(),
            "train": train,
            "seed": experiment.seed,
            "precision": precision.identity(backend),
        }

    def trajectory(
        self,
        kind: str,
        identity: dict[str, Any],
        network: Callable[[], nn.Module],
        backend: Any,
        *,
        first: int = 0,
        **options: Any,
    ) -> Trajectory:
        """The trajectory with this identity; `options` are those of `Trajectory`."""
        # A dense trajectory is a search, whose end is not known; what ends at epoch N may average its last weights.
        averaging = None if kind == "dense" else self._averaging(backend)
        averages = {} if averaging is None else {"averaging": asdict(averaging)}
        stage = self.store.stage(kind, {**self._recipe(backend), **averages, **identity})
        if stage.id not in self.trajectories:
            self.trajectories[stage.id] = self.make_trajectory(
                stage,
                network,
                self.data,
                self.train,
                seed=self.seed,
                device=self.device,
                first=first,
                backend=backend,
                averaging=averaging,
                stats_every=self.experiment.precision.stats_every,
                meter=self._meter if self.experiment.hardware.measure else None,
                progress=self.progress,
                strict=self.strict,
                **options,
            )
        for other in self.trajectories.values():
            if other.stage.id != stage.id:
                other.release()
        return self.trajectories[stage.id]

    def _meter(self, work: Callable[[], object]) -> dict[str, Any]:
        """A sensor around some work; measured columns, or why there are none."""
        from hw_models.sensors import measure

        if self.device.type != "cuda":
            return measure(work).columns()
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        return measure(work, rail=f"GPU {index}").columns()

    def _averaging(self, backend: Any) -> Averaging | None:
        """A backend's weight averaging; its start is given as an epoch (int) or as a fraction of N (float)."""
        if backend.swa is None:
            return None
        start = backend.swa["start"]
        epoch = max(1, round(start * self.epochs)) if isinstance(start, float) else start
        return Averaging(epoch, backend.swa.get("lr"))

    def fresh(self, model: nn.Module) -> nn.Module:
        """New weights in place, as the recipe draws them for a network of this size."""
        seed = seed_of(self.seed, "re-init")
        return models.initialize(model, family=self.spec.name, gamma_init=self.spec.gamma_init, seed=seed)
