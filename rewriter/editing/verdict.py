"""Did it take? A rule is judged at places like the marked ones, on pictures that it was not made with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rewriter import masks
from rewriter.editing.effect import UNSEEN
from rewriter.editing.forms import Finder
from rewriter.editing.job import Job
from rewriter.editing.likeness import centre, shifted
from rewriter.editing.region import Place
from rewriter.editing.rule import Effect, Rule
from rewriter.pictures import difference

SEARCHED = range(UNSEEN, UNSEEN + 128)  # pictures to find places on
JUDGED = 12  # of the places most like the marked ones
BESIDE = 1 / 40  # of a picture's side: the steps, two each way, by which a thing may be drawn beside its place
TOOK, PARTLY = 0.45, 0.25  # share of the way to the requested result from which on a place took
MOST, SOME = 0.6, 0.25  # share of the places that must have taken for "took", and for "partly"


@dataclass(frozen=True)
class HeldOut:
    """Places like the marked ones on unseen pictures, and how they should look."""

    places: tuple[Place, ...]
    before: Tensor  # the pictures (n, 3, H, W)
    thing: Tensor  # the copied thing's picture, moved to each place, (n, 3, H, W)
    weight: Tensor  # how far each pixel should be replaced, (n, H, W)

    @property
    def wanted(self) -> Tensor:
        """The pictures with the thing at its place."""
        return torch.lerp(self.before, self.thing, self.weight[:, None])

    def likeness(self, after: Tensor) -> Tensor:
        """How far each place is on the way to the requested result, (n,): 1 at best, negative if it went away.

        The thing may be drawn a little beside the place: hands are not exact.
        """
        reach = max(1, round(BESIDE * self.before.shape[-1]))
        moves = [
            (y, x) for y in (-2 * reach, -reach, 0, reach, 2 * reach) for x in (-2 * reach, -reach, 0, reach, 2 * reach)
        ]
        return torch.stack([self._at(after, *move) for move in moves]).amax(0)

    def _at(self, after: Tensor, down: int, right: int) -> Tensor:
        thing, weight = shifted(self.thing, down, right), shifted(self.weight, down, right)
        wanted = torch.lerp(self.before, thing, weight[:, None])
        start, left = (((p - wanted).square().sum(1) * weight).sum((1, 2)) for p in (self.before, after))
        return 1 - left / start.clamp_min(1e-6)

    def elsewhere(self, after: Tensor) -> float:
        """Mean change of the pictures away from the places, in 1/255; nan if nothing is away."""
        away = ~masks.around(self.weight > 0)
        return float(difference(self.before, after)[away].mean())


def held_out(job: Job, seeds: Sequence[int] = SEARCHED) -> HeldOut:
    """The places on unseen pictures that are most like the marked ones; for edits of kind "replace"."""
    finder, generator, edit = Finder(job), job.generator, job.edit
    assert edit.copy is not None
    found, _ = finder.search(seeds)
    places = tuple(finder.place(one) for one in found[:JUDGED])
    side, psi, rules = generator.resolution, edit.truncation, job.rules
    seeds = [edit.copy.seed, *(place.seed for place in places)]
    thing, *before = generator.sample(seeds, truncation=psi, rules=rules).clamp(-1, 1)
    alpha = masks.resize(edit.copy.mask, (side, side)).to(thing)
    down, right = (off * side / job.info.resolution for off in job.pasted_off_mark())
    top, left = centre(alpha)
    moves = [(round(place.row + down - top), round(place.column + right - left)) for place in places]
    moved = torch.stack([shifted(thing, *move) for move in moves])
    return HeldOut(places, torch.stack(before), moved, torch.stack([shifted(alpha, *move) for move in moves]))


@torch.no_grad()
def judge(job: Job, rule: Rule, effect: Effect) -> Effect:
    """The effect with a verdict: "took", "partly" or "did not take"."""
    if job.edit.kind != "replace":
        likeness = effect.likeness
        verdict = "took" if likeness >= TOOK else "partly" if likeness >= PARTLY else "did not take"
        return replace(effect, verdict=verdict)
    held = held_out(job)
    seeds = [place.seed for place in held.places]
    after = job.generator.sample(seeds, truncation=job.edit.truncation, rules=[*job.rules, rule]).clamp(-1, 1)
    reached = held.likeness(after)
    took, partly = (float((reached >= level).float().mean()) for level in (TOOK, PARTLY))
    verdict = "took" if took >= MOST else "partly" if partly >= SOME else "did not take"
    return replace(effect, verdict=verdict, took=took, unseen_likeness=float(reached.median()))
