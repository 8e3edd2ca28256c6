"""FastGAN (Liu et al. 2021): layer1, layer2 …, then one output; also as the generator of Projected GAN.

A transposed convolution makes a map of 4×4 places from the latent. Each further block doubles the side by repeating
every place, and convolves once or twice. After each convolution come batch norm and a gated linear unit: the first half
of the channels times the sigmoid of the second. Blocks of two convolutions add noise before each batch norm. Maps of 4
to 32 places a side also make a gate for each channel of the map of 16 times their side (skip-layer excitation).

The memory is the convolution alone, so it is exactly linear: its keys are the map after its side is doubled, its values
have both halves of the channels, and all else belongs to `step`. Weights are those that spectral norm leaves.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewriter.checks import flag
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.latents import fixed_noise
from rewriter.generators.layer import Features, LayerInfo, pixel_norm, random_weight
from rewriter.generators.parts import SHRUNK, BatchNorm, Conv, NormedLayers, TransposedConv, advice
from rewriter.generators.shapes import Shapes, largest

SIDES = tuple(4 * 2**i for i in range(9))  # of maps: 4 … 1024
GATED = (64, 128, 256, 512)  # sides of maps whose channels are scaled by gates
APART = 16  # side of a gated map in terms of the one that its gates are computed from


@dataclass(frozen=True)
class FastGANConfig:
    """Architecture: `channels` maps each side (4, 8 … up to the picture's) to its features, after gating."""

    channels: Mapping[int, int]
    twice: Collection[int] = ()  # sides of the blocks that convolve twice, and add noise
    z_dim: int = 256
    bias: bool = False  # whether the output has one
    small: bool = False  # whether there is an output of 128 px, which only training looks at
    normalize: bool = False  # whether latents are divided by their root mean square
    tanh: bool = True  # whether the picture is what tanh makes of the output

    def __post_init__(self) -> None:
        if tuple(self.channels) != SIDES[: len(self.channels)] or len(self.channels) < 2:
            raise InputError(f"a FastGAN has maps of 4, 8 … up to 1024 places a side, not {list(self.channels)[:12]}")

    @property
    def resolution(self) -> int:
        """Side of the picture in pixels."""
        return max(self.channels)


class Noise(nn.Module):
    """Fixed noise, the same for all channels, times a learned strength. The original draws it for every picture."""

    noise: Tensor

    def __init__(self, side: int):
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(1))
        self.register_buffer("noise", random_weight(side, side))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, side, side) → the same shape."""
        return x + self.strength * self.noise


class Gate(nn.Module):
    """One factor between 0 and 1 for each channel of a map, from a smaller map."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = Conv(inputs, outputs, kernel=4, padding=0)
        self.conv2 = Conv(outputs, outputs, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) → (n, outputs, 1, 1)."""
        hidden = F.silu(self.conv1.recall(F.adaptive_avg_pool2d(x, 4), None))
        return self.conv2.recall(hidden, None).sigmoid()


class FastGAN(NormedLayers, Generator):
    """A FastGAN generator of any width, up to 1024 px, with fixed noise.

    It has no w: truncation multiplies z, which gathers pictures around the one of z = 0. Where latents are normalised,
    it multiplies the normalised ones; the code of Projected GAN ignores it.
    """

    architecture = "fastgan"
    gated = True
    kind = "FastGAN"
    unseen = "fixed noise, where its own code draws it anew for every picture"
    limits = SHRUNK
    pattern = r"map\d+\.(conv|norm)\d\."
    SETTINGS = MappingProxyType({"normalize": flag, "tanh": flag})

    def __init__(self, config: FastGANConfig, *, name: str = "fastgan"):
        super().__init__()
        self.config, self.name = config, name
        self.zdim, self.resolution = config.z_dim, config.resolution
        self.layers: dict[str, LayerInfo] = {}
        self._places: dict[str, tuple[int, int]] = {}  # of a layer: the side of its block, and 1 or 2
        previous = config.z_dim
        for side, channels in config.channels.items():
            block = nn.Module()
            self.add_module(f"map{side}", block)
            for i in (1, 2) if side in config.twice else (1,):
                self._layer(block, side, i, previous, 2 * channels)
                previous = channels
            if side in GATED:
                self.add_module(f"gate{side}", Gate(config.channels[side // APART], channels))
        self._last = {side: layer for layer, (side, _) in self._places.items()}  # layer of each block
        self.output = Conv(previous, 3, kernel=3, bias=config.bias)
        if config.small:
            self.small = Conv(config.channels[128], 3, kernel=1)
        self.advice = advice(self.layers)
        self.requires_grad_(False)

    def _layer(self, block: nn.Module, side: int, number: int, inputs: int, outputs: int) -> None:
        first, layer = side == SIDES[0], f"layer{len(self.layers) + 1}"
        conv = TransposedConv(inputs, outputs, stride=1, bias=False) if first else Conv(inputs, outputs, kernel=3)
        block.add_module(f"conv{number}", conv)
        block.add_module(f"norm{number}", BatchNorm(outputs))
        if side in self.config.twice:
            block.add_module(f"noise{number}", Noise(side))
        kernel, keys = conv.weight.shape[-1], 1 if first else side
        self.layers[layer] = LayerInfo(layer, inputs, outputs, kernel, keys, side)
        self._places[layer] = side, number

    @staticmethod
    def sizes(names: Iterable[str]) -> tuple[int, ...]:
        """Side of the picture in a state dict with these names, and the sides of the blocks that convolve twice."""
        names = list(names)
        later = {match[1] for name in names if (match := re.match(r"map(\d+)\.(\w+2|noise1)\.", name))}
        return (largest(r"map(\d+)\.", names, most=SIDES[-1]), *(side for side in SIDES if f"{side}" in later))

    @classmethod
    def from_shapes(cls, shapes: Shapes, **settings: Any) -> FastGAN:
        """Channels from the convolutions."""
        resolution, *twice = cls.sizes(shapes.state)
        sides = [side for side in SIDES if side <= resolution]
        channels = {side: shapes.size(f"map{side}.conv1.weight", 0, rank=4) // 2 for side in sides}
        z_dim, colours = shapes.size("map4.conv1.weight", 1, rank=4), shapes.size("output.weight", 0, rank=4)
        if colours != 3:
            raise InputError(f"its output has {colours} channels, a picture has 3: is the file whole?")
        small = "small.weight" in shapes.state and 128 in channels
        return cls(FastGANConfig(channels, twice, z_dim, "output.bias" in shapes.state, small, **settings))

    def settings(self) -> dict[str, Any]:
        """Whether latents are normalised, and whether pictures pass through tanh."""
        return {"normalize": self.config.normalize, "tanh": self.config.tanh}

    def fingerprint_extra(self) -> str:
        """The settings that are on: without them, the same weights draw other pictures."""
        return " ".join(name for name, on in self.settings().items() if on)

    def derive(self, name: str, state: Mapping[str, Tensor]) -> Tensor:
        """Noise, which no file holds."""
        return fixed_noise(name, self.get_buffer(name).shape[-1])

    def part(self, layer: str, kind: str) -> nn.Module:
        """A module of a layer."""
        side, number = self._places[self.layer(layer).name]
        return self.get_submodule(f"map{side}.{kind}{number}")

    def receptive_field(self, layer: str) -> int:
        """How far a key of this layer reaches through the convolutions; the output's reaches a pixel further.

        What it does to gates is left out: through them, keys of maps up to 32 places a side reach everywhere.
        """
        return super().receptive_field(layer) + 1

    def embed(self, z: Tensor, truncation: float) -> Tensor:
        """Latents, normalised where they are in the code that the weights are from, times ψ."""
        return (pixel_norm(z) if self.config.normalize else z) * truncation

    def enter(self, latents: Tensor) -> Features:
        """Latents as a 1×1 map."""
        return Features("layer1", latents[:, :, None, None])

    def step(self, features: Features, values: Tensor) -> Features | Tensor:
        """Noise, batch norm and the gated linear unit; at the end of a block its gates, and the doubled side."""
        side, gates = self._places[features.layer][0], dict(features.gates)
        x = self.part(features.layer, "noise")(values) if side in self.config.twice else values
        x = F.glu(self.norm(features.layer)(x), 1)
        following = f"layer{int(features.layer.removeprefix('layer')) + 1}"
        if features.layer != self._last[side]:
            return Features(following, x, gates=gates)
        if features.layer in gates:
            x = x * gates.pop(features.layer)
        if (gated := APART * side) in GATED and gated in self._last:
            gates[self._last[gated]] = self.get_submodule(f"gate{gated}")(x)
        if following in self.layers:
            return Features(following, F.interpolate(x, scale_factor=2.0), gates=gates)
        picture = self.output.recall(x, None)
        return picture.tanh() if self.config.tanh else picture
