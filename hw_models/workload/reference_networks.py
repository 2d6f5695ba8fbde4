"""Layer tables of well-known networks (ResNet, VGG, PreResNet, AlexNet) from published shapes, without torch.

Used by the profile tools (`hw check`, `hw compare`), the docs and the silicon check. A test holds them equal to
`trace` of the real networks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from hw_models.errors import HardwareError, nearest
from hw_models.workload.layer import INPUT, Layer, conv_macs


class _Builder:
    """Rows of a network, each reading the previous one unless told otherwise."""

    def __init__(self, channels: int, size: int) -> None:
        self.rows: list[Layer] = []
        self.at, self.channels, self.size, self.trained = INPUT, channels, size, False

    def row(
        self,
        name: str,
        kind: str,
        out_channels: int,
        out_size: int,
        *,
        sources: tuple[str, ...] = (),
        inputs: int = 0,
        **rest: object,
    ) -> str:
        self.rows.append(
            Layer(
                name,
                kind,
                inputs=inputs or self.channels * self.size**2,
                outputs=out_channels * out_size**2,
                channels=(self.channels, out_channels),
                size=(self.size,) * 2,
                out=(out_size,) * 2,
                first=not self.trained,
                sources=sources or (self.at,),
                **rest,  # type: ignore[arg-type]
            )
        )
        self.trained |= bool(rest.get("weights"))
        self.at, self.channels, self.size = name, out_channels, out_size
        return name

    def conv(
        self,
        name: str,
        k: int,
        kernel: int,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        bias: bool = False,
    ) -> str:
        pad = kernel // 2 if pad is None else pad
        out = (self.size + 2 * pad - kernel) // stride + 1
        weights = k * (self.channels // groups) * kernel**2 + k * bias
        macs = conv_macs(k * out**2, self.channels, (kernel, kernel), groups)
        return self.row(
            name,
            "conv",
            k,
            out,
            macs=macs,
            weights=weights,
            kernel=(kernel,) * 2,
            stride=(stride,) * 2,
            groups=groups,
            bias=bias,
            op=name,
        )

    def bn(self, name: str) -> str:
        return self.row(name, "bn", self.channels, self.size, weights=2 * self.channels, op="native_batch_norm")

    def relu(self, name: str) -> str:
        return self.row(name, "relu", self.channels, self.size, op="relu")

    def pool(self, name: str, kind: str, kernel: int, stride: int, pad: int = 0) -> str:
        out = (self.size + 2 * pad - kernel) // stride + 1
        op = "max_pool2d_with_indices" if kind == "maxpool" else "avg_pool2d"
        return self.row(name, kind, self.channels, out, kernel=(kernel,) * 2, stride=(stride,) * 2, op=op)

    def add(self, name: str, other: str) -> str:
        return self.row(
            name,
            "add",
            self.channels,
            self.size,
            sources=(self.at, other),
            inputs=2 * self.channels * self.size**2,
            op="add",
        )

    def linear(self, name: str, out: int) -> str:
        inner = self.channels * self.size**2
        self.channels, self.size = inner, 1
        return self.row(name, "linear", out, 1, macs=inner * out, weights=inner * out + out, bias=True, op=name)

    def done(self) -> list[Layer]:
        self.row("loss", "loss", self.channels, 1)
        return self.rows


def vgg16(classes: int = 100) -> list[Layer]:
    """VGG16 with BatchNorm at 32 x 32, one linear layer: 313.25 M MACs with 100 classes."""
    b = _Builder(3, 32)
    for stage, widths in enumerate(((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)):
        for i, width in enumerate(widths):
            b.conv(f"conv{stage}.{i}", width, 3)
            b.bn(f"bn{stage}.{i}")
            b.relu(f"relu{stage}.{i}")
        if stage < 4:
            b.pool(f"pool{stage}", "maxpool", 2, 2)
    b.pool("average", "avgpool", 2, 2)
    b.linear("classifier", classes)
    return b.done()


def _residual(widths: tuple[int, ...], bottleneck: bool, blocks: tuple[int, ...]) -> list[Layer]:
    b = _Builder(3, 224)
    b.conv("conv1", 64, 7, 2, 3)
    b.bn("bn1")
    b.relu("relu")
    b.pool("maxpool", "maxpool", 3, 2, 1)
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), 1):
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            _block(b, f"layer{stage}.{block}", width, stride, bottleneck)
    b.row("avgpool", "avgpool", b.channels, 1, kernel=(b.size,) * 2, stride=(b.size,) * 2, op="mean", adaptive=True)
    b.linear("fc", 1000)
    return b.done()


def _block(b: _Builder, name: str, width: int, stride: int, bottleneck: bool) -> None:
    start, channels, size = b.at, b.channels, b.size
    shapes = (
        ((1, 1, width), (3, stride, width), (1, 1, 4 * width)) if bottleneck else ((3, stride, width), (3, 1, width))
    )
    for i, (kernel, step, k) in enumerate(shapes, 1):
        b.conv(f"{name}.conv{i}", k, kernel, step)
        b.bn(f"{name}.bn{i}")
        if i < len(shapes):
            b.relu(f"{name}.relu" + ("" if i == 1 else f"#{i}"))
    end, k, out = b.at, b.channels, b.size
    if stride != 1 or channels != k:
        b.at, b.channels, b.size = start, channels, size
        b.conv(f"{name}.downsample.0", k, 1, stride)
        start = b.bn(f"{name}.downsample.1")
    b.at, b.channels, b.size = end, k, out
    b.add(f"{name}.add", start)
    b.relu(f"{name}.relu.out")


def resnet18() -> list[Layer]:
    """ResNet-18 at 224 x 224: 1814.07 M MACs."""
    return _residual((64, 128, 256, 512), False, (2, 2, 2, 2))


def resnet50() -> list[Layer]:
    """ResNet-50 (stride in the 3 x 3) at 224 x 224: 4089.18 M MACs."""
    return _residual((64, 128, 256, 512), True, (3, 4, 6, 3))


def preresnet(depth: int = 101, classes: int = 10, size: int = 32) -> list[Layer]:
    """PreResNet of depth 9n + 2 on CIFAR-sized images, as ebsim trains it: 154.06 M MACs at depth 101 and 32 x 32."""
    b = _Builder(3, size)
    b.conv("conv1", 16, 3)
    for stage, width in enumerate((16, 32, 64), 1):
        for block in range((depth - 2) // 9):
            _pre_block(b, f"layer{stage}.{block}", width, 2 if stage > 1 and block == 0 else 1)
    b.bn("bn")
    b.relu("relu")
    b.row("mean", "avgpool", b.channels, 1, kernel=(b.size,) * 2, stride=(b.size,) * 2, op="mean", adaptive=True)
    b.linear("fc", classes)
    return b.done()


def _pre_block(b: _Builder, name: str, width: int, stride: int) -> None:
    start, channels, size = b.at, b.channels, b.size
    for i, (kernel, step, k) in enumerate(((1, 1, width), (3, stride, width), (1, 1, 4 * width)), 1):
        b.bn(f"{name}.bn{i}")
        b.relu(f"{name}.relu{i}")
        b.conv(f"{name}.conv{i}", k, kernel, step)
    end, k, out = b.at, b.channels, b.size
    if stride != 1 or channels != k:
        b.at, b.channels, b.size = start, channels, size
        start = b.conv(f"{name}.downsample", k, 1, stride)
    b.at, b.channels, b.size = end, k, out
    b.add(f"{name}.add", start)


def alexnet() -> list[Layer]:
    """The five convolutions of AlexNet with its groups, as measured on the Eyeriss chip."""
    b = _Builder(3, 227)
    for i, (k, kernel, stride, pad, groups, pool) in enumerate(
        (
            (96, 11, 4, 0, 1, True),
            (256, 5, 1, 2, 2, True),
            (384, 3, 1, 1, 1, False),
            (384, 3, 1, 1, 2, False),
            (256, 3, 1, 1, 2, False),
        ),
        1,
    ):
        b.conv(f"conv{i}", k, kernel, stride, pad, groups)
        b.relu(f"relu{i}")
        if pool:
            b.pool(f"pool{i}", "maxpool", 3, 2)
    return b.rows


def vgg16_imagenet() -> list[Layer]:
    """The 13 convolutions of VGG-16 at 224 x 224, as measured on the Eyeriss chip."""
    b = _Builder(3, 224)
    for stage, widths in enumerate(((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)):
        for i, width in enumerate(widths):
            b.conv(f"conv{stage}.{i}", width, 3)
            b.relu(f"relu{stage}.{i}")
        b.pool(f"pool{stage}", "maxpool", 2, 2)
    return b.rows


NETWORKS: dict[str, Callable[[], list[Layer]]] = {
    "vgg16": vgg16,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "alexnet": alexnet,
    "vgg16-imagenet": vgg16_imagenet,
    "preresnet101": preresnet,
    "preresnet101-digits": partial(preresnet, size=8),
}


def network(name: str) -> list[Layer]:
    """The reference network called `name`, or the one in a file: an ONNX graph, or a layer table in JSON.

    Raises `HardwareError` with the known names, and `WorkloadError` for a file that holds no network.
    """
    if name in NETWORKS:
        return NETWORKS[name]()
    if Path(name).suffix in (".onnx", ".json"):
        from hw_models.workload.import_onnx import read_onnx
        from hw_models.workload.layer_file import read_layers

        return read_onnx(name) if Path(name).suffix == ".onnx" else read_layers(name)
    near = nearest(name.lower().replace("-", ""), NETWORKS)
    raise HardwareError(
        f"no reference network {name!r}{f'; did you mean {near}?' if near else ''} (known: {', '.join(NETWORKS)}; "
        "or an ONNX file, or a layer table in JSON)"
    )
