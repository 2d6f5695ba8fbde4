"""Early-Bird tickets in a Hugging Face Trainer: one callback. Run: python examples/frameworks/transformers_digits.py"""

from __future__ import annotations

import tempfile

import torch
from torch import nn
from torch.utils.data import TensorDataset
from transformers import Trainer, TrainingArguments

import ebsim
from ebsim.adapters.transformers import EarlyBirdCallback


class Classifier(nn.Module):
    """What Trainer trains: takes a batch, returns its loss; the network is `self.net`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ebsim.models.build("preresnet", depth=11, classes=10, input_shape=(3, 8, 8), seed=0)

    def forward(self, pixel_values, labels):
        logits = self.net(pixel_values)
        push = 1e-4 * sum(m.weight.abs().sum() for m in self.net.modules() if isinstance(m, nn.BatchNorm2d))
        return {"loss": nn.functional.cross_entropy(logits, labels) + push, "logits": logits}


def collate(items):
    images, labels = zip(*items, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.stack(labels)}


def main(epochs: int = 12) -> tuple[Classifier, EarlyBirdCallback]:
    """Train on the embedded digits; returns the model (with the ticket inside) and the callback."""
    torch.manual_seed(0)
    model = Classifier()
    callback = EarlyBirdCallback("net", example=torch.zeros(2, 3, 8, 8), ratio=0.5, threshold=0.3, window=3)
    images = next(iter(ebsim.data.load("digits").train_batches(1347, seed=0, epoch=0)))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=epochs, per_device_train_batch_size=128, save_strategy="no",
            report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no", remove_unused_columns=False,
        )  # fmt: skip
        sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        Trainer(
            model, arguments, train_dataset=TensorDataset(*images), data_collator=collate, callbacks=[callback],
            optimizers=(sgd, None),
        ).train()  # fmt: skip
    return model, callback


if __name__ == "__main__":
    trained, watched = main()
    print(f"ticket drawn at epoch {watched.eb.epoch}; {sum(p.numel() for p in trained.parameters()):,} parameters left")
