"""Judges rules that remove watermarks: counts those in the middle and the bars along the bottom, separately."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from rewriter.evaluation.metrics import DAMAGE, Draw, Judge, Metric, Rows, damage, ratios
from rewriter.masks import around
from rewriter.pictures import difference
from rewriter.worlds import segmenter
from rewriter.worlds.base import Scene
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.marks import KINDS, detector, switched
from rewriter.worlds.townscape.world import WORLD

METRICS = (
    *(Metric(kind, "per 1,000", "less") for kind in KINDS),
    *(Metric(f"{kind} before", "per 1,000") for kind in KINDS),
    *(Metric(f"{kind} gone", "%", "more") for kind in KINDS),
    *(Metric(f"{kind} new", "per 1,000", "less") for kind in KINDS),
    *DAMAGE,
    Metric("distance", "1/255", "less"),
    *(Metric(f"{kind} {error}", "%", "less") for error in ("misses", "alarms") for kind in KINDS),
)


def watermark_rows(seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
    """Rows of `METRICS`, and embeddings of the drawn pictures and of scenes without marks."""
    z, u = WORLD.read(seeds)
    x, y = before(z).cpu(), after(z).cpu()
    now, clean, embedding = _scenes(tuple(seeds), x.shape[-1])
    distance, every = difference(y, clean), torch.ones(len(u))
    away = ~around(now.where(*KINDS.values()))
    parts = {"distance": (distance, torch.ones_like(distance)), **damage(x, y, away, segmenter.load())}
    for kind in KINDS:
        find = detector(kind, x.shape[-1])
        was, shows = find(x), find(y)
        on, off = (find(before(WORLD.latents_of(switched(u, kind, on=on), z)).cpu()) for on in (True, False))
        counts = {"": shows, " before": was, " new": shows & ~was, " misses": ~on, " alarms": off}
        parts |= {f"{kind}{name}": (flags, every) for name, flags in counts.items()}
        parts[f"{kind} gone"] = (was & ~shows, was)
    return ratios(parts) | {"embedding": segmenter.load().embedding(y), "wanted": embedding}


@lru_cache(maxsize=1)  # all methods are judged on the same seeds
def _scenes(seeds: tuple[int, ...], side: int) -> tuple[Scene, Tensor, Tensor]:
    """Towns, the pictures of the same towns without marks, and the embedding of the latter."""
    _, u = WORLD.read(seeds)
    clean = scenes.draw(factors.change(u, watermark=False, bar=False), side).picture
    return scenes.draw(u, side), clean, segmenter.load().embedding(clean)


WATERMARKS = Judge(METRICS, watermark_rows)
