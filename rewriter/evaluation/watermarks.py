"""Judges rules that remove watermarks: counts those in the middle and the bars along the bottom, separately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.editing.effect import difference
from rewriter.evaluation.damage import DAMAGE, around, damage
from rewriter.evaluation.metrics import BATCH, Draw, Metric, Rows, ratios
from rewriter.masks import grow
from rewriter.worlds.townscape import scenes, segmenter

TEMPLATE_SEEDS = range(60_000, 60_200)
VISIBLE = 0.3  # a mark counts as visible from this share of its full strength on
KINDS = {"middle": "watermark", "bottom": "bar"}
METRICS = (
    *(Metric(kind, "per 1,000", "less") for kind in KINDS),
    *(Metric(f"{kind} before", "per 1,000") for kind in KINDS),
    *(Metric(f"{kind} gone", "%", "more") for kind in KINDS),
    *(Metric(f"{kind} new", "per 1,000", "less") for kind in KINDS),
    *DAMAGE,
    Metric("distance", "1/255", "less"),
    *(Metric(f"{kind} {error}", "%", "less") for error in ("misses", "alarms") for kind in KINDS),
)


class Detector:
    """Finds one kind of mark by template matching: how much of the brightness that the mark adds does a picture show?

    For watermarks the template is the letters against the gaps between them, row by row; for bars it is the strip
    against the ground above it. So whatever the scene has there anyway cancels out.
    """

    def __init__(self, kind: str, side: int) -> None:
        self.fine = kind == "middle"
        _, u = scenes.towns(TEMPLATE_SEEDS)
        without = scenes.change(u, watermark=False, bar=False)
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


def switched(u: Tensor, kind: str, *, on: bool) -> Tensor:
    """Factors (n, 24) with one kind of mark switched on or off."""
    switch: dict[str, Any] = {KINDS[kind]: on}
    return scenes.change(u, **switch)


@dataclass(frozen=True)
class Watermarks:
    """Judges rules that remove marks.

    Metrics, those of a kind for "middle" and "bottom" each:
        KIND: pictures that show a mark after the rule; before: those that showed one before it; new: those that show
            one only after it; gone: the share of the marks before that are gone.
        side effect, perceptual: change away from the scene's marks and their surroundings.
        distance: mean difference of whole pictures from the scenes without marks; remaining marks and damage count.
        misses, alarms: the detector's errors on the unmodified generator's pictures of scenes with and without a mark.
    """

    metrics: tuple[Metric, ...] = METRICS

    def __call__(self, seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
        """Rows of `METRICS`, and embeddings of the drawn pictures and of scenes without marks."""
        z, u = scenes.towns(seeds)
        x, y = before(z).cpu(), after(z).cpu()
        now, clean, embedding = _scenes(tuple(seeds), x.shape[-1])
        distance = difference(y, clean)
        away = ~around(now.where(*KINDS.values()))
        parts = {"distance": (distance, torch.ones_like(distance)), **damage(x, y, away)}
        every = torch.ones(len(u))
        for kind in KINDS:
            find = detector(kind, x.shape[-1])
            was, shows = find(x), find(y)
            on, off = (find(before(scenes.latents_of(switched(u, kind, on=on), z)).cpu()) for on in (True, False))
            counts = {"": shows, " before": was, " new": shows & ~was, " misses": ~on, " alarms": off}
            parts |= {f"{kind}{name}": (flags, every) for name, flags in counts.items()}
            parts[f"{kind} gone"] = (was & ~shows, was)
        return ratios(parts) | {"embedding": segmenter.load().embedding(y), "wanted": embedding}


@lru_cache(maxsize=1)  # all methods are judged on the same seeds
def _scenes(seeds: tuple[int, ...], side: int) -> tuple[scenes.Scene, Tensor, Tensor]:
    """Towns, the pictures of the same towns without marks, and the embedding of the latter."""
    _, u = scenes.towns(seeds)
    clean = scenes.draw(scenes.change(u, watermark=False, bar=False), side).picture
    return scenes.draw(u, side), clean, segmenter.load().embedding(clean)


def detector_errors(seeds: Sequence[int], side: int = 64) -> dict[str, tuple[float, float]]:
    """For each kind, the detector's misses and false alarms on the scenes themselves, as shares."""
    _, u = scenes.towns(seeds)
    pictures = torch.cat([scenes.draw(part, side).picture for part in u.split(BATCH)])
    found = {}
    for kind, marked in (("middle", scenes.has_watermark(u)), ("bottom", scenes.has_bar(u))):
        seen = detector(kind, side)(pictures)
        found[kind] = float((~seen[marked]).float().mean()), float(seen[~marked].float().mean())
    return found
