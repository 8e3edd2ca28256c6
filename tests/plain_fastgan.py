"""FastGAN in plain torch, with random weights, under the names of three implementations: what ours has to draw like."""

import zlib

import numpy as np
import torch
from torch import nn
from torch.nn.utils import spectral_norm

WIDTHS = {4: 8, 8: 7, 16: 6, 32: 5, 64: 4, 128: 4, 256: 3, 512: 2, 1024: 2}


class Named(nn.Module):
    """One module inside another, by a name of its own."""

    def __init__(self, name, inner):
        super().__init__()
        self.name = name
        self.add_module(name, inner)

    def forward(self, x):
        return self.get_submodule(self.name)(x)


class Noise(nn.Module):
    """The same noise for every picture: standard normal numbers that follow from our name of the tensor."""

    def __init__(self, weight, name, side):
        super().__init__()
        self.name = weight
        self.register_parameter(weight, nn.Parameter(torch.randn(1) / 10))
        drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal((side, side))
        self.noise = torch.from_numpy(drawn.astype(np.float32))

    def forward(self, x):
        return x + self.get_parameter(self.name) * self.noise


class PlainFastGAN(nn.Module):
    """`layout`: whose names; `twice`: sides of the blocks that convolve twice; `norm`: a spectral norm, or None."""

    def __init__(
        self, layout="huggan", resolution=64, twice=(8, 32, 128, 512), z_dim=6, norm=spectral_norm, small=False
    ):
        super().__init__()
        self.layout, self.norm, self.resolution = layout, norm or (lambda conv: conv), resolution
        self.sides = [side for side in WIDTHS if side <= resolution]
        self.add("init", self.inside("init", self.start(z_dim, WIDTHS[4])))
        for side in self.sides[1:]:
            block = self.block(side, WIDTHS[side // 2], WIDTHS[side], side in twice)
            self.add(f"feat_{side}", self.inside("", block))
            if 64 <= side <= 512:
                self.add(f"se_{side}", self.inside("main", self.gate(WIDTHS[side // 16], WIDTHS[side])))
        self.add("to_big", self.output(WIDTHS[resolution], 3, layout == "projected-gan"))
        if small:
            self.add("to_128", self.output(WIDTHS[128], 1, False))

    def add(self, name, module):
        words = {"init": "_init", "feat": "_upsample", "se": "_sle", "to": "_out"}
        if self.layout == "huggan":
            first, _, side = name.partition("_")
            name = "_".join(filter(None, (words[first], side.replace("big", f"{self.resolution}"))))
        if self.layout == "projected-gan" and not hasattr(self, "synthesis"):
            self.synthesis = nn.Module()
        (self.synthesis if self.layout == "projected-gan" else self).add_module(name, module)
        self.__dict__.setdefault("parts", []).append(module)

    def inside(self, name, module):
        name = "_layers" if self.layout == "huggan" else name
        return Named(name, module) if name else module

    def conv(self, kind, *sizes, **options):
        conv = self.norm(kind(*sizes, **{"bias": False, **options}))
        return Named("_conv", conv) if self.layout == "huggan" else conv

    def start(self, z_dim, width):
        return nn.Sequential(self.conv(nn.ConvTranspose2d, z_dim, 2 * width, 4), *self.rest(width))

    def rest(self, width, side=0, number=0):
        weight = "_weight" if self.layout == "huggan" else "weight"
        noise = [Noise(weight, f"map{side}.noise{number}.noise", side)] if number else []
        return [*noise, nn.BatchNorm2d(2 * width), nn.GLU(1)]

    def block(self, side, before, width, twice):
        modules = [nn.Upsample(scale_factor=2), self.conv(nn.Conv2d, before, 2 * width, 3, padding=1)]
        modules += self.rest(width, side, int(twice))
        if twice:
            modules += [self.conv(nn.Conv2d, width, 2 * width, 3, padding=1), *self.rest(width, side, 2)]
        return nn.Sequential(*modules)

    def gate(self, before, width):
        first, second = self.conv(nn.Conv2d, before, width, 4), self.conv(nn.Conv2d, width, width, 1)
        return nn.Sequential(nn.AdaptiveAvgPool2d(4), first, nn.SiLU(), second, nn.Sigmoid())

    def output(self, width, kernel, bias):
        conv = self.conv(nn.Conv2d, width, 3, kernel, padding=kernel // 2, bias=bias)
        return nn.Sequential(conv, nn.Tanh()) if self.layout == "huggan" else conv

    def forward(self, z):
        if self.layout == "projected-gan":
            z = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
        parts = iter(self.parts)
        maps = {4: next(parts)(z[:, :, None, None])}
        for side in self.sides[1:]:
            maps[side] = next(parts)(maps[side // 2])
            if 64 <= side <= 512:
                maps[side] = maps[side] * next(parts)(maps[side // 16])
        picture = next(parts)(maps[self.resolution])
        return picture.tanh() if self.layout == "fastgan-pytorch" and self.resolution == 1024 else picture


def plain_fastgan(layout="huggan", *, seed=0, z_dim=6, **options):
    """A generator whose batch norms and spectral norms have seen some pictures, as after a training."""
    torch.manual_seed(seed)
    made = PlainFastGAN(layout, z_dim=z_dim, **options)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(1, 4)
                module.bias.normal_(0, 0.3)
        for _ in range(20 if made.resolution < 128 else 4):
            made(torch.randn(8, z_dim))
    made.options = {"layout": layout, "z_dim": z_dim, **options}
    return made.eval()
