"""Networks as they are written in public code: attention, heads, necks, odd layers. Each must come out exact."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.tickets.networks import Wired, unit

NETWORKS: dict[str, Callable[[], nn.Module]] = {}
INPUTS: dict[str, Callable[[], tuple[Tensor, ...]]] = {}


def add(kind: Any) -> Any:
    NETWORKS[kind.__name__] = kind
    return kind


def given(*shapes: tuple[int, ...]) -> Any:
    """With inputs of these shapes instead of images [6, 3, 8, 8]."""

    def named(kind: Any) -> Any:
        NETWORKS[kind.__name__] = kind
        INPUTS[kind.__name__] = lambda: normal(*shapes)
        return kind

    return named


def normal(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    return tuple(torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)


def inputs(name: str) -> tuple[Tensor, ...]:
    return INPUTS[name]() if name in INPUTS else normal((6, 3, 8, 8))


# -- attention -------------------------------------------------------------------------------------


@add
class SqueezeExcite(Wired):
    """By linear layers and a view."""

    def parts(self):
        self.fc = nn.Sequential(nn.Linear(12, 4, bias=False), nn.ReLU(inplace=True), nn.Linear(4, 12), nn.Sigmoid())

    def between(self, a, b):
        n, c, _, _ = b.size()
        y = F.adaptive_avg_pool2d(b, 1).view(n, c)
        return b * self.fc(y).view(n, c, 1, 1).expand_as(b)


@add
class ConvolutionalAttention(Wired):
    """CBAM: channel attention from mean and maximum, spatial attention from mean and maximum over channels."""

    def parts(self):
        self.mlp = nn.Sequential(nn.Conv2d(12, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 12, 1, bias=False))
        self.spatial = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1))

    def between(self, a, b):
        gate = self.mlp(F.adaptive_avg_pool2d(b, 1)) + self.mlp(F.adaptive_max_pool2d(b, 1))
        b = b * torch.sigmoid(gate)
        pooled = torch.cat([b.mean(1, keepdim=True), b.max(1, keepdim=True)[0]], 1)
        return b * torch.sigmoid(self.spatial(pooled))


@add
class EfficientAttention(Wired):
    """ECA: a convolution over the channels."""

    def parts(self):
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def between(self, a, b):
        y = self.conv(F.adaptive_avg_pool2d(b, 1).squeeze(-1).transpose(-1, -2))
        return b * y.transpose(-1, -2).unsqueeze(-1).sigmoid().expand_as(b)


@add
class CoordinateAttention(Wired):
    def parts(self):
        self.squeeze = unit(12, 8, 1)
        self.high, self.wide = nn.Conv2d(8, 12, 1), nn.Conv2d(8, 12, 1)

    def between(self, a, b):
        h, w = b.shape[2:]
        x_h, x_w = F.adaptive_avg_pool2d(b, (None, 1)), F.adaptive_avg_pool2d(b, (1, None)).permute(0, 1, 3, 2)
        y_h, y_w = torch.split(self.squeeze(torch.cat([x_h, x_w], dim=2)), [h, w], dim=2)
        return b * self.high(y_h).sigmoid() * self.wide(y_w.permute(0, 1, 3, 2)).sigmoid()


@add
class SelectiveKernel(Wired):
    def parts(self):
        self.paths = nn.ModuleList([unit(12, 12, 3), unit(12, 12, 5)])
        self.squeeze, self.choose = unit(12, 6, 1), nn.Conv2d(6, 24, 1)

    def between(self, a, b):
        x = torch.stack([path(b) for path in self.paths], dim=1)
        s = self.choose(self.squeeze(x.sum(1).mean((2, 3), keepdim=True)))
        weights = torch.softmax(s.view(-1, 2, 12, 1, 1), dim=1)
        return (x * weights).sum(dim=1)


@add
class MultiheadPositions(Wired):
    """nn.MultiheadAttention over positions, as a residual branch behind a LayerNorm."""

    def parts(self):
        self.norm, self.attention = nn.LayerNorm(12), nn.MultiheadAttention(12, 3, batch_first=True)
        self.position = nn.Parameter(torch.zeros(1, 64, 12))

    def between(self, a, b):
        n, c, h, w = b.shape
        tokens = b.flatten(2).transpose(1, 2) + self.position
        y = self.norm(tokens)
        tokens = tokens + self.attention(y, y, y, need_weights=False)[0]
        return tokens.transpose(1, 2).reshape(n, c, h, w)


@add
class ScaledDotProduct(Wired):
    """Queries, keys and values from one convolution with BatchNorm; class token in front."""

    def parts(self):
        self.qkv = nn.Sequential(nn.Conv2d(12, 36, 1, bias=False), nn.BatchNorm2d(36))
        self.token = nn.Parameter(torch.zeros(1, 1, 12))

    def between(self, a, b):
        n, c, h, w = b.shape
        q, k, v = self.qkv(b).reshape(n, 3, 2, c // 2, h * w).transpose(-1, -2).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(n, c, h, w)
        tokens = torch.cat([self.token.expand(n, -1, -1), b.flatten(2).mT], dim=1)
        return b + y + tokens[:, 0][:, :, None, None]


@add
class GlobalContext(Wired):
    def parts(self):
        self.mask = nn.Conv2d(12, 1, 1)
        self.transform = nn.Sequential(nn.Conv2d(12, 4, 1), nn.LayerNorm([4, 1, 1]), nn.ReLU(), nn.Conv2d(4, 12, 1))

    def between(self, a, b):
        n, c, h, w = b.size()
        weights = torch.softmax(self.mask(b).view(n, 1, h * w), dim=2).unsqueeze(-1)
        context = torch.matmul(b.view(n, c, h * w).unsqueeze(1), weights).view(n, c, 1, 1)
        return b + self.transform(context)


@add
class GatedSkip(Wired):
    """Attention U-Net: a gate from two branches."""

    def parts(self):
        self.g = nn.Sequential(nn.Conv2d(12, 6, 1), nn.BatchNorm2d(6))
        self.x = nn.Sequential(nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6))
        self.psi = nn.Sequential(nn.Conv2d(6, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())
        self.join = unit(20, 12)

    def between(self, a, b):
        gate = self.psi(F.relu(self.g(b) + self.x(a), inplace=True))
        return self.join(torch.cat((a * gate, b), dim=1))


# -- convolutions of other kinds -------------------------------------------------------------------


@add
class Ghost(Wired):
    def parts(self):
        self.first, self.cheap = unit(12, 7, 1), unit(7, 7, 3, groups=7)
        self.out = nn.BatchNorm2d(12)

    def between(self, a, b):
        x1 = self.first(b)
        return self.out(torch.cat([x1, self.cheap(x1)], dim=1)[:, :12, :, :])


@add
class DynamicKernels(Wired):
    """Conditional convolution: kernels mixed per sample, the batch as groups."""

    def parts(self):
        self.kernels = nn.Parameter(torch.randn(3, 12, 12, 3, 3) * 0.1)
        self.route, self.norm = nn.Linear(12, 3), nn.BatchNorm2d(12)

    def between(self, a, b):
        n, c, h, w = b.shape
        weights = torch.sigmoid(self.route(b.mean((2, 3))))
        kernels = (weights @ self.kernels.view(3, -1)).view(n * 12, 12, 3, 3)
        y = F.conv2d(b.reshape(1, n * c, h, w), kernels, padding=1, groups=n)
        return F.relu(self.norm(y.view(n, 12, h, w)))


@add
class Involution(Wired):
    """Kernels from the input, applied to unfolded patches."""

    def parts(self):
        self.reduce, self.span = unit(12, 6, 1), nn.Conv2d(6, 9 * 2, 1)

    def between(self, a, b):
        n, c, h, w = b.shape
        weight = self.span(self.reduce(b)).view(n, 2, 9, h, w).unsqueeze(2)
        patches = F.unfold(b, 3, padding=1).view(n, 2, c // 2, 9, h, w)
        return (weight * patches).sum(dim=3).view(n, c, h, w)


@add
class UnfoldFold(Wired):
    def parts(self):
        self.mix = nn.Linear(48, 48)

    def between(self, a, b):
        patches = nn.functional.unfold(b, 2, stride=2)
        return F.fold(self.mix(patches.transpose(1, 2)).transpose(1, 2), b.shape[-2:], 2, stride=2)


@add
class GridSample(Wired):
    """A spatial transformer."""

    def parts(self):
        self.theta = nn.Linear(12, 6)

    def between(self, a, b):
        theta = self.theta(b.mean((2, 3))).view(-1, 2, 3)
        return F.grid_sample(b, F.affine_grid(theta, b.size(), align_corners=False), align_corners=False)


@add
class FourierUnit(Wired):
    """Convolution with BatchNorm in the frequency domain."""

    def parts(self):
        self.conv = unit(24, 24, 1)

    def between(self, a, b):
        n, c, h, w = b.shape
        f = torch.fft.rfftn(b, dim=(-2, -1), norm="ortho")
        f = torch.stack((f.real, f.imag), dim=-1).permute(0, 1, 4, 2, 3).reshape(n, 2 * c, h, w // 2 + 1)
        f = self.conv(f).view(n, c, 2, h, w // 2 + 1).permute(0, 1, 3, 4, 2).contiguous()
        return b + torch.fft.irfftn(torch.complex(f[..., 0], f[..., 1]), s=(h, w), dim=(-2, -1), norm="ortho")


@add
class Paddings(Wired):
    def parts(self):
        kinds = ("reflect", "replicate", "circular")
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, padding_mode=k, bias=False), nn.BatchNorm2d(12), nn.ELU())
            for k in kinds
        )
        self.pad, self.circle = nn.ReflectionPad2d(1), nn.CircularPad2d(1)
        self.c = unit(12, 12)

    def between(self, a, b):
        for conv in self.convs:
            b = conv(b)
        return self.c(F.avg_pool2d(self.circle(self.pad(b)), 5, 1))


@add
class Dilated(Wired):
    """Atrous pyramid with image pooling."""

    def parts(self):
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(12, 6, 3, padding=d, dilation=d, bias=False), nn.BatchNorm2d(6), nn.ReLU())
            for d in (1, 2, 3)
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.project = unit(24, 12, 1)

    def between(self, a, b):
        pooled = F.interpolate(self.pool(b), size=b.shape[-2:], mode="bilinear", align_corners=False)
        return self.project(torch.cat([*(f(b) for f in self.branches), pooled], dim=1))


@add
class Reparameterized(Wired):
    """Three branches of BatchNorm, one of them an identity; a deploy form that does not exist yet."""

    def parts(self):
        self.reparam = None
        self.dense = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12))
        self.point = nn.Sequential(nn.Conv2d(12, 12, 1, bias=False), nn.BatchNorm2d(12))
        self.identity = nn.BatchNorm2d(12)

    def between(self, a, b):
        if hasattr(self, "deployed") and self.deployed:
            return self.reparam(b)
        return F.relu(self.dense(b) + self.point(b) + (0 if self.identity is None else self.identity(b)))


@add
class Aliasing(Wired):
    """Blur pooling with a fixed kernel of as many groups as the tensor has channels."""

    def parts(self):
        k = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (k[:, None] * k)[None, None] / 16)

    def between(self, a, b):
        k = self.kernel.repeat(b.shape[1], 1, 1, 1)
        return F.conv2d(F.pad(b, (1, 1, 1, 1), mode="reflect"), k, stride=2, groups=b.shape[1])


# -- normalizations --------------------------------------------------------------------------------


@add
class OtherNorms(Wired):
    """Other normalizations behind pruned channels: they read all of them."""

    def parts(self):
        self.group, self.instance, self.local = nn.GroupNorm(3, 12), nn.InstanceNorm2d(12), nn.LocalResponseNorm(3)
        self.c, self.layer = unit(12, 12), nn.LayerNorm([12, 8, 8])
        self.rms = nn.RMSNorm(8)

    def between(self, a, b):
        return self.rms(self.layer(self.c(self.group(b)))) + self.local(self.instance(b))


@add
class SharedNorm(Wired):
    """One BatchNorm behind two convolutions; one convolution in front of two BatchNorms."""

    def parts(self):
        self.c, self.d, self.norm = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.both = nn.Conv2d(12, 10, 1)
        self.first, self.second, self.join = nn.BatchNorm2d(10), nn.BatchNorm2d(10), unit(20, 12)

    def between(self, a, b):
        b = F.relu(self.norm(self.c(b))) + F.relu(self.norm(self.d(b)))
        x = self.both(b)
        return self.join(torch.cat([F.relu(self.first(x)), torch.tanh(self.second(x))], 1))


@add
class SwitchedNorms(Wired):
    """A BatchNorm per domain, shared convolutions, both domains in one batch."""

    def parts(self):
        self.c = nn.Conv2d(12, 12, 3, padding=1)
        self.norms = nn.ModuleDict({"clean": nn.BatchNorm2d(12), "other": nn.BatchNorm2d(12)})

    def between(self, a, b):
        one, two = b[:3], b[3:]
        return torch.cat([F.relu(self.norms["clean"](self.c(one))), F.relu(self.norms["other"](self.c(two)))], 0)


@add
class OtherStatistics(Wired):
    def parts(self):
        self.c, self.d, self.e = (nn.Conv2d(12, 12, 1, bias=False) for _ in range(3))
        self.n, self.m = nn.BatchNorm2d(12, momentum=None), nn.BatchNorm2d(12, track_running_stats=False)
        self.o = nn.BatchNorm2d(12, affine=False, track_running_stats=False)

    def between(self, a, b):
        return F.relu(self.o(self.e(F.relu(self.m(self.d(F.relu(self.n(self.c(b)))))))))


@add
class FrozenNorms(Wired):
    """BatchNorm that stays in evaluation mode while the rest trains."""

    def parts(self):
        self.c = unit(12, 12)

    def train(self, mode=True):
        super().train(mode)
        if hasattr(self, "c"):
            self.c[1].eval()
        return self

    def between(self, a, b):
        return self.c(b)


@add
class Frozen(nn.Module):
    """torchvision's FrozenBatchNorm2d beside ordinary ones."""

    def __init__(self):
        from ebsim.torchvision_shim import import_torchvision

        super().__init__()
        frozen = import_torchvision("torchvision.ops").FrozenBatchNorm2d
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), frozen(8), nn.ReLU())
        self.body, self.head = nn.Sequential(unit(8, 12), unit(12, 8)), nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.body(x)).mean([-2, -1]))


class InPlaceNorm(nn.BatchNorm2d):
    """BatchNorm and a leaky ReLU in one, as memory-saving layers do it."""

    def forward(self, x):
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
        return F.leaky_relu(x, 0.01, inplace=True)


@add
class InPlaceNorms(Wired):
    def parts(self):
        self.c, self.n = nn.Conv2d(12, 12, 3, padding=1, bias=False), InPlaceNorm(12)

    def between(self, a, b):
        return self.n(self.c(b)) + b


@add
class ConditionalNorm(Wired):
    """BatchNorm without scale, scale and shift from another part (generators, style)."""

    def parts(self):
        self.c, self.norm, self.style = nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12, affine=False), nn.Linear(8, 24)

    def between(self, a, b):
        gamma, beta = self.style(a.mean((2, 3))).chunk(2, 1)
        return F.relu((1 + gamma[:, :, None, None]) * self.norm(self.c(b)) + beta.unsqueeze(-1).unsqueeze(-1))


@given((2, 3, 3, 8, 8))
class Volumes(nn.Module):
    """BatchNorm3d, transposed convolutions in 3 D, a U-Net of two levels."""

    def __init__(self):
        super().__init__()

        def block(i, o):
            return nn.Sequential(nn.Conv3d(i, o, 3, padding=1), nn.BatchNorm3d(o), nn.PReLU(o))

        self.down, self.deep = block(3, 6), block(6, 10)
        self.up, self.join, self.out = nn.ConvTranspose3d(10, 6, (1, 2, 2), (1, 2, 2)), block(12, 8), nn.Conv3d(8, 2, 1)

    def forward(self, x):
        a = self.down(x)
        b = self.deep(F.max_pool3d(a, (1, 2, 2)))
        return self.out(self.join(torch.cat([self.up(b), a], dim=1)))


# -- sequences, points, graphs ---------------------------------------------------------------------


@given((4, 3, 16))
class Speech(nn.Module):
    """x-vectors: dilated convolutions over time, statistics pooling, BatchNorm1d behind linear layers."""

    def __init__(self):
        super().__init__()
        self.frames = nn.Sequential(
            *(
                nn.Sequential(nn.Conv1d(i, o, 3, padding=d, dilation=d), nn.ReLU(), nn.BatchNorm1d(o))
                for i, o, d in ((3, 8, 1), (8, 10, 2), (10, 12, 3))
            )
        )
        self.segment = nn.Sequential(nn.Linear(24, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 8))
        self.last, self.out = nn.BatchNorm1d(8), nn.Linear(8, 5)

    def forward(self, x):
        y = self.frames(x)
        stats = torch.cat([y.mean(dim=2), y.std(dim=2)], dim=1)
        return F.log_softmax(self.out(F.leaky_relu(self.last(self.segment(stats)))), dim=-1)


@given((4, 3, 16))
class Recurrent(nn.Module):
    """Convolutions with BatchNorm, a GRU and an LSTM, BatchNorm over the steps."""

    def __init__(self):
        super().__init__()
        self.c, self.n = nn.Conv1d(3, 10, 3, padding=1, bias=False), nn.BatchNorm1d(10)
        self.gru, self.m = nn.GRU(10, 6, batch_first=True, bidirectional=True), nn.BatchNorm1d(12)
        self.lstm, self.out = nn.LSTM(12, 7), nn.Linear(7, 3)

    def forward(self, x):
        y = F.hardtanh(self.n(self.c(x)), 0, 20).transpose(1, 2)
        y, _ = self.gru(y)
        n, t, c = y.size()
        y = self.m(y.contiguous().view(n * t, c)).view(n, t, c)
        y, (h, _) = self.lstm(y.permute(1, 0, 2))
        return self.out(y[-1] + h[0])


@given((4, 3, 16))
class WaveGates(nn.Module):
    """Gated dilated convolutions with skip sums."""

    def __init__(self):
        super().__init__()
        self.start = nn.Conv1d(3, 8, 1)
        self.gates = nn.ModuleList(nn.Conv1d(8, 16, 2, dilation=d) for d in (1, 2))
        self.norms, self.skips = (nn.ModuleList(make(8) for _ in "12") for make in (nn.BatchNorm1d, self.skip))
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(6, 3, 1))

    @staticmethod
    def skip(width):
        return nn.Conv1d(width, 6, 1)

    def forward(self, x):
        x, total = self.start(x), 0
        for gate, norm, skip in zip(self.gates, self.norms, self.skips, strict=True):
            f, g = gate(F.pad(x, (gate.dilation[0], 0))).chunk(2, dim=1)
            y = norm(torch.tanh(f) * torch.sigmoid(g))
            total = total + skip(y)
            x = x + y
        return self.out(total)


@given((4, 3, 12))
class Points(nn.Module):
    """Edge convolutions on nearest neighbors, an alignment by a learned matrix, a maximum over points."""

    def __init__(self):
        super().__init__()
        self.t1, self.t2 = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, 9)
        self.edge = nn.Sequential(nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2))
        self.fc = nn.Sequential(nn.Conv1d(8, 10, 1), nn.BatchNorm1d(10), nn.ReLU())
        self.out = nn.Linear(10, 4)

    def forward(self, x):
        eye = torch.eye(3, dtype=x.dtype).view(1, 9)
        matrix = (self.t2(self.t1(x).max(2)[0]) + eye).view(-1, 3, 3)
        x = torch.bmm(x.transpose(2, 1), matrix).transpose(2, 1)
        d = torch.cdist(x.mT, x.mT)
        near = d.topk(3, largest=False).indices
        n, c, p = x.shape
        picked = x.mT.gather(1, near.flatten(1)[:, :, None].expand(-1, -1, c)).view(n, p, 3, c)
        center = x.mT.unsqueeze(2).expand_as(picked)
        edges = torch.cat([picked - center, center], -1).permute(0, 3, 1, 2)
        return self.out(self.fc(self.edge(edges).amax(-1)).max(dim=-1).values)


@given((4, 9, 5), (4, 9, 9))
class GraphLayers(nn.Module):
    """Graph convolutions: an adjacency matrix as a second input, BatchNorm1d over nodes."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.out = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 3)
        self.n, self.m = nn.BatchNorm1d(8), nn.BatchNorm1d(6)

    def forward(self, x, adjacency):
        a = torch.softmax(adjacency, -1)
        x = F.relu(self.n((a @ self.one(x)).transpose(1, 2)).transpose(1, 2))
        x = F.relu(self.m(torch.bmm(a, self.two(x)).flatten(0, 1)).view(x.shape[0], -1, 6))
        return self.out(x.mean(1))


@given((16, 10))
class Tabular(nn.Module):
    """A residual network of linear layers with BatchNorm1d and dropout."""

    def __init__(self):
        super().__init__()
        self.start = nn.Linear(10, 12)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 20), nn.ReLU(), nn.Dropout(0.2), nn.Linear(20, 12))
            for _ in "123"
        )
        self.head = nn.Sequential(nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2))

    def forward(self, x):
        x = self.start(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x).squeeze(-1)


# -- outputs and inputs ----------------------------------------------------------------------------

Pair = namedtuple("Pair", "logits features")


@dataclass
class Record:
    logits: Tensor
    extra: dict[str, Tensor]


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(unit(3, 8), unit(8, 10))
        self.one, self.two = nn.Linear(10, 4), nn.Conv2d(10, 2, 1)

    def forward(self, x):
        y = self.body(x)
        return self.wrap(self.one(y.mean((2, 3))), self.two(y), y)


@add
class NamedHeads(Heads):
    def wrap(self, a, b, y):
        return Pair(a, b)


@add
class NestedHeads(Heads):
    def wrap(self, a, b, y):
        return {"class": a, "maps": [b, (b.sigmoid(), y)], "none": None}


@add
class ListHeads(Heads):
    def wrap(self, a, b, y):
        return [a, b]


@add
class TwoViews(nn.Module):
    """One backbone called twice (siamese), and a third time on half the image."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(unit(3, 8), nn.MaxPool2d(2), unit(8, 10))
        self.project = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 5))

    def embed(self, x):
        return F.normalize(self.project(self.body(x).flatten(2).mean(-1)), dim=1)

    def forward(self, x):
        a, b, c = self.embed(x), self.embed(x.flip(-1)), self.embed(x[..., :4])
        return (a * b).sum(1) + F.cosine_similarity(a, c) - 0.1 * F.mse_loss(b, c.detach())


@given((4, 3, 8, 8), (4, 2, 8, 8))
class OptionalInputs(nn.Module):
    """Defaults, None, keyword arguments between the parts."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = unit(3, 8), unit(2, 8), nn.Linear(8, 4)

    def encode(self, x, *, skip=None, scale: float = 1.0, mode: str = "sum"):
        y = self.a(x)
        if skip is not None:
            y = y + scale * skip if mode == "sum" else y
        return y

    def forward(self, x, z=None, flags=(True, False), **more):
        y = self.encode(x, skip=self.b(z) if z is not None else None, scale=0.5)
        if flags[0] and not more.get("stop"):
            y = y.relu()
        return self.head(y.mean([2, 3]))


@add
class DeepSupervision(nn.Module):
    """Every depth has its own head in training; evaluation gives the last one."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([unit(3, 8), unit(8, 10), unit(10, 12)])
        self.heads = nn.ModuleList(nn.Conv2d(w, 3, 1) for w in (8, 10, 12))

    def forward(self, x):
        outs, size = [], x.shape[2:]
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = F.max_pool2d(stage(x), 2)
            outs.append(F.interpolate(head(x), size=size, mode="bilinear"))
        return outs if self.training else outs[-1]


# -- ways of writing -------------------------------------------------------------------------------


@add
class Lookups(Wired):
    """Layers by name and by list, parameters in lists, attributes found by __getattr__."""

    def parts(self):
        self.layers = nn.ModuleDict({"first": unit(12, 12), "second": unit(12, 12)})
        self.order = ["second", "first"]
        self.gains = nn.ParameterList([nn.Parameter(torch.ones(12, 1, 1)) for _ in "12"])
        self.biases = nn.ParameterDict({"first": nn.Parameter(torch.zeros(1, 12, 1, 1))})

    def __getattr__(self, name):
        if name.startswith("layer_"):
            return self.layers[name[6:]]
        return super().__getattr__(name)

    def between(self, a, b):
        for gain, name in zip(self.gains, self.order, strict=True):
            b = getattr(self, f"layer_{name}")(b) * gain
            if name in self.biases:
                b = b + self.biases[name]
        return b


@add
class CheckpointedBlock(Wired):
    """Activation checkpoints around a convolution block without BatchNorm."""

    def parts(self):
        self.c = nn.Sequential(nn.Conv2d(12, 12, 1), nn.ReLU())

    def between(self, a, b):
        return checkpoint(self.c, b, use_reentrant=False) if self.training else self.c(b)


@add
class InPlaceEverywhere(Wired):
    def parts(self):
        self.c, self.d = unit(12, 12), nn.Conv2d(12, 12, 1)
        self.n = nn.BatchNorm2d(12)
        self.act = nn.ReLU6(inplace=True)

    def between(self, a, b):
        y = self.n(self.d(b))
        y += self.c(b)
        y *= 0.5
        y.add_(b, alpha=0.25)
        self.act(y)
        return F.silu(y, inplace=True).clamp_(max=3).sub_(0.1)


@add
class HalfPrecisionPart(Wired):
    """A part in float32, whatever the rest is."""

    def parts(self):
        self.c = unit(12, 12)

    def between(self, a, b):
        gate = torch.sigmoid(b.mean(1, keepdim=True).to(torch.float32)).to(b.dtype)
        return self.c(b.double()).type_as(b) * gate


@add
class TensorMethods(Wired):
    """Rarely used ways to say ordinary things."""

    def parts(self):
        self.c = unit(24, 12)

    def between(self, a, b):
        x = torch.cat((b, b.neg().relu_()), dim=-3)
        x = self.c(x.contiguous(memory_format=torch.channels_last))
        x = x.swapaxes(1, 2).swapdims(1, 2).moveaxis(1, -1).movedim(-1, 1)
        x = x.masked_fill(x < 0.1, 0.0).clip(max=4).where(x > -1, x.new_zeros(()))
        x = torch.addcmul(x, x, x, value=0.1) + torch.lerp(x, b, 0.3)
        x = x.div(2).subtract(b.multiply(0.1)).add(b, alpha=0.5)
        return torch.einsum("nchw,dc->ndhw", x, torch.eye(12, dtype=x.dtype)) + x.sum(dim=1, keepdim=True).expand(
            -1, 12, -1, -1
        )


@add
class BatchAxis(Wired):
    """Samples mixed: relations within the batch, time in the batch, a permutation."""

    def parts(self):
        self.c = unit(12, 12)

    def between(self, a, b):
        n, c, h, w = b.shape
        clips = b.view(-1, 3, c, h, w)
        mean = clips.mean(1, keepdim=True).expand(-1, 3, -1, -1, -1).reshape(n, c, h, w)
        similar = torch.softmax(b.flatten(1) @ b.flatten(1).t() / 50, dim=1)
        return self.c(b - mean) + (similar @ b.flatten(1)).view_as(b) + b.roll(1, 0)


def _scaled(factor: float, x: Tensor) -> Tensor:
    return x * factor


@add
class Callables(Wired):
    """Activations as functions held by name, partials, lambdas in an nn.Module."""

    def parts(self):
        self.c, self.norm, self.act = nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12), F.hardswish
        self.then = functools.partial(_scaled, 0.7)
        self.steps = [torch.tanh, F.relu, lambda t: t + 0.1]

    def between(self, a, b):
        b = self.then(self.act(self.norm(self.c(b))))
        return functools.reduce(lambda x, step: step(x), self.steps, b)


# -- detection, segmentation, pose -----------------------------------------------------------------


@given((2, 3, 32, 32))
class AnchorHeads(nn.Module):
    """A detector: pyramid with weighted sums, one head for all levels, its own scale per level, boxes by view."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList([unit(3, 8, stride=2), unit(8, 12, stride=2), unit(12, 16, stride=2)])
        self.lateral = nn.ModuleList(nn.Conv2d(w, 8, 1) for w in (12, 16))
        self.weights = nn.Parameter(torch.ones(2))
        self.smooth = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.tower, self.scales = unit(8, 8), nn.ParameterList(nn.Parameter(torch.tensor(1.0)) for _ in "12")
        self.scores, self.boxes = nn.Conv2d(8, 2 * 3, 3, padding=1), nn.Conv2d(8, 2 * 4, 3, padding=1)

    def forward(self, x):
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        _, c4, c5 = levels
        p5 = self.lateral[1](c5)
        w = F.relu(self.weights)
        w = w / (w.sum() + 1e-4)
        p4 = self.smooth(w[0] * self.lateral[0](c4) + w[1] * F.interpolate(p5, scale_factor=2.0, mode="nearest"))
        scores, boxes = [], []
        for scale, level in zip(self.scales, (p4, p5), strict=True):
            y = self.tower(level)
            n, _, h, w_ = y.shape
            scores.append(self.scores(y).view(n, 2, 3, h, w_).permute(0, 3, 4, 1, 2).reshape(n, -1, 3))
            boxes.append(torch.exp(self.boxes(y) * scale * 0.1).permute(0, 2, 3, 1).reshape(n, -1, 4))
        return torch.cat(scores, dim=1), torch.cat(boxes, dim=1)


@given((2, 3, 32, 32))
class GridDetector(nn.Module):
    """Boxes decoded in evaluation mode by a grid that is made for the size and kept."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = unit(3, 8, stride=2), nn.Sequential(unit(8, 12, stride=2), unit(12, 12))
        self.out = nn.Conv2d(12, 2 * 7, 1)
        self.grid = [torch.empty(0)]
        self.register_buffer("anchors", torch.rand(1, 2, 1, 1, 2))

    def forward(self, x):
        y = self.out(self.body(self.stem(x)))
        n, _, ny, nx = y.shape
        y = y.view(n, 2, 7, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
        if self.training:
            return y
        if self.grid[0].shape[2:4] != y.shape[2:4]:
            yv, xv = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
            self.grid[0] = torch.stack((xv, yv), 2).view(1, 1, ny, nx, 2).to(y.dtype)
        xy, wh, conf = y.sigmoid().split((2, 2, 3), 4)
        xy = (xy * 2 - 0.5 + self.grid[0]) * 4
        return torch.cat((xy, (wh * 2) ** 2 * self.anchors, conf), 4).view(n, -1, 7), y


@given((2, 3, 16, 16))
class Hourglass(nn.Module):
    """A stacked hourglass: recursion, heat maps fed back, soft-argmax."""

    def __init__(self):
        super().__init__()
        self.stem = unit(3, 8)
        self.down = nn.ModuleList(self.residual(8) for _ in range(3))
        self.up = nn.ModuleList(self.residual(8) for _ in range(3))
        self.maps, self.back = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    @staticmethod
    def residual(w):
        return nn.Sequential(nn.BatchNorm2d(w), nn.ReLU(), nn.Conv2d(w, w, 3, padding=1, bias=False))

    def level(self, x, n):
        up = x + self.up[n](x)
        low = F.max_pool2d(x, 2, 2)
        low = low + self.down[n](low)
        low = self.level(low, n - 1) if n > 0 else low
        return up + F.interpolate(low, scale_factor=2)

    def forward(self, x):
        x, outs = self.stem(x), []
        for _ in range(2):
            y = self.level(x, 2)
            maps = self.maps(y)
            outs.append(maps)
            x = x + y + self.back(maps)
        n, k, h, w = maps.shape
        heat = torch.softmax(maps.flatten(2), -1).view(n, k, h, w)
        line = torch.linspace(0, 1, w, dtype=x.dtype)
        points = torch.stack([(heat.sum(2) * line).sum(-1), (heat.sum(3) * line[:h]).sum(-1)], -1)
        return torch.stack(outs, 1), points


@given((2, 3, 16, 16))
class MultiResolution(nn.Module):
    """Two resolutions that exchange, as high-resolution networks do."""

    def __init__(self):
        super().__init__()
        self.stem = unit(3, 8)
        self.split = nn.ModuleList([unit(8, 8), unit(8, 12, stride=2)])
        self.branches = nn.ModuleList([unit(8, 8), unit(12, 12)])
        self.fuse = nn.ModuleList(
            [
                nn.ModuleList(
                    [
                        None,
                        nn.Sequential(nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Upsample(scale_factor=2)),
                    ]
                ),
                nn.ModuleList([nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12)), None]),
            ]
        )
        self.out = nn.Conv2d(20, 3, 1)

    def forward(self, x):
        x = self.stem(x)
        x = [branch(part(x)) for branch, part in zip(self.branches, self.split, strict=True)]
        fused = []
        for i, row in enumerate(self.fuse):
            y = x[0] if i == 0 else row[0](x[0])
            for j in range(1, len(self.fuse)):
                y = y + (x[j] if i == j else row[j](x[j]))
            fused.append(F.relu(y))
        high = F.interpolate(fused[1], size=fused[0].shape[2:], mode="bilinear", align_corners=True)
        return self.out(torch.cat([fused[0], high], 1))


@given((2, 3, 17, 19))
class OddPyramid(nn.Module):
    """Pyramid pooling and a U-Net on odd sizes, cropped and padded to fit."""

    def __init__(self):
        super().__init__()
        self.a, self.b = unit(3, 8), unit(8, 12)
        self.bins = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(s), unit(12, 3, 1)) for s in (1, 2, 3))
        self.up, self.join, self.out = (
            nn.ConvTranspose2d(21, 8, 2, stride=2, bias=False),
            unit(16, 8),
            nn.Conv2d(8, 2, 1),
        )

    def forward(self, x):
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        h, w = b.size()[2:]
        b = torch.cat([b, *(F.interpolate(p(b), (h, w), mode="bilinear") for p in self.bins)], 1)
        y = self.up(b)
        y = F.pad(y, (0, a.shape[3] - y.shape[3], 0, a.shape[2] - y.shape[2]))
        c = torch.cat([a[:, :, : y.size(2), : y.size(3)], y], 1)
        return self.out(self.join(c))


@add
class Capsules(nn.Module):
    """Dynamic routing: iterations over views of convolutional capsules."""

    def __init__(self):
        super().__init__()
        self.stem, self.primary = unit(3, 8, stride=2), nn.Conv2d(8, 12, 3, padding=1)
        self.w = nn.Parameter(torch.randn(1, 48, 3, 5, 4) * 0.1)

    @staticmethod
    def squash(s, dim=-1):
        n2 = (s**2).sum(dim, keepdim=True)
        return n2 / (1 + n2) * s / (n2 + 1e-8).sqrt()

    def forward(self, x):
        u = self.squash(
            self.primary(self.stem(x)).view(x.size(0), 3, 4, -1).permute(0, 1, 3, 2).reshape(x.size(0), -1, 4)
        )
        u = (self.w @ u[:, :, None, :, None]).squeeze(-1)
        b = torch.zeros(u.shape[:3], dtype=u.dtype)
        for _ in range(2):
            v = self.squash((torch.softmax(b, 2)[..., None] * u).sum(1))
            b = b + (u * v[:, None]).sum(-1)
        return v.norm(dim=-1)


@add
class Experts(Wired):
    """Soft experts, each with its BatchNorm; an equation solved by fixed steps."""

    def parts(self):
        self.experts, self.gate = nn.ModuleList(unit(12, 12) for _ in "123"), nn.Linear(12, 3)
        self.field = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Tanh())

    def between(self, a, b):
        g = torch.softmax(self.gate(b.mean((2, 3))), -1)
        b = torch.stack([e(b) for e in self.experts], -1).mul(g[:, None, None, None, :]).sum(-1)
        for _ in range(3):
            b = b + 0.3 * self.field(b)
        return b


@add
class NoiseInside(Wired):
    """Random numbers per element in training: shake-shake, Gaussian noise, reparameterization."""

    def parts(self):
        self.c, self.d, self.mean, self.log = unit(12, 12), unit(12, 12), nn.Conv2d(12, 6, 1), nn.Conv2d(12, 6, 1)
        self.up = nn.Conv2d(6, 12, 1)

    def between(self, a, b):
        if self.training:
            w = torch.rand(b.size(0), 1, 1, 1, dtype=b.dtype)
            b = w * self.c(b) + (1 - w) * self.d(b)
        else:
            b = 0.5 * (self.c(b) + self.d(b))
        mean, log = self.mean(b), self.log(b)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log) if self.training else mean
        return self.up(z) + F.dropout2d(b, 0.2, self.training)
