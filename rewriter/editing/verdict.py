"""Did it take? A rule is judged at places like the marked ones, on pictures that it was not made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter import masks
from rewriter.editing.forms import Finder
from rewriter.editing.likeness import Likeness, shifted
from rewriter.editing.region import Place, Region
from rewriter.generators.base import Changes
from rewriter.generators.change import LowRank
from rewriter.generators.frame import Frame
from rewriter.generators.latents import UNSEEN, Seed
from rewriter.pictures import difference

if TYPE_CHECKING:
    from rewriter.editing.effect import Effect
    from rewriter.editing.job import Job
    from rewriter.editing.rule import Rule

SEARCHED = range(UNSEEN, UNSEEN + 128)  # pictures to find places on
JUDGED = 12  # of the places most like the marked ones
SIDE = 64  # pictures are compared at this size, so that a verdict means the same for all generators
SAME, DIFFERENT = 0.1, 0.35  # distances of colours in [-1, 1]: up to which a person sees one, from which on two
NUDGES = range(-3, 4)  # px of that size by which a thing may be drawn beside its place: hands are not exact
TOOK, PARTLY = 0.3, 0.28  # likeness from which on a place took, and took partly
MOST, SOME = 0.7, 0.5  # share of the places that must have taken for "took", and partly for "partly"
ASKED = ("replace", "paint")  # kinds of edits that say how other places should look
CROPS, MARGIN = 3, 0.1  # pictures of a verdict; what they show around the place, as a share of the picture's side


@dataclass(frozen=True)
class HeldOut:
    """Places like the marked ones on unseen pictures, and how they should look."""

    places: tuple[Place, ...]
    before: Tensor  # the pictures (n, 3, H, W)
    thing: Tensor  # the copied thing's picture, moved to each place, (n, 3, H, W)
    weight: Tensor  # how far each pixel should be replaced, (n, H, W)
    set: Sequence[LowRank] = ()  # of a swap: the units that are set on each picture

    @property
    def wanted(self) -> Tensor:
        """The pictures with the thing at its place."""
        return torch.lerp(self.before, self.thing, self.weight[:, None])

    def likeness(self, after: Tensor) -> Tensor:
        """How far each place is on the way to the requested result, (n,): from 0, as before or worse, to 1.

        The geometric mean of two numbers: how much of the colour difference is gone, and the share of the pixels that
        have become what they should be. A pale thing and a smudge have much of the first, but little of the second.
        The thing may be drawn a little beside the place.
        """
        weight = _small(self.weight[:, None])[:, 0]
        before, thing, after = (_small(pictures) for pictures in (self.before, self.thing, after))
        return torch.stack([_likeness(before, thing, weight, after, *move) for move in product(NUDGES, NUDGES)]).amax(0)

    def elsewhere(self, after: Tensor) -> float:
        """Mean change of the pictures away from the places, in 1/255; nan if nothing is away."""
        away = ~masks.around(self.weight > 0)
        return float(difference(self.before, after)[away].mean())


def _small(images: Tensor) -> Tensor:
    """Images (n, c, H, W) at the size at which they are compared."""
    return images if images.shape[-1] == SIDE else F.interpolate(images, size=(SIDE, SIDE), mode="area")


def _likeness(before: Tensor, thing: Tensor, weight: Tensor, after: Tensor, down: int, right: int) -> Tensor:
    """The likeness of pictures after an edit to those before with the thing, moved a little, at its place."""
    thing, moved = shifted(thing, down, right), shifted(weight, down, right)
    inside, weight = _ratio(moved, weight), moved  # what leaves the picture counts as missing
    wanted = torch.lerp(before, thing, weight[:, None])
    start, left = ((pictures - wanted).square().sum(1).sqrt() for pictures in (before, after))
    asked = weight * (start > SAME)
    there = asked * (left < (start / 2).clamp_max(DIFFERENT))
    gone, share = (1 - _ratio(left.square() * weight, start.square() * weight)).clamp(0, 1), _ratio(there, asked)
    return (gone * share).sqrt() * inside


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """The ratio of the sums of maps (n, H, W): (n,)."""
    return above.sum((1, 2)) / below.sum((1, 2)).clamp_min(1e-6)


@torch.no_grad()
def held_out(job: Job, seeds: Sequence[int] = SEARCHED, *, most: int = JUDGED) -> HeldOut:
    """The places on unseen pictures that are most like the marked ones; for edits in `ASKED`."""
    finder, generator, edit = Finder(job), job.generator, job.edit
    found, _ = finder.search(seeds, again=True)
    places = tuple(finder.place(one) for one in found[:most])
    side, psi, rules = generator.resolution, edit.truncation, job.rules
    if edit.kind == "paint":
        return _painted(job, places)
    assert edit.copy is not None
    drawn: list[Seed] = [edit.copy.seed, *(place.seed for place in places)]
    thing, *before = generator.sample(drawn, truncation=psi, rules=rules).clamp(-1, 1)
    alpha = masks.resize(edit.copy.mask, (side, side)).to(thing)
    down, right = (off * side / job.info.frame.across for off in job.pasted_off_mark())
    top, left = masks.centre(alpha)
    moves = [(round(place.row + down - top), round(place.column + right - left)) for place in places]
    moved = torch.stack([shifted(thing, *move) for move in moves])
    return HeldOut(places, torch.stack(before), moved, torch.stack([shifted(alpha, *move) for move in moves]))


def _painted(job: Job, places: tuple[Place, ...]) -> HeldOut:
    """Places as the same strokes make them; these go where the mark of the painted picture would be."""
    generator, edit, side = job.generator, job.edit, job.generator.resolution
    mask, (top, left) = masks.resize(job.target.mask, (side, side)), job.drawn.centre_on(Frame(side))
    alphas = [shifted(mask, round(place.row - top), round(place.column - left)) for place in places]
    there = [Region(place.seed, alpha) for place, alpha in zip(places, alphas, strict=True)]
    changes = [[*job.rules, *edit.painted_on(region, job.info)] for region in there]
    seeds = [place.seed for place in places]
    before, thing = (
        generator.sample(seeds, truncation=edit.truncation, rules=rules).clamp(-1, 1) for rules in (job.rules, changes)
    )
    return HeldOut(places, before, thing, torch.stack(alphas).to(before))


def _marked(job: Job) -> HeldOut:
    """The marked places, for edits whose result is not copied from a picture; those of a swap in both conditions."""
    marks = Likeness(job.generator, job.edit, job.rules)
    filled, weight = (marks.swapped(), marks.marks) if marks.set else marks.filled(job.references)
    middles = [masks.centre(mask) for mask in weight]
    places = tuple(Place(seed, *middle, "person") for seed, middle in zip(marks.seeds, middles, strict=True))
    return HeldOut(places, marks.before, filled, weight, marks.set[: len(places)])


@torch.no_grad()
def judge(job: Job, rule: Rule, effect: Effect) -> Effect:
    """The effect with a verdict: "took", "partly" or "did not take"."""
    if job.edit.kind not in ASKED:
        likeness = effect.likeness
        verdict = "took" if likeness >= TOOK else "partly" if likeness >= PARTLY else "did not take"
        return replace(effect, verdict=verdict)
    held = held_out(job)
    reached = held.likeness(_after(job, rule, held))
    took, partly = (float((reached >= level).float().mean()) for level in (TOOK, PARTLY))
    verdict = "took" if took >= MOST else "partly" if partly >= SOME else "did not take"
    return replace(effect, verdict=verdict, took=took, unseen_likeness=float(reached.median()))


@torch.no_grad()
def crops(job: Job, rule: Rule, *, number: int = CROPS) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What a verdict looked at: a few places before, as asked for, and after.

    Places like the marked ones on unseen pictures; for edits that erase or zero, the marked places.

    Args:
        job: The edit that the rule was made from, see `execute.prepare`.
        rule: The rule.
        number: At most so many places, those most like the marked ones.

    Returns:
        Square pictures (3, h, h) in [-1, 1] of each place with a margin; all have the same size.
    """
    held = held_out(job, most=number) if job.edit.kind in ASKED else _marked(job)
    shown = HeldOut(*(getattr(held, each.name)[:number] for each in fields(held)))
    whole = shown.before, shown.wanted, _after(job, rule, shown)
    boxes = [masks.bounds(weight) if weight.any() else masks.Box(0, 0, 1, 1) for weight in shown.weight]
    size, side = max(max(box.size) for box in boxes), job.generator.resolution
    cut = [[square(each[i], box.centre, size / side) for each in whole] for i, box in enumerate(boxes)]
    return [(before, wanted, after) for before, wanted, after in cut]


@torch.no_grad()
def crop(job: Job, place: Place) -> Tensor:
    """The square (3, h, h) around a place that an edit's context was found at; as large as the marks, and a margin."""
    picture = job.generator.sample([place.seed], truncation=job.edit.truncation, rules=job.rules).clamp(-1, 1)[0]
    marks = (max(masks.bounds(mark.mask).size) / max(mark.mask.shape) for mark in job.context)
    return square(picture, (place.row, place.column), max(marks, default=MARGIN))


def square(picture: Tensor, middle: tuple[float, float], size: float) -> Tensor:
    """A square of a picture around a middle in pixels; of a size in shares of the side, and a margin."""
    side = picture.shape[-1]
    wide = min(side, round((size + 2 * MARGIN) * side))
    y, x = (min(max(0, round(at - wide / 2)), side - wide) for at in middle)
    return picture[:, y : y + wide, x : x + wide]


def _after(job: Job, rule: Rule, held: HeldOut) -> Tensor:
    """The pictures of the places with the rule."""
    seeds, own = [place.seed for place in held.places], [*job.rules, rule]
    rules: Changes = [[*own, each] for each in held.set] if held.set else own
    return job.generator.sample(seeds, truncation=job.edit.truncation, rules=rules).clamp(-1, 1)
