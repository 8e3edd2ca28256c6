"""Frame: where a picture lies on a layer's map; in a StyleGAN3 maps reach beyond the picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """Where a picture lies on a square map of `side` cells: on all of it but `margin` cells at each edge."""

    side: int
    margin: int = 0

    @property
    def across(self) -> int:
        """Cells of the map that the picture is wide."""
        return self.side - 2 * self.margin

    def lay(self, mask: Tensor) -> Tensor:
        """A mask (H, W) of the picture on the map, (side, side)."""
        within = F.interpolate(mask[None, None], size=(self.across, self.across), mode="area")[0, 0]
        return F.pad(within, (self.margin,) * 4)

    def shown(self, maps: Tensor) -> Tensor:
        """The part of maps (…, side, side) that the picture shows, (…, across, across)."""
        inside = slice(self.margin, self.side - self.margin)
        return maps[..., inside, inside]

    def cells(self, shares: tuple[float, float]) -> tuple[float, float]:
        """Row and column on the map of a place that is given in shares of the picture's side."""
        row, column = (share * self.across + self.margin for share in shares)
        return row, column
