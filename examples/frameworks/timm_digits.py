"""Early-Bird tickets in a timm training: its network, optimizer and scheduler.

Run: python examples/frameworks/timm_digits.py. timm's train.py is a script without callbacks: put the three marked
lines into a copy of it, the third at the end of its epoch.
"""

from __future__ import annotations

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

import ebsim
from ebsim.adapters import Watch


class Holder(nn.Module):
    """The network behind one attribute, so that it can be exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.net = timm.create_model("resnet18", num_classes=10)
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 0.5)  # equal starts; timm zeroes the last scale of every block


def main(epochs: int = 8) -> tuple[Holder, ebsim.EarlyBird]:
    """Train on the embedded digits; returns the model (with the ticket inside) and the detector."""
    torch.manual_seed(0)
    data = ebsim.data.load("digits")
    model = Holder()
    optimizer = create_optimizer_v2(model, opt="momentum", lr=0.05, weight_decay=1e-4)
    scheduler = CosineLRScheduler(optimizer, t_initial=epochs)
    eb = ebsim.EarlyBird(ratio=0.3, threshold=0.3, window=3)  # 1
    watch = Watch(eb, "net", example=torch.zeros(2, 3, 16, 16))  # 2
    for epoch in range(epochs):
        model.train()
        for x, y in data.train_batches(128, seed=0, epoch=epoch):
            optimizer.zero_grad()
            logits = model.net(nn.functional.interpolate(x, size=16))
            push = 1e-4 * sum(m.weight.abs().sum() for m in model.net.modules() if isinstance(m, nn.BatchNorm2d))
            (nn.functional.cross_entropy(logits, y) + push).backward()
            optimizer.step()
        watch.after_epoch(model, [optimizer])  # 3
        scheduler.step(epoch + 1)
    return model, eb


if __name__ == "__main__":
    trained, watched = main()
    print(f"ticket drawn at epoch {watched.epoch}; {sum(p.numel() for p in trained.parameters()):,} parameters left")
