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

SEARCHED = range(UNSEEN, UNSEEN + 128)  # pictures to find places on
JUDGED = 12  # of the places most like the marked ones
TOOK, PARTLY = 0.3, 0.1  # share of the way to the requested result from which on a place took
MOST, SOME = 0.6, 0.25  # share of the places that must have taken for "took", and for "partly"


@dataclass(frozen=True)
class HeldOut:
    """Places like the marked ones on unseen pictures, and how they should look."""

    places: tuple[Place, ...]
    before: Tensor  # the pictures (n, 3, H, W)
    wanted: Tensor  # with the copied thing moved to the place
    weight: Tensor  # how far each pixel should be replaced, (n, H, W)

    def likeness(self, after: Tensor) -> Tensor:
        """How far each place is on the way to the requested result, (n,): 1 at best, negative if it went away."""
        start, left = (((p - self.wanted).square().sum(1) * self.weight).sum((1, 2)) for p in (self.before, after))
        return 1 - left / start.clamp_min(1e-6)


def held_out(job: Job, seeds: Sequence[int] = SEARCHED) -> HeldOut:
    """The places on unseen pictures that are most like the marked ones; for edits of kind "replace"."""
    finder, generator, edit = Finder(job), job.generator, job.edit
    assert edit.copy is not None
    found, _ = finder.search(seeds)
    places = tuple(finder.place(one) for one in found[:JUDGED])
    side = generator.resolution
    draw = lambda seeds: generator.sample(seeds, truncation=edit.truncation, rules=job.rules).clamp(-1, 1)  # noqa: E731
    thing, alpha = draw([edit.copy.seed])[0], masks.resize(edit.copy.mask, (side, side)).to(generator.device)
    pixels = side / job.info.resolution
    down, right = (off * pixels for off in job.pasted_off_mark())
    top, left = centre(alpha)
    moves = [(round(place.row + down - top), round(place.column + right - left)) for place in places]
    weight = torch.stack([shifted(alpha, *move) for move in moves])
    moved = torch.stack([shifted(thing, *move) for move in moves])
    before = draw([place.seed for place in places])
    return HeldOut(places, before, torch.lerp(before, moved, weight[:, None]), weight)


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
