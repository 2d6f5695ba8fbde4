"""`EarlyBirdCallback` for Lightning's Trainer.

    trainer = L.Trainer(max_epochs=160, callbacks=[EarlyBirdCallback("net", example=torch.zeros(2, 3, 32, 32))])

Needs the package `lightning` (or `pytorch_lightning`). Tried with Lightning 2.6, one process.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ebsim.adapters.replace import Watch
from ebsim.tickets import EarlyBird

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    from pytorch_lightning.callbacks import Callback  # type: ignore[no-redef,assignment]


class EarlyBirdCallback(Callback):
    """Shrinks `pl_module.<attribute>` to its Early-Bird ticket once that has emerged; the training goes on with it.

    attribute: dotted name of the network in the LightningModule. example: a batch of inputs [N, ...] to trace it with.
    shrink: False only watches. rule: options of `ebsim.EarlyBird` (ratio, threshold, window, rule, min_channels).
    Logs `early_bird/mask_distance` and `early_bird/emerged` per epoch. `callback.eb` has ticket, epoch and distances.
    A checkpoint written after the draw holds the ticket's weights: load it into `ebsim.compact` of the dense network.
    """

    def __init__(self, attribute: str, *, example: Tensor, shrink: bool = True, **rule: Any) -> None:
        self.eb = EarlyBird(**rule)
        self._watch = Watch(self.eb, attribute, example, shrink)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._watch.after_epoch(pl_module, trainer.optimizers)
        pl_module.log_dict(self._watch.log)
