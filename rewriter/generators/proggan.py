"""Progressive GAN (Karras et al. 2018) in the layout of GAN Dissection: layer1 … layerN, then one 1×1 output.

Each layer: pixel norm, (nearest upsampling), convolution, scale and bias, leaky ReLU. The memory is the convolution
alone, so it is exactly linear: values are taken straight after it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewriter.checks import flag
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.layer import Features, LayerInfo, LinearMemory, pixel_norm, random_weight
from rewriter.generators.shapes import Shapes, largest


@dataclass(frozen=True)
class ProgressiveGANConfig:
    """Architecture: `channels` of layer1, layer2 …, an even number of layers; `clamp` keeps pictures in [-1, 1]."""

    channels: Sequence[int]
    z_dim: int = 512
    clamp: bool = False

    @property
    def resolution(self) -> int:
        """Side of the picture in pixels: 4 for two layers, doubled by every two more."""
        return int(2 ** (len(self.channels) // 2 + 1))


class Scale(nn.Module):
    """Equalised learning rate: a constant gain, then the bias b."""

    def __init__(self, channels: int, gain: float):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(channels))
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → the same shape."""
        return x * self.gain + self.b[:, None, None]


class PlainConv(LinearMemory):
    """A convolution without bias: values = W ∗ k."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, padding: int):
        super().__init__()
        self.weight = nn.Parameter(random_weight(outputs, inputs, kernel, kernel))
        self.padding = padding

    def response(self, keys: Tensor, weight: Tensor) -> Tensor:
        """(n, c, h, w) → (n, o, H, W)."""
        return F.conv2d(keys, weight, padding=self.padding)

    def offset(self) -> Tensor:
        """Nothing: scale and bias come after the memory."""
        return self.weight.new_zeros(1, 1, 1)


class ProgressiveGAN(Generator):
    """A Progressive GAN generator of any depth and channel table."""

    architecture = "proggan"
    kind = "Progressive GAN"
    leak = 0.2
    pattern = r"layer\d+\.(conv|wscale)\."
    unseen = "pixel norm, leaky ReLUs of 0.2, and latents without labels"
    limits = "it has no truncation"
    SETTINGS = MappingProxyType({"clamp": flag})

    def __init__(self, config: ProgressiveGANConfig, *, name: str = "proggan"):
        super().__init__()
        self.config, self.name = config, name
        self.zdim, self.resolution = config.z_dim, config.resolution
        self.layers: dict[str, LayerInfo] = {}
        previous = config.z_dim
        for i, channels in enumerate(config.channels, start=1):
            kernel, side = (4, 4) if i == 1 else (3, 2 ** ((i + 3) // 2))
            layer, padding = f"layer{i}", 3 if i == 1 else 1
            self._block(layer, PlainConv(previous, channels, kernel=kernel, padding=padding), math.sqrt(2))
            self.layers[layer] = LayerInfo(layer, previous, channels, kernel, 1 if i == 1 else side, side)
            previous = channels
        self._output = f"output_{self.resolution}x{self.resolution}"
        self._block(self._output, PlainConv(previous, 3, kernel=1, padding=0), 1.0)
        self.requires_grad_(False)

    def _block(self, name: str, conv: PlainConv, gain: float) -> None:
        outputs, inputs, kernel, _ = conv.weight.shape
        block = nn.Module()
        block.add_module("conv", conv)
        block.add_module("wscale", Scale(outputs, gain / math.sqrt(inputs * kernel * kernel)))
        self.add_module(name, block)

    @staticmethod
    def sizes(names: Iterable[str]) -> tuple[int]:
        """Number of layers in a state dict with these names."""
        return (largest(r"layer(\d+)\.", names),)

    @classmethod
    def from_shapes(cls, shapes: Shapes, **settings: Any) -> ProgressiveGAN:
        """Channels from the convolutions."""
        (count,) = cls.sizes(shapes.state)
        if count % 2 or not 2 <= count <= 18:
            known = "a Progressive GAN has an even number of layers up to 18"
            raise InputError(f"{known}, not {count}: is the file whole?")
        channels = tuple(shapes.size(f"layer{i}.conv.weight", 0, rank=4) for i in range(1, count + 1))
        return cls(ProgressiveGANConfig(channels, shapes.size("layer1.conv.weight", 1, rank=4), **settings))

    def settings(self) -> dict[str, Any]:
        """Whether pictures are clamped to [-1, 1]."""
        return {"clamp": self.config.clamp}

    def memory(self, layer: str) -> PlainConv:
        """The convolution of that name."""
        self.layer(layer)
        module = self.get_submodule(f"{layer}.conv")
        assert isinstance(module, PlainConv)
        return module

    def activation(self, layer: str) -> tuple[Tensor, Tensor]:
        """Scale and bias."""
        scale = self._scale(layer)
        return torch.full_like(scale.b, scale.gain), scale.b

    def hold(self, layer: str, units: Tensor, levels: Tensor, base: Generator) -> None:
        """Rows of W become zero, and the bias gives the level."""
        memory, scale = self.memory(layer), self._scale(layer)
        weight, bias = memory.weight.clone(), scale.b.clone()
        assert isinstance(base, ProgressiveGAN)
        weight[units], bias[units] = 0.0, scale.gain * levels + base._scale(layer).b[units]
        memory.weight, scale.b = (nn.Parameter(each, requires_grad=False) for each in (weight, bias))

    def _scale(self, layer: str) -> Scale:
        module = self.get_submodule(f"{layer}.wscale")
        assert isinstance(module, Scale)
        return module

    def embed(self, z: Tensor, truncation: float) -> Tensor:
        """The latents themselves."""
        if truncation != 1:
            raise InputError(f"a Progressive GAN has no truncation: leave it at 1 instead of {truncation}")
        return z

    def enter(self, latents: Tensor) -> Features:
        """Normalised latents as a 1×1 map."""
        return Features("layer1", pixel_norm(latents[:, :, None, None]))

    def step(self, features: Features, values: Tensor) -> Features | Tensor:
        """Scale, bias, leaky ReLU; then pixel norm and, into odd layers, nearest upsampling; or the output."""
        number = int(features.layer.removeprefix("layer"))
        x = pixel_norm(F.leaky_relu(self.get_submodule(f"{features.layer}.wscale")(values), self.leak))
        following = f"layer{number + 1}"
        if following in self.layers:
            return Features(following, F.interpolate(x, scale_factor=2.0) if number % 2 == 0 else x)
        output = self.get_submodule(self._output)
        picture: Tensor = output.get_submodule("wscale")(F.conv2d(x, output.get_parameter("conv.weight")))
        return picture.clamp(-1, 1) if self.config.clamp else picture
