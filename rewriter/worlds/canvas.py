"""A canvas that paints anti-aliased shapes on many pictures at once and keeps a label for every pixel.

Lengths and places are shares of the picture's side, x to the right and y downwards. A shape is a signed distance,
negative inside, which `Canvas.cover` turns into an opacity in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Length = Tensor | float
UNLABELLED = 1.0  # no opacity exceeds it: paint without a label


def lerp(a: Tensor | float, b: Tensor | float, t: Tensor) -> Tensor:
    """From `a` at t = 0 to `b` at t = 1, without clamping."""
    return a + (b - a) * t


def union(*covers: Tensor) -> Tensor:
    """Opacity of the union of several shapes, broadcast to a common size."""
    return torch.stack(torch.broadcast_tensors(*covers)).amax(0)


class Canvas:
    """Pictures `rgb` (n, 3, size, size) in [0, 1] with `labels` (n, size, size), painted from back to front.

    A label is an index into `things`, the names of what can be painted; an empty canvas has the first. The thing
    `without` is not painted, so that what is behind it shows.
    """

    def __init__(
        self, batch: int, size: int, things: Sequence[str], *, without: str | None, device: torch.device
    ) -> None:
        centres = (torch.arange(size, device=device) + 0.5) / size
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        self.x, self.y, self.size = x[None], y[None], size
        self.things, self.without, self.device = tuple(things), without, device
        self.rgb = torch.zeros(batch, 3, size, size, device=device)
        self.labels = torch.zeros(batch, size, size, dtype=torch.long, device=device)

    def colour(self, r: float, g: float, b: float) -> Tensor:
        """One colour for all pictures, (1, 3, 1, 1)."""
        return torch.tensor([r, g, b], device=self.device)[None, :, None, None]

    def cover(self, distance: Tensor) -> Tensor:
        """Signed distance → opacity, with an edge one pixel wide."""
        return (0.5 - distance * self.size).clamp(0, 1)

    def box(self, x: Length, y: Length, half_width: Length, half_height: Length) -> Tensor:
        """Signed distance to an upright rectangle around (x, y)."""
        return torch.maximum((self.x - x).abs() - half_width, (self.y - y).abs() - half_height)

    def disc(self, x: Length, y: Length, radius: Length) -> Tensor:
        """Signed distance to a disc around (x, y)."""
        return ((self.x - x) ** 2 + (self.y - y) ** 2).sqrt() - radius

    def ellipse(self, x: Length, y: Length, half_width: Length, half_height: Length) -> Tensor:
        """Signed distance, to first order, to an upright ellipse around (x, y)."""
        dx, dy = self.x - x, self.y - y
        reach = ((dx / half_width) ** 2 + (dy / half_height) ** 2).sqrt()
        slope = ((dx / half_width**2) ** 2 + (dy / half_height**2) ** 2).sqrt()
        return reach * (reach - 1) / slope.clamp_min(1e-6)

    def fill(self, rgb: Tensor) -> None:
        """Fill the canvas with a background (n, 3, size or 1, size or 1)."""
        self.rgb = rgb.expand_as(self.rgb)

    def paint(self, opacity: Tensor, colour: Tensor, thing: str, *, label_over: float = 0.5) -> None:
        """Blend a colour (n or 1, 3, 1, 1) over the pictures by an opacity (n or 1, size, size).

        Pixels more opaque than `label_over` are labelled `thing`.
        """
        if thing == self.without:
            return
        opacity = opacity.expand(self.labels.shape)
        self.rgb = self.rgb * (1 - opacity[:, None]) + colour * opacity[:, None]
        label = torch.full_like(self.labels, self.things.index(thing))
        self.labels = torch.where(opacity > label_over, label, self.labels)
