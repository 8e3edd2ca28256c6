"""DCGAN (Radford, Metz and Chintala 2015) in the form of PyTorch's tutorial: layer1 … layerN, then one output.

Each layer: transposed 4×4 convolution, batch norm, ReLU. The first makes a map of 4×4 places from the latent; the
others, and the output with its tanh, double the side. The memory is the convolution alone, so it is exactly linear:
batch norm belongs to `step`. It is applied there and not folded into W, so that the tensors of a file stay as they are
and can be written back to the bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.layer import Features, LayerInfo
from rewriter.generators.parts import KERNEL, SHRUNK, BatchNorm, NormedLayers, TransposedConv
from rewriter.generators.shapes import Shapes, largest

OUTPUT, DEEPEST = "output", 8  # a DCGAN of eight layers draws 1024 px


@dataclass(frozen=True)
class DCGANConfig:
    """Architecture: `channels` of layer1, layer2 …; the convolutions in `biased` (layers, or "output") have a bias."""

    channels: Sequence[int]
    z_dim: int = 100
    colours: int = 3  # 1: grey
    biased: Collection[str] = ()

    @property
    def resolution(self) -> int:
        """Side of the picture in pixels: 8 for one layer, doubled by every further one."""
        return int(2 ** (len(self.channels) + 2))


class DCGAN(NormedLayers, Generator):
    """A DCGAN generator of any depth and width.

    Latents are normal and not normalised. It has no w: truncation multiplies z, which gathers pictures around the one
    of z = 0.
    """

    architecture = "dcgan"
    kind = "DCGAN"
    unseen = "ReLUs, tanh, and latents that are not normalised"
    limits = SHRUNK
    leak = 0.0
    pattern = r"layer\d+\.(deconv|norm)\."

    def __init__(self, config: DCGANConfig, *, name: str = "dcgan"):
        super().__init__()
        self.config, self.name = config, name
        self.zdim, self.resolution = config.z_dim, config.resolution
        self.layers: dict[str, LayerInfo] = {}
        previous, side = config.z_dim, 1
        for i, channels in enumerate(config.channels, start=1):
            layer, made = f"layer{i}", 2 ** (i + 1)
            block = nn.Module()
            stride, bias = 1 if i == 1 else 2, layer in config.biased
            block.add_module("deconv", TransposedConv(previous, channels, stride=stride, bias=bias))
            block.add_module("norm", BatchNorm(channels))
            self.add_module(layer, block)
            self.layers[layer] = LayerInfo(layer, previous, channels, KERNEL, side, made)
            previous, side = channels, made
        self.output = TransposedConv(previous, config.colours, stride=2, bias=OUTPUT in config.biased)
        self.requires_grad_(False)

    @staticmethod
    def sizes(names: Iterable[str]) -> tuple[int]:
        """Number of layers in a state dict with these names."""
        return (largest(r"layer(\d+)\.", names),)

    @classmethod
    def from_shapes(cls, shapes: Shapes, **settings: Any) -> DCGAN:
        """Channels from the convolutions."""
        (count,) = cls.sizes(shapes.state)
        if not 1 <= count <= DEEPEST:
            raise InputError(f"a DCGAN has 1 to {DEEPEST} layers before its output, not {count}: is the file whole?")
        convolutions = {**{f"layer{i}": f"layer{i}.deconv" for i in range(1, count + 1)}, OUTPUT: OUTPUT}
        *channels, colours = (shapes.size(f"{name}.weight", 0, rank=4) for name in convolutions.values())
        if colours not in (1, 3):
            raise InputError(f"its output has {colours} channels, a picture has 1 or 3: is the file whole?")
        biased = [layer for layer, name in convolutions.items() if f"{name}.bias" in shapes.state]
        return cls(DCGANConfig(channels, shapes.size("layer1.deconv.weight", 1, rank=4), colours, biased))

    def part(self, layer: str, kind: str) -> nn.Module:
        """A module of a layer."""
        return self.get_submodule(f"{self.layer(layer).name}.{'deconv' if kind == 'conv' else kind}")

    def receptive_field(self, layer: str) -> int:
        """Like that of any generator; the output reaches a pixel further."""
        return super().receptive_field(layer) + 1

    def enter(self, latents: Tensor) -> Features:
        """Latents as a 1×1 map."""
        return Features("layer1", latents[:, :, None, None])

    def step(self, features: Features, values: Tensor) -> Features | Tensor:
        """Batch norm and ReLU; after the last layer the output and tanh."""
        x = F.relu(self.get_submodule(f"{features.layer}.norm")(values))
        following = f"layer{int(features.layer.removeprefix('layer')) + 1}"
        if following in self.layers:
            return Features(following, x)
        picture = torch.tanh(self.output.response(x, self.output.weight) + self.output.offset())
        return picture.expand(-1, 3, -1, -1)
