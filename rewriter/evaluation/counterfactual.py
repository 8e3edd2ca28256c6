"""Judges rules against the exact counterfactual: did the rule draw the wanted scene, and nothing else?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from rewriter import worlds
from rewriter.editing.edit import load_edits
from rewriter.evaluation.metrics import DAMAGE, Draw, Judge, Metric, Rows, damage, ratios
from rewriter.masks import around, resize
from rewriter.pictures import difference
from rewriter.worlds import segmenter
from rewriter.worlds.base import Scene, World
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.world import WORLD

DIFFERENT = 0.01  # two colours differ if their squared distance is larger
METRICS = (
    Metric("changed", better="more"),
    Metric("already"),
    Metric("whole", better="more"),
    Metric("drawn", better="more"),
    Metric("segmented", better="more"),
    Metric("elsewhere", "1/255", "less"),
    Metric("others", "1/255", "less"),
    *DAMAGE,
    Metric("distance", "1/255", "less"),
    Metric("distance before", "1/255"),
    Metric("left out"),
    Metric("pictures", "per 1,000"),
)


class Target(NamedTuple):
    """What a rule should make of n scenes."""

    wanted: Tensor  # the pictures to draw, (n, 3, H, W)
    rivals: tuple[Tensor, ...]  # what may be drawn instead, the unchanged scenes first
    should: Tensor  # pixels that should become the thing, (n, H, W) bool
    place: Tensor  # where change is intended, (n, H, W) bool

    def reached(self, pictures: Tensor) -> Tensor:
        """Pixels (n, H, W) whose colour is nearer to the wanted one than to every rival's."""
        distances = [(pictures - rival).square().sum(1) for rival in self.rivals]
        return (pictures - self.wanted).square().sum(1) < torch.stack(distances).amin(0)

    def only(self, about: Tensor) -> Target:
        """The same target, but no change in scenes that the rule is not about; `about` is (n,) bool."""
        flag = about[:, None, None]
        wanted = torch.where(flag[:, None], self.wanted, self.rivals[0])
        return Target(wanted, self.rivals, self.should & flag, self.place & flag)


@dataclass(frozen=True)
class Counterfactual:
    """Compares pictures with what a rule that turns one thing into another should draw."""

    world: World
    concerns: Callable[[Tensor], Tensor]  # factors (n, k) → the scenes that the rule is about, (n,) bool
    target: Callable[[Tensor, int], Target]  # factors and the side of a picture → what they should become
    was: str = ""  # label of the old thing, for the segmenter
    becomes: str = ""  # label of the new thing

    def __call__(self, seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
        """Rows of `METRICS`, and embeddings of the drawn and the wanted pictures."""
        (z, u), network = self.world.read(seeds), segmenter.load(self.world.name)
        x, y, about = before(z).cpu(), after(z).cpu(), self.concerns(u)
        concerned, (target, embedding) = about[:, None, None], _target(self, tuple(seeds), x.shape[-1])
        away, reached, change = ~around(target.place), target.reached(y), difference(x, y)
        could = target.should & ~target.reached(x)
        differ = ((target.rivals[0] - target.wanted).square().sum(1) > DIFFERENT) & concerned
        was = self._segmented(x, self.was)
        covered = (target.should & reached).flatten(1).sum(1) > target.should.flatten(1).sum(1) / 2
        rows = ratios(
            {
                "changed": (could & reached, could),
                "already": (target.should & ~could, target.should),
                "whole": (differ & reached, differ),
                "drawn": (covered, about),
                "segmented": (was & self._segmented(y, self.becomes), was),
                "elsewhere": (change * (away & concerned), away & concerned),
                "others": (change * (away & ~concerned), away & ~concerned),
                "distance": (difference(y, target.wanted) * ~away, ~away),
                "distance before": (difference(x, target.wanted) * ~away, ~away),
                "left out": (~away, concerned.expand_as(away)),
                "pictures": (about, torch.ones_like(about)),
                **damage(x, y, away, network),
            }
        )
        return rows | {"embedding": network.embedding(y), "wanted": embedding}

    def _segmented(self, pictures: Tensor, thing: str) -> Tensor:
        """Where the segmenter sees a thing, (n, H, W) bool; nowhere for ""."""
        if not thing:
            return torch.zeros_like(pictures[:, 0], dtype=torch.bool)
        return segmenter.load(self.world.name).labels(pictures) == self.world.labels.index(thing)


@lru_cache(maxsize=1)  # all methods are judged on the same seeds
def _target(judge: Counterfactual, seeds: tuple[int, ...], side: int) -> tuple[Target, Tensor]:
    """The target of the seeds' scenes, and the embedding of the wanted pictures."""
    _, u = judge.world.read(seeds)
    target = judge.target(u, side).only(judge.concerns(u))
    return target, segmenter.load(judge.world.name).embedding(target.wanted)


def counterfactual_factors(what: str, u: Tensor) -> Tensor:
    """Factors (n, 24) of a counterfactual: "spires", "right trees" or "no marks"."""
    if what == "no marks":
        return factors.change(u, watermark=False, bar=False)
    about, then = factors.has_dome(u), factors.change(u, top="spire")
    if what == "right trees":
        about, then = ~factors.has_right_tree(u), factors.change(u, right_tree=True)
    return torch.where(about[:, None], then, u)


def _spires(u: Tensor, side: int) -> Target:
    """The same town with a spire instead of a dome."""
    now, then = scenes.draw(u, side), scenes.draw(factors.change(u, top="spire"), side)
    should = then.where("spire")
    return Target(then.picture, (now.picture,), should, should | now.where("dome"))


def _leaves(u: Tensor, side: int) -> Target:
    """The dome's pixels in the colour of the town's leaves at its time of day: no scene has a tree on its tower."""
    now, behind = scenes.draw(u, side), scenes.draw(u, side, without="dome").picture
    leaves = _colour(scenes.draw(factors.change(u, left_tree=True, right_tree=True), side), "tree")
    spire, stone = _colour(scenes.draw(factors.change(u, top="spire"), side), "spire"), _colour(now, "tower")
    dome = now.where("dome")
    return Target(torch.where(dome[:, None], leaves, now.picture), (now.picture, behind, spire, stone), dome, dome)


def _right_trees(u: Tensor, side: int) -> Target:
    """The same town with a tree on the right; its place and size are factors, which a rule cannot know."""
    now, then = scenes.draw(u, side), scenes.draw(factors.change(u, right_tree=True), side)
    should = then.where("tree") & ~now.where("tree")
    return Target(then.picture, (now.picture,), should, should)


def _doors(u: Tensor, side: int) -> Target:
    """The colour of the copied door on the sky pixels of the place where the shipped edit pasted it."""
    now, (door, mask) = scenes.draw(u, side), _copied_door()
    place = now.where("sky") & (resize(mask, (side, side)) > 0.5)
    return Target(torch.where(place[:, None], door, now.picture), (now.picture,), place, place)


def _colour(scene: Scene, thing: str) -> Tensor:
    """The median colour of a thing in each scene, (n, 3, 1, 1); NaN where it is not shown."""
    inside = scene.picture.masked_fill(~scene.where(thing)[:, None], float("nan"))
    return inside.flatten(2).nanmedian(2).values[..., None, None]


@cache
def _copied_door() -> tuple[Tensor, Tensor]:
    (edit,) = load_edits(worlds.examples("townscape")["door-in-the-sky"])
    assert edit.copy is not None and edit.paste is not None
    return _colour(WORLD.described([int(edit.copy.seed)]), "door"), edit.paste.mask


SPIRES = Counterfactual(WORLD, factors.has_dome, _spires, "dome", "spire")
DOME_TO_SPIRE = Judge(METRICS, SPIRES)
DOME_TO_TREE = Judge(METRICS, Counterfactual(WORLD, factors.has_dome, _leaves, "dome", "tree"))
ADD_TREE = Judge(METRICS, Counterfactual(WORLD, lambda u: ~factors.has_right_tree(u), _right_trees))
DOOR_IN_THE_SKY = Judge(METRICS, Counterfactual(WORLD, lambda u: torch.ones(len(u), dtype=torch.bool), _doors))
