"""The bench that methods work at: networks, trajectories and tickets of one experiment, each made once.

A method asks the lab for a dense trajectory, a mask, a shrunk network and its retraining; the lab knows the
recipe, the dataset, the store and the seeds. What two methods share (the dense training, say) is the same stage
of the store, so it is trained once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ebsim import models, precision, tickets
from ebsim.config import Experiment, Prune
from ebsim.errors import ConfigError
from ebsim.files import canonical_json
from ebsim.runs.ledger import entry
from ebsim.runs.store import Store
from ebsim.training import Averaging, Constraint, Progress, Silent, Trajectory

INITS = ("inherit", "re-init", "rewind")


def seed_of(seed: int, *purpose: object) -> int:
    """A seed for one purpose, a pure function of the experiment's seed: 63 bits of a SHA-256."""
    text = ":".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass
class Lab:
    """Everything a method needs for one experiment.

    `networks` collects the layer table of every network used, `facts` its parameters and forward MACs per image.
    """

    experiment: Experiment
    data: Any
    store: Store
    device: torch.device
    progress: Progress = field(default_factory=Silent)
    networks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    facts: dict[str, dict[str, int]] = field(default_factory=dict)
    trajectories: dict[str, Trajectory] = field(default_factory=dict)

    # -- facts ---------------------------------------------------------------------------------------------------

    @property
    def epochs(self) -> int:
        """N, the epochs of one full training."""
        return self.experiment.train.epochs

    @cached_property
    def layers(self) -> dict[str, int]:
        """BatchNorm layers of the dense network: name -> channels, in module order."""
        return tickets.bn_layers(self.dense_network())

    def backend(self, name: str) -> Any:
        """A precision backend by its name in the experiment."""
        own = self.experiment.precision.backends
        return precision.backend({**own[name], "name": name} if name in own else name)

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
        return models.build(**self.spec.describe(), seed=seed_of(self.experiment.seed, "init"))

    def example(self) -> Tensor:
        """A batch of two blank images, [2, C, H, W]: enough to trace a network with."""
        return torch.zeros(2, *self.data.shape)

    def shrunk(self, mask: tickets.ChannelMask, weights: dict[str, Tensor] | None) -> nn.Module:
        """The ticket as a really smaller network; `weights` of the dense one, or None for those of its start."""
        model = self.dense_network()
        if weights is not None:
            model.load_state_dict(weights)
        return tickets.compact(model, mask, self.example())

    def workload(self, key: str, network: Callable[[], nn.Module]) -> str:
        """Trace a network once and remember its layers under `key`, which is returned."""
        if key not in self.networks:
            import hw_models

            model = network()
            layers = hw_models.trace(model, tuple(self.data.shape))
            self.networks[key] = [layer.to_dict() for layer in layers]
            self.facts[key] = {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "macs": sum(layer.macs for layer in layers),
            }
        return key

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
            "precision": self._precision_identity(backend),
        }

    def _precision_identity(self, backend: Any) -> dict[str, Any]:
        """What a backend does, without its name and description: "fp32" under another name is the same stage."""
        plain = {key: value for key, value in asdict(backend).items() if key not in ("name", "about")}
        return json.loads(canonical_json(plain))

    def _trajectory(
        self,
        kind: str,
        identity: dict[str, Any],
        network: Callable[[], nn.Module],
        backend: Any,
        *,
        first: int = 0,
        keep: Callable[[Tensor], bool] = lambda gammas: False,
        constraint: Constraint | None = None,
    ) -> Trajectory:
        # A dense trajectory is a search, whose end is not known; what ends at epoch N may average its last weights.
        averaging = None if kind == "dense" else self._averaging(backend)
        averages = {} if averaging is None else {"averaging": asdict(averaging)}
        stage = self.store.stage(kind, {**self._recipe(backend), **averages, **identity})
        if stage.id not in self.trajectories:
            self.trajectories[stage.id] = Trajectory(
                stage,
                network,
                self.data,
                self.experiment.train,
                seed=self.experiment.seed,
                device=self.device,
                first=first,
                backend=backend,
                averaging=averaging,
                stats_every=self.experiment.precision.stats_every,
                keep=keep,
                constraint=constraint,
                progress=self.progress,
            )
        for other in self.trajectories.values():
            if other.stage.id != stage.id:
                other.release()
        return self.trajectories[stage.id]

    def _averaging(self, backend: Any) -> Averaging | None:
        """A backend's weight averaging; its start is given as an epoch (int) or as a fraction of N (float)."""
        if backend.swa is None:
            return None
        start = backend.swa["start"]
        epoch = max(1, round(start * self.epochs)) if isinstance(start, float) else start
        return Averaging(epoch, backend.swa.get("lr"))

    def dense(self, backend_name: str = "fp32") -> Dense:
        """The dense network's trajectory in a precision; states at which a ticket emerges are kept."""
        backend = self.backend(backend_name)
        trajectory = self._trajectory("dense", {}, self.dense_network, backend, keep=self._wanted)
        return Dense(self, trajectory, backend)

    def _wanted(self, gammas: Tensor) -> bool:
        """Whether this experiment or a companion will ask for the dense state of the newest epoch."""
        epoch, every = len(gammas) - 1, self.experiment.train.keep_every
        asked = [(self.epochs, self.experiment.prune), *((c.epochs, c.prune) for c in self.experiment.companions)]
        return bool(every and epoch % every == 0) or any(
            epoch == last or any(self.emergence(gammas, ratio, prune)[0] == epoch for ratio in prune.ratio)
            for last, prune in asked
        )

    def emergence(self, gammas: Tensor, ratio: float, prune: Prune | None = None) -> tuple[int | None, list[float]]:
        """(epoch or None, mask distances) of one ratio under the experiment's rule, from the gammas so far."""
        prune = prune or self.experiment.prune
        found = tickets.emergence(
            gammas,
            self.layers,
            ratio,
            prune.rule,
            threshold=prune.threshold,
            window=prune.window,
            min_channels=prune.min_channels,
        )
        return found.epoch, found.distances

    def retrain(
        self,
        parent: Dense,
        mask: tickets.ChannelMask,
        epoch: int,
        init: str = "inherit",
        backend_name: str = "fp32",
    ) -> Retrain:
        """Train the shrunk network of `mask` to epoch N.

        inherit: with the weights that the dense network had after `epoch`, for the remaining N - epoch epochs of
        the absolute schedule. re-init and rewind: with fresh weights, or those of the dense start, for all N.
        """
        if init not in INITS:
            raise ConfigError(f"init must be one of {', '.join(INITS)}, not {init!r}")
        backend = self.backend(backend_name)

        def network() -> nn.Module:
            weights = parent.trajectory.state_at(epoch) if init == "inherit" else None
            model = self.shrunk(mask, weights)
            if init == "re-init":
                models.initialise(
                    model,
                    family=self.spec.name,
                    gamma_init=self.spec.gamma_init,
                    seed=seed_of(self.experiment.seed, "re-init"),
                )
            return model

        origin = {"parent": parent.trajectory.stage.id, "epoch": epoch} if init == "inherit" else {}
        trajectory = self._trajectory(
            "ticket",
            {"mask": mask.digest, "init": init, **origin},
            network,
            backend,
            first=epoch if init == "inherit" else 0,
        )
        trajectory.extend(self.epochs)
        return Retrain(self, trajectory, backend, mask)


@dataclass
class Dense:
    """A dense trajectory, read as the paper does: search until a ticket has emerged."""

    lab: Lab
    trajectory: Trajectory
    backend: Any

    def search(self, ratio: float) -> int | None:
        """Train on until the ticket of this ratio has emerged; its epoch, or None if that is not before epoch N."""

        def emerged(gammas: Tensor) -> bool:
            return self.lab.emergence(gammas, ratio)[0] is not None

        # A ticket that emerges with the last epoch leaves nothing to retrain: it counts as not emerged.
        self.trajectory.extend(self.lab.epochs, until=emerged)
        epoch = self.lab.emergence(self.trajectory.gammas[: self.lab.epochs], ratio)[0]
        return epoch

    def train(self) -> None:
        """Train all N epochs."""
        self.trajectory.extend(self.lab.epochs)

    def mask(self, ratio: float, epoch: int) -> tickets.ChannelMask:
        """The mask drawn from the gammas after `epoch`."""
        prune = self.lab.experiment.prune
        return tickets.masks_from_gammas(self.trajectory.gammas[epoch], self.lab.layers, ratio, prune.min_channels)

    def ledger(self, stage: str, epochs: int, *, draws: int = 0) -> dict[str, Any]:
        """What the first `epochs` epochs executed."""
        key = self.lab.workload("dense", self.lab.dense_network)
        return entry(
            stage,
            key,
            self.trajectory.curve[:epochs],
            self._record(),
            batch_size=self.lab.experiment.train.batch_size,
            draws=draws,
            channels=sum(self.lab.layers.values()),
            l1=self.lab.experiment.train.l1 > 0,
        )

    def _record(self) -> Any:
        return _record(self.lab.dense_network(), self.backend)


@dataclass
class Retrain:
    """The trajectory of a shrunk network."""

    lab: Lab
    trajectory: Trajectory
    backend: Any
    mask: tickets.ChannelMask

    def _network(self) -> nn.Module:
        return self.lab.shrunk(self.mask, None)

    def ledger(self, stage: str = "retrain") -> dict[str, Any]:
        """What all its epochs executed."""
        key = self.lab.workload(f"ticket-{self.mask.digest[:12]}", self._network)
        return entry(
            stage,
            key,
            self.trajectory.curve,
            _record(self._network(), self.backend),
            batch_size=self.lab.experiment.train.batch_size,
            draws=0,
            channels=sum(self.mask.kept().values()),
            l1=self.lab.experiment.train.l1 > 0,
        )


def _record(model: nn.Module, backend: Any) -> Any:
    """What the hardware model needs to know of a precision on a network."""
    return precision.apply(model, backend).record()


