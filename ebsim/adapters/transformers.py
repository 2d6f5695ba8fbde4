"""`EarlyBirdCallback` for the Hugging Face Trainer.

    Trainer(model, args, train_dataset=data, callbacks=[EarlyBirdCallback("net", example=torch.zeros(2, 3, 32, 32))])

Needs the package `transformers`. Tried with transformers 5, one process, save_strategy="no" or saving after the draw.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from ebsim.adapters.replace import Watch
from ebsim.tickets import EarlyBird


class EarlyBirdCallback(TrainerCallback):
    """Shrinks `model.<attribute>` to its Early-Bird ticket once that has emerged; the training goes on with it.

    attribute: dotted name of the network in the model given to Trainer, which takes the batch and returns the loss.
    example: a batch of inputs [N, ...] to trace the network with. shrink: False only watches. rule: options of
    `ebsim.EarlyBird`. `callback.eb` has ticket, epoch and distances; the log history gets the mask distances.
    """

    def __init__(self, attribute: str, *, example: Tensor, shrink: bool = True, **rule: Any) -> None:
        self.eb = EarlyBird(**rule)
        self._watch = Watch(self.eb, attribute, example, shrink)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        self._watch.after_epoch(parts["model"], [parts["optimizer"]])
        state.log_history.append({**self._watch.log, "epoch": state.epoch, "step": state.global_step})
