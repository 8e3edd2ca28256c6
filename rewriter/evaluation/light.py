"""Judges rules about light: lit windows throw light on the ground. How much of it is left, and do the windows shine?"""

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
from rewriter.worlds.townscape.world import WORLD

STEADY = 0.05  # windows count as unchanged if their brightness changes by at most this share
METRICS = (
    Metric("rule", ""),
    Metric("light left", better="less"),
    Metric("windows"),
    Metric("windows' difference", ""),
    Metric("steady", better="more"),
    *DAMAGE,
    Metric("ground of unlit towns", "1/255"),
)


def light_rows(seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
    """Rows of `METRICS` for each town with its lights on and off, and embeddings of the drawn and wanted lit towns."""
    z, u = WORLD.read(seeds)
    lit, unlit = (WORLD.latents_of(factors.change(u, lit=on), z) for on in (True, False))
    x_lit, x_unlit, y_lit, y_unlit = (draw(at).cpu() for draw in (before, after) for at in (lit, unlit))
    scene, dark, embedding = _scenes(tuple(seeds), x_lit.shape[-1])
    light, windows = scene.where("light"), scene.where("window")
    away = ~around(light) | windows
    was, now = brightness(x_lit), brightness(y_lit)
    gap_was, gap = was - brightness(x_unlit), now - brightness(y_unlit)
    shone, shines = ((bright * windows).flatten(1).double().sum(1) for bright in (was, now))
    network = segmenter.load()
    on, off = damage(x_lit, y_lit, away, network), damage(x_unlit, y_unlit, away, network)
    pairs = zip(on.items(), off.values(), strict=True)
    rows = ratios(
        {
            "rule": (gap * light, gap_was * light),
            "light left": ((now - dark).abs() * light, (was - dark).abs() * light),
            "windows": (shines, shone),
            "windows' difference": (gap * windows, gap_was * windows),
            "steady": ((shines - shone).abs() <= STEADY * shone, torch.ones_like(shone)),
            **{name: (a + b, 2.0 * away) for (name, (a, _)), (b, _) in pairs},
            "ground of unlit towns": (difference(x_unlit, y_unlit) * light, light),
        }
    )
    return rows | {"embedding": segmenter.load().embedding(y_lit), "wanted": embedding}


@lru_cache(maxsize=1)  # all methods are judged on the same seeds
def _scenes(seeds: tuple[int, ...], side: int) -> tuple[Scene, Tensor, Tensor]:
    """Lit towns, the brightness of the same towns unlit, and the embedding of lit towns without light on the ground."""
    lit, unlit = (factors.change(WORLD.read(seeds)[1], lit=on) for on in (True, False))
    wanted = segmenter.load().embedding(scenes.draw(lit, side, without="light").picture)
    return scenes.draw(lit, side), brightness(scenes.draw(unlit, side).picture), wanted


def brightness(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, H, W) in [-1, 1] → (n, H, W) in [0, 1]."""
    return (pictures.clamp(-1, 1).mean(1) + 1) / 2


LIGHT = Judge(METRICS, light_rows)
