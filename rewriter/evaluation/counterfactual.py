"""Did the rule draw what the exact counterfactual shows, and nothing else?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewriter.effect import difference
from rewriter.generators.base import Generator
from rewriter.generators.latents import latents
from rewriter.masks import grow
from rewriter.rule import Rule
from rewriter.townscape import scenes

JUDGED = range(20_000, 21_000)
SPREAD = range(20_000, 20_250)  # where many edits are compared
SURROUNDINGS = 6 / 64  # of the picture's side: how far around the tower top change is not counted as damage
BATCH = 50


@dataclass(frozen=True)
class TowerTops:
    """How many pixels became spire.

    already, became: of the pixels that should become spire, the share drawn nearer to the spire than to what the scene
    shows there now, before and with the rule. changed: the same with the rule, among those only that were drawn as what
    they were before: the figure to go by. whole: among all pixels in which the two scenes differ, those that should
    become sky included. elsewhere: mean change in 1/255 away from the tower top's surroundings. surroundings: their
    share of the picture. pictures, pixels: how many these are.
    """

    already: float
    became: float
    changed: float
    whole: float
    elsewhere: float
    surroundings: float
    pictures: int
    pixels: int


@torch.no_grad()
def dome_to_spire(generator: Generator, rules: Sequence[Rule], seeds: Sequence[int] = JUDGED) -> TowerTops:
    """Judge rules that should turn domes into spires: same factors, a spire instead of a dome."""
    u = scenes.factors(latents(seeds, scenes.LATENT_DIM))
    domes = [seed for seed, dome in zip(seeds, scenes.has_dome(u).tolist(), strict=True) if dome]
    sums = torch.zeros(9, dtype=torch.float64)
    for i in range(0, len(domes), BATCH):
        sums += _judge(generator, rules, domes[i : i + BATCH])
    should, already, became, were, changed, differ, whole, off, away = sums.tolist()
    pixels = len(domes) * generator.resolution**2
    return TowerTops(
        already / should,
        became / should,
        changed / were,
        whole / differ,
        off / away,
        1 - away / pixels,
        len(domes),
        int(were),
    )


def _judge(generator: Generator, rules: Sequence[Rule], seeds: list[int]) -> Tensor:
    """Counts of one batch, in the order in which `dome_to_spire` unpacks them."""
    u = scenes.factors(latents(seeds, scenes.LATENT_DIM))
    now = scenes.draw(u, generator.resolution)
    then = scenes.draw(scenes.change(u, top="spire"), generator.resolution)
    before, after = (generator.sample(seeds, rules=own).cpu() for own in ([], rules))
    should = then.labels == scenes.LABELS.index("spire")
    differ = (now.picture - then.picture).square().sum(1) > 0.01
    was, turned = (_nearer(x, then.picture, now.picture) for x in (before, after))
    top = (should | (now.labels == scenes.LABELS.index("dome"))).float()
    reach = round(SURROUNDINGS * generator.resolution)
    away = grow(top, reach, reach, reach, reach) == 0
    change = difference(before, after)
    counts = [should, should & was, should & turned, should & ~was, should & ~was & turned, differ, differ & turned]
    return torch.stack([c.sum().double() for c in [*counts, change * away, away]])


def _nearer(x: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Pixels (n, H, W) whose colour is nearer to `one` than to `other`."""
    return (x - one).square().sum(1) < (x - other).square().sum(1)
