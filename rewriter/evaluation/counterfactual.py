"""Did the rule draw what the exact counterfactual shows, and nothing else?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewriter.edit import Edit
from rewriter.effect import difference
from rewriter.generators.base import Generator
from rewriter.generators.latents import latents
from rewriter.masks import grow, resize
from rewriter.rule import Rule
from rewriter.townscape import scenes

JUDGED = range(20_000, 21_000)
SPREAD = range(20_000, 20_250)  # where many edits are compared
SURROUNDINGS = 6 / 64  # of the picture's side: how far around the place change is not counted as damage
BATCH = 50


@dataclass(frozen=True)
class Wish:
    """What a rule should do to n scenes.

    then: the wanted pictures (n, 3, H, W). rivals: what might be drawn instead, such as the scenes as they are.
    should: the pixels that should become the thing, (n, H, W) bool. place: where change is meant, (n, H, W) bool.
    """

    then: Tensor
    rivals: tuple[Tensor, ...]
    should: Tensor
    place: Tensor

    def fulfilled(self, pictures: Tensor) -> Tensor:
        """Pixels (n, H, W) whose colour is nearer to the wanted one than to every rival's."""
        distances = [(pictures - rival).square().sum(1) for rival in self.rivals]
        return (pictures - self.then).square().sum(1) < torch.stack(distances).amin(0)


@dataclass(frozen=True)
class Turned:
    """How many pixels became what they should.

    already, became: of the pixels that should become the thing, the share drawn nearer to it than to its rivals,
    before and with the rule. changed: the same with the rule, among those only that were not so before: the figure to
    go by. whole: among all pixels in which the scene and the wanted one differ. drawn: share of the pictures in which
    more than half of the pixels that should are. distance: mean difference in 1/255 from the wanted pictures at the
    place and its surroundings, (before, with the rule): too much of the thing counts there too. elsewhere: mean change
    in 1/255 away from them. surroundings: their share of the picture. others: mean change of pictures that the rule is
    not about.
    pictures, pixels: how many these are.
    """

    already: float
    became: float
    changed: float
    whole: float
    drawn: float
    distance: tuple[float, float]
    elsewhere: float
    surroundings: float
    others: float
    pictures: int
    pixels: int


Concerns = Callable[[Tensor], Tensor]  # factors (n, 24) → which scenes the rule is about, (n,) bool
Wishing = Callable[[Tensor, int], Wish]  # their factors and the side of a picture → what should become of them


@torch.no_grad()
def judge(
    generator: Generator, rules: Sequence[Rule], seeds: Sequence[int], *, concerns: Concerns, wishing: Wishing
) -> Turned:
    """Judge rules against what should become of those of the seeds' scenes that they are about."""
    about = concerns(scenes.factors(latents(list(seeds), scenes.LATENT_DIM))).tolist()
    meant, rest = ([seed for seed, a in zip(seeds, about, strict=True) if a == kind] for kind in (True, False))
    sums = torch.zeros(12, dtype=torch.float64)
    for i in range(0, len(meant), BATCH):
        sums += _counts(generator, rules, meant[i : i + BATCH], wishing)
    should, already, became, were, changed, differ, whole, drawn, far, near, off, away = sums.tolist()
    pixels = len(meant) * generator.resolution**2
    return Turned(
        already / should,
        became / should,
        changed / were,
        whole / differ,
        drawn / len(meant),
        (far / (pixels - away), near / (pixels - away)),
        off / away,
        1 - away / pixels,
        mean_change(generator, rules, rest),
        len(meant),
        int(were),
    )


def _counts(generator: Generator, rules: Sequence[Rule], seeds: list[int], wishing: Wishing) -> Tensor:
    """Counts of one batch, in the order in which `judge` unpacks them."""
    wish = wishing(scenes.factors(latents(seeds, scenes.LATENT_DIM)), generator.resolution)
    before, after = (generator.sample(seeds, rules=own).cpu() for own in ([], rules))
    should, was, turned = wish.should, wish.fulfilled(before), wish.fulfilled(after)
    differ = (wish.rivals[0] - wish.then).square().sum(1) > 0.01
    drawn = (should & turned).flatten(1).sum(1) > should.flatten(1).sum(1) / 2
    reach = round(SURROUNDINGS * generator.resolution)
    away = grow(wish.place.float(), reach, reach, reach, reach) == 0
    change, far, near = (difference(*pair) for pair in ((before, after), (before, wish.then), (after, wish.then)))
    counts = [should, should & was, should & turned, should & ~was, should & ~was & turned, differ, differ & turned]
    return torch.stack([c.sum().double() for c in [*counts, drawn, far * ~away, near * ~away, change * away, away]])


@torch.no_grad()
def mean_change(generator: Generator, rules: Sequence[Rule], seeds: Sequence[int]) -> float:
    """Mean change of whole pictures in 1/255; NaN for none."""
    total = 0.0
    for i in range(0, len(seeds), BATCH):
        before, after = (generator.sample(seeds[i : i + BATCH], rules=own).cpu() for own in ([], rules))
        total += float(difference(before, after).mean((1, 2)).sum())
    return total / len(seeds) if seeds else float("nan")


def dome_to_spire(generator: Generator, rules: Sequence[Rule], seeds: Sequence[int] = JUDGED) -> Turned:
    """Judge rules that should turn domes into spires: same factors, a spire instead of a dome."""
    return judge(generator, rules, seeds, concerns=scenes.has_dome, wishing=_spires)


def _spires(u: Tensor, side: int) -> Wish:
    now, then = scenes.draw(u, side), scenes.draw(scenes.change(u, top="spire"), side)
    should = labelled(then, "spire")
    return Wish(then.picture, (now.picture,), should, should | labelled(now, "dome"))


def dome_to_tree(generator: Generator, rules: Sequence[Rule], seeds: Sequence[int] = JUDGED) -> Turned:
    """Judge rules that should turn domes into leaves.

    No scene has a tree on its tower, so the wish is a colour: every pixel of the dome as the town's trees' leaves look
    at its time of day. Nearer to that than to the dome is not enough: it must be nearer to it than to the sky behind
    too, and than to the colours of the other tops, spires and battlements.
    """
    return judge(generator, rules, seeds, concerns=scenes.has_dome, wishing=_leaves)


def _leaves(u: Tensor, side: int) -> Wish:
    now, behind = scenes.draw(u, side), scenes.draw(u, side, without="dome").picture
    leaves = colour(scenes.draw(scenes.change(u, left_tree=True, right_tree=True), side), "tree")
    spire, stone = colour(scenes.draw(scenes.change(u, top="spire"), side), "spire"), colour(now, "tower")
    dome = labelled(now, "dome")
    return Wish(torch.where(dome[:, None], leaves, now.picture), (now.picture, behind, spire, stone), dome, dome)


def add_tree(generator: Generator, rules: Sequence[Rule], seeds: Sequence[int] = JUDGED) -> Turned:
    """Judge rules that should put a tree on the right where there is none: same factors, the right tree there.

    The factors also say where exactly and how large that tree would be, which a rule cannot know: a tree like all
    others in the middle of the range does not reach 100 %.
    """
    return judge(generator, rules, seeds, concerns=lacks_right_tree, wishing=_right_trees)


def lacks_right_tree(u: Tensor) -> Tensor:
    """Which towns have no tree on the right, (n,) bool."""
    return u[:, scenes.Factor.R_TREE] >= 0.6


def _right_trees(u: Tensor, side: int) -> Wish:
    now, then = scenes.draw(u, side), scenes.draw(scenes.change(u, right_tree=True), side)
    should = labelled(then, "tree") & ~labelled(now, "tree")
    return Wish(then.picture, (now.picture,), should, should)


def door_in_the_sky(
    generator: Generator, rules: Sequence[Rule], edit: Edit, seeds: Sequence[int] = JUDGED, *, anywhere: bool = False
) -> Turned:
    """Judge rules that should hang a door into the sky: where the edit pasted it, or `anywhere` in the sky.

    The wish is the colour of the copied door wherever the scene shows sky.
    """
    assert edit.copy is not None and edit.paste is not None
    copied = scenes.draw(scenes.factors(latents([edit.copy.seed], scenes.LATENT_DIM)), generator.resolution)
    door, pasted = colour(copied, "door"), resize(edit.paste.mask, (generator.resolution,) * 2) > 0.5

    def doors(u: Tensor, side: int) -> Wish:
        now = scenes.draw(u, side)
        place = labelled(now, "sky") & (pasted | anywhere)
        return Wish(torch.where(place[:, None], door, now.picture), (now.picture,), place, place)

    return judge(generator, rules, seeds, concerns=lambda u: torch.ones(len(u), dtype=torch.bool), wishing=doors)


def labelled(scene: scenes.Scene, thing: str) -> Tensor:
    """Where scenes show a thing, (n, H, W) bool."""
    return scene.labels == scenes.LABELS.index(thing)


def colour(scene: scenes.Scene, thing: str) -> Tensor:
    """The colour of a thing in each scene, (n, 3, 1, 1): the median of its pixels."""
    inside = scene.picture.masked_fill(~labelled(scene, thing)[:, None], float("nan"))
    return inside.flatten(2).nanmedian(2).values[..., None, None]
