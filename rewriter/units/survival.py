"""Why does a painted thing not appear? How much of it is left after each later layer.

What is painted at one layer is a change of its values towards those that the thing has. Each later layer may carry that
change on or undo it. Its share is 1 where the values inside the mask are as they are on real things of the kind, 0
where they are as they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rewriter.editing.region import Region
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank
from rewriter.generators.layer import Features
from rewriter.pictures import INK, PAPER
from rewriter.units.thing import Thing, marked

PICTURE = "picture"  # in the place of a layer's name, after the last one
GONE = 0.25  # share of the first layer's from which on the thing counts as lost
BAR, GAP, TOP, LABEL = 34, 6, 18, 26  # pixels of the plot


@dataclass(frozen=True)
class Left:
    """What is left of a painted thing after a layer, or in the picture."""

    layer: str
    resolution: int
    share: float


@torch.no_grad()
def survival(
    generator: Generator,
    thing: Thing,
    place: Region,
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
) -> list[Left]:
    """The share of a thing painted at a place that is left after its own layer, each later one, and in the picture.

    InputError if the thing was never pointed at: then it is not known what real ones look like.
    """
    if not thing.marks:
        raise InputError(f"{thing.name or 'the thing'} has no marks: point at it on a picture first")
    seeds, labels = marked(thing.marks)
    change = thing.stroke(place).change(generator.layer(thing.layer)).to(generator.device)
    real = _walk(generator, thing.layer, seeds, truncation, rules)
    plain, painted = (_walk(generator, thing.layer, [place.seed], truncation, own) for own in (rules, [*rules, change]))
    found = []
    for (layer, shown), (_, before), (_, after) in zip(real, plain, painted, strict=True):
        where, mask = (_weights(each, shown) for each in (labels(seeds, shown)[:, 0], place.mask[None]))
        wanted = (shown * where).sum((0, 2, 3)) / where.sum().clamp_min(1e-9)
        towards, moved = wanted[:, None, None] - before[0], (after - before)[0]
        share = (mask[0] * towards * moved).sum() / (mask[0] * towards.square()).sum().clamp_min(1e-9)
        found.append(Left(layer, shown.shape[-1], float(share)))
    return found


def _weights(masks: Tensor, like: Tensor) -> Tensor:
    """Masks (n, H, W) on maps (n, c, h, w), cells that are covered wholly foremost: (n, 1, h, w)."""
    return F.interpolate(masks[:, None].to(like), like.shape[2:], mode="area") ** 3


def _walk(
    generator: Generator, layer: str, seeds: Sequence[int], truncation: float, rules: Sequence[LowRank]
) -> Iterator[tuple[str, Tensor]]:
    """The values of a layer and of each later one, then the pictures."""
    following: Features | Tensor = generator.keys(seeds, layer, truncation=truncation, rules=rules)
    while isinstance(following, Features):
        values = generator.values(following, rules=rules)
        yield following.layer, values
        following = generator.step(following, values)
    yield PICTURE, following.clamp(-1, 1)


def in_words(left: Sequence[Left], name: str) -> str:
    """Whether the thing appears, and if not after which layer it was lost: one sentence."""
    first, last, name = left[0], left[-1], name or "thing"
    if last.share >= GONE * first.share:
        return f"The {name} appears: {min(1.0, last.share):.0%} of what was painted reaches the picture."
    lost = next(each for i, each in enumerate(left) if all(e.share < GONE * first.share for e in left[i:]))
    where = "in the picture" if lost.layer == PICTURE else f"after {lost.layer}, at {lost.resolution} px"
    there, rest = (f"{max(0.0, each.share):.0%}" for each in (first, lost))
    return f"The {name} is in the features at {first.layer} ({there}) and gone {where} ({rest})."


def plot(left: Sequence[Left], title: str = "") -> Image.Image:
    """A bar for each layer, and one for the picture: how much of the thing is left."""
    font, height = ImageFont.load_default(11), 90
    paper = Image.new("RGB", (max(260, len(left) * (BAR + GAP) + GAP), TOP + height + LABEL + GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    pen.text((GAP, 3), title, INK, font)
    floor = TOP + height
    for i, each in enumerate(left):
        x, share = GAP + i * (BAR + GAP), min(1.0, max(0.0, each.share))
        colour = (46, 125, 80) if each.share >= GONE * left[0].share else (196, 84, 60)
        pen.rectangle((x, floor - max(1, round(share * (height - 14))), x + BAR - 1, floor), colour)
        pen.text((x, floor - round(share * (height - 14)) - 14), f"{each.share:.0%}", INK, font)
        words = "image" if each.layer == PICTURE else each.layer.removeprefix("layer")
        pen.text((x, floor + 2), words, INK, font)
        pen.text((x, floor + 13), f"{each.resolution} px", INK, ImageFont.load_default(9))
    return paper
