"""Finds marks in pictures by template matching: watermarks in the middle, and bars along the bottom."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.masks import grow
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.world import WORLD

TEMPLATE_SEEDS = range(60_000, 60_200)
VISIBLE = 0.3  # a mark counts as visible from this share of its full strength on
KINDS = {"middle": "watermark", "bottom": "bar"}


def switched(u: Tensor, kind: str, *, on: bool) -> Tensor:
    """Factors (n, 24) with one kind of mark switched on or off."""
    switch: dict[str, Any] = {KINDS[kind]: on}
    return factors.change(u, **switch)


class Detector:
    """Finds one kind of mark: how much of the brightness that the mark adds does a picture show?

    For watermarks the template is the letters against the gaps between them, row by row; for bars it is the strip
    against the ground above it. So whatever the scene has there anyway cancels out.
    """

    def __init__(self, kind: str, side: int) -> None:
        self.fine = kind == "middle"
        _, u = WORLD.read(TEMPLATE_SEEDS)
        without = factors.change(u, watermark=False, bar=False)
        marked = switched(without, kind, on=True)
        added = (scenes.draw(marked, side).picture - scenes.draw(without, side).picture).mean((0, 1))  # (H, W)
        rows = added.abs() > 0.05
        if not self.fine:
            rows = grow(rows.float(), int(rows.any(1).sum()), 0, 0, 0) > 0
        added = self._local(added)
        self.template = torch.where(rows, added - added[rows].mean(), 0.0)
        self.template /= (added * self.template).sum()

    def _local(self, brightness: Tensor) -> Tensor:
        """Against the mean of nine neighbouring pixels, letters stand out; towers and roofs mostly do not."""
        if not self.fine:
            return brightness
        return brightness - F.avg_pool2d(brightness[None], (1, 9), 1, (0, 4), count_include_pad=False)[0]

    def __call__(self, pictures: Tensor) -> Tensor:
        """Which pictures (n, 3, H, W) visibly show the mark, bool (n,)."""
        strength = (self._local(pictures.clamp(-1, 1).mean(1)) * self.template).sum((1, 2))
        return strength > VISIBLE


detector = cache(Detector)


def detector_errors(seeds: Sequence[int], side: int = 64) -> dict[str, tuple[float, float]]:
    """For each kind, the detector's misses and false alarms on the scenes themselves, as shares."""
    _, u = WORLD.read(seeds)
    pictures = torch.cat([scenes.draw(part, side).picture for part in u.split(50)])
    found = {}
    for kind, marked in (("middle", factors.has_watermark(u)), ("bottom", factors.has_bar(u))):
        seen = detector(kind, side)(pictures)
        found[kind] = float((~seen[marked]).float().mean()), float(seen[~marked].float().mean())
    return found
