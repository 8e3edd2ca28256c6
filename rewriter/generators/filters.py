"""Resampling filters of StyleGAN2, in plain torch (no compiled extension)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TAPS = (1.0, 3.0, 3.0, 1.0)


def blur(x: Tensor, *, before: int, after: int, kernel: Tensor | None = None) -> Tensor:
    """Smooth (n, c, h, w) after an upsampling by two: taps 1-3-3-1 on both axes, gain 4 in all, or another (4, 4).

    `before` and `after` rows and columns of zeros are added first; the result is three smaller than that.
    """
    if kernel is None:
        row = torch.tensor(TAPS, dtype=x.dtype, device=x.device) / sum(TAPS) * 2
        kernel = torch.outer(row, row)
    channels = x.shape[1]
    padded = F.pad(x, (before, after, before, after))
    return F.conv2d(padded, kernel.to(x).expand(channels, 1, -1, -1), groups=channels)


def upsample(x: Tensor, kernel: Tensor | None = None) -> Tensor:
    """(n, c, h, w) → (n, c, 2h, 2w): zeros between the pixels, then `blur`."""
    n, c, h, w = x.shape
    spread = x.new_zeros(n, c, h, 2, w, 2)
    spread[:, :, :, 0, :, 0] = x
    return blur(spread.view(n, c, 2 * h, 2 * w), before=2, after=1, kernel=kernel)
