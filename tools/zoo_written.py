"""The zoo's models that are written out here, each in a few lines, as people write their own: what libraries lack.

Super-resolution, text recognition, point clouds, graphs, recommendation, tables, series, flows and networks whose
weights are computed. Needs PyTorch alone, which is imported with this module.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Model = tuple[nn.Module, list[Tensor]]
MODELS: dict[str, Callable[[], Model]] = {}


def model(*shapes: tuple[int, ...] | Tensor) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a network with inputs of these shapes (or these inputs)."""

    def register(kind: type[nn.Module]) -> type[nn.Module]:
        MODELS[kind.__name__] = lambda: (kind(), [torch.randn(*s) if isinstance(s, tuple) else s for s in shapes])
        return kind

    return register


def mlp(*widths: int, last: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*(layers if last else layers[:-1]))


def conv(a: int, b: int, k: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps sizes."""
    return nn.Conv2d(a, b, k, padding=k // 2 * options.get("dilation", 1), **options)


# ---------------------------------------------------------------------------------------------- pictures


class ResidualBlock(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.a, self.b = conv(n, n), conv(n, n)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.b(F.relu(self.a(x)))


@model((2, 3, 16, 16))
class EDSR(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = conv(3, 24), nn.Sequential(*(ResidualBlock(24) for _ in range(3)), conv(24, 24))
        self.tail = nn.Sequential(conv(24, 96), nn.PixelShuffle(2), conv(24, 96), nn.PixelShuffle(2), conv(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.tail(x + self.body(x))


class Excite(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(n, n // 4), nn.Linear(n // 4, n)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.b(F.relu(self.a(x.mean((2, 3))))))[:, :, None, None]


@model((2, 3, 16, 16))
class RCAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = conv(3, 24), nn.Sequential(conv(24, 96), nn.PixelShuffle(2), conv(24, 3))
        self.blocks = nn.ModuleList(nn.Sequential(conv(24, 24), nn.ReLU(), conv(24, 24), Excite(24)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = first = self.head(x)
        for block in self.blocks:
            x = x + block(x)
        return self.tail(x + first)


@model((2, 3, 16, 16))
class ESRGAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = conv(3, 16)
        self.dense = nn.ModuleList(
            nn.ModuleList(conv(16 + 8 * i, 8 if i < 4 else 16) for i in range(5)) for _ in range(2)
        )
        self.up, self.last = conv(16, 16), conv(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        for block in self.dense:
            parts = [x]
            for layer in block[:-1]:
                parts.append(F.leaky_relu(layer(torch.cat(parts, 1)), 0.2))
            x = x + 0.2 * block[-1](torch.cat(parts, 1))
        return self.last(F.leaky_relu(self.up(F.interpolate(x, scale_factor=2.0)), 0.2))


@model((2, 1, 16, 16))
class ESPCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1, 24, 5), nn.Tanh(), conv(24, 16), nn.Tanh(), conv(16, 9), nn.PixelShuffle(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.body(x))


class WindowAttention(nn.Module):
    def __init__(self, n: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv, self.out, self.norm = nn.Linear(n, 3 * n), nn.Linear(n, n), nn.LayerNorm(n)
        self.bias = nn.Parameter(torch.randn(heads, window**2, window**2))
        self.ffn = nn.Sequential(nn.LayerNorm(n), nn.Linear(n, 2 * n), nn.GELU(), nn.Linear(2 * n, n))

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        k = self.window
        y = torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2))
        y = y.reshape(b, h // k, k, w // k, k, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, k * k, c)
        q, key, v = self.qkv(y).reshape(-1, k * k, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = (q @ key.transpose(-1, -2) * (c // self.heads) ** -0.5 + self.bias).softmax(-1) @ v
        y = self.out(y.transpose(1, 2).reshape(-1, k * k, c))
        y = y.reshape(b, h // k, w // k, k, k, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + self.ffn(x)


@model((2, 3, 16, 16))
class SwinIR(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.conv = conv(3, 24), conv(24, 24)
        self.blocks = nn.Sequential(WindowAttention(24, 3, 4, 0), WindowAttention(24, 3, 4, 2))
        self.tail = nn.Sequential(conv(24, 96), nn.PixelShuffle(2), conv(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.tail(x + self.conv(self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))


class SimpleGate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return a * b


class NAFBlock(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, n), nn.GroupNorm(1, n)
        self.a, self.d, self.b = conv(n, 2 * n, 1), conv(2 * n, 2 * n, groups=2 * n), conv(n, n, 1)
        self.sca, self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(n, n, 1)), SimpleGate()
        self.ffn = nn.Sequential(conv(n, 2 * n, 1), SimpleGate(), conv(n, n, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(self.d(self.a(self.norm1(x))))
        x = x + self.b(y * self.sca(y))
        return x + self.ffn(self.norm2(x))


@model((2, 3, 16, 16))
class NAFNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.a, self.down = conv(3, 16), NAFBlock(16), nn.Conv2d(16, 32, 2, 2)
        self.b, self.up = NAFBlock(32), nn.Sequential(conv(32, 64, 1), nn.PixelShuffle(2))
        self.c, self.tail = NAFBlock(16), conv(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(self.head(x))
        return x + self.tail(self.c(y + self.up(self.b(self.down(y)))))


@model((2, 1, 32, 64))
class CRNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(1, 16), nn.ReLU(), nn.MaxPool2d(2), conv(16, 32), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            conv(32, 48), nn.ReLU(), nn.MaxPool2d((2, 1)), nn.Conv2d(48, 48, (4, 1)), nn.ReLU(),
        )  # fmt: skip
        self.lstm, self.last = nn.LSTM(48, 32, 2, bidirectional=True), nn.Linear(64, 20)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.last(self.lstm(self.body(x).squeeze(2).permute(2, 0, 1))[0]), -1).transpose(0, 1)


class ConvLSTMCell(nn.Module):
    def __init__(self, a: int, n: int) -> None:
        super().__init__()
        self.n, self.gates = n, conv(a + n, 4 * n)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = self.gates(torch.cat((x, h), 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


@model((2, 4, 3, 16, 16))
class ConvLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = ConvLSTMCell(3, 16), ConvLSTMCell(16, 12), conv(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], 16, 16, 16)
        k = m = x.new_zeros(x.shape[0], 12, 16, 16)
        for t in range(4):
            h, c = self.a(x[:, t], h, c)
            k, m = self.b(h, k, m)
        return self.last(k)


@model((2, 3, 3, 16, 16))
class ConvGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.zr, self.q, self.last = conv(3, 12), conv(28, 32), conv(28, 16), conv(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(x.new_zeros(x.shape[0], 16, 16, 16))
        for t in range(3):
            e = F.relu(self.enc(x[:, t]))
            z, r = torch.sigmoid(self.zr(torch.cat((h, e), 1))).chunk(2, 1)
            h = (1 - z) * h + z * torch.tanh(self.q(torch.cat((r * h, e), 1)))
        return self.last(h)


class Modulated(nn.Module):
    def __init__(self, a: int, b: int, style: int) -> None:
        super().__init__()
        self.weight, self.style = nn.Parameter(torch.randn(b, a, 3, 3) * 0.2), nn.Linear(style, a)
        self.bias = nn.Parameter(torch.randn(b))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        n, a, h, width = x.shape
        s = self.style(w)
        weight = self.weight[None] * (s[:, None, :, None, None] + 1)
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        y = F.conv2d(x.reshape(1, -1, h, width), weight.reshape(-1, a, 3, 3), padding=1, groups=n)
        return F.leaky_relu(y.reshape(n, -1, h, width) + self.bias[:, None, None], 0.2)


@model((2, 24))
class StyleGAN2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mapping, self.start = mlp(24, 32, 32, 32), nn.Parameter(torch.randn(1, 24, 4, 4))
        self.a, self.b, self.rgb = Modulated(24, 20, 32), Modulated(20, 16, 32), conv(16, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())
        x = self.a(self.start.repeat(z.shape[0], 1, 1, 1), w)
        return self.rgb(self.b(F.interpolate(x, scale_factor=2.0, mode="bilinear"), w))


class Demodulated(nn.Module):
    """The same as scales of inputs and outputs, as it is written for export."""

    def __init__(self, a: int, b: int, style: int) -> None:
        super().__init__()
        self.weight, self.style = nn.Parameter(torch.randn(b, a, 3, 3) * 0.2), nn.Linear(style, a)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        s = self.style(w) + 1
        d = (s.square() @ self.weight.square().sum((2, 3)).t() + 1e-8).rsqrt()
        return F.leaky_relu(F.conv2d(x * s[:, :, None, None], self.weight, padding=1) * d[:, :, None, None], 0.2)


@model((2, 24))
class StyleGAN2Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mapping, self.start = mlp(24, 32, 32), nn.Parameter(torch.randn(1, 24, 4, 4))
        self.a, self.b, self.rgb = Demodulated(24, 20, 32), Demodulated(20, 16, 32), conv(16, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z)
        return self.rgb(self.b(self.a(self.start.expand(z.shape[0], -1, -1, -1), w), w))


@model((2, 3, 16, 16), (2, 3, 16, 16))
class AdaIN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(3, 16), nn.ReLU(), nn.MaxPool2d(2), conv(16, 24), nn.ReLU())
        self.decoder = nn.Sequential(conv(24, 16), nn.ReLU(), nn.Upsample(scale_factor=2), conv(16, 3))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        a, b = self.encoder(x), self.encoder(style)
        a = (a - a.mean((2, 3), keepdim=True)) / (a.std((2, 3), keepdim=True) + 1e-5)
        return self.decoder(a * b.std((2, 3), keepdim=True) + b.mean((2, 3), keepdim=True))


@model((2, 3, 16, 16))
class CycleGAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        norm = nn.InstanceNorm2d
        self.head = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, 16, 7), norm(16), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), norm(32), nn.ReLU())
        self.block = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(32, 32, 3), norm(32), nn.ReLU(), nn.ReflectionPad2d(1),
            nn.Conv2d(32, 32, 3), norm(32),
        )  # fmt: skip
        self.up = nn.Sequential(nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), norm(16), nn.ReLU())
        self.tail = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(16, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(self.head(x))
        return self.tail(self.up(y + self.block(y)))


@model((2, 1, 16, 16))
class CapsNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 24, 5), nn.Conv2d(24, 32, 5, 2)
        self.weight = nn.Parameter(torch.randn(64, 5, 6, 8) * 0.3)

    @staticmethod
    def squash(x: Tensor) -> Tensor:
        n = x.square().sum(-1, keepdim=True)
        return n / (1 + n) * x / (n + 1e-8).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        u = self.b(F.relu(self.a(x))).reshape(x.shape[0], 4, 8, 16).permute(0, 1, 3, 2).reshape(x.shape[0], 64, 8)
        u = torch.einsum("ijdc,bic->bijd", self.weight, self.squash(u))
        logits = torch.zeros_like(u[..., :1])
        for _ in range(2):
            v = self.squash((logits.softmax(2) * u).sum(1, keepdim=True))
            logits = logits + (u * v).sum(-1, keepdim=True)
        return v.squeeze(1).norm(dim=-1)


@model((2, 3, 24, 24), (2, 3, 24, 24))
class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            conv(3, 16), nn.ReLU(), nn.MaxPool2d(2), conv(16, 24), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(24 * 36, 32),
        )  # fmt: skip
        self.last = nn.Linear(32, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.sigmoid(self.last((self.tower(a) - self.tower(b)).abs()))


@model((1, 3, 15, 15), (1, 3, 31, 31))
class SiamFC(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3, 2), nn.ReLU(), nn.Conv2d(24, 24, 3)
        )

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        z, x = self.body(z), self.body(x)
        n, c, h, w = x.shape
        y = F.conv2d(x.reshape(1, n * c, h, w), z, groups=n)
        return y.permute(1, 0, 2, 3)


@model((2, 3, 16, 16))
class Involution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.reduce, self.span, self.tail = conv(3, 16), conv(16, 8, 1), conv(8, 9 * 2, 1), conv(16, 5, 1)
        self.unfold = nn.Unfold(3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.head(x))
        n, c, h, w = x.shape
        k = self.span(F.relu(self.reduce(x))).reshape(n, 2, 1, 9, h, w)
        y = self.unfold(x).reshape(n, 2, c // 2, 9, h, w)
        return self.tail(F.relu((k * y).sum(3).reshape(n, c, h, w)))


@model((2, 3, 16, 16))
class CBAM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.mlp, self.space = conv(3, 16), conv(16, 24), mlp(24, 8, 24), conv(2, 1, 7)
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x))))
        x = x * torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))[:, :, None, None]
        x = x * torch.sigmoid(self.space(torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)))
        return self.last(x.mean((2, 3)))


@model((2, 3, 16, 16))
class ECA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 16), conv(16, 16), nn.Conv1d(1, 1, 3, padding=1)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(F.relu(self.a(x)))
        x = x * torch.sigmoid(self.c(x.mean((2, 3))[:, None]))[:, 0, :, None, None]
        return self.last(F.relu(x).mean((2, 3)))


@model((2, 3, 16, 16))
class CoordAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.s, self.h, self.w, self.b = (
            conv(3, 16),
            conv(16, 8, 1),
            conv(8, 16, 1),
            conv(8, 16, 1),
            conv(16, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        y = torch.cat((x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)), 2)
        h, w = F.relu(self.s(y)).split(16, 2)
        return self.b(x * torch.sigmoid(self.h(h)) * torch.sigmoid(self.w(w.transpose(2, 3))))


@model((2, 3, 16, 16))
class NonLocal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.last = conv(3, 24), conv(24, 5)
        self.t, self.p, self.g, self.o = conv(24, 12, 1), conv(24, 12, 1), conv(24, 12, 1), conv(12, 24, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.head(x))
        t, p, g = (f(x).flatten(2) for f in (self.t, self.p, self.g))
        y = (t.transpose(1, 2) @ p).softmax(-1) @ g.transpose(1, 2)
        return self.last(x + self.o(y.transpose(1, 2).reshape(x.shape[0], 12, 16, 16)))


@model((2, 3, 16, 16))
class Maxout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = conv(3, 48), conv(24, 48), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max(*self.a(x).chunk(2, 1))  # MFM, as in LightCNN
        x = self.b(x).reshape(x.shape[0], 24, 2, 16, 16).amax(2)
        return self.last(x.mean((2, 3)))


@model((2, 3, 16, 16))
class HyperNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.make, self.b, self.last = conv(3, 16), mlp(16, 24, 16 * 16), conv(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        w = self.make(x.mean((2, 3))).reshape(-1, 16, 16)
        y = (w @ x.flatten(2)).reshape_as(x)
        return self.last(F.relu(self.b(F.relu(y))).mean((2, 3)))


@model((2, 3, 16, 16))
class DynamicConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.route, self.last = conv(3, 16), mlp(16, 8, 4), nn.Linear(20, 5)
        self.experts = nn.Parameter(torch.randn(4, 20, 16, 3, 3) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        n = x.shape[0]
        w = (self.route(x.mean((2, 3))).softmax(-1) @ self.experts.reshape(4, -1)).reshape(-1, 16, 3, 3)
        y = F.conv2d(x.reshape(1, -1, 16, 16), w, padding=1, groups=n).reshape(n, 20, 16, 16)
        return self.last(F.relu(y).mean((2, 3)))


@model((2, 3, 16, 16))
class NetVLAD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.assign = nn.Sequential(conv(3, 24), nn.ReLU(), conv(24, 16)), conv(16, 6, 1)
        self.centres, self.last = nn.Parameter(torch.randn(6, 16)), nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(self.body(x), dim=1)
        a = self.assign(x).flatten(2).softmax(1)
        v = a @ x.flatten(2).transpose(1, 2) - a.sum(-1)[..., None] * self.centres
        return self.last(F.normalize(F.normalize(v, dim=2).flatten(1), dim=1))


@model((2, 3, 16, 16))
class BilinearCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Sequential(conv(3, 24), nn.ReLU(), conv(24, 12), nn.ReLU()), nn.Linear(144, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).flatten(2)
        y = (x @ x.transpose(1, 2) / 256).flatten(1)
        return self.last(F.normalize(torch.sign(y) * (y.abs() + 1e-6).sqrt()))


@model((2, 3, 32, 32))
class VQVAE2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), conv(16, 24), nn.ReLU(), conv(24, 8))
        self.book = nn.Parameter(torch.randn(32, 8))
        self.dec = nn.Sequential(conv(8, 24), nn.ReLU(), nn.ConvTranspose2d(24, 16, 4, 2, 1), nn.ReLU(), conv(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        z = self.enc(x).permute(0, 2, 3, 1)
        d = z.square().sum(-1, keepdim=True) - 2 * z @ self.book.t() + self.book.square().sum(1)
        return self.dec(F.embedding(d.argmin(-1), self.book).permute(0, 3, 1, 2))


@model((2, 3, 16, 16))
class SPADE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.shared = conv(3, 16), nn.InstanceNorm2d(16), conv(3, 12)
        self.gamma, self.beta, self.last = conv(12, 16), conv(12, 16), conv(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        s = F.relu(self.shared(x))
        return self.last(F.relu(self.norm(self.a(x)) * (1 + self.gamma(s)) + self.beta(s)))


@model((2, 3, 32, 32))
class DeepJSCC(nn.Module):
    """Generalized divisive normalization, of learned image compression."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 24, 5, 2, 2), nn.Conv2d(24, 16, 5, 2, 2)
        self.gamma, self.beta = nn.Parameter(torch.rand(24, 24, 1, 1) * 0.1), nn.Parameter(torch.rand(24) + 0.5)
        self.c, self.d = nn.ConvTranspose2d(16, 24, 5, 2, 2, 1), nn.ConvTranspose2d(24, 3, 5, 2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x / F.conv2d(x.square(), self.gamma, self.beta).sqrt()
        return self.d(F.relu(self.c(self.b(x).round())))


@model((2, 3, 24, 24), (2, 3, 24, 24))
class FlowNetC(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.r = nn.Sequential(conv(3, 16, stride=2), nn.ReLU(), conv(16, 24)), conv(24, 8, 1)
        self.head = nn.Sequential(conv(9 + 8, 16), nn.ReLU(), conv(16, 2))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = self.body(a), self.body(b)
        p = F.pad(b, (1, 1, 1, 1))
        cost = [(a * p[:, :, i : i + 12, j : j + 12]).mean(1, keepdim=True) for i in range(3) for j in range(3)]
        flow = self.head(torch.cat((*cost, F.relu(self.r(a))), 1))
        return F.grid_sample(b, flow.permute(0, 2, 3, 1), align_corners=False).mean(1, keepdim=True) + flow


# ---------------------------------------------------------------------------------------------- points and graphs


@model((2, 3, 40))
class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.t = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 32, 1), nn.ReLU())
        self.turn = mlp(32, 16, 9)
        self.a = nn.Sequential(nn.Conv1d(3, 24, 1), nn.BatchNorm1d(24), nn.ReLU())
        self.b = nn.Sequential(nn.Conv1d(24, 48, 1), nn.BatchNorm1d(48), nn.ReLU(), nn.Conv1d(48, 64, 1))
        self.seg = nn.Sequential(nn.Conv1d(88, 32, 1), nn.ReLU(), nn.Conv1d(32, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        turn = self.turn(self.t(x).amax(2)).reshape(-1, 3, 3) + torch.eye(3)
        a = self.a((x.transpose(1, 2) @ turn).transpose(1, 2))
        whole = self.b(a).amax(2, keepdim=True).repeat(1, 1, 40)
        return self.seg(torch.cat((a, whole), 1))


def pick(x: Tensor, index: Tensor) -> Tensor:
    """Points x [N, P, C] at index [N, ...]."""
    flat = index.reshape(index.shape[0], -1)
    found = torch.gather(x, 1, flat[..., None].expand(-1, -1, x.shape[-1]))
    return found.reshape(*index.shape, x.shape[-1])


@model((2, 40, 3))
class PointNet2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(conv(6, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 24, 1), nn.ReLU())
        self.b = nn.Sequential(conv(27, 32, 1), nn.ReLU(), conv(32, 48, 1), nn.ReLU())
        self.last = mlp(48, 24, 5)

    def group(self, xyz: Tensor, feature: Tensor, n: int, k: int) -> tuple[Tensor, Tensor]:
        centre = xyz[:, :n]
        index = torch.cdist(centre, xyz).topk(k, largest=False).indices
        near = torch.cat((pick(xyz, index) - centre[:, :, None], pick(feature, index)), -1)
        return centre, near.permute(0, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        centre, y = self.group(x, x, 16, 6)
        y = self.a(y).amax(2).transpose(1, 2)
        _, y = self.group(centre, y, 4, 5)
        return self.last(self.b(y).amax(2).amax(2))


@model((2, 3, 24))
class DGCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(conv(6, 16, 1), nn.BatchNorm2d(16), nn.LeakyReLU()), conv(32, 24, 1)
        self.c, self.last = nn.Conv1d(40, 32, 1), nn.Linear(64, 5)

    @staticmethod
    def edges(x: Tensor) -> Tensor:
        inner = x.transpose(1, 2) @ x
        norm = x.square().sum(1, keepdim=True)
        index = (2 * inner - norm - norm.transpose(1, 2)).topk(4).indices
        x = x.transpose(1, 2)
        near, own = pick(x, index), x[:, :, None].expand(-1, -1, 4, -1)
        return torch.cat((near - own, own), -1).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(self.edges(x)).amax(3)
        b = F.relu(self.b(self.edges(a))).amax(3)
        y = F.relu(self.c(torch.cat((a, b), 1)))
        return self.last(torch.cat((y.amax(2), y.mean(2)), 1))


@model((2, 20, 3))
class PointTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.q, self.k, self.v = nn.Linear(3, 24), nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 24)
        self.pos, self.att, self.last = mlp(3, 16, 24), mlp(24, 16, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.enter(x))
        pos = self.pos(x[:, :, None] - x[:, None])
        w = self.att(self.q(h)[:, :, None] - self.k(h)[:, None] + pos).softmax(2)
        y = (w * (self.v(h)[:, None] + pos)).sum(2)
        return self.last((h + y).amax(1))


EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 1, 3], [1, 2, 3, 4, 5, 6, 7, 0, 4, 6]])


@model((8, 12), EDGES)
class DenseGCN(nn.Module):
    """A graph by its edges; sums by scattering."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 24), nn.Linear(24, 16), nn.Linear(16, 5)

    @staticmethod
    def spread(x: Tensor, edges: Tensor) -> Tensor:
        return x + torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = F.relu(self.spread(self.a(x), edges))
        return self.c(F.relu(self.spread(self.b(x), edges)))


@model((8, 12), EDGES)
class ScatterGAT(nn.Module):
    """Attention over edges; sums by elements."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.s, self.d, self.c = nn.Linear(12, 32), nn.Linear(8, 1), nn.Linear(8, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.a(x).reshape(-1, 4, 8)
        e = F.leaky_relu(self.s(h)[edges[0]] + self.d(h)[edges[1]], 0.2).exp()
        m = (h[edges[0]] * e).reshape(-1, 32)
        index = edges[1][:, None].expand(-1, 32)
        y = torch.zeros(8, 32).scatter_add(0, index, m)
        return self.c(F.elu(y))


@model((2, 8, 12), (2, 8, 8))
class AdjacencyGCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 24), nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        d = adjacency.abs().sum(-1, keepdim=True).clamp(min=1).rsqrt()
        adjacency = adjacency * d * d.transpose(1, 2)
        x = F.relu(adjacency @ self.a(x))
        return self.c(F.relu(adjacency @ self.b(x)).mean(1))


@model((2, 3, 10, 7))
class STGCN(nn.Module):
    """Of skeletons: convolutions over time, joints mixed by several adjacency matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.adjacency = nn.Parameter(torch.rand(3, 7, 7))
        self.a, self.ta = nn.Conv2d(3, 16 * 3, 1), nn.Conv2d(16, 16, (3, 1), padding=(1, 0))
        self.b, self.tb = nn.Conv2d(16, 24 * 3, 1), nn.Conv2d(24, 24, (3, 1), padding=(1, 0))
        self.last = nn.Linear(24, 5)

    def spread(self, x: Tensor) -> Tensor:
        n, c, t, v = x.shape
        return torch.einsum("nkctv,kvw->nctw", x.reshape(n, 3, c // 3, t, v), self.adjacency)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.ta(F.relu(self.spread(self.a(x)))))
        return self.last(F.relu(self.tb(F.relu(self.spread(self.b(x))))).mean((2, 3)))


# ---------------------------------------------------------------------------------------------- tables, recommendation

IDS = torch.randint(0, 30, (2, 6))


@model((2, 13), IDS)
class DLRM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(30, 16) for _ in range(6))
        self.bottom, self.top = mlp(13, 32, 16, last=True), mlp(16 + 21, 32, 16, 1)
        self.register_buffer("pairs", torch.tril_indices(7, 7, -1))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        x = self.bottom(x)
        t = torch.stack([x, *(table(ids[:, i]) for i, table in enumerate(self.tables))], 1)
        z = t @ t.transpose(1, 2)
        return torch.sigmoid(self.top(torch.cat((x, z[:, self.pairs[0], self.pairs[1]]), 1)))


@model((2, 13), IDS)
class WideAndDeep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.linear, self.table = nn.Embedding(30, 1), nn.Linear(13, 1), nn.Embedding(30, 8)
        self.deep = mlp(61, 32, 16, 1)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        wide = self.wide(ids).sum(1) + self.linear(x)
        return torch.sigmoid(wide + self.deep(torch.cat((self.table(ids).flatten(1), x), 1)))


@model(IDS)
class DeepFM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.table, self.deep = nn.Embedding(30, 1), nn.Embedding(30, 12), mlp(72, 32, 16, 1)

    def forward(self, ids: Tensor) -> Tensor:
        e = self.table(ids)
        pairs = 0.5 * (e.sum(1).square() - e.square().sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(self.first(ids).sum(1) + pairs + self.deep(e.flatten(1)))


@model((2, 24))
class DCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cross, self.deep = nn.ModuleList(nn.Linear(24, 24) for _ in range(2)), mlp(24, 32, 16)
        self.last = nn.Linear(40, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.cross:
            y = x * layer(y) + y
        return self.last(torch.cat((y, self.deep(x)), 1))


@model((2, 24))
class DCNLowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(24, 32)
        self.u, self.v = (
            nn.ModuleList(nn.Linear(8, 32) for _ in range(2)),
            nn.ModuleList(nn.Linear(32, 8) for _ in range(2)),
        )
        self.last = nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x = F.relu(self.enter(x))
        for u, v in zip(self.u, self.v, strict=True):
            y = x * u(v(y)) + y
        return self.last(y)


@model(IDS)
class XDeepFM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(30, 8), nn.Conv1d(36, 12, 1), nn.Conv1d(72, 10, 1)
        self.last = nn.Linear(22, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        n = x.shape[0]
        a = F.relu(self.a(torch.einsum("nhd,nmd->nhmd", x, x).reshape(n, 36, 8)))
        b = F.relu(self.b(torch.einsum("nhd,nmd->nhmd", a, x).reshape(n, 72, 8)))
        return self.last(torch.cat((a.sum(2), b.sum(2)), 1))


@model((2, 20, 16), (2, 16))
class DIN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.att, self.last = nn.Linear(16, 24), mlp(96, 16, 1), mlp(48, 24, 1)

    def forward(self, history: Tensor, item: Tensor) -> Tensor:
        h, i = F.relu(self.e(history)), F.relu(self.e(item))
        q = i[:, None].expand_as(h)
        w = self.att(torch.cat((q, h, q - h, q * h), -1)).transpose(1, 2)
        return self.last(torch.cat(((w @ h).squeeze(1), i), 1))


@model((2, 16), (2, 16))
class TwoTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = mlp(16, 32, 24), mlp(16, 32, 24)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (F.normalize(self.a(a), dim=1) * F.normalize(self.b(b), dim=1)).sum(1, keepdim=True)


@model((2, 16))
class MMoE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp(16, 32, 24, last=True) for _ in range(3))
        self.gates, self.towers = (
            nn.ModuleList(nn.Linear(16, 3) for _ in range(2)),
            nn.ModuleList(mlp(24, 12, 1) for _ in range(2)),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        y = torch.stack([e(x) for e in self.experts], 1)
        return [t((g(x).softmax(1)[..., None] * y).sum(1)) for g, t in zip(self.gates, self.towers, strict=True)]


class Glu(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(a, 2 * b), nn.BatchNorm1d(2 * b)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.bn(self.fc(x)))


@model((4, 12))
class TabNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn, self.shared = nn.BatchNorm1d(12), Glu(12, 16)
        self.steps, self.masks = (
            nn.ModuleList(Glu(16, 16) for _ in range(3)),
            nn.ModuleList(nn.Linear(8, 12) for _ in range(2)),
        )
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        prior, total = torch.ones_like(x), torch.zeros(1)
        h = self.shared(x)
        h = (h + self.steps[0](h)) * math.sqrt(0.5)
        for mask, step in zip(self.masks, self.steps[1:], strict=True):
            m = (mask(h[:, 8:]) * prior).softmax(1)
            prior = prior * (1.3 - m)
            h = self.shared(m * x)
            h = (h + step(h)) * math.sqrt(0.5)
            total = total + F.relu(h[:, :8])
        return self.last(total)


@model((2, 10))
class FTTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(10, 32)), nn.Parameter(torch.randn(10, 32))
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.body, self.last = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x[..., None] * self.weight + self.bias
        return self.last(self.body(torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1))[:, 0])


@model((2, 10))
class PeriodicEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frequency, self.weight = nn.Parameter(torch.randn(10, 8)), nn.Parameter(torch.randn(10, 16, 12))
        self.last = mlp(120, 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = 6.28 * x[..., None] * self.frequency
        x = torch.cat((x.cos(), x.sin()), -1)
        x = F.relu((x[..., None, :] @ self.weight).squeeze(-2))
        return self.last(x.flatten(1))


@model((2, 10))
class TabMBatchEnsemble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.r, self.a, self.s = nn.Parameter(torch.randn(4, 10)), nn.Linear(10, 32), nn.Parameter(torch.randn(4, 32))
        self.b, self.t, self.last = nn.Linear(32, 24), nn.Parameter(torch.randn(4, 24)), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x[:, None] * self.r) * self.s)
        return self.last(F.relu(self.b(x) * self.t)).mean(1)


@model((2, 10))
class KAN(nn.Module):
    """Edges that are splines: a matrix over all basis functions of all inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.spline = (
            nn.ModuleList((nn.Linear(10, 16), nn.Linear(16, 3))),
            nn.ModuleList((nn.Linear(80, 16, bias=False), nn.Linear(128, 3, bias=False))),
        )
        self.register_buffer("grid", torch.linspace(-2, 2, 12))

    def basis(self, x: Tensor) -> Tensor:
        x, g = x[..., None], self.grid
        b = ((x >= g[:-1]) & (x < g[1:])).to(x.dtype)
        for k in range(1, 4):
            left = (x - g[: -(k + 1)]) / (g[k:-1] - g[: -(k + 1)]) * b[..., :-1]
            b = left + (g[k + 1 :] - x) / (g[k + 1 :] - g[1:-k]) * b[..., 1:]
        return b.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        for base, spline in zip(self.base, self.spline, strict=True):
            x = base(F.silu(x)) + spline(self.basis(x)[:, : spline.in_features])
        return x


@model((2, 10))
class FastKAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(80, 16), nn.Linear(128, 16), nn.Linear(128, 3)
        self.register_buffer("grid", torch.linspace(-2, 2, 8))

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.a, self.b, self.c):
            x = layer(torch.exp(-(((x[..., None] - self.grid) / 0.5) ** 2)).flatten(1))
        return x


@model((2, 3), (2, 3))
class NeRF(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = mlp(39, 32, 32, 32, last=True), mlp(71, 32, 32, last=True)
        self.density, self.feature, self.colour = nn.Linear(32, 1), nn.Linear(32, 32), mlp(59, 16, 3)

    @staticmethod
    def encode(x: Tensor, n: int) -> Tensor:
        return torch.cat((x, *(f(2.0**i * x) for i in range(n) for f in (torch.sin, torch.cos))), -1)

    def forward(self, x: Tensor, d: Tensor) -> Tensor:
        e = self.encode(x, 6)
        h = self.b(torch.cat((e, self.a(e)), -1))
        rgb = torch.sigmoid(self.colour(torch.cat((self.feature(h), self.encode(d, 4)), -1)))
        return torch.cat((rgb, F.softplus(self.density(h))), -1)


@model((8, 2))
class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in ((2, 32), (32, 32), (32, 3)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(30 * layer(x))
        return self.layers[-1](x)


@model((4, 6))
class RealNVP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(mlp(3, 24, 24, 6) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros_like(x[:, :1])
        for net in self.nets:
            a, b = x.chunk(2, 1)
            s, t = net(a).chunk(2, 1)
            s = torch.tanh(s)
            x, total = torch.cat((b * s.exp() + t, a), 1), total + s.sum(1, keepdim=True)
        return x, total


@model((2, 4, 8, 8))
class Glow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.ParameterList(torch.randn(4, 4, 1, 1) for _ in range(2))
        self.nets = nn.ModuleList(
            nn.Sequential(conv(2, 16), nn.ReLU(), conv(16, 16, 1), nn.ReLU(), conv(16, 4)) for _ in range(2)
        )
        self.bias, self.scale = nn.Parameter(torch.randn(1, 4, 1, 1)), nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        for mix, net in zip(self.mix, self.nets, strict=True):
            a, b = F.conv2d((x + self.bias) * self.scale.exp(), mix).chunk(2, 1)
            s, t = net(a).chunk(2, 1)
            x = torch.cat((a, (b + t) * torch.sigmoid(s + 2)), 1)
        return x


# ---------------------------------------------------------------------------------------------- sequences


class Chomp(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.n].contiguous()


@model((2, 4, 32))
class TCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.skips = nn.ModuleList(), nn.ModuleList()
        for i, (a, b) in enumerate(((4, 16), (16, 16), (16, 24))):
            d = 2**i
            weight = torch.nn.utils.parametrizations.weight_norm
            self.blocks.append(nn.Sequential(
                weight(nn.Conv1d(a, b, 3, padding=2 * d, dilation=d)), Chomp(2 * d), nn.ReLU(),
                weight(nn.Conv1d(b, b, 3, padding=2 * d, dilation=d)), Chomp(2 * d), nn.ReLU(),
            ))  # fmt: skip
            self.skips.append(nn.Conv1d(a, b, 1) if a != b else nn.Identity())
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block, skip in zip(self.blocks, self.skips, strict=True):
            x = F.relu(block(x) + skip(x))
        return self.last(x[:, :, -1])


@model((2, 1, 64))
class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, dilations = nn.Conv1d(1, 16, 1), (1, 2, 4, 8)
        self.gated = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=d) for d in dilations)
        self.res, self.skip = (
            nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in dilations),
            nn.ModuleList(nn.Conv1d(16, 24, 1) for _ in dilations),
        )
        self.tail = nn.Sequential(nn.ReLU(), nn.Conv1d(24, 24, 1), nn.ReLU(), nn.Conv1d(24, 10, 1))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.head(x), torch.zeros(1)
        for i, (gated, res, skip) in enumerate(zip(self.gated, self.res, self.skip, strict=True)):
            a, b = gated(F.pad(x, (2**i, 0))).chunk(2, 1)
            h = torch.tanh(a) * torch.sigmoid(b)
            x, total = x + res(h), total + skip(h)
        return self.tail(total)


@model((2, 20, 4))
class QuickRNN(nn.Module):
    """GRU, then attention over its steps, as in speech and handwriting."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.score, self.last = (
            nn.GRU(4, 24, batch_first=True, bidirectional=True),
            mlp(48, 16, 1),
            nn.Linear(48, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.rnn(x)
        return self.last((self.score(h).softmax(1) * h).sum(1))


@model((2, 20, 4))
class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.LSTM(4, 24, batch_first=True), nn.LSTMCell(4, 24)
        self.att, self.last = nn.Linear(24, 24), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        memory, (h, c) = self.enc(x)
        h, c, y, ys = h[0], c[0], x[:, -1], []
        for _ in range(3):
            h, c = self.dec(y, (h, c))
            w = (memory @ self.att(h)[..., None]).softmax(1)
            y = self.last(torch.cat((h, (w * memory).sum(1)), 1))
            ys.append(y)
        return torch.stack(ys, 1)


@model((2, 20))
class NBeats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(mlp(20, 32, 32, last=True) for _ in range(3))
        self.theta, self.back, self.fore = (
            nn.ModuleList(nn.Linear(a, b) for _ in range(3)) for a, b in ((32, 8), (4, 20), (4, 5))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(1)
        for block, theta, back, fore in zip(self.blocks, self.theta, self.back, self.fore, strict=True):
            a, b = theta(block(x)).chunk(2, 1)
            x, y = x - back(a), y + fore(b)
        return y


class Grn(nn.Module):
    def __init__(self, a: int, n: int, b: int) -> None:
        super().__init__()
        self.a, self.b, self.gate, self.skip, self.norm = (
            nn.Linear(a, n),
            nn.Linear(n, n),
            nn.Linear(n, 2 * b),
            nn.Linear(a, b),
            nn.LayerNorm(b),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.skip(x) + F.glu(self.gate(self.b(F.elu(self.a(x))))))


@model((2, 12, 5))
class TemporalFusion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.vars = (
            nn.ModuleList(nn.Linear(1, 16) for _ in range(5)),
            nn.ModuleList(Grn(16, 16, 16) for _ in range(5)),
        )
        self.select, self.lstm, self.att = (
            Grn(80, 16, 5),
            nn.LSTM(16, 16, batch_first=True),
            nn.MultiheadAttention(16, 4, batch_first=True),
        )
        self.gate, self.last = Grn(16, 16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        e = [f(x[..., i : i + 1]) for i, f in enumerate(self.embed)]
        w = self.select(torch.cat(e, -1)).softmax(-1)
        v = torch.stack([g(y) for g, y in zip(self.vars, e, strict=True)], -1)
        h, _ = self.lstm((v * w[..., None, :]).sum(-1))
        a, _ = self.att(h, h, h, need_weights=False)
        return self.last(self.gate(h + a)[:, -1])


@model((2, 24, 7))
class TSMixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time, self.feature, self.last = nn.Linear(24, 24), mlp(7, 16, 7), nn.Linear(24, 6)
        self.norm = nn.BatchNorm1d(24)

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.relu(self.time(self.norm(x).transpose(1, 2))).transpose(1, 2)
        x = x + self.feature(x)
        return self.last(x.transpose(1, 2)).transpose(1, 2)


@model((2, 24, 7))
class DLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = mlp(24, 32, 6), mlp(24, 32, 6)

    def forward(self, x: Tensor) -> Tensor:
        t = F.avg_pool1d(F.pad(x.transpose(1, 2), (2, 2), mode="replicate"), 5, 1)
        return (self.a(t) + self.b(x.transpose(1, 2) - t)).transpose(1, 2)


@model((2, 32, 7))
class PatchTST(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.pos = nn.Linear(8, 32), nn.Parameter(torch.randn(7, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.body, self.last = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(224, 6)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = x.transpose(1, 2).unfold(2, 8, 4).reshape(-1, 7, 8)
        return self.last(self.body(self.enter(x) + self.pos).reshape(n, 7, 224)).transpose(1, 2)


@model((2, 10, 24))
class MambaBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.conv = nn.Linear(24, 64, bias=False), nn.Conv1d(32, 32, 3, groups=32, padding=2)
        self.x, self.dt, self.out = nn.Linear(32, 4 + 16), nn.Linear(4, 32), nn.Linear(32, 24, bias=False)
        self.a, self.d, self.norm = nn.Parameter(torch.rand(32, 8)), nn.Parameter(torch.randn(32)), nn.RMSNorm(24)

    def forward(self, x: Tensor) -> Tensor:
        h, z = self.enter(self.norm(x)).chunk(2, -1)
        h = F.silu(self.conv(h.transpose(1, 2))[:, :, :10].transpose(1, 2))
        dt, b, c = self.x(h).split((4, 8, 8), -1)
        dt = F.softplus(self.dt(dt))
        decay, into = torch.exp(-dt[..., None] * self.a), dt[..., None] * b[:, :, None] * h[..., None]
        state, ys = torch.zeros(1), []
        for t in range(10):
            state = decay[:, t] * state + into[:, t]
            ys.append((state * c[:, t, None]).sum(-1))
        return x + self.out((torch.stack(ys, 1) + self.d * h) * F.silu(z))


@model((2, 10, 24))
class Mamba2Block(nn.Module):
    """State-space duality: heads, decays by segment sums, products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out, self.norm = nn.Linear(24, 32 + 32 + 16 + 4), nn.Linear(32, 24), nn.RMSNorm(32)
        self.conv, self.a, self.d = (
            nn.Conv1d(48, 48, 3, groups=48, padding=2),
            nn.Parameter(torch.rand(4)),
            nn.Parameter(torch.randn(4)),
        )

    def forward(self, u: Tensor) -> Tensor:
        n, length, _ = u.shape
        z, xbc, dt = self.enter(u).split((32, 48, 4), -1)
        xbc = F.silu(self.conv(xbc.transpose(1, 2))[:, :, :length].transpose(1, 2))
        x, b, c = xbc.split((32, 8, 8), -1)
        x, dt = x.reshape(n, length, 4, 8), F.softplus(dt)
        s = (-dt * self.a).cumsum(1).transpose(1, 2)
        decay = torch.exp((s[..., None] - s[..., None, :]).tril()).tril()
        y = ((c @ b.transpose(1, 2))[:, None] * decay * dt.transpose(1, 2)[:, :, None]) @ x.transpose(1, 2)
        y = (y.transpose(1, 2) + x * self.d[:, None]).reshape(n, length, 32)
        return u + self.out(self.norm(y * F.silu(z)))


@model((2, 10, 24))
class RWKVBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.rand(5, 24))
        self.r, self.k, self.v, self.o = (nn.Linear(24, 24, bias=False) for _ in range(4))
        self.fk, self.fv, self.fr = nn.Linear(24, 64), nn.Linear(64, 24), nn.Linear(24, 24)
        self.w, self.u, self.n1, self.n2 = (
            nn.Parameter(torch.rand(24)),
            nn.Parameter(torch.rand(24)),
            nn.LayerNorm(24),
            nn.LayerNorm(24),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.n1(x)
        p = F.pad(y, (0, 0, 1, -1))
        k, v, r = (f(y * m + p * (1 - m)) for f, m in zip((self.k, self.v, self.r), self.mix, strict=False))
        a = b = torch.zeros(1)
        out = []
        for t in range(10):
            e = torch.exp(self.u + k[:, t])
            out.append((a + e * v[:, t]) / (b + e))
            a, b = torch.exp(-self.w) * a + k[:, t].exp() * v[:, t], torch.exp(-self.w) * b + k[:, t].exp()
        x = x + self.o(torch.sigmoid(r) * torch.stack(out, 1))
        y = self.n2(x)
        p = F.pad(y, (0, 0, 1, -1))
        h = F.relu(self.fk(y * self.mix[3] + p * (1 - self.mix[3]))).square()
        return x + torch.sigmoid(self.fr(y * self.mix[4] + p * (1 - self.mix[4]))) * self.fv(h)


@model((2, 10, 24))
class Hyena(nn.Module):
    """Gated long convolutions, and S4D's kernels, by real matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.short = nn.Linear(24, 96), nn.Conv1d(96, 96, 3, groups=96, padding=2)
        self.filter, self.out = mlp(5, 16, 32), nn.Linear(32, 24)
        t = torch.linspace(0, 1, 10)
        self.register_buffer(
            "time", torch.stack((t, *(f(6.28 * k * t) for k in (1, 2) for f in (torch.sin, torch.cos))), 1)
        )
        index = torch.arange(10)[:, None] - torch.arange(10)
        self.register_buffer("index", index.clamp(min=0))
        self.register_buffer("causal", (index >= 0).float())

    def forward(self, x: Tensor) -> Tensor:
        y = self.short(self.enter(x).transpose(1, 2))[:, :, :10]
        a, b, v = y.split(32, 1)
        toeplitz = self.filter(self.time).t()[:, self.index] * self.causal
        v = (toeplitz @ (v * a)[..., None]).squeeze(-1)
        return self.out((v * b).transpose(1, 2))


@model((2, 10, 32))
class LinearAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        y = q @ (k.transpose(-1, -2) @ v) / (q @ k.sum(-2)[..., None])
        return self.out(y.transpose(1, 2).reshape(n, length, 32))


@model((2, 12, 32))
class FNet(nn.Module):
    """Fourier mixing as products with constant matrices, as it is exported."""

    def __init__(self) -> None:
        super().__init__()
        n, m = (torch.outer(torch.arange(k), torch.arange(k)) * 2 * math.pi / k for k in (12, 32))
        for name, value in (("cs", n.cos()), ("ss", n.sin()), ("ch", m.cos()), ("sh", m.sin())):
            self.register_buffer(name, value)
        self.ffn, self.norm, self.last = mlp(32, 64, 32), nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.cs @ x @ self.ch - self.ss @ x @ self.sh)
        return self.last((x + self.ffn(x)).mean(1))


@model((2, 20, 16))
class Conformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.f1, self.f2 = nn.Linear(16, 32), mlp(32, 64, 32), mlp(32, 64, 32)
        self.att, self.norm = nn.MultiheadAttention(32, 4, batch_first=True), nn.LayerNorm(32)
        self.conv = nn.Sequential(
            nn.Conv1d(32, 64, 1),
            nn.GLU(1),
            nn.Conv1d(32, 32, 5, padding=2, groups=32),
            nn.BatchNorm1d(32),
            nn.SiLU(),
            nn.Conv1d(32, 32, 1),
        )
        self.last = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + 0.5 * self.f1(x)
        y = self.norm(x)
        x = x + self.att(y, y, y, need_weights=False)[0]
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        return self.last(self.norm(x + 0.5 * self.f2(x)))


@model((2, 12, 16), (2, 9, 16))
class DecoderWithCross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 32), nn.Linear(16, 32)
        self.body, self.last = nn.Transformer(32, 4, 1, 1, 64, batch_first=True), nn.Linear(32, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(self.body(self.a(x), self.b(y)))


@model((2, 32, 16))
class Perceiver(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.latent, self.kv, self.q = nn.Parameter(torch.randn(6, 32)), nn.Linear(16, 64), nn.Linear(32, 32)
        self.o, self.ffn, self.last = nn.Linear(32, 32), mlp(32, 64, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        q = self.q(self.latent).reshape(1, 6, 4, 8).transpose(1, 2)
        k, v = self.kv(x).reshape(n, 32, 2, 4, 8).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-1, -2)) * 8**-0.5).softmax(-1) @ v
        y = self.latent + self.o(y.transpose(1, 2).reshape(n, 6, 32))
        return self.last((y + self.ffn(y)).mean(1))


@model((2, 10, 16))
class DiagonalSSM(nn.Module):
    """S4D in two channels per state, one real and one imaginary."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.c, self.d = nn.Linear(16, 48), nn.Linear(48, 16), nn.Linear(16, 16)
        self.re, self.im = nn.Parameter(torch.rand(24)), nn.Parameter(torch.rand(24))

    def forward(self, u: Tensor) -> Tensor:
        a, b = self.b(u).chunk(2, -1)
        x = y = torch.zeros(1)
        out = []
        for t in range(10):
            x, y = self.re * x - self.im * y + a[:, t], self.re * y + self.im * x + b[:, t]
            out.append(torch.cat((x, y), -1))
        return F.gelu(self.c(torch.stack(out, 1)) + self.d(u))


@model((2, 10, 32))
class SoftMoE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phi = nn.Parameter(torch.randn(32, 6))
        self.w1, self.w2 = nn.Parameter(torch.randn(3, 32, 48) * 0.2), nn.Parameter(torch.randn(3, 48, 32) * 0.2)
        self.last = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits = x @ self.phi
        slots = (logits.softmax(1).transpose(1, 2) @ x).reshape(-1, 3, 2, 32)
        y = torch.einsum("besd,edh->besh", slots, self.w1)
        y = torch.einsum("besh,ehd->besd", F.gelu(y), self.w2).reshape(-1, 6, 32)
        return self.last(logits.softmax(2) @ y)


@model((4, 12))
class DuelingDQN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.value, self.advantage = mlp(12, 32, 32, last=True), mlp(32, 16, 1), mlp(32, 16, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        a = self.advantage(h)
        return self.value(h) + a - a.mean(1, keepdim=True)


@model((4, 12), (4, 24))
class ActorRNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.cell, self.mean, self.std = (
            mlp(12, 32, 20),
            nn.GRUCell(20, 24),
            nn.Linear(24, 3),
            nn.Parameter(torch.randn(3)),
        )

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        h = self.cell(self.enter(x), h)
        mean = torch.tanh(self.mean(h))
        return mean, self.std.exp().expand_as(mean), h


@model((2, 5, 10), (2, 10))
class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.phi, self.query, self.rho = mlp(10, 32, 24), mlp(10, 24), mlp(72, 24, 3)

    def forward(self, x: Tensor, q: Tensor) -> Tensor:
        h = self.phi(x)
        return self.rho(torch.cat((h.sum(1), h.amax(1), self.query(q)), 1))


@model((2, 10))
class NeuralODE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.f, self.last = nn.Linear(10, 24), mlp(25, 32, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        for i in range(3):
            t = torch.full_like(y[:, :1], i / 3)
            a = self.f(torch.cat((y, t), 1))
            y = y + 0.3 * (a + self.f(torch.cat((y + 0.3 * a, t), 1))) / 2
        return self.last(y)


@model((2, 10))
class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.mean, self.var, self.dec = (
            mlp(10, 32, 24, last=True),
            nn.Linear(24, 8),
            nn.Linear(24, 8),
            mlp(8, 24, 10),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.enc(x)
        mean, var = self.mean(h), self.var(h)
        return self.dec(mean + torch.randn_like(mean) * (0.5 * var).exp() * 0), mean, var


@model((2, 12))
class LoRA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.down, self.up, self.b = (
            nn.Linear(12, 32),
            nn.Linear(12, 4, bias=False),
            nn.Linear(4, 32, bias=False),
            nn.Linear(32, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.gelu(self.a(x) + 2 * self.up(self.down(x))))


@model((2, 12))
class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 32), nn.Linear(32, 16)
        self.c, self.d = nn.Parameter(torch.randn(32)), nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.b(F.relu(self.a(x))))
        return F.linear(F.relu(F.linear(z, self.b.weight.t(), self.c)), self.a.weight.t(), self.d)


@model((2, 12))
class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.form, self.last = (
            nn.Linear(12, 16),
            nn.Linear(12, 20),
            nn.Bilinear(16, 20, 10),
            nn.Linear(10, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.form(F.relu(self.a(x)), F.relu(self.b(x)))))


@model((2, 12))
class WeightNormMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.utils.parametrizations.weight_norm(nn.Linear(*s)) for s in ((12, 32), (32, 24)))
        self.c = nn.utils.parametrizations.spectral_norm(nn.Linear(24, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


@model((2, 16, 3, 3))
class ArcFace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.fc = conv(16, 24), nn.BatchNorm2d(24), nn.Linear(216, 32)
        self.bn1, self.centres = nn.BatchNorm1d(32), nn.Parameter(torch.randn(10, 32))

    def forward(self, x: Tensor) -> Tensor:
        e = self.bn1(self.fc(self.bn(F.prelu(self.a(x), torch.tensor([0.2]))).flatten(1)))
        return 64 * F.linear(F.normalize(e), F.normalize(self.centres))


@model((2, 3, 16, 16))
class OrientedPooling(nn.Module):
    """Pooling by sorting, and by order (top-k over channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = conv(3, 16), conv(16, 24), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.b(F.relu(self.a(x)))).flatten(2)
        return self.last(torch.cat((x.topk(4, 2).values.mean(2), x.sort(2).values[:, :, 128]), 1))


@model((2, 3, 16, 16))
class ShuffleGhost(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.a, self.cheap, self.last = (
            conv(3, 16),
            conv(16, 16, 1, groups=4),
            conv(16, 16, groups=16),
            conv(32, 5, 1, groups=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.channel_shuffle(F.relu(self.a(F.relu(self.head(x)))), 4)
        return self.last(torch.cat((x, self.cheap(x)), 1))


@model((2, 3, 16, 16))
class PartialConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.a, self.b, self.last = conv(3, 16), conv(4, 4), conv(16, 32, 1), conv(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        y = torch.cat((self.a(x[:, :4]), x[:, 4:]), 1)
        return self.last(F.relu(self.b(y)))


@model((2, 3, 16, 16))
class ShiftNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = conv(3, 20, 1), conv(20, 20, 1), conv(20, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        p = F.pad(x, (1, 1, 1, 1))
        moved = [
            p[:, 4 * i : 4 * i + 4, 1 + dy : 17 + dy, 1 + dx : 17 + dx]
            for i, (dy, dx) in enumerate(((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)))
        ]
        return self.last(F.relu(self.b(torch.cat(moved, 1))))


@model((2, 8, 3, 16, 16))
class TSM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = conv(3, 16), conv(16, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        x = F.relu(self.a(x.reshape(-1, 3, 16, 16))).reshape(n, 8, 16, 16, 16)
        back, ahead, rest = x.split((2, 2, 12), 2)
        x = torch.cat((F.pad(back[:, 1:], (0,) * 7 + (1,)), F.pad(ahead[:, :-1], (0,) * 6 + (1, 0)), rest), 2)
        return self.last(F.relu(self.b(x.reshape(-1, 16, 16, 16))).mean((2, 3)).reshape(n, 8, 24).mean(1))


@model((2, 3, 16, 16))
class OctConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hh, self.hl, self.lh, self.ll = conv(8, 12), conv(8, 6), conv(8, 12), conv(8, 6)
        self.high, self.low, self.last = conv(3, 8), conv(3, 8), conv(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        h, low = F.relu(self.high(x)), F.relu(self.low(F.avg_pool2d(x, 2)))
        a = self.hh(h) + F.interpolate(self.lh(low), scale_factor=2.0)
        b = self.ll(low) + self.hl(F.avg_pool2d(h, 2))
        return self.last(F.relu(torch.cat((a, F.interpolate(b, scale_factor=2.0)), 1)))


@model((2, 3, 16, 16))
class SAGAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.f, self.g, self.h = conv(3, 24), conv(24, 6, 1), conv(24, 6, 1), conv(24, 24, 1)
        self.gamma, self.last = nn.Parameter(torch.tensor([0.5])), conv(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.head(x))
        f, g, h = self.f(x).flatten(2), self.g(x).flatten(2), self.h(x).flatten(2)
        y = torch.bmm(h, torch.bmm(f.transpose(1, 2), g).softmax(1))
        return self.last(self.gamma * y.reshape_as(x) + x)


@model((2, 3, 16, 16))
class DANetChannel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.last = conv(3, 16), conv(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.head(x))
        f = x.flatten(2)
        y = (f @ f.transpose(1, 2)).softmax(-1) @ f
        return self.last(x + y.reshape_as(x))
