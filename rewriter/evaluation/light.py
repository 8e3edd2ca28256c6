"""How much of the light that lit windows throw on the ground is left, and whether the windows still shine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewriter.effect import difference
from rewriter.evaluation.counterfactual import BATCH, JUDGED, SURROUNDINGS, labelled, mean_change
from rewriter.generators.base import Generator
from rewriter.generators.latents import latents
from rewriter.masks import grow
from rewriter.rule import Rule
from rewriter.townscape import scenes

STEADY = 0.05  # windows whose brightness changes by no more than this share stay as they are


@dataclass(frozen=True)
class Light:
    """What rules did to lit towns; brightness is the mean of the three colours in [0, 1].

    fell: share of the light on the ground that is gone, 1 − Σ|after − unlit| / Σ|before − unlit| over the light's
    pixels, where unlit is the brightness of the same scene with its lights off: ground darker than that counts against
    the rule. windows: mean brightness of the windows after over that before. steady: share of the towns whose windows
    keep their brightness within 5 %. elsewhere: mean change in 1/255 away from the light's surroundings, windows
    included. unlit: mean change of towns without light. pictures, pixels: how many towns and pixels of light.
    """

    fell: float
    windows: float
    steady: float
    elsewhere: float
    unlit: float
    pictures: int
    pixels: int


@torch.no_grad()
def light_on_ground(generator: Generator, rules: Sequence[Rule], seeds: Sequence[int] = JUDGED) -> Light:
    """Judge rules that should take the light off the ground and leave the windows lit."""
    lit = scenes.is_lit(scenes.factors(latents(list(seeds), scenes.LATENT_DIM))).tolist()
    towns, dark = ([seed for seed, shines in zip(seeds, lit, strict=True) if shines == kind] for kind in (True, False))
    sums = torch.zeros(8, dtype=torch.float64)
    for i in range(0, len(towns), BATCH):
        sums += _counts(generator, rules, towns[i : i + BATCH])
    before, after, shone, shines, steady, off, away, pixels = sums.tolist()
    return Light(
        1 - after / before,
        shines / shone,
        steady / len(towns),
        off / away,
        mean_change(generator, rules, dark),
        len(towns),
        int(pixels),
    )


def _counts(generator: Generator, rules: Sequence[Rule], seeds: list[int]) -> Tensor:
    """Sums over one batch of lit towns, in the order in which `light_on_ground` unpacks them."""
    u, side = scenes.factors(latents(seeds, scenes.LATENT_DIM)), generator.resolution
    lit, unlit = scenes.draw(u, side), scenes.draw(scenes.change(u, lit=False), side)
    light, windows = labelled(lit, "light"), labelled(lit, "window")
    before, after = (generator.sample(seeds, rules=own).cpu() for own in ([], rules))
    thrown = [(_brightness(x) - _brightness(unlit.picture)).abs() * light for x in (before, after)]
    shine = [(_brightness(x) * windows).sum((1, 2)) for x in (before, after)]
    steady = (shine[1] - shine[0]).abs() <= STEADY * shine[0]
    reach = round(SURROUNDINGS * side)
    away = (grow(light.float(), reach, reach, reach, reach) == 0) | windows
    sums = [*thrown, *shine, steady, difference(before, after) * away, away, light]
    return torch.stack([x.sum().double() for x in sums])


def _brightness(pictures: Tensor) -> Tensor:
    """Pictures (n, 3, H, W) in [-1, 1] → (n, H, W) in [0, 1]."""
    return (pictures.clamp(-1, 1).mean(1) + 1) / 2
