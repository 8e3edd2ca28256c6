"""Template: what the keys of a place and of its surroundings look like, and where else they look so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SHARPNESS = 4  # a peak's place is the centroid of score⁴ over 3 × 3 cells


class Peaks(NamedTuple):
    """P places at which a template matches."""

    picture: Tensor  # which of the pictures, (P,) int64
    place: Tensor  # row and column of the template's corner in key cells, finer than a cell, (P, 2)
    score: Tensor  # cosine, (P,)


@dataclass(frozen=True, eq=False)
class Template:
    """A patch of whitened keys. Its score at a place is the cosine with the whitened keys there, −1 … 1."""

    patch: Tensor  # (m, h, w)
    whitening: Tensor  # Z (m, in), the keys' strongest principal directions divided by their spread
    low: float = 0.0  # below this score nothing matches
    high: float = 1.0  # from this score on a place matches fully

    def __post_init__(self) -> None:
        """Numbers as a file holds them, so that a rule is the same after it is loaded."""
        for name in ("low", "high"):
            object.__setattr__(self, name, single(getattr(self, name)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in key cells."""
        return self.patch.shape[1], self.patch.shape[2]

    def to(self, like: Tensor) -> Template:
        """The same with the device and dtype of another tensor."""
        return replace(self, patch=self.patch.to(like), whitening=self.whitening.to(like))

    def whitened(self, keys: Tensor) -> Tensor:
        """Keys (n, in, h, w) → (n, m, h, w)."""
        return torch.einsum("mi,nihw->nmhw", self.whitening, keys)

    def scores(self, keys: Tensor) -> Tensor:
        """Score at each place of the template's corner (n, h', w'), for keys (n, in, h, w)."""
        return self.cosine(self.whitened(keys))

    def cosine(self, whitened: Tensor) -> Tensor:
        """Score at each place of the template's corner (n, h', w'), for whitened keys (n, m, h, w)."""
        energy = F.avg_pool2d(whitened.square().sum(1, keepdim=True), self.size, 1)[:, 0] * (
            self.size[0] * self.size[1]
        )
        return F.conv2d(whitened, self.patch[None])[:, 0] / (self.patch.norm() * energy.sqrt()).clamp_min(1e-12)

    def opened(self, score: Tensor) -> Tensor:
        """How far a place of this score matches, 0 … 1."""
        return ((score - self.low) / (self.high - self.low)).clamp(0, 1)

    def peaks(self, scores: Tensor) -> Peaks:
        """The places that match at least a little, of which none lies within half a template of a better one."""
        reach = [min(max(1, side // 2), (total - 1)) for side, total in zip(self.size, scores.shape[1:], strict=True)]
        padded = F.pad(scores[:, None], (reach[1], reach[1], reach[0], reach[0]), value=-2.0)
        best = F.max_pool2d(padded, (2 * reach[0] + 1, 2 * reach[1] + 1), 1)[:, 0]
        picture, row, column = ((scores == best) & (scores > self.low)).nonzero().T
        return Peaks(picture, torch.stack(centroid(scores, picture, row, column), 1), scores[picture, row, column])

    def best(self, scores: Tensor) -> Peaks:
        """The best place of each picture, whatever its score."""
        cell = scores.flatten(1).argmax(1)
        row, column = cell // scores.shape[2], cell % scores.shape[2]
        picture = torch.arange(len(scores), device=scores.device)
        return Peaks(picture, torch.stack(centroid(scores, picture, row, column), 1), scores[picture, row, column])


def single(number: float) -> float:
    """The nearest number of single precision."""
    return float(torch.tensor(number, dtype=torch.float32))


def centroid(scores: Tensor, picture: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of peaks (P,), to a fraction of a cell."""
    steps = torch.tensor([-1, 0, 1], device=scores.device)
    near = F.pad(scores, (1, 1, 1, 1))[
        picture[:, None, None], row[:, None, None] + 1 + steps[:, None], column[:, None, None] + 1 + steps
    ]
    weight = near.clamp_min(0) ** SHARPNESS
    total = weight.sum((1, 2)).clamp_min(1e-12)
    return row + (weight.sum(2) * steps).sum(1) / total, column + (weight.sum(1) * steps).sum(1) / total
