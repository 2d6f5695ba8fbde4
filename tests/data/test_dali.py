"""The DALI adapter: refused by name where it cannot work; what it hands over, by a stand-in that records calls.

DALI itself was never run: the stand-in shows that the documented calls are made with our boxes, not what they do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ebsim import data
from ebsim.data import dali
from ebsim.data.crops import random_box
from ebsim.data.large_images import EncodedImage
from ebsim.errors import ConfigError, DataError

from .conftest import save_images


def test_refused_on_a_cpu_and_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("train/a", "test/a"):
        save_images(tmp_path / place, 1, size=(300, 260), ending="jpeg")
    with pytest.raises(ConfigError, match="decodes on a GPU"):
        data.load("imagefolder", root=tmp_path, decode="dali")
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="needs NVIDIA DALI"):
        dali.require(torch.device("cuda"))


def test_what_is_handed_over_is_the_bytes_and_our_boxes(tmp_path: Path) -> None:
    save_images(tmp_path, 3, size=(300, 260), ending="jpeg")
    files = sorted(tmp_path.glob("*.jpeg"))

    def load(number: int) -> EncodedImage:
        return EncodedImage(files[number], files[number].read_bytes())

    content, anchors, shapes, mirrored = dali._inputs(load, [2, 0], lambda number: 10 + number)
    for i, number in enumerate((2, 0)):
        box = random_box((300, 260), 10 + number)
        assert content[i].tobytes() == files[number].read_bytes()
        assert anchors[i].tolist() == [box.left, box.top] and shapes[i].tolist() == [box.width, box.height]
        assert bool(mirrored[i]) == box.mirrored
    assert len(dali._inputs(load, [1], None)) == 1
    with pytest.raises(DataError, match="decoded images"):
        dali._encoded(SimpleNamespace(size=(1, 1)))  # type: ignore[arg-type]


@pytest.mark.parametrize("training", [True, False])
def test_the_pipeline_makes_the_documented_calls(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Recorder:
        def __init__(self, name: str = "fn") -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            return Recorder(f"{self._name}.{name}")

        def __call__(self, *_: Any, **options: Any) -> Any:
            calls.append((self._name, options))
            return [f"output {i}" for i in range(options["num_outputs"])] if "num_outputs" in options else self._name

    for name, module in (("nvidia.dali.fn", Recorder()), ("nvidia.dali.types", Recorder("types"))):
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    package = ModuleType("nvidia.dali")
    package.pipeline_def = lambda function: function  # type: ignore[attr-defined]
    dali._pipeline(package, iter(()), training)()
    expected = ["fn.external_source", "fn.decoders.image_slice", "fn.resize", "fn.flip"]
    assert [name for name, _ in calls] == (
        expected if training else ["fn.external_source", "fn.decoders.image", "fn.resize", "fn.crop"]
    )
    options = {name: found for name, found in calls}
    assert options["fn.resize"]["antialias"] is True
    if training:
        assert options["fn.decoders.image_slice"]["normalized_anchor"] is False
        assert (options["fn.resize"]["resize_x"], options["fn.resize"]["resize_y"]) == (224, 224)
