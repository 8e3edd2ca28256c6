"""Which units of a layer agree with which thing: GAN Dissection (Bau et al. 2019).

A unit is one channel of a layer's values. Above its 0.99 quantile over many pictures it counts as on; it agrees with a
thing as far as the places where it is on are those where pictures show the thing (intersection over union).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rewriter.errors import InputError
from rewriter.evaluation import segmenter
from rewriter.generators.base import Generator
from rewriter.pictures import stacked
from rewriter.worlds.townscape import scenes

QUANTILE = 0.99
SEEDS = range(50_000, 50_500)  # none of the reported ones
BATCH = 50
SHOWN = 8


@dataclass(frozen=True)
class Ranking:
    """The units of a layer, ranked by how well they agree with things.

    order (units,): the best first. iou (units,): by unit. level (units,): above which a unit counts as on. strongest
    (units, pictures): the strongest value of each unit in each picture.
    """

    layer: str
    things: tuple[str, ...]
    order: Tensor
    iou: Tensor
    level: Tensor
    strongest: Tensor
    seeds: Sequence[int]


@torch.no_grad()
def dissect(
    generator: Generator, layer: str, things: Sequence[str], *, seeds: Sequence[int] = SEEDS, quantile: float = QUANTILE
) -> Ranking:
    """Rank a layer's units by their agreement with things of the built-in world, taken as one.

    The labels are those of the scenes that were asked for. Pictures without the things count too: a unit that is on
    there does not agree.

    Raises:
        InputError: no such layer or thing.
    """
    if unknown := [thing for thing in things if thing not in scenes.LABELS]:
        raise InputError(f"the built-in world has no {unknown[0]!r}: choose from {', '.join(scenes.LABELS)}")
    values = torch.cat(list(_values(generator, layer, seeds)))
    level = torch.quantile(
        values.transpose(0, 1).flatten(1)[:, :: max(1, values[:, 0].numel() // 200_000)], quantile, 1
    )
    both, either = torch.zeros(len(level)), torch.zeros(len(level))
    wanted = [scenes.LABELS.index(thing) for thing in things]
    for i in range(0, len(seeds), BATCH):
        labels = segmenter.described(seeds[i : i + BATCH], generator.resolution).labels
        there = torch.isin(labels, torch.tensor(wanted))[:, None]
        on = _grown(values[i : i + BATCH], generator.resolution) > level[:, None, None]
        both += (on & there).sum((0, 2, 3))
        either += (on | there).sum((0, 2, 3))
    iou = both / either.clamp_min(1)
    return Ranking(layer, tuple(things), iou.argsort(descending=True), iou, level, values.amax((2, 3)).T, seeds)


def _values(generator: Generator, layer: str, seeds: Sequence[int]) -> Iterator[Tensor]:
    """Values (n, units, h, w), some seeds at a time."""
    for i in range(0, len(seeds), BATCH):
        yield generator.values(generator.keys(list(seeds[i : i + BATCH]), layer, rules=[]), rules=[]).cpu()


def _grown(values: Tensor, side: int) -> Tensor:
    return F.interpolate(values, size=(side, side), mode="bilinear")


@torch.no_grad()
def sheet(generator: Generator, ranking: Ranking, *, units: int = SHOWN, pictures: int = SHOWN) -> Image.Image:
    """A row for each of the best units: the pictures in which it is strongest, bright where it is on."""
    rows, captions = [], []
    for unit in ranking.order[:units].tolist():
        best = ranking.strongest[unit].topk(pictures).indices.tolist()
        seeds = [ranking.seeds[i] for i in best]
        (values,), drawn = _values(generator, ranking.layer, seeds), generator.sample(seeds, rules=[]).cpu()
        on = _grown(values[:, [unit]], generator.resolution) > ranking.level[unit]
        rows.append(torch.where(on, drawn, drawn * 0.35 - 0.5))
        captions += [f"unit {unit}, IoU {ranking.iou[unit]:.2f}", *[""] * (pictures - 1)]
    title = f"{ranking.layer}: units that agree with {' and '.join(ranking.things)}"
    return stacked([torch.cat(rows)], captions, columns=pictures, title=title)
