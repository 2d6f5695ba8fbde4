"""The shipped examples of other frameworks run, and what they end with is the ticket that they drew."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ebsim.tickets.compaction import Shrunk
from ebsim.torchvision_shim import import_torchvision

EXAMPLES = Path(__file__).parents[2] / "examples/frameworks"


def example(name: str) -> ModuleType:
    framework = name.removesuffix("_digits")
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    import_torchvision()  # these frameworks import it themselves, which fails beside a CPU-only torch
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # their warnings are theirs
@pytest.mark.parametrize("name", ["lightning_digits", "transformers_digits", "timm_digits"])
def test_an_example_ends_with_its_ticket_trained(name: str) -> None:
    dense = sum(parameter.numel() for parameter in example(name).__dict__[HOLDERS[name]]().parameters())
    model, watched = example(name).main(epochs=6)
    eb = getattr(watched, "eb", watched)
    assert eb.epoch == 4 and len(eb.distances) == 3  # window 3, threshold 0.3: the earliest epoch that the rule allows
    assert isinstance(model.net, Shrunk) and model.net.mask == eb.ticket
    assert sum(parameter.numel() for parameter in model.parameters()) < 0.75 * dense
    drawn = eb.ticket.kept()
    for layer, module in model.net.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d) and layer in drawn:
            assert module.num_features <= max(drawn[layer], 1)
    # Trained on after the draw: a network that only guesses has 10 %.
    import ebsim

    model.eval()
    x, y = next(iter(ebsim.data.load("digits").test_batches(450)))
    if name == "timm_digits":
        x = torch.nn.functional.interpolate(x, size=16)
    with torch.no_grad():
        accuracy = (model.net(x).argmax(1) == y).double().mean().item()
    assert accuracy > 0.5


HOLDERS = {"lightning_digits": "Classifier", "transformers_digits": "Classifier", "timm_digits": "Holder"}
