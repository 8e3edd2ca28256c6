"""Which units of a layer agree with a thing? GAN Dissection (Bau et al. 2019).

A unit is one channel of a layer's values. It is on where its value exceeds its 0.99 quantile over many pictures. It
agrees with a thing as far as it is on where pictures show the thing: intersection over union (IoU).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.pictures import stacked
from rewriter.worlds.townscape import scenes

QUANTILE, SAMPLES = 0.99, 200_000  # values of a unit that the quantile is computed from
SEEDS = range(50_000, 50_500)  # not used for reported results
BATCH = 50


@dataclass(frozen=True)
class Ranking:
    """The units of a layer, ranked by how well they agree with things."""

    layer: str
    things: tuple[str, ...]
    order: Tensor  # (units,), best first
    iou: Tensor  # (units,)
    level: Tensor  # (units,): a unit is on above it
    strongest: Tensor  # (units, pictures): the largest value in each picture
    seeds: Sequence[int]


@torch.no_grad()
def dissect(generator: Generator, layer: str, things: Sequence[str], *, seeds: Sequence[int] = SEEDS) -> Ranking:
    """Rank a layer's units by their agreement with things of the built-in world (else InputError), together."""
    if unknown := [thing for thing in things if thing not in scenes.LABELS]:
        raise InputError(f"the built-in world has no {unknown[0]!r}: choose from {', '.join(scenes.LABELS)}")
    batches = [list(seeds[i : i + BATCH]) for i in range(0, len(seeds), BATCH)]
    parts = [_values(generator, layer, batch) for batch in batches]
    values = torch.cat(parts)
    sampled = values.transpose(0, 1).flatten(1)[:, :: max(1, values[:, 0].numel() // SAMPLES)]
    level = torch.quantile(sampled, QUANTILE, 1)
    both, either, size = torch.zeros(len(level)), torch.zeros(len(level)), (generator.resolution,) * 2
    for batch, part in zip(batches, parts, strict=True):
        shown = scenes.described(batch, generator.resolution).where(*things)[:, None]
        on = F.interpolate(part, size, mode="bilinear") > level[:, None, None]
        both += (on & shown).sum((0, 2, 3))
        either += (on | shown).sum((0, 2, 3))
    iou = both / either.clamp_min(1)
    return Ranking(layer, tuple(things), iou.argsort(descending=True), iou, level, values.amax((2, 3)).T, seeds)


def _values(generator: Generator, layer: str, seeds: Sequence[int]) -> Tensor:
    """Values (n, units, h, w) of a layer."""
    return generator.values(generator.keys(seeds, layer, rules=[]), rules=[]).cpu()


@torch.no_grad()
def sheet(generator: Generator, ranking: Ranking, *, units: int = 8, pictures: int = 8) -> Image.Image:
    """A row for each of the best units: the pictures in which it is strongest, dimmed where it is off."""
    rows, captions = [], []
    for unit in ranking.order[:units].tolist():
        seeds = [ranking.seeds[i] for i in ranking.strongest[unit].topk(pictures).indices.tolist()]
        values, drawn = _values(generator, ranking.layer, seeds), generator.sample(seeds, rules=[]).cpu()
        on = F.interpolate(values[:, [unit]], drawn.shape[2:], mode="bilinear") > ranking.level[unit]
        rows.append(torch.where(on, drawn, drawn * 0.35 - 0.5))
        captions += [f"unit {unit}, IoU {ranking.iou[unit]:.2f}", *[""] * (pictures - 1)]
    title = f"{ranking.layer}: units that agree with {' and '.join(ranking.things)}"
    return stacked([torch.cat(rows)], captions, columns=pictures, title=title)
