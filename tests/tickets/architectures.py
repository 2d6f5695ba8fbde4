"""Kinds of network that people train: segmentation, detection necks, sequences, points, generators."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cb(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), act())


class UNet(nn.Module):
    """Skips by concatenation, transposed convolutions, padding by what is missing."""

    def __init__(self, up: str = "transposed"):
        super().__init__()
        self.d1, self.d2, self.mid = self.pair(3, 8), self.pair(8, 12), self.pair(12, 16)
        self.u2, self.u1 = nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)
        self.c2, self.c1, self.out, self.up = self.pair(24, 12), self.pair(16, 8), nn.Conv2d(8, 2, 1), up

    @staticmethod
    def pair(i, o):
        return nn.Sequential(cb(i, o, act=nn.ReLU), cb(o, o, act=nn.ReLU))

    def join(self, x, skip):
        dy, dx = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
        x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return torch.cat([skip, x], dim=1)

    def forward(self, x):
        a = self.d1(x)
        b = self.d2(F.max_pool2d(a, 2))
        x = self.mid(F.max_pool2d(b, 2))
        if self.up == "transposed":
            (x,) = (self.c2(self.join(self.u2(x), b)),)
            return self.out(self.c1(self.join(self.u1(x), a)))
        x = F.interpolate(x, size=b.shape[2:], mode="bilinear", align_corners=False)
        x = self.c2(torch.cat([b, x[:, :12]], 1))
        return self.out(self.c1(torch.cat([a, F.interpolate(x, size=a.shape[-2:])[:, 4:]], 1)))


class C2f(nn.Module):
    def __init__(self, i, o, n=2):
        super().__init__()
        self.c = o // 2
        self.cv1, self.cv2 = cb(i, o, 1), cb((2 + n) * self.c, o, 1)
        self.m = nn.ModuleList(nn.Sequential(cb(self.c, self.c), cb(self.c, self.c)) for _ in range(n))

    def forward(self, x):
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(y[-1] + m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class C3(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.cv1, self.cv2, self.cv3 = cb(i, o // 2, 1), cb(i, o // 2, 1), cb(o, o, 1)
        self.m = cb(o // 2, o // 2)

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.cv1, self.cv2, self.m = cb(i, i // 2, 1), cb(i * 2, o, 1), nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Yolo(nn.Module):
    """Backbone, path aggregation neck, decoupled heads on two levels, boxes flattened together."""

    def __init__(self):
        super().__init__()
        self.focus, self.s1, self.s2 = cb(12, 8), C2f(8, 12), C3(16, 16)
        self.down1, self.down2, self.sppf = cb(12, 16, 3, 2), cb(16, 20, 3, 2), SPPF(20, 20)
        self.reduce, self.up = cb(20, 16, 1), nn.Upsample(scale_factor=2, mode="nearest")
        self.n1, self.pan, self.n2 = C3(32, 16), cb(16, 16, 3, 2), C2f(32, 20)
        self.box = nn.ModuleList(nn.Sequential(cb(c, 8), nn.Conv2d(8, 16, 1)) for c in (16, 20))
        self.cls = nn.ModuleList(nn.Sequential(cb(c, 8, g=4), nn.Conv2d(8, 3, 1)) for c in (16, 20))

    def forward(self, x):
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        a = self.s2(self.down1(self.s1(self.focus(x))))
        b = self.sppf(self.down2(a))
        r = self.reduce(b)
        p = self.n1(torch.cat([self.up(r), a], 1))
        levels = [p, self.n2(torch.cat([self.pan(p), r], 1))]
        raw = [torch.cat((self.box[i](f), self.cls[i](f)), 1) for i, f in enumerate(levels)]
        if self.training:
            return raw
        flat = torch.cat([f.view(f.shape[0], 19, -1) for f in raw], 2)
        box, cls = flat.split((16, 3), 1)
        n, _, anchors = box.shape
        box = box.view(n, 4, 4, anchors).transpose(2, 1).softmax(1).mean(1)
        return torch.cat((box, cls.sigmoid()), 1), raw


class TemporalConvolutions(nn.Module):
    """A causal TCN: padding chopped off, residuals, the last step."""

    def __init__(self):
        super().__init__()
        self.layers, width = nn.ModuleList(), 5
        for i, o in enumerate((8, 12, 12)):
            conv = nn.Conv1d(width, o, 3, padding=2 * 2**i, dilation=2**i)
            skip = nn.Conv1d(width, o, 1) if width != o else nn.Identity()
            self.layers.append(nn.ModuleList([conv, nn.BatchNorm1d(o), skip]))
            width = o
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        for conv, norm, skip in self.layers:
            y = conv(x)
            y = F.relu(norm(y[:, :, : -(y.shape[2] - x.shape[2])].contiguous()))
            x = F.relu(y + skip(x))
        return self.head(x[:, :, -1])


class Conformer(nn.Module):
    """A convolution module of a conformer: GLU, depthwise, BatchNorm between transposes, residual tokens."""

    def __init__(self):
        super().__init__()
        self.inner, self.pre, self.depth = (
            nn.Linear(5, 12),
            nn.Conv1d(12, 24, 1),
            nn.Conv1d(12, 12, 5, padding=2, groups=12),
        )
        self.norm, self.post, self.ln, self.head = (
            nn.BatchNorm1d(12),
            nn.Conv1d(12, 12, 1),
            nn.LayerNorm(12),
            nn.Linear(12, 3),
        )

    def forward(self, x):
        x = self.inner(x.transpose(1, 2))
        y = F.glu(self.pre(self.ln(x).transpose(1, 2)), dim=1)
        y = self.post(F.silu(self.norm(self.depth(y)))).transpose(1, 2)
        return self.head((x + y).mean(dim=1))


class PointNet(nn.Module):
    """Shared layers over points, a learned transform, max over points, global features beside local ones."""

    def __init__(self):
        super().__init__()
        self.a, self.an, self.b, self.bn = (
            nn.Conv1d(5, 8, 1),
            nn.BatchNorm1d(8),
            nn.Conv1d(8, 12, 1),
            nn.BatchNorm1d(12),
        )
        self.fc, self.fn, self.t = nn.Linear(12, 10), nn.BatchNorm1d(10), nn.Linear(10, 25)
        self.c, self.cn, self.d = nn.Conv1d(17, 10, 1), nn.BatchNorm1d(10), nn.Conv1d(10, 4, 1)

    def forward(self, x):
        n, _, points = x.size()
        g = F.relu(self.bn(self.b(F.relu(self.an(self.a(x))))))
        g = torch.max(g, 2, keepdim=True)[0].view(-1, 12)
        t = self.t(F.relu(self.fn(self.fc(g)))).view(-1, 5, 5) + torch.eye(5, dtype=x.dtype)
        x = torch.bmm(x.transpose(2, 1), t).transpose(2, 1)
        x = torch.cat([x, g.view(n, -1, 1).repeat(1, 1, points)], 1)
        return F.log_softmax(self.d(F.relu(self.cn(self.c(x)))).transpose(2, 1).contiguous(), dim=-1)


class Generator(nn.Module):
    """From a vector to an image."""

    def __init__(self):
        super().__init__()
        self.fc, self.n = nn.Linear(5 * 16, 12 * 4), nn.BatchNorm1d(48)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(12, 10, 4, 2, 1, bias=False), nn.BatchNorm2d(10), nn.ReLU(True),
            nn.Upsample(scale_factor=2), nn.Conv2d(10, 8, 3, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.2, True),
        )  # fmt: skip
        self.out = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.n(self.fc(torch.flatten(x, 1)))).view(x.shape[0], 12, 2, 2)
        return torch.tanh(self.out(self.up(x)))


class Variational(nn.Module):
    """An autoencoder with a sampled code."""

    def __init__(self):
        super().__init__()
        self.enc, self.mu, self.logvar = (
            nn.Sequential(cb(3, 8, s=2), cb(8, 12, s=2)),
            nn.Linear(48, 6),
            nn.Linear(48, 6),
        )
        self.dec, self.up = nn.Linear(6, 48), nn.Sequential(nn.Upsample(scale_factor=4), cb(12, 8), nn.Conv2d(8, 3, 1))

    def forward(self, x):
        h = self.enc(x).flatten(start_dim=1)
        mu, logvar = self.mu(h), self.logvar(h)
        std = torch.exp(0.5 * logvar)
        z = mu + torch.randn_like(std) * std
        return self.up(self.dec(z).view(-1, 12, 2, 2)), mu, logvar


class Rnn(nn.Module):
    """Convolutions in front of a recurrent network."""

    def __init__(self):
        super().__init__()
        self.cnn, self.rnn, self.fc = (
            nn.Sequential(cb(3, 8), cb(8, 10)),
            nn.GRU(80, 6, batch_first=True),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        f = self.cnn(x).permute(0, 3, 1, 2)
        out, _ = self.rnn(f.reshape(f.shape[0], f.shape[1], -1))
        return self.fc(out)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.fc = nn.Sequential(cb(3, 8), cb(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(12, 4)

    def forward(self, x):
        a, b = self.fc(self.net(x)), self.fc(self.net(x.flip(-1)))
        return F.normalize(a, dim=1), F.cosine_similarity(a, b)


class RepBlock(nn.Module):
    """Three branches, each with a BatchNorm, one of them nothing else."""

    def __init__(self, c):
        super().__init__()
        self.a, self.b, self.n = cb(c, c, act=nn.Identity), cb(c, c, 1, act=nn.Identity), nn.BatchNorm2d(c)

    def forward(self, x):
        return F.relu(self.a(x) + self.b(x) + self.n(x))


class RepVgg(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks, self.fc = cb(3, 10), nn.Sequential(RepBlock(10), RepBlock(10)), nn.Linear(10, 3)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean([2, 3]))


class Attention(nn.Module):
    """Channel and spatial attention, and self-attention over positions with a projected BatchNorm."""

    def __init__(self):
        super().__init__()
        self.stem, self.fc1, self.fc2, self.sp = (
            cb(3, 12),
            nn.Conv2d(12, 4, 1),
            nn.Conv2d(4, 12, 1),
            nn.Conv2d(2, 1, 3, padding=1),
        )
        self.qkv, self.proj, self.fc = cb(12, 36, 1, act=nn.Identity), cb(12, 12, 1), nn.Linear(12, 3)

    def forward(self, x):
        x = self.stem(x)
        gate = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))) + self.fc2(
            F.relu(self.fc1(F.adaptive_max_pool2d(x, 1)))
        )
        x = x * gate.sigmoid()
        x = x * self.sp(torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)).sigmoid()
        n, c, h, w = x.shape
        q, k, v = self.qkv(x).reshape(n, 3, 2, c // 2, h * w).unbind(1)
        attention = (q.transpose(-2, -1) @ k / (c // 2) ** 0.5).softmax(dim=-1)
        x = x + self.proj((v @ attention.transpose(-2, -1)).reshape(n, c, h, w))
        return self.fc(x.mean((2, 3)))


class NonLocal(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.g, self.theta, self.phi = (
            cb(3, 12),
            nn.Conv2d(12, 6, 1),
            nn.Conv2d(12, 6, 1),
            nn.Conv2d(12, 6, 1),
        )
        self.w, self.out = nn.Sequential(nn.Conv2d(6, 12, 1), nn.BatchNorm2d(12)), nn.Conv2d(12, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        b = x.size(0)
        g = self.g(x).view(b, 6, -1).permute(0, 2, 1)
        f = torch.matmul(self.theta(x).view(b, 6, -1).permute(0, 2, 1), self.phi(x).view(b, 6, -1))
        y = torch.matmul(F.softmax(f, dim=-1), g).permute(0, 2, 1).contiguous().view(b, 6, *x.size()[2:])
        return self.out(self.w(y) + x)


class NormFirstTokens(nn.Module):
    """A mixer over patches with BatchNorm on the channels of tokens [N, T, C]."""

    def __init__(self):
        super().__init__()
        self.patch, self.n1, self.t1, self.t2 = (
            nn.Conv2d(3, 12, 2, 2),
            nn.BatchNorm1d(12),
            nn.Linear(16, 8),
            nn.Linear(8, 16),
        )
        self.n2, self.c1, self.c2, self.fc = nn.BatchNorm1d(12), nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.patch(x).flatten(2)
        x = x + self.t2(F.gelu(self.t1(self.n1(x))))
        y = self.n2(x).transpose(1, 2)
        return self.fc((x.transpose(1, 2) + self.c2(F.gelu(self.c1(y)))).mean(1))


IMAGES = {
    kind.__name__: kind
    for kind in (UNet, Yolo, Variational, Rnn, Siamese, RepVgg, Attention, NonLocal, NormFirstTokens)
} | {"UNet, resized": lambda: UNet("resized")}  # fmt: skip
SERIES = {kind.__name__: kind for kind in (TemporalConvolutions, Conformer, PointNet, Generator)}


def image() -> Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def series() -> Tensor:
    return torch.randn(6, 5, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
