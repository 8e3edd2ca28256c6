"""What a rule changed where no change is intended: by pixels and by the segmenter's features."""

from __future__ import annotations

import torch
from torch import Tensor

from rewriter.editing.effect import difference
from rewriter.editing.likeness import SURROUNDINGS
from rewriter.evaluation.metrics import Metric
from rewriter.masks import grow
from rewriter.worlds.townscape import segmenter

DAMAGE = (Metric("side effect", "1/255", "less"), Metric("perceptual", "", "less"))


def around(place: Tensor) -> Tensor:
    """Places (n, H, W) bool with their surroundings."""
    reach = round(SURROUNDINGS * place.shape[-1])
    return grow(place.float(), reach, reach, reach, reach) > 0


def damage(before: Tensor, after: Tensor, away: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The maps of `DAMAGE` for pictures (n, 3, H, W): mean change inside `away`, (n, H, W) bool.

    Features see a neighbourhood of each pixel, so intended change is undone before they are compared.
    """
    perceived = segmenter.load().distance(before, torch.where(away[:, None], after, before))
    return {"side effect": (difference(before, after) * away, away), "perceptual": (perceived * away, away)}
