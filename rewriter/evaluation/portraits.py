"""Judges the shipped edits of portraits against exact counterfactuals; smiles also by the segmenter of this world.

What a rule copies from one person is what the same people should have: that person's mouth, glasses, brows or hat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from rewriter import worlds
from rewriter.editing.edit import load_edits
from rewriter.evaluation.counterfactual import DIFFERENT, METRICS, Counterfactual, Target
from rewriter.evaluation.metrics import Draw, Judge, Metric, Rows, ratios
from rewriter.worlds import segmenter
from rewriter.worlds.portraits import scenes
from rewriter.worlds.portraits.factors import Factor, change, frowns, wears
from rewriter.worlds.portraits.world import WORLD

GENERATOR = "portraits"
Predicate = Callable[[Tensor], Tensor]  # factors (n, 41) → (n,) bool


@dataclass(frozen=True)
class Wish:
    """What an edit should make of people: of whom, and what they should then have."""

    concerns: Predicate
    things: tuple[str, ...]  # labels of what appears or goes
    change: Mapping[str, Any] = field(default_factory=dict)  # arguments of `factors.change`
    copied: tuple[Factor, ...] = ()  # in which they should be like the copied person
    without: str | None = None  # a thing that no factor describes, and that should go

    def factors(self, u: Tensor, *, edit: str) -> Tensor:
        """Factors (n, 41) of the counterfactual; those of people whom the edit is not about stay as they are."""
        then = change(u, **self.change)
        if self.copied:
            then[:, list(self.copied)] = _copied(edit)[:, list(self.copied)]
        return torch.where(self.concerns(u)[:, None], then, u)

    def target(self, u: Tensor, side: int, *, edit: str) -> Target:
        """The counterfactual; what should change is what is labelled as the thing in one of the two scenes only."""
        now, then = scenes.draw(u, side), scenes.draw(self.factors(u, edit=edit), side, without=self.without)
        should = now.where(*self.things) ^ then.where(*self.things)
        differ = (now.picture - then.picture).square().sum(1) > DIFFERENT
        return Target(then.picture, (now.picture,), should, should | differ)


@cache
def _copied(edit: str) -> Tensor:
    """Factors (1, 41) of the person from whom a shipped edit copies."""
    (shipped,) = load_edits(worlds.examples(GENERATOR)[edit])
    assert shipped.copy is not None
    return WORLD.read([int(shipped.copy.seed)])[1]


def _lacks(thing: str) -> Predicate:
    return lambda u: ~wears(thing)(u)


WISHES = {  # by the name of the shipped edit
    "frown-to-smile": Wish(frowns, ("smile", "teeth"), copied=(Factor.MOUTH,)),
    "add-glasses": Wish(
        _lacks("glasses"), ("glasses",), {"glasses": True}, (Factor.GLASSES_KIND, Factor.GLASSES_COLOUR)
    ),
    "remove-earrings": Wish(wears("earrings"), ("earring",), {"earrings": False}),
    "bushy-brows": Wish(lambda u: u[:, Factor.BROWS] < 0.5, ("brow",), copied=(Factor.BROWS,)),
    "hats-for-all": Wish(_lacks("hat"), ("hat",), {"hat": True}, (Factor.HAT_KIND, Factor.HAT_COLOUR)),
    "no-shadow-under-hats": Wish(wears("hat"), ("shadow",), without="shadow"),
    "remove-stamp": Wish(wears("stamp"), ("stamp",), {"stamp": False}),
}
COUNTERFACTUALS = {
    edit: Counterfactual(WORLD, wish.concerns, partial(wish.target, edit=edit)) for edit, wish in WISHES.items()
}


def smile_rows(seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
    """Rows of the counterfactual, and of those who frown, who smiles afterwards as the segmenter reads their mouth."""
    z, u = WORLD.read(seeds)
    drawn, about = after(z).cpu(), frowns(u)
    found = segmenter.load(WORLD.name).labels(drawn)
    smile, *others = ((found == WORLD.labels.index(what)).flatten(1).sum(1) for what in ("smile", "mouth", "frown"))
    rows = COUNTERFACTUALS["frown-to-smile"](seeds, before, lambda _: drawn)
    return rows | ratios({"smiling": (about & (smile > sum(others)), about)})


JUDGES = {edit: Judge(METRICS, judge) for edit, judge in COUNTERFACTUALS.items()}
JUDGES["frown-to-smile"] = Judge((*METRICS, Metric("smiling", better="more")), smile_rows)
