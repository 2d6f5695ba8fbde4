"""Small networks, each with one kind of wiring that the shrinking has to get right."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unit(i: int, o: int, k: int = 3, **options) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, bias=False, **options), nn.BatchNorm2d(o), nn.ReLU())


class Wired(nn.Module):
    """Two units, something in between given by the subclass, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = unit(3, 8), unit(8, 12)
        self.parts()
        self.last = unit(self.width, 6)
        self.head = nn.Linear(6, 4)

    width = 12

    def parts(self) -> None: ...

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        return b

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        x = self.between(a, self.b(a))
        return self.head(self.last(x).mean((2, 3)))


class Residual(Wired):
    def parts(self):
        self.c, self.d = unit(12, 12), unit(12, 12)

    def between(self, a, b):
        return b + self.d(b + self.c(b))


class InPlace(Wired):
    """Later readers of an overwritten tensor read what was written."""

    def parts(self):
        self.c, self.n, self.act = nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12), nn.ReLU(inplace=True)
        self.d, self.m = nn.Conv2d(12, 12, 1), nn.BatchNorm2d(12)

    def between(self, a, b):
        out = self.n(self.c(b))
        out += b
        rectified = F.relu_(out)
        after = self.m(self.d(rectified))
        self.act(after)
        return rectified + out * 2 + after


class SquareExcite(Wired):
    def parts(self):
        self.fc1, self.fc2 = nn.Linear(12, 4), nn.Linear(4, 12)

    def between(self, a, b):
        n, c, _, _ = b.size()
        s = F.adaptive_avg_pool2d(b, 1).view(n, c)
        s = torch.sigmoid(self.fc2(F.relu(self.fc1(s)))).view(n, c, 1, 1)
        return b * s.expand_as(b)


class SpatialAttention(Wired):
    def parts(self):
        self.attend = nn.Conv2d(2, 1, 3, padding=1)

    def between(self, a, b):
        pooled = torch.cat([b.mean(1, keepdim=True), b.amax(1, keepdim=True)], 1)
        return b * torch.sigmoid(self.attend(pooled))


class DenselyConnected(Wired):
    width = 3 + 8 + 12 + 5

    def parts(self):
        self.norm, self.grow = nn.BatchNorm2d(23), nn.Conv2d(23, 5, 1)

    def forward(self, x):
        a = self.a(x)
        features = [x, a, self.b(a)]
        features.append(self.grow(F.relu(self.norm(torch.cat(features, 1)))))
        return self.head(self.last(torch.cat(features, dim=1)).mean([2, 3]))


class Shuffled(Wired):
    def between(self, a, b):
        n, c, h, w = b.shape
        b = b.view(n, 3, c // 3, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        left, right = b.chunk(2, dim=1)
        return torch.cat([F.silu(right), left], 1)


class Split(Wired):
    def between(self, a, b):
        x, y, z = torch.split(b, [2, 4, 6], 1)
        return torch.cat([z * 2, y - 1.0, x], 1)


class Repeated(Wired):
    """Channels picked by a list, some of them twice."""

    def between(self, a, b):
        return b[:, [0, 0, 3, 5, 5, 1, 2, 4, 6, 7, 8, 11]] + b[:, [11, 3, 1, 0, 2, 10, 9, 8, 7, 6, 5, 4]]


class OptionA(Wired):
    """The parameter-free shortcut of CIFAR ResNets: strided slice, zero channels around."""

    def between(self, a, b):
        return F.max_pool2d(b, 2) + F.pad(a[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))


class Depthwise(Wired):
    def parts(self):
        self.depth = unit(12, 12, groups=12)
        self.wide = unit(12, 24, groups=12)
        self.point = unit(24, 12, 1)

    def between(self, a, b):
        return self.point(self.wide(self.depth(b)))


class Grouped(Wired):
    def parts(self):
        self.c = nn.Conv2d(12, 18, 3, groups=3, padding=1)
        self.n, self.d = nn.BatchNorm2d(18), unit(18, 12, groups=6)

    def between(self, a, b):
        return self.d(F.hardswish(self.n(self.c(b))))


class Transposed(Wired):
    def parts(self):
        self.up, self.n = nn.ConvTranspose2d(12, 16, 2, stride=2, groups=2), nn.BatchNorm2d(16)
        self.up2 = nn.ConvTranspose2d(16, 12, 3, padding=1)

    def between(self, a, b):
        return self.up2(F.elu(self.n(self.up(b))))


class Reused(Wired):
    """A unit called twice and an activation called everywhere."""

    def parts(self):
        self.c = unit(12, 12)
        self.slope, self.slopes = nn.PReLU(), nn.PReLU(12)

    def between(self, a, b):
        return self.slope(self.c(self.slopes(self.c(self.slope(b)))))


class TiedWeights(Wired):
    def parts(self):
        self.c, self.d = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 1)
        self.d.weight = self.c.weight
        self.n, self.m = nn.BatchNorm2d(12), nn.BatchNorm2d(12)

    def between(self, a, b):
        return self.m(self.d(torch.tanh(self.n(self.c(b)))))


class Flattened(Wired):
    """A spatial map into a linear layer, a literal size in the view, one-dimensional BatchNorm."""

    def parts(self):
        self.fc, self.n1, self.fc2 = nn.Linear(12 * 16, 20), nn.BatchNorm1d(20), nn.Linear(20, 12)

    def between(self, a, b):
        flat = F.adaptive_avg_pool2d(b, 4).view(-1, 12 * 4 * 4)
        return self.fc2(F.relu(self.n1(self.fc(flat))))[:, :, None, None] + b


class UnknownOps(Wired):
    """LayerNorm, a cumulative sum over channels and a width read from the tensor."""

    def parts(self):
        self.ln, self.c = nn.LayerNorm(12), unit(12, 12)

    def between(self, a, b):
        b = self.ln(b.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.c(b).cumsum(1) / b.size(1) ** 0.5 * torch.ones(b.shape, dtype=b.dtype)


class OwnTensors(Wired):
    def parts(self):
        self.scale = nn.Parameter(torch.randn(1, 12, 1, 1))
        self.register_buffer("shift", torch.randn(12, 1, 1, dtype=torch.float64))

    def between(self, a, b):
        return b * self.scale + self.shift + torch.tensor([[[0.5]]])


class Folded(Wired):
    """Time folded into the batch, a layer called on both ranks, a weight read past its layer."""

    def parts(self):
        self.n, self.fc, self.c = nn.BatchNorm2d(6), nn.Linear(12, 12), nn.Conv2d(6, 6, 1)

    def between(self, a, b):
        n, _, h, w = b.shape
        folded = F.relu(self.n(b.view(2 * n, 6, h, w)))
        b = folded.view(n, 12, h, w) + self.c(folded).view(n, 12, h, w)
        b = b + F.linear(self.fc(b.mean((2, 3))), self.fc.weight)[:, :, None, None]
        return b + self.fc(b.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FilledInPlace(Wired):
    """In-place methods without a plain counterpart."""

    def between(self, a, b):
        return b + b.detach().clone().zero_().fill_(0.5)


class DropsOut(Wired):
    """Random numbers in training: per element, per channel, by a function."""

    def parts(self):
        self.d1, self.d2, self.c = nn.Dropout(0.3), nn.Dropout2d(0.4), unit(12, 12)

    def between(self, a, b):
        return F.dropout(self.c(self.d2(self.c(self.d1(b)))), 0.2, self.training)


class ModeDependent(Wired):
    """Another path and another output in training; a dictionary of outputs; an optional argument."""

    def parts(self):
        self.extra, self.aux = unit(12, 12), nn.Linear(12, 2)

    def forward(self, x, verbose=None):
        b = self.b(self.a(x))
        if self.training:
            c = self.extra(b)
            return {"main": self.head(self.last(c).mean((2, 3))), "aux": [self.aux(b.mean((2, 3)))]}
        if verbose is not None:
            raise ValueError("not here")
        return {"main": self.head(self.last(F.dropout(b, 0.3, self.training)).mean((2, 3)))}


class BatchNormLast(Wired):
    """The output itself has pruned channels."""

    def forward(self, x):
        return self.b(self.a(x)), self.a(x)


NETWORKS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        Wired, Residual, InPlace, SquareExcite, SpatialAttention, DenselyConnected, Shuffled, Split, Repeated, OptionA,
        Depthwise, Grouped, Transposed, Reused, TiedWeights, Flattened, UnknownOps, OwnTensors, DropsOut, ModeDependent,
        Folded, FilledInPlace, BatchNormLast,
    )
}  # fmt: skip
