"""The mapping network of StyleGAN2 and StyleGAN3, and the fully connected layers of which both make styles."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewriter.generators.layer import pixel_norm, random_weight

GAIN, SLOPE = math.sqrt(2), 0.2  # of the leaky ReLU
MAPPING_RATE = 0.01


class Dense(nn.Module):
    """Fully connected layer with the gain applied at run time: x (n, in) → (n, out)."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, rate: float = 1.0, activate: bool = False):
        super().__init__()
        self.weight = nn.Parameter(random_weight(outputs, inputs, over=rate))
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.rate, self.activate = rate, activate

    def forward(self, x: Tensor) -> Tensor:
        """Linear map, then a leaky ReLU in the mapping network."""
        y = F.linear(x, self.weight * (self.rate / math.sqrt(x.shape[1])), self.bias * self.rate)
        return F.leaky_relu(y, SLOPE) * GAIN if self.activate else y


class MappingNetwork(nn.Module):
    """Latents z → w; keeps the mean w, towards which truncation pulls."""

    def __init__(self, z_dim: int, w_dim: int, layers: int):
        super().__init__()
        for i in range(layers):
            self.add_module(f"fc{i}", Dense(w_dim if i else z_dim, w_dim, rate=MAPPING_RATE, activate=True))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor) -> Tensor:
        """(n, z_dim) → (n, w_dim), before truncation."""
        w = pixel_norm(z)
        for dense in self.children():
            w = dense(w)
        return w
