"""Large images decoded by a GPU through NVIDIA DALI: `data.decode = "dali"`.

Written against DALI's documented interface and never run: no GPU was at hand. The boxes and mirrorings are ours, drawn
from (seed, epoch, index) as in the other ways of decoding, and handed to DALI image by image; DALI decodes the box,
resizes it bilinearly with antialiasing and mirrors it. Its pixels are near those of the exact path, not the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ebsim.data.catalogue import LARGE_RESIZE, LARGE_SIDE
from ebsim.data.crops import random_box
from ebsim.data.large_images import EncodedImage, Source
from ebsim.errors import ConfigError, DataError

Load = Callable[[int], Source]


def require(device: torch.device) -> ModuleType:
    """DALI, or a `ConfigError` that says what is missing."""
    if device.type != "cuda":
        raise ConfigError('data.decode = "dali" decodes on a GPU, and this training runs on a CPU: use exact or fast.')
    try:
        return import_module("nvidia.dali")
    except ImportError as error:
        raise ConfigError(
            'data.decode = "dali" needs NVIDIA DALI (pip install nvidia-dali-cuda130, or that of your CUDA version); '
            "or use exact or fast."
        ) from error


def batches(
    load: Load,
    numbers: list[list[int]],
    seed_of: Callable[[int], int] | None,
    device: torch.device,
    threads: int,
) -> Iterator[torch.Tensor]:
    """uint8 [b, 224, 224, 3] on the device, for each list of image numbers.

    load: image number -> its source; one that is stored decoded is a `DataError`. seed_of: image number -> seed of its
    random box; None: test images (shorter side to 256, the middle). threads: of DALI, on the CPU.
    """
    dali = require(device)
    feed = import_module("nvidia.dali.plugin.pytorch").feed_ndarray
    pipeline = _pipeline(dali, (_inputs(load, batch, seed_of) for batch in numbers), seed_of is not None)
    built = pipeline(
        batch_size=max(map(len, numbers), default=1), num_threads=max(1, threads), device_id=device.index or 0
    )
    built.build()
    for batch in numbers:
        (images,) = built.run()
        out = torch.empty((len(batch), LARGE_SIDE, LARGE_SIDE, 3), dtype=torch.uint8, device=device)
        feed(images.as_tensor(), out, cuda_stream=torch.cuda.current_stream(device))
        yield out


def _pipeline(dali: ModuleType, inputs: Iterator[tuple[list[np.ndarray], ...]], training: bool) -> Any:
    fn, types = import_module("nvidia.dali.fn"), import_module("nvidia.dali.types")

    @dali.pipeline_def
    def training_images() -> Any:
        encoded, anchors, shapes, mirrored = fn.external_source(source=inputs, num_outputs=4, batch=True)
        parts = fn.decoders.image_slice(
            encoded, anchors, shapes, device="mixed", output_type=types.RGB, axis_names="WH",
            normalized_anchor=False, normalized_shape=False,
        )  # fmt: skip
        return fn.flip(_resize(fn, types, parts, resize_x=LARGE_SIDE, resize_y=LARGE_SIDE), horizontal=mirrored)

    @dali.pipeline_def
    def test_images() -> Any:
        (encoded,) = fn.external_source(source=inputs, num_outputs=1, batch=True)
        whole = fn.decoders.image(encoded, device="mixed", output_type=types.RGB)
        return fn.crop(_resize(fn, types, whole, resize_shorter=LARGE_RESIZE), crop=(LARGE_SIDE, LARGE_SIDE))

    return training_images if training else test_images


def _resize(fn: Any, types: Any, images: Any, **size: int) -> Any:
    return fn.resize(images, interp_type=types.INTERP_LINEAR, antialias=True, **size)


def _inputs(load: Load, batch: list[int], seed_of: Callable[[int], int] | None) -> tuple[list[np.ndarray], ...]:
    """What DALI is handed of one batch: encoded bytes; in training also anchors, shapes (x, y) and mirrorings."""
    sources = [_encoded(load(number)) for number in batch]
    content = [np.frombuffer(source.content, np.uint8) for source in sources]
    if seed_of is None:
        return (content,)
    boxes = [random_box(source.size, seed_of(number)) for source, number in zip(sources, batch, strict=True)]
    anchors = [np.array([box.left, box.top], np.int32) for box in boxes]
    shapes = [np.array([box.width, box.height], np.int32) for box in boxes]
    return content, anchors, shapes, [np.array(box.mirrored, np.int32) for box in boxes]


def _encoded(source: Source) -> EncodedImage:
    if not isinstance(source, EncodedImage):
        raise DataError('data.decode = "dali": the prepared file holds decoded images; use exact or fast.')
    return source
