"""StyleGAN2: latents → styles → modulated convolutions → picture (Karras et al. 2020).

State names are those of NVIDIA's PyTorch implementation, less its constant filters; layers carry the original
rewriting implementation's names: layer2 works at 4², layer4 at 8², layer6 at 16² …; odd ones upsample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewriter.checks import number
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.filters import blur, upsample
from rewriter.generators.latents import fixed_noise, latents
from rewriter.generators.layer import Features, LayerInfo, Memory, random_weight
from rewriter.generators.mapping import GAIN, SLOPE, Dense, MappingNetwork
from rewriter.generators.shapes import Shapes, largest

NOISE = (".noise_strength", ".noise_const")
AVERAGED = 4096  # seeds whose w are averaged where a file lacks the average
SKIP = "synthesis.skip_filter"  # in the state of a generator that smooths its skip connections otherwise


@dataclass(frozen=True)
class StyleGAN2Config:
    """Architecture: `channels` maps each resolution (4, 8 … up to the picture's) to its feature count."""

    channels: Mapping[int, int]
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    conv_clamp: float | None = None
    skip_filter: bool = False  # whether the state holds a filter (4, 4) for the skip connections, instead of 1-3-3-1
    colours: int = 3  # 1: grey
    noise: bool = True

    def __post_init__(self) -> None:
        sides = [4 * 2**i for i in range(len(self.channels))]
        if list(self.channels) != sides or not 3 <= len(sides) <= 9:
            raise InputError(f"channels need the resolutions 4, 8 … up to 16…1024, not {list(self.channels)}")

    @property
    def resolution(self) -> int:
        """Side of the picture in pixels."""
        return max(self.channels)


class StyledConv(Memory):
    """Modulated 3×3 convolution; odd layers upsample by two. Demodulation cancels any gain on the weight."""

    def __init__(self, inputs: int, outputs: int, config: StyleGAN2Config, *, resolution: int, up: bool):
        super().__init__()
        self.weight = nn.Parameter(random_weight(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.affine = Dense(config.w_dim, inputs, bias=1.0)
        if config.noise:
            self.register_buffer("noise_const", random_weight(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.up, self.clamp, self.noise = up, config.conv_clamp, config.noise

    def response(self, keys: Tensor, weight: Tensor) -> Tensor:
        """(n, c, h, w) → (n, o, h, w), or (n, o, 2h, 2w) where the layer upsamples."""
        if self.up:
            return blur(F.conv_transpose2d(keys, weight.transpose(0, 1), stride=2), before=1, after=1)
        return F.conv2d(keys, weight, padding=1)

    def offset(self) -> Tensor:
        """Fixed noise and bias, (out, H, W); the bias alone, (out, 1, 1), in a network without noise."""
        if not self.noise:
            return self.bias[:, None, None]
        noise: Tensor = self.get_buffer("noise_const") * self.noise_strength
        return noise + self.bias[:, None, None]

    def activate(self, x: Tensor) -> Tensor:
        """Leaky ReLU with gain √2, clamp."""
        values = F.leaky_relu(x, SLOPE) * GAIN
        return values if self.clamp is None else values.clamp(-self.clamp, self.clamp)

    def inverse(self, values: Tensor) -> Tensor:
        """Of the leaky ReLU."""
        return torch.where(values > 0, values, values / SLOPE) / GAIN

    def slope(self, x: Tensor) -> Tensor:
        """√2 or 0.2 √2; 0 at the clamp."""
        slope = torch.where(x > 0, GAIN, GAIN * SLOPE).to(x)
        return slope if self.clamp is None else slope * (self.activate(x).abs() < self.clamp)


class ToRGB(nn.Module):
    """Features (n, c, h, w) and latents w → their contribution to the picture (n, 3 or 1, h, w); not demodulated."""

    def __init__(self, inputs: int, config: StyleGAN2Config):
        super().__init__()
        self.weight = nn.Parameter(random_weight(config.colours, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(config.colours))
        self.affine = Dense(config.w_dim, inputs, bias=1.0)
        self.clamp = config.conv_clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Modulate, project to the colours, add the bias, clamp."""
        style = self.affine(w) / math.sqrt(x.shape[1])
        y = F.conv2d(x * style[:, :, None, None], self.weight) + self.bias[:, None, None]
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class StyleGAN2(Generator):
    """A StyleGAN2 generator of any size, channel table and mapping depth, with fixed noise or none."""

    architecture = "stylegan2"
    kind = "StyleGAN2"
    pattern = r"synthesis\.b4\."
    unseen = (
        "demodulation, leaky ReLUs of 0.2, normalised latents, and no clamp of features unless --conv-clamp gives one"
    )
    SETTINGS = MappingProxyType({"conv_clamp": number(1e-6, 1e6)})

    def __init__(self, config: StyleGAN2Config, *, name: str = "stylegan2"):
        super().__init__()
        self.config, self.name = config, name
        self.zdim, self.resolution = config.z_dim, config.resolution
        self.mapping = MappingNetwork(config.z_dim, config.w_dim, config.mapping_layers)
        self.synthesis = nn.Module()
        self.layers: dict[str, LayerInfo] = {}
        self._memories: dict[str, str] = {}
        previous = 0
        for level, (side, channels) in enumerate(config.channels.items(), start=1):
            block = nn.Module()
            self.synthesis.add_module(f"b{side}", block)
            if previous:
                self._add(block, f"layer{2 * level - 1}", "conv0", side, previous, channels)
            else:
                block.register_parameter("const", nn.Parameter(random_weight(channels, 4, 4)))
            self._add(block, f"layer{2 * level}", "conv1", side, channels, channels)
            block.add_module("torgb", ToRGB(channels, config))
            previous = channels
        if config.skip_filter:
            self.synthesis.register_buffer("skip_filter", torch.zeros(4, 4))
        self._order = list(self.layers)
        self.requires_grad_(False)

    def _add(self, block: nn.Module, layer: str, module: str, side: int, inputs: int, outputs: int) -> None:
        up = module == "conv0"
        conv = StyledConv(inputs, outputs, self.config, resolution=side, up=up)
        block.add_module(module, conv)
        self.layers[layer] = LayerInfo(layer, inputs, outputs, 3, side // 2 if up else side, side)
        self._memories[layer] = f"synthesis.b{side}.{module}"

    @staticmethod
    def sizes(names: Iterable[str]) -> tuple[int, int]:
        """Number of resolutions, and of layers of the mapping network, in a state dict with these names."""
        side = largest(r"synthesis\.b(\d+)\.", names, most=1024)
        return side.bit_length() - 2, largest(r"mapping\.fc(\d+)\.", names) + 1

    @classmethod
    def from_shapes(cls, shapes: Shapes, **settings: Any) -> StyleGAN2:
        """Channels from the convolutions, z and w from the first layer of the mapping network."""
        levels, depth = cls.sizes(shapes.state)
        sides = [4 * 2**level for level in range(levels)]
        channels = {side: shapes.size(f"synthesis.b{side}.conv1.weight", 0, rank=4) for side in sides}
        z_dim, w_dim = (shapes.size("mapping.fc0.weight", axis, rank=2) for axis in (1, 0))
        colours = shapes.size("synthesis.b4.torgb.weight", 0, rank=4)
        if colours not in (1, 3):
            raise InputError(f"it draws {colours} channels: pictures of 1 or 3 can be rewritten here")
        noise = any(name.endswith(NOISE) for name in shapes.state)
        config = StyleGAN2Config(channels, z_dim, w_dim, depth, None, SKIP in shapes.state, colours, noise)
        return cls(replace(config, **settings))

    def settings(self) -> dict[str, Any]:
        """The clamp, if there is one."""
        return {} if self.config.conv_clamp is None else {"conv_clamp": self.config.conv_clamp}

    def derive(self, name: str, state: Mapping[str, Tensor]) -> Tensor:
        """Noise, or the mean w, which training runs do not save: of 4,096 seeds, in float64 for all machines alike."""
        if name.endswith(".noise_const"):
            return fixed_noise(name, self.get_buffer(name).shape[-1])
        with torch.device("meta"):
            mapping = MappingNetwork(self.config.z_dim, self.config.w_dim, self.config.mapping_layers)
        names = [name for name in mapping.state_dict() if name != "w_avg"]
        weights = {name: state[f"mapping.{name}"].double() for name in names}
        mapping.load_state_dict({**weights, "w_avg": torch.zeros(self.config.w_dim).double()}, assign=True)
        with torch.no_grad():
            mean: Tensor = mapping(latents(range(AVERAGED), self.config.z_dim).double()).mean(0)
        return mean.float()

    def fingerprint_extra(self) -> str:
        """The clamp: with another one, the same weights draw other pictures."""
        return "" if self.config.conv_clamp is None else f"conv_clamp {self.config.conv_clamp}"

    def memory(self, layer: str) -> StyledConv:
        """The convolution of that name."""
        self.layer(layer)
        module = self.get_submodule(self._memories[layer])
        assert isinstance(module, StyledConv)
        return module

    def hold(self, layer: str, units: Tensor, levels: Tensor, base: Generator) -> None:
        """Rows of W become zero, which demodulation leaves zero, and the bias gives the level; noise is still added."""
        memory = self.memory(layer)
        weight, bias = memory.weight.clone(), memory.bias.clone()
        weight[units], bias[units] = 0.0, memory.inverse(levels)
        memory.weight, memory.bias = (nn.Parameter(each, requires_grad=False) for each in (weight, bias))

    def latents_w(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """Z (n, z_dim) → truncated w (n, w_dim)."""
        w: Tensor = self.mapping(z)
        average: Tensor = self.mapping.get_buffer("w_avg")
        return w if truncation == 1 else average + truncation * (w - average)

    def embed(self, z: Tensor, truncation: float) -> Tensor:
        """The mapping network: z (n, z_dim) → truncated w (n, w_dim)."""
        return self.latents_w(z, truncation)

    def spread(self, latents: Tensor) -> Tensor:
        """W (n, w_dim) → (n, layers + 1, w_dim)."""
        return latents[:, None].repeat(1, len(self._order) + 1, 1)

    def enter(self, latents: Tensor) -> Features:
        """The learned constant, modulated by w (n, w_dim), or (n, layers + 1, w_dim): one for each layer and the end.

        A layer that adds to the picture does so with the w of the layer after it, as in NVIDIA's implementation.
        """
        const = self.synthesis.get_submodule("b4").get_parameter("const")
        return self._enter(0, const.expand(len(latents), -1, -1, -1), latents, None)

    def _enter(self, position: int, x: Tensor, w: Tensor, skip: Tensor | None) -> Features:
        layer = self._order[position]
        style = self.memory(layer).affine(_of_layer(w, position))
        return Features(layer, x * style[:, :, None, None], style, w, skip)

    def step(self, features: Features, values: Tensor) -> Features | Tensor:
        """Even layers add their part to the picture; then the next layer's style modulates the values."""
        info, w, skip = self.layers[features.layer], features.w, features.skip
        position = self._order.index(features.layer) + 1
        assert w is not None
        if info.scale == 1:
            to_rgb = self.synthesis.get_submodule(f"b{info.resolution}.torgb")
            rgb: Tensor = to_rgb(values, _of_layer(w, position))
            kernel = self.synthesis.get_buffer("skip_filter") if self.config.skip_filter else None
            skip = rgb if skip is None else upsample(skip, kernel) + rgb
        if position == len(self._order):
            assert skip is not None
            return skip.expand(-1, 3, -1, -1)
        return self._enter(position, values, w, skip)


def _of_layer(w: Tensor, position: int) -> Tensor:
    """The latents (n, w_dim) of one layer."""
    return w if w.ndim == 2 else w[:, position]
