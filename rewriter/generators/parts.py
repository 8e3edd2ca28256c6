"""Parts of several architectures: transposed convolutions, and batch norm with its running statistics."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewriter.generators.layer import LinearMemory, random_weight

KERNEL = 4  # places a side that a transposed convolution spreads a key over
EPSILON = 1e-5  # of batch norm


class TransposedConv(LinearMemory):
    """A transposed convolution: values = W ∗ k, plus a bias in some files."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, bias: bool):
        super().__init__()
        seen = stride**2  # keys that one value sees: of layer1's there is only one
        self.weight = nn.Parameter(random_weight(outputs, inputs, KERNEL, KERNEL) / math.sqrt(inputs * seen))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.stride, self.padding = stride, stride - 1

    def response(self, keys: Tensor, weight: Tensor) -> Tensor:
        """(n, c, h, w) → (n, o, H, W), twice the side; layer1: 1×1 → 4×4."""
        return F.conv_transpose2d(keys, weight.transpose(0, 1), stride=self.stride, padding=self.padding)

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
