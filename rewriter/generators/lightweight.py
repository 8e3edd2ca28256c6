"""Lightweight GAN (Wang 2021): a FastGAN with fewer parts, layer1, layer2 …, then one output.

A transposed convolution makes a map of 4×4 places from the latent, whose places are scaled to length one. Each further
block doubles the side by repeating every place, blurs the map in some files, and convolves once; batch norm and a gated
linear unit follow. Maps of 16 to 128 places a side also make a gate for each channel of the map of 8 times their side.
Before some blocks, attention adds to the map what its places have in common.

The memory is the convolution alone, so it is exactly linear; all else belongs to `step`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.layer import Features, LayerInfo, random_weight
from rewriter.generators.parts import SHRUNK, BatchNorm, Conv, NormedLayers, TransposedConv, advice
from rewriter.generators.shapes import Shapes, largest

SIDES = tuple(4 * 2**i for i in range(9))  # of maps: 4 … 1024
APART = 8  # side of a gated map in terms of the one that its gates are computed from
GATED = (128, 256, 512, 1024)
HEADS, WIDTH = 8, 64  # of attention


@dataclass(frozen=True)
class LightweightGANConfig:
    """Architecture: `channels` maps each side (4, 8 … up to the picture's) to its features, after gating."""

    channels: Mapping[int, int]
    z_dim: int = 256
    colours: int = 3  # 1: grey
    blurred: bool = False  # whether maps are blurred when their side has been doubled
    frequencies: bool = False  # whether gates are computed from fixed patterns, and not from where a map looks at
    attended: Collection[int] = ()  # sides of the maps that attention adds to

    def __post_init__(self) -> None:
        if tuple(self.channels) != SIDES[: len(self.channels)] or len(self.channels) < 2:
            raise InputError(
                f"a Lightweight GAN has maps of 4, 8 … up to 1024 places a side, not {list(self.channels)[:12]}"
            )

    @property
    def resolution(self) -> int:
        """Side of the picture in pixels."""
        return max(self.channels)


class Gate(nn.Module):
    """One factor between 0 and 1 for each channel of a map, from weighted sums over a map of `side` places a side."""

    def __init__(self, inputs: int, outputs: int, side: int, *, frequencies: bool):
        super().__init__()
        self.frequencies = frequencies
        if frequencies:
            self.register_buffer("pattern", random_weight(1, inputs, side, side, over=side))
        else:
            self.look = Conv(inputs, 1, kernel=1, bias=True)
        hidden = max(3, outputs // (4 if frequencies else 2))
        self.conv1 = Conv(inputs, hidden, kernel=1, bias=True)
        self.conv2 = Conv(hidden, outputs, kernel=1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, side, side) → (n, outputs, 1, 1)."""
        weights = self.get_buffer("pattern") if self.frequencies else self._places(x)
        hidden = self.conv1.recall((x * weights).sum((2, 3), keepdim=True), None)
        return self.conv2.recall(F.leaky_relu(hidden, 0.1), None).sigmoid()

    def _places(self, x: Tensor) -> Tensor:
        """How much each place counts, (n, 1, side, side); the sum is one."""
        return self.look.recall(x, None).flatten(2).softmax(2).view(len(x), 1, *x.shape[2:])


class Attention(nn.Module):
    """Linear attention: sums over all places, weighted by their keys, mixed anew at each place by its query."""

    def __init__(self, channels: int):
        super().__init__()
        inner = HEADS * WIDTH
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.query = Conv(channels, inner, kernel=1)
        self.around = Conv(1, channels, kernel=3)  # of each channel alone
        self.pairs = Conv(channels, 2 * inner, kernel=1)
        self.out = Conv(inner, channels, kernel=1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → the same shape: what is added to the map."""
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        normal = (x - mean) / (variance + 1e-5).sqrt() * self.gain + self.shift
        around = F.conv2d(normal, self.around.weight, padding=1, groups=x.shape[1])
        maps = (self.query.recall(normal, None), *self.pairs.recall(around, None).chunk(2, 1))
        query, key, value = (each.view(len(x), HEADS, WIDTH, -1) for each in maps)  # (n, heads, width, places)
        sums = key.softmax(3) @ value.transpose(2, 3)  # (n, heads, width, width)
        mixed = sums.transpose(2, 3) @ query.softmax(2) / WIDTH**0.5
        return self.out.recall(F.gelu(mixed.reshape(len(x), -1, *x.shape[2:])), None)


class LightweightGAN(NormedLayers, Generator):
    """A Lightweight GAN generator of any width, up to 1024 px.

    Latents are normal and not normalised. It has no w: truncation multiplies z, which gathers pictures around the one
    of z = 0. Grey ones give pictures with three equal channels.
    """

    architecture = "lightweight"
    gated = True
    kind = "Lightweight GAN"
    unseen = "upsampling by repetition, where later versions of its code interpolate"
    limits = SHRUNK
    pattern = r"stage\d+\.(conv|norm)\."

    def __init__(self, config: LightweightGANConfig, *, name: str = "lightweight"):
        super().__init__()
        self.config, self.name = config, name
        self.zdim, self.resolution = config.z_dim, config.resolution
        self.layers: dict[str, LayerInfo] = {}
        previous = config.z_dim
        for number, (side, channels) in enumerate(config.channels.items(), start=1):
            stage, first, layer = nn.Module(), number == 1, f"layer{number}"
            kind = TransposedConv(previous, 2 * channels, stride=1, bias=True) if first else None
            stage.add_module("conv", kind or Conv(previous, 2 * channels, kernel=3, bias=True))
            stage.add_module("norm", BatchNorm(2 * channels))
            if config.blurred and not first:
                stage.register_buffer("blur", torch.tensor([1.0, 2.0, 1.0]))
            if side in config.attended:
                stage.add_module("attention", Attention(channels))
            self.add_module(f"stage{side}", stage)
            self._gate(side, channels)
            kernel, keys = (4, 1) if first else (3, side)
            self.layers[layer] = LayerInfo(layer, previous, 2 * channels, kernel, keys, side)
            previous = channels
        self.output = Conv(previous, config.colours, kernel=3, bias=True)
        self.advice = advice(self.layers)
        self.requires_grad_(False)

    def _gate(self, side: int, channels: int) -> None:
        if side in GATED:
            source = side // APART
            gate = Gate(self.config.channels[source], channels, source, frequencies=self.config.frequencies)
            self.add_module(f"gate{side}", gate)

    @staticmethod
    def sizes(names: Iterable[str]) -> tuple[int]:
        """Side of the picture in a state dict with these names."""
        return (largest(r"stage(\d+)\.", names, most=SIDES[-1]),)

    @classmethod
    def from_shapes(cls, shapes: Shapes, **settings: Any) -> LightweightGAN:
        """Channels from the convolutions; the other parts from their names."""
        (resolution,) = cls.sizes(shapes.state)
        sides = [side for side in SIDES if side <= resolution]
        channels = {side: shapes.size(f"stage{side}.conv.weight", 0, rank=4) // 2 for side in sides}
        z_dim, colours = shapes.size("stage4.conv.weight", 1, rank=4), shapes.size("output.weight", 0, rank=4)
        if colours not in (1, 3):
            raise InputError(f"its output has {colours} channels, a picture has 1 or 3: transparency is not supported")
        attended = [side for side in sides if any(name.startswith(f"stage{side}.attention.") for name in shapes.state)]
        blurred, frequencies = "stage8.blur" in shapes.state, "gate128.pattern" in shapes.state
        return cls(LightweightGANConfig(channels, z_dim, colours, blurred, frequencies, attended), **settings)

    def part(self, layer: str, kind: str) -> nn.Module:
        """A module of a layer."""
        return self.get_submodule(f"stage{self.layer(layer).resolution}.{kind}")

    def receptive_field(self, layer: str) -> int:
        """How far a key reaches through convolutions and blurs; the output's reaches a pixel further.

        What it does to gates and attention is left out: through them, keys reach everywhere.
        """
        reach, side = super().receptive_field(layer), self.layers[layer].resolution
        later = [each for each in self.config.channels if each > side and self.config.blurred]
        return reach + sum(self.resolution // each for each in later) + 1

    def enter(self, latents: Tensor) -> Features:
        """Latents as a 1×1 map."""
        return Features("layer1", latents[:, :, None, None])

    def step(self, features: Features, values: Tensor) -> Features | Tensor:
        """Batch norm and the gated linear unit, gates, attention, and the doubled side; or the output."""
        side, gates = self.layers[features.layer].resolution, dict(features.gates)
        x = F.glu(self.norm(features.layer)(values), 1)
        if side == SIDES[0]:
            x = F.normalize(x, dim=1)
        if (gated := APART * side) in GATED and gated <= self.resolution:
            gates[self._of_side(gated)] = self.get_submodule(f"gate{gated}")(x)  # of the map before its own gate
        if features.layer in gates:
            x = x * gates.pop(features.layer)
        if side == self.resolution:
            return (2 * self.output.recall(x, None) - 1).expand(-1, 3, -1, -1)
        if side in self.config.attended:
            x = x + self.part(features.layer, "attention")(x)
        x, following = F.interpolate(x, scale_factor=2.0), self._of_side(2 * side)
        return Features(following, self._blurred(x, following), gates=gates)

    def _of_side(self, side: int) -> str:
        """The layer that makes the map of this side."""
        return f"layer{SIDES.index(side) + 1}"

    def _blurred(self, x: Tensor, layer: str) -> Tensor:
        """The keys of a layer, smoothed on both axes where files have a filter."""
        if not self.config.blurred:
            return x
        taps = self.get_submodule(f"stage{self.layers[layer].resolution}").get_buffer("blur")
        plane = (torch.outer(taps, taps) / taps.sum().square()).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), plane, groups=x.shape[1])
