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
from torch import Tensor

from rewriter.editing.stroke import Stroke
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank
from rewriter.generators.latents import Seed
from rewriter.generators.layer import Features
from rewriter.units.thing import Thing, marked

PICTURE = "picture"  # in the place of a layer's name, after the last one
APPEARS, VISIBLE = 0.5, 10.0  # share from which a thing counts as there; a change in 1/255 that one sees


@dataclass(frozen=True)
class Left:
    """What is left of a painted thing after a layer, or in the picture."""

    layer: str
    resolution: int
    share: float  # of what real things have there; more than 1 where it is drawn stronger


@dataclass(frozen=True)
class Survival:
    """What is left of a painted thing after each layer."""

    left: tuple[Left, ...]  # the last one is the picture
    change: float  # of the picture inside the mask, in 1/255: what does appear may be something else

    @property
    def appears(self) -> bool:
        """Whether the thing is in the picture."""
        return self.left[-1].share >= APPEARS

    def in_words(self, name: str) -> str:
        """Whether the thing appears, and if not, after which layer it was lost and what shows instead."""
        last, first = self.left[-1].share, self.left[0]
        if self.appears:
            return f"{name}: it appears, {_percent(last)} of what real ones show."
        lost = next(each for i, each in enumerate(self.left) if all(one.share < APPEARS for one in self.left[i:]))
        if lost is first:
            return f"{name}: too faint, {_percent(last)} of what real ones show: paint more, or raise the strength."
        where = "the last step, to colours, refuses it" if lost.layer == PICTURE else f"it is lost after {lost.layer}"
        instead = "What shows there is something else" if self.change >= VISIBLE else "Little shows there"
        return (
            f"{name}: it is in the features of {first.layer} ({_percent(first.share)} of a real one), but {where}. "
            f"{instead} ({_percent(last)})."
        )


def _percent(share: float) -> str:
    return f"{min(1.0, max(0.0, share)):.0%}"


@torch.no_grad()
def survival(
    generator: Generator,
    thing: Thing,
    stroke: Stroke,
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
) -> Survival:
    """What a stroke of a thing leaves after its own layer, after each later one, and in the picture.

    Raises:
        InputError: the thing was never pointed at, so that it is not known what real ones look like; or the stroke has
            no place.
    """
    if not thing.marks or stroke.place is None:
        raise InputError(f"{thing.name or 'the thing'} has no marks, or the stroke no place: point at it on a picture")
    seeds, labels = marked(thing.marks)
    change = stroke.change(generator.layer(stroke.layer)).to(generator.device)
    real = _walk(generator, stroke.layer, seeds, truncation, rules)
    plain, painted = (
        _walk(generator, stroke.layer, [stroke.place.seed], truncation, own) for own in (rules, [*rules, change])
    )
    found, changed = list[Left](), 0.0
    for (layer, shown), (_, before), (_, after) in zip(real, plain, painted, strict=True):
        where, mask = (_weights(each, shown) for each in (labels(seeds, shown)[:, 0], stroke.place.mask[None]))
        wanted = (shown * where).sum((0, 2, 3)) / where.sum().clamp_min(1e-9)
        towards, moved = wanted[:, None, None] - before[0], (after - before)[0]
        share = (mask[0] * towards * moved).sum() / (mask[0] * towards.square()).sum().clamp_min(1e-9)
        found.append(Left(layer, shown.shape[-1], float(share)))
        changed = float((mask[0] * moved.abs()).sum() / (3 * mask.sum()).clamp_min(1e-9)) * 127.5
    return Survival(tuple(found), changed)


def _weights(masks: Tensor, like: Tensor) -> Tensor:
    """Masks (n, H, W) on maps (n, c, h, w), cells that are covered wholly foremost: (n, 1, h, w)."""
    return F.interpolate(masks[:, None].to(like), like.shape[2:], mode="area") ** 3


def _walk(
    generator: Generator, layer: str, seeds: Sequence[Seed], truncation: float, rules: Sequence[LowRank]
) -> Iterator[tuple[str, Tensor]]:
    """The values of a layer and of each later one, then the pictures."""
    following: Features | Tensor = generator.keys(seeds, layer, truncation=truncation, rules=rules)
    while isinstance(following, Features):
        values = generator.values(following, rules=rules)
        yield following.layer, generator.layer(following.layer).frame.shown(values)
        following = generator.follow(following, values)
    yield PICTURE, following.clamp(-1, 1)
