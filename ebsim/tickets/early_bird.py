"""`EarlyBird`: detects, from the masks drawn after each epoch, when the Early-Bird ticket has emerged.

`paper` (You et al. 2020, Algorithm 1): a queue of the last `window` distances between consecutive
epochs' masks, kept as the end of `EarlyBird.distances`; the ticket has emerged when the queue is full
and every distance is below the threshold. Masks are those after epochs 1, 2, ..., so with a window of 5
the earliest epoch is 6.

`authors` (their published code): a queue of the last `window` masks; emerged when it is full and
the newest is within the threshold (equal counts) of each of the others. They draw before each
epoch, which is after the epoch before it, so the untrained network's mask belongs to the queue, and
they prune by threshold, ties included (see `ranking.py`). With all scales equal at the start that
first mask is all zeros and blocks emergence until it leaves the queue: epoch 5.

The queue of `authors` sees the unfloored masks, as theirs does; the ticket handed out has the floor
of `min_channels`.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ebsim.errors import ConfigError
from ebsim.tickets.batchnorms import named_gammas
from ebsim.tickets.emergence_rule import RULES, has_emerged, largest_distance
from ebsim.tickets.mask import ChannelMask
from ebsim.tickets.ranking import masks_from_scores


class Emergence(NamedTuple):
    """Outcome of a rule: epochs trained when it fired (None: not yet) and the distances it judged."""

    epoch: int | None
    distances: list[float]


class EarlyBird:
    """Watches one training and says when its ticket at this prune ratio has emerged.

    Call `update(model)` after every epoch. Calling `start(model)` once before the first epoch is optional: only rule
    `authors` looks at the untrained mask. Without it the outcome is the same whenever all scales start equal and
    ratio < 1 - threshold: that mask is then empty and never near another, and the queue without it is full when the
    empty mask would have left it.

    ratio: fraction of channels to prune, [0, 1). threshold: of the mask distance, (0, 1]. window:
    length of the queue. ignore: layers that are never pruned, as for `channel_mask`.

    ticket: the ChannelMask at emergence, else None. epoch: epochs trained at emergence, else None.
    distances: one number per mask from the second on, the one compared with the threshold: to the
    mask before (`paper`), or the largest to the masks in the queue (`authors`).
    """

    def __init__(
        self,
        ratio: float = 0.5,
        threshold: float = 0.1,
        window: int = 5,
        rule: str = "paper",
        min_channels: int = 1,
        layers: Mapping[str, int] | None = None,
        ignore: str | Sequence[str] = (),
    ) -> None:
        if not 0 <= ratio < 1:
            raise ConfigError(f"the prune ratio must be at least 0 and below 1, not {ratio}")
        if not 0 < threshold <= 1:
            raise ConfigError(f"the mask-distance threshold must be above 0 and at most 1, not {threshold}")
        if rule not in RULES:
            raise ConfigError(f"the emergence rule must be one of {', '.join(RULES)}, not {rule!r}")
        if window < (2 if rule == "authors" else 1):
            raise ConfigError(f"a window of {window} masks leaves nothing to compare; the paper uses 5")
        if min_channels < 0:
            raise ConfigError(f"min_channels must not be negative, not {min_channels}")
        self.ratio, self.threshold, self.window, self.rule = ratio, threshold, window, rule
        self.min_channels = min_channels
        self.ignore = (ignore,) if isinstance(ignore, str) else tuple(ignore)
        self.ticket: ChannelMask | None = None
        self.epoch: int | None = None
        self.distances: list[float] = []
        self._epochs = 0
        self._layers = None if layers is None else dict(layers)
        self._model: weakref.ref[nn.Module] | None = None
        self._queue: deque[ChannelMask] = deque(maxlen=window if rule == "authors" else 2)

    def start(self, model_or_gammas: nn.Module | Tensor) -> None:
        """Record the untrained network, before the first epoch (optional, see the class)."""
        if self._epochs or self._queue:
            raise ConfigError("EarlyBird.start comes once, before the first epoch; use a new EarlyBird")
        flat = self._gammas(model_or_gammas)
        if self.rule == "authors":
            self._queue.append(self._mask(flat, floor=0))

    def update(self, model_or_gammas: nn.Module | Tensor) -> bool:
        """Look at the network after one more epoch; True once the ticket has emerged (and ever
        after).

        Takes the network or its flat scales [n]. ConfigError when it is not the network of the
        earlier calls.
        """
        flat = self._gammas(model_or_gammas)
        self._epochs += 1
        if self.ticket is not None:
            return True
        mask = self._mask(flat, floor=0 if self.rule == "authors" else self.min_channels)
        self._queue.append(mask)
        to_older = [mask.distance(older) for older in list(self._queue)[:-1]]
        if to_older:
            self.distances.append(max(to_older))
        judged = self.distances if self.rule == "paper" else to_older
        if has_emerged(self.rule, largest_distance(self.rule, self.window, judged), self.threshold):
            self.epoch, self.ticket = self._epochs, self._mask(flat, floor=self.min_channels)
        return self.ticket is not None

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on from, as plain values and uint8 tensors: for a checkpoint of one's own loop."""
        return {
            "settings": {name: getattr(self, name) for name in _SETTINGS} | {"ignore": list(self.ignore)},
            "epochs": self._epochs,
            "epoch": self.epoch,
            "distances": list(self.distances),
            "layers": None if self._layers is None else list(self._layers.items()),
            "queue": [_packed(mask) for mask in self._queue],
            "ticket": None if self.ticket is None else _packed(self.ticket),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`, with any network of the same layers. ConfigError when it has other settings."""
        own = self.state_dict()["settings"]
        other = {k: (own[k], v) for k, v in state["settings"].items() if own.get(k) != v}
        if other:
            name, (here, there) = next(iter(other.items()))
            raise ConfigError(f"this EarlyBird has {name} = {here!r}, the saved one {there!r}; make it with the same")
        self._epochs, self.epoch = int(state["epochs"]), state["epoch"]
        self.distances = list(state["distances"])
        self._layers = None if state["layers"] is None else dict(state["layers"])
        self._queue.clear()
        self._queue.extend(_unpacked(mask) for mask in state["queue"])
        self.ticket = None if state["ticket"] is None else _unpacked(state["ticket"])
        self._model = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_model": None}  # a reference to the network is of this process

    def _mask(self, flat: Tensor, floor: int) -> ChannelMask:
        ties = "threshold" if self.rule == "authors" else "order"
        assert self._layers is not None
        return masks_from_scores(flat.abs(), self._layers, [self.ratio], floor, ties=ties, ignore=self.ignore)[0]

    def _gammas(self, source: nn.Module | Tensor) -> Tensor:
        """The flat scales, after a check that they are those of the network watched so far."""
        if isinstance(source, Tensor):
            flat, layers = source.reshape(-1), self._layers or {"channels": source.numel()}
            same = sum(layers.values()) == flat.numel()
        else:
            flat, layers = named_gammas(source)
            same = self._layers in (None, layers) and (self._model is None or self._model() is source)
            self._model = self._model or weakref.ref(source)
        if not same:
            raise ConfigError(
                "this EarlyBird already watches another network. Use one EarlyBird per training; "
                "give it gammas(model) when the same training goes on in a new model object."
            )
        self._layers = layers
        return flat


_SETTINGS = ("ratio", "threshold", "window", "rule", "min_channels")


def _packed(mask: ChannelMask) -> dict[str, Any]:
    bits, info = mask.pack()
    return {"bits": bits, **{k: list(v) for k, v in info.items()}}


def _unpacked(packed: Mapping[str, Any]) -> ChannelMask:
    return ChannelMask.unpack(packed["bits"], packed)


def emergence(
    gamma_rows: Tensor,
    layers: Mapping[str, int],
    ratio: float,
    rule: str = "paper",
    *,
    threshold: float = 0.1,
    window: int = 5,
    min_channels: int = 1,
    ignore: str | Sequence[str] = (),
) -> Emergence:
    """What EarlyBird would have said of a finished training.

    gamma_rows: [E+1, n], row e = the scales after e epochs (row 0 = untrained). Distances end at emergence.
    """
    eb = EarlyBird(ratio, threshold, window, rule, min_channels, layers, ignore=ignore)
    for e, row in enumerate(gamma_rows):
        if e == 0:
            eb.start(row)
        elif eb.update(row):
            break
    return Emergence(eb.epoch, eb.distances)


def distance_map(
    gamma_rows: Tensor,
    layers: Mapping[str, int],
    ratio: float,
    min_channels: int = 1,
    ignore: str | Sequence[str] = (),
) -> Tensor:
    """Mask distance of every pair of epochs, float64 [E+1, E+1] (the paper's epoch x epoch figure).

    With masks as +-1 the product of two is n - 2 * Hamming distance: the whole map is one matrix
    product, exact in float32 for n < 2**24.
    """
    signs = torch.stack(
        [
            masks_from_scores(row.abs(), layers, [ratio], min_channels, ignore=ignore)[0].bits.float() * 2 - 1
            for row in gamma_rows
        ]
    )
    n = signs.shape[1]
    return (n - (signs @ signs.T).double()) / (2 * n)
