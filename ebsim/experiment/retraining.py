"""Training stages after pruning: of a ticket, under a weight mask, or with soft filter pruning, each to epoch N."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

from ebsim import tickets
from ebsim.errors import ConfigError
from ebsim.experiment.context import ExperimentContext
from ebsim.experiment.training_stages import Dense, Training
from ebsim.training import SoftFilters, ZeroWeights

INITS = ("inherit", "fine-tune", "re-init", "rewind")


class Change(Protocol):
    """An edit of the dense network's weights before it is shrunk; `digest` (hex) identifies it."""

    @property
    def digest(self) -> str: ...

    def apply(self, model: nn.Module) -> None: ...


def ticket(
    context: ExperimentContext,
    parent: Dense,
    mask: tickets.ChannelMask,
    epoch: int,
    init: str,
    precision: str,
    change: Change | None = None,
) -> Training:
    """Train the shrunk network of a channel mask.

    inherit     weights that the dense network had after `epoch`, for the remaining N - epoch epochs of the schedule
    fine-tune   those weights, for all N epochs of the schedule
    re-init     fresh weights, N epochs
    rewind      the weights of the dense network's start, N epochs
    """
    if init not in INITS:
        raise ConfigError(f"init must be one of {', '.join(INITS)}, not {init!r}")
    inherits = init in ("inherit", "fine-tune")

    def network() -> nn.Module:
        if init == "re-init":
            return context.fresh(context.shrunk(mask))
        model = context.dense_network()
        if inherits:
            model.load_state_dict(parent.trajectory.state_at(epoch))
        if change is not None:
            change.apply(model)
        return context.shrinker.shrink(model, mask)

    identity: dict[str, Any] = {"mask": mask.digest, "init": init}
    identity |= {"parent": parent.stage, "epoch": epoch} if inherits else {}
    identity |= {} if change is None else {"change": change.digest}
    return _train(
        context,
        "ticket",
        identity,
        network,
        precision,
        first=epoch if init == "inherit" else 0,
        of=(context.ticket_key(mask), lambda: context.shrunk(mask), sum(mask.kept().values())),
    )


def masked(context: ExperimentContext, weights: tickets.ChannelMask, precision: str) -> Training:
    """Train the dense network from its start with the masked weights held at zero."""
    constraint = ZeroWeights(weights)

    def network() -> nn.Module:
        model = context.dense_network()
        constraint.apply(model)
        return model

    identity = {"mask": weights.digest, "init": "rewind"}
    return _train(context, "masked", identity, network, precision, weights=weights, constraint=constraint)


def soft(context: ExperimentContext, ratio: float, start: Dense | None, precision: str) -> Training:
    """Train the dense network with soft filter pruning for N epochs, from its start or from epoch N of `start`.

    What it ends with depends on which epoch is the last, so N is part of its identity.
    """
    constraint = SoftFilters(tickets.filters(context.dense_network()), ratio, context.epochs)

    def network() -> nn.Module:
        model = context.dense_network()
        if start is not None:
            model.load_state_dict(start.trajectory.state_at(context.epochs))
        return model

    identity: dict[str, Any] = {"filters": ratio, "last": context.epochs, "count": "rounded down"}
    identity |= {} if start is None else {"parent": start.stage, "epoch": context.epochs}
    return _train(context, "soft", identity, network, precision, constraint=constraint)


def _train(
    context: ExperimentContext,
    kind: str,
    identity: dict[str, Any],
    network: Callable[[], nn.Module],
    precision: str,
    *,
    of: tuple[str, Callable[[], nn.Module], int] | None = None,
    weights: tickets.ChannelMask | None = None,
    **options: Any,
) -> Training:
    """Train to epoch N. `of`: layer table, builder and channels of what is trained, if not the dense network."""
    backend = context.backend(precision)
    trajectory = context.trajectory(kind, identity, network, backend, **options)
    key, build, channels = of or ("dense", context.dense_network, sum(context.layers.values()))
    made = Training(context, trajectory, backend, key, build, channels, weights)
    trajectory.extend(context.epochs)
    return made
