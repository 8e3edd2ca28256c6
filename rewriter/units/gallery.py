"""What a unit draws: the pictures in which it is strongest, with the places where it is on drawn over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rewriter.errors import OnStep, report
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank
from rewriter.generators.latents import Seed
from rewriter.pictures import stacked
from rewriter.units.agreement import BATCH, QUANTILE, STEPS, activations, drawn, usual_levels

SEARCHED = range(5000, 5256)  # pictures among which the strongest are looked for
DIMMED, SHIFT = 0.35, -0.5  # how dark a picture is where a unit is off


@torch.no_grad()
def strongest(
    generator: Generator,
    layer: str,
    units: Sequence[int],
    *,
    pictures: int = 4,
    seeds: Sequence[Seed] = SEARCHED,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
    on_step: OnStep | None = None,
) -> list[list[int]]:
    """For each unit the seeds whose pictures have its largest activations, best first; `on_step` gets (done, of)."""
    most, frame = [], generator.layer(layer).frame
    for i in range(0, len(seeds), BATCH):
        features = generator.keys(list(seeds[i : i + BATCH]), layer, truncation=truncation, rules=rules)
        values = activations(generator, layer, generator.values(features, rules=rules))
        most.append(frame.shown(values)[:, list(units)].amax((2, 3)))
        report(on_step, min(i + BATCH, len(seeds)), len(seeds))
    best = torch.cat(most).topk(min(pictures, len(seeds)), 0).indices.T
    return [[seeds[i] for i in row] for row in best.tolist()]


@torch.no_grad()
def lit(
    generator: Generator,
    layer: str,
    pairs: Sequence[tuple[int, int]],
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
) -> Tensor:
    """Pictures (n, 3, H, W) of (unit, seed) pairs, dark where the unit is not above its 0.99 quantile."""
    seeds = list(dict.fromkeys(seed for _, seed in pairs))
    values, pictures = drawn(generator, layer, seeds, truncation, rules)
    level = usual_levels(generator, layer, truncation, rules)[STEPS.index(QUANTILE)]
    shown = []
    for unit, seed in pairs:
        at = seeds.index(seed)
        own = activations(generator, layer, values[[at]])[:, [unit]]
        on = F.interpolate(own, pictures.shape[2:], mode="bilinear")[0] > level[unit]
        shown.append(torch.where(on, pictures[at], pictures[at] * DIMMED + SHIFT))
    return torch.stack(shown)


def sheet(
    generator: Generator,
    layer: str,
    units: Sequence[int],
    captions: Sequence[str],
    *,
    pictures: int = 8,
    title: str = "",
    on_step: OnStep | None = None,
) -> Image.Image:
    """A row for each unit, with its caption: the pictures in which it is strongest, dark where it is off."""
    rows = strongest(generator, layer, units, pictures=pictures, on_step=on_step)
    pairs = [(unit, seed) for unit, seeds in zip(units, rows, strict=True) for seed in seeds]
    words = [word for caption in captions for word in (caption, *[""] * (pictures - 1))]
    return stacked([lit(generator, layer, pairs)], words, columns=pictures, title=title)
