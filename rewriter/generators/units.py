"""Units switched: single channels of a layer's values set to a level, everywhere or inside a mask.

Units are what GAN Dissection (Bau et al. 2019) looks at. Switching them is a memory beside W like the others, so that
each picture of a batch may have its own switches, on top of rules of any form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.generators.beside import Beside

if TYPE_CHECKING:
    from rewriter.generators.base import Generator
    from rewriter.generators.layer import LayerInfo, Memory

HELD = 0.5  # strength from which weights that hold the levels come nearest
LARGEST = 2048  # cells of a mask on each side


@dataclass(frozen=True, eq=False)
class Units(Beside):
    """The values of some units move to a level: v ← v + α (level − v), with α from the mask, or 1 without one."""

    form = "units"
    units: Tensor  # (k,), their numbers
    levels: Tensor  # (k,), in the layer's values
    mask: Tensor | None = None  # (H, W) in 0 … 1 of the picture at any resolution; None: everywhere

    def tensors(self) -> dict[str, Tensor]:
        """Units, levels and the mask if there is one."""
        mask = {} if self.mask is None else {"mask": self.mask}
        return {"units": self.units.float(), "levels": self.levels, **mask}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Units:
        """From units, levels and perhaps a mask."""
        return cls(tensors["units"].long(), tensors["levels"], tensors.get("mask"))

    def fits(self, info: LayerInfo) -> bool:
        """Whether the layer has such units, each with one level, and the mask is one."""
        units, mask = self.units, self.mask
        known = units.ndim == 1 and 0 < len(units) <= info.out_channels and self.levels.shape == units.shape
        known = known and 0 <= int(units.min()) and int(units.max()) < info.out_channels
        if mask is not None and not (mask.ndim == 2 and 0 < min(mask.shape) and max(mask.shape) <= LARGEST):
            return False
        inside = mask is None or 0 <= float(mask.min()) <= float(mask.max()) <= 1
        return bool(known and len(units.unique()) == len(units) and inside)

    def matches(self, keys: Tensor) -> Tensor:
        """How far the mask covers each key, (n, h, w) in 0 … 1; 1 without a mask."""
        return self._alpha(keys).expand(len(keys), -1, -1)

    def _alpha(self, maps: Tensor) -> Tensor:
        """How far each cell of maps (n, c, h, w) is switched, as (1, h, w): fully from where half of it is painted."""
        if self.mask is None:
            return maps.new_ones(1, *maps.shape[2:])
        return (2 * F.interpolate(self.mask[None, None].to(maps), maps.shape[2:], mode="area")[0]).clamp_max(1)

    def fold(self, base: Generator, twin: Generator, layer: str, strength: float) -> None:
        """Levels that hold everywhere are weights as well; others are left out, as are strengths nearer to none."""
        if self.mask is None and strength >= HELD:
            twin.hold(layer, self.units.to(twin.device), self.levels.to(twin.device), base)

    def change(self, memory: Memory, keys: Tensor, sigma: Tensor | None, response: Tensor) -> Tensor:
        """What moves the units' values to their levels, where the mask is; elsewhere exactly zero."""
        units, alpha = self.units.to(response.device), self._alpha(response)
        offset = memory.offset().expand(response.shape[1:])[units]
        x = response[:, units] + offset
        values = memory.activate(x)
        wanted = torch.lerp(values, self.levels.to(values)[:, None, None].expand_as(values), alpha)
        moved = torch.where(alpha > 0, memory.inverse(wanted) - x, 0.0)
        return torch.zeros_like(response).index_copy(1, units, moved)
