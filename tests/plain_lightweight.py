"""The generator of HugGAN's Lightweight GAN in plain torch, with random weights: what ours has to draw like."""

import torch
import torch.nn.functional as F
from torch import nn

WIDTHS = {8: 10, 16: 9, 32: 8, 64: 6, 128: 4, 256: 3, 512: 3, 1024: 3}
SOURCES = {16: 128, 32: 256, 64: 512, 128: 1024}  # side of a map → that of the one whose channels it gates


class Blur(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("f", torch.tensor([1.0, 2.0, 1.0]))

    def forward(self, x):
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        for axis in (2, 3):
            n = x.shape[axis] - 2
            x = sum(x.narrow(axis, i, n) * weight / 4 for i, weight in enumerate(self.f))
        return x


class Context(nn.Module):
    """Weighted by where the map looks at."""

    def __init__(self, before, after):
        super().__init__()
        self.to_k = nn.Conv2d(before, 1, 1)
        middle = max(3, after // 2)
        self.net = nn.Sequential(
            nn.Conv2d(before, middle, 1), nn.LeakyReLU(0.1), nn.Conv2d(middle, after, 1), nn.Sigmoid()
        )

    def forward(self, x):
        weights = self.to_k(x).flatten(1).softmax(1)
        return self.net(torch.einsum("np,ncp->nc", weights, x.flatten(2))[:, :, None, None])


class Frequencies(nn.Module):
    """Weighted by fixed patterns."""

    def __init__(self, before, after, side):
        super().__init__()
        self.register_buffer("dct_weights", torch.randn(1, before, side, side) / side)
        middle = max(3, after // 4)
        self.net = nn.Sequential(
            nn.Conv2d(before, middle, 1), nn.LeakyReLU(0.1), nn.Conv2d(middle, after, 1), nn.Sigmoid()
        )

    def forward(self, x):
        return self.net((x * self.dct_weights).sum((2, 3), keepdim=True))


class ChannelNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.g, self.b = (nn.Parameter(torch.rand(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x):
        return (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt() * self.g + self.b


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.to_q = nn.Conv2d(channels, 512, 1, bias=False)
        self.to_kv = nn.Module()
        self.to_kv.net = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, 1024, 1, bias=False),
        )
        self.to_out = nn.Conv2d(512, channels, 1)

    def forward(self, x):
        q, kv = self.to_q(x), self.to_kv.net(x)
        heads = []
        for h in range(8):
            own, key, value = (part[:, 64 * h : 64 * h + 64].flatten(2) for part in (q, kv[:, :512], kv[:, 512:]))
            own, key = own.softmax(1) / 8, key.softmax(2)
            context = torch.einsum("ndp,nep->nde", key, value)
            heads.append(torch.einsum("ndp,nde->nep", own, context))
        return self.to_out(F.gelu(torch.cat(heads, 1).view(len(x), 512, *x.shape[2:])))


class Normed(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fn, self.norm = Attention(channels), ChannelNorm(channels)

    def forward(self, x):
        return self.fn(self.norm(x))


class PlainLightweightGAN(nn.Module):
    """`attended`: sides of the maps that attention adds to."""

    def __init__(self, resolution=32, z_dim=6, colours=3, blurred=False, frequencies=False, attended=()):
        super().__init__()
        self.initial_conv = nn.Sequential(nn.ConvTranspose2d(z_dim, 2 * z_dim, 4), nn.BatchNorm2d(2 * z_dim), nn.GLU(1))
        self.layers, before = nn.ModuleList(), z_dim
        self.sides = [side for side in WIDTHS if side <= resolution]
        for side in self.sides:
            blur, width = Blur() if blurred else nn.Identity(), WIDTHS[side]
            conv = nn.Conv2d(before, 2 * width, 3, padding=1)
            up = nn.Sequential(nn.Upsample(scale_factor=2), blur, conv, nn.BatchNorm2d(2 * width), nn.GLU(1))
            target = WIDTHS.get(SOURCES.get(side)) if SOURCES.get(side, 2048) <= resolution else None
            gate = target and (Frequencies(width, target, side) if frequencies else Context(width, target))
            self.layers.append(nn.ModuleList([up, gate, Normed(before) if side // 2 in attended else None]))
            before = width
        self.out_conv = nn.Conv2d(before, colours, 3, padding=1)

    def forward(self, z):
        x = self.initial_conv(z[:, :, None, None])
        x, gates = x / x.norm(dim=1, keepdim=True), {}
        for side, (up, gate, attention) in zip(self.sides, self.layers, strict=True):
            x = up(x if attention is None else attention(x) + x)
            if gate is not None:
                gates[SOURCES[side]] = gate(x)
            x = x * gates.get(side, 1)
        return self.out_conv(x)


def plain_lightweight(*, seed=0, **options):
    """A generator whose batch norms have seen some pictures, as after a training; pictures around 0 … 1."""
    torch.manual_seed(seed)
    made = PlainLightweightGAN(**options)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(1, 4)
                module.bias.normal_(0, 0.3)
        for _ in range(min(20, 1024 // made.sides[-1])):
            made(torch.randn(4, options.get("z_dim", 6)))
    return made.eval()
