"""Parts of several architectures: convolutions, batch norm with its running statistics, and what units are there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewriter.generators.layer import LayerInfo, LinearMemory, random_weight

if TYPE_CHECKING:
    from rewriter.generators.base import Generator

KERNEL = 4  # places a side that a transposed convolution spreads a key over
EPSILON = 1e-5  # of batch norm
CLOSED = -6.0  # where the sigmoid lets a four-hundredth pass
SHRUNK = "truncation shrinks its latents, which costs variety sooner than in a StyleGAN"  # a limit of generators
GOOD = {"structure": 16, "objects": 32, "texture": 128}  # sides of maps
GAIN = 2.0  # of random weights: makes up for what gated linear units take away


def advice(layers: Mapping[str, LayerInfo]) -> dict[str, str]:
    """The layers to begin at, by the sides of their maps, as in a StyleGAN2; those that the generator has."""
    return {good: name for name, info in layers.items() for good, side in GOOD.items() if info.resolution == side}


class TransposedConv(LinearMemory):
    """A transposed convolution: values = W ∗ k, plus a bias in some files."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, bias: bool):
        super().__init__()
        seen = stride**2  # keys that one value sees: of layer1's there is only one
        self.weight = nn.Parameter(random_weight(outputs, inputs, KERNEL, KERNEL, over=math.sqrt(inputs * seen)))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.stride, self.padding = stride, stride - 1

    def response(self, keys: Tensor, weight: Tensor) -> Tensor:
        """(n, c, h, w) → (n, o, H, W), twice the side; layer1: 1×1 → 4×4."""
        return F.conv_transpose2d(keys, weight.transpose(0, 1), stride=self.stride, padding=self.padding)

    def offset(self) -> Tensor:
        """The bias, or nothing."""
        return self.weight.new_zeros(1, 1, 1) if self.bias is None else self.bias[:, None, None]


class Conv(LinearMemory):
    """A convolution: values = W ∗ k, plus a bias in some files."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, padding: int | None = None, bias: bool = False):
        super().__init__()
        over = math.sqrt(inputs * kernel**2) / GAIN
        self.weight = nn.Parameter(random_weight(outputs, inputs, kernel, kernel, over=over))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.padding = kernel // 2 if padding is None else padding

    def response(self, keys: Tensor, weight: Tensor) -> Tensor:
        """(n, c, h, w) → (n, o, h, w), smaller where the padding is."""
        return F.conv2d(keys, weight, padding=self.padding)

    def offset(self) -> Tensor:
        """The bias, or nothing."""
        return self.weight.new_zeros(1, 1, 1) if self.bias is None else self.bias[:, None, None]


class BatchNorm(nn.Module):
    """Batch norm with its running statistics, whatever the module's mode: a scale and a shift of each channel."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=EPSILON)

    def reading(self) -> tuple[Tensor, Tensor]:
        """What it does, as one gain and one shift of each channel."""
        gain = self.weight * torch.rsqrt(self.running_var + EPSILON)
        return gain, self.bias - self.running_mean * gain


class NormedLayers:
    """What generators share whose layers are a convolution and then batch norm: how units are read and held.

    Where a gated linear unit follows (`gated`), units of the first half are multiplied by what the sigmoid makes of
    those of the second, one by one. For the latter, what is shown counts from CLOSED on, so that 0 shows nothing in
    both halves.
    """

    gated: ClassVar[bool] = False

    def part(self, layer: str, kind: str) -> nn.Module:
        """The module of a layer that is its "conv" or its "norm"; InputError for an unknown layer."""
        raise NotImplementedError

    def memory(self, layer: str) -> Conv | TransposedConv:
        """The convolution of that name."""
        module = self.part(layer, "conv")
        assert isinstance(module, Conv | TransposedConv)
        return module

    def norm(self, layer: str) -> BatchNorm:
        """The batch norm after the convolution of that name."""
        module = self.part(layer, "norm")
        assert isinstance(module, BatchNorm)
        return module

    def activation(self, layer: str) -> tuple[Tensor, Tensor]:
        """Batch norm, as one gain and one shift."""
        gain, shift = self.norm(layer).reading()
        closed = torch.arange(len(shift), device=shift.device) >= len(shift) // 2
        return gain, shift - CLOSED * closed if self.gated else shift

    def hold(self, layer: str, units: Tensor, levels: Tensor, base: Generator) -> None:
        """Rows of W become zero; the norm's shift gives what it makes of the level. Noise is still added."""
        assert isinstance(base, NormedLayers)
        memory, norm = self.memory(layer), self.norm(layer)
        constant = levels if memory.bias is None else levels - memory.bias[units]
        weight, bias = memory.weight.clone(), norm.bias.clone()
        weight[units], bias[units] = 0.0, base.norm(layer).bias[units] + norm.reading()[0][units] * constant
        memory.weight, norm.bias = (nn.Parameter(each, requires_grad=False) for each in (weight, bias))
