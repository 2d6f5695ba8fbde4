"""Early-Bird tickets in a Lightning training: one callback. Run: python examples/frameworks/lightning_digits.py"""

from __future__ import annotations

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ebsim
from ebsim.adapters.lightning import EarlyBirdCallback


class Classifier(L.LightningModule):
    """An ordinary LightningModule; its network is `self.net`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ebsim.models.build("preresnet", depth=11, classes=10, input_shape=(3, 8, 8), seed=0)

    def training_step(self, batch, index):
        x, y = batch
        # the L1 push on the BatchNorm scales, as the paper trains the dense network
        push = 1e-4 * sum(m.weight.abs().sum() for m in self.net.modules() if isinstance(m, nn.BatchNorm2d))
        return nn.functional.cross_entropy(self.net(x), y) + push

    def configure_optimizers(self):
        sgd = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        return [sgd], [torch.optim.lr_scheduler.MultiStepLR(sgd, [10])]


def main(epochs: int = 12) -> tuple[Classifier, EarlyBirdCallback]:
    """Train on the embedded digits; returns the module (with the ticket inside) and the callback."""
    torch.manual_seed(0)
    batches = ebsim.data.load("digits").train_batches(1347, seed=0, epoch=0)
    loader = DataLoader(TensorDataset(*next(iter(batches))), batch_size=128, shuffle=True)
    module = Classifier()
    callback = EarlyBirdCallback("net", example=torch.zeros(2, 3, 8, 8), ratio=0.5, threshold=0.3, window=3)
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=[callback], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader)
    return module, callback


if __name__ == "__main__":
    trained, watched = main()
    print(f"ticket drawn at epoch {watched.eb.epoch}; {sum(p.numel() for p in trained.parameters()):,} parameters left")
