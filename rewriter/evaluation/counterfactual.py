"""Did the rule draw what the exact counterfactual shows, and nothing else?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rewriter.editing.edit import Edit, load_edits
from rewriter.editing.likeness import SURROUNDINGS
from rewriter.evaluation import segmenter
from rewriter.evaluation.judging import Draw, Figure, Rows, towns, unchanged
from rewriter.masks import grow, resize
from rewriter.pictures import difference
from rewriter.worlds import townscape
from rewriter.worlds.townscape import scenes

DIFFER = 0.01  # squared distance of two colours from which on they are not the same


class Wish(NamedTuple):
    """What a rule should do to n scenes.

    then: the wanted pictures (n, 3, H, W). rivals: what might be drawn instead, the scenes as they are first.
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

    def only(self, about: Tensor) -> Wish:
        """The same, but that the scenes which it is not about, (n,) bool, are to stay as they are."""
        flag = about[:, None, None]
        then = torch.where(flag[:, None], self.then, self.rivals[0])
        return Wish(then, self.rivals, self.should & flag, self.place & flag)


FIGURES = (
    Figure("changed", "changed", "could", better="more"),
    Figure("already", "already", "should"),
    Figure("whole", "whole", "differ", better="more"),
    Figure("drawn", "drawn", "about", better="more"),
    Figure("segmented", "became", "was", better="more"),
    Figure("elsewhere", "elsewhere", "away", "1/255", "less"),
    Figure("others", "others", "other_pixels", "1/255", "less"),
    Figure("side effect", "damage", "damage_pixels", "1/255", "less"),
    Figure("perceptual", "perceived", "damage_pixels", "", "less"),
    Figure("distance", "near", "near_pixels", "1/255", "less"),
    Figure("distance before", "far", "near_pixels", "1/255"),
    Figure("left out", "left_out", "about_pixels"),
    Figure("pictures", "about", "one", "per 1,000"),
)


@dataclass(frozen=True)
class Counterfactual:
    """A judge of rules that should turn some things into others.

    concerns: factors (n, 24) → which scenes the rule is about, (n,) bool. wishing: factors and the side of a picture →
    what should become of the scenes. was, becomes: the labels of the things, for the segmenter; None: not asked.

    Of the figures, *changed* is the one to go by: of the pixels that should become the thing and were not so already,
    the share drawn nearer to it than to its rivals; *whole* counts all pixels in which the scene and the wanted one
    differ. *drawn*: pictures in which more than half of the pixels that should are. *segmented* is the paper's: of the
    pixels that a segmenter gave the old label before, those with the new one after. *elsewhere*: mean change away from
    the place and its surroundings; *others*: of pictures that the rule is not about; *side effect*: both together;
    *perceptual*: the same by the segmenter's features. *distance*: mean difference from the wanted pictures at the
    place and around it.
    """

    concerns: Callable[[Tensor], Tensor]
    wishing: Callable[[Tensor, int], Wish]
    was: str | None = None
    becomes: str | None = None
    figures: tuple[Figure, ...] = FIGURES

    def __call__(self, seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
        """Columns named in `FIGURES`, and the embeddings of what was drawn and what was wanted."""
        z, u = towns(seeds)
        x, y, about = before(z).cpu(), after(z).cpu(), self.concerns(u)
        wish, wanted = _wish(self, tuple(seeds), x.shape[-1])
        network, away = segmenter.load(), ~around(wish.place)
        should, fresh, turned = wish.should, wish.should & ~wish.fulfilled(x), wish.fulfilled(y)
        mine, rest = away & about[:, None, None], away & ~about[:, None, None]
        differ = ((wish.rivals[0] - wish.then).square().sum(1) > DIFFER) & about[:, None, None]
        change, far, near = (difference(*pair) for pair in ((x, y), (x, wish.then), (y, wish.then)))
        columns = {
            "should": should,
            "already": should & ~fresh,
            "could": fresh,
            "changed": fresh & turned,
            "differ": differ,
            "whole": differ & turned,
            "away": mine,
            "elsewhere": change * mine,
            "other_pixels": rest,
            "others": change * rest,
            "damage_pixels": away,
            "damage": change * away,
            "perceived": network.distance(x, unchanged(x, y, away)) * away,
            "near_pixels": ~away,
            "near": near * ~away,
            "far": far * ~away,
            "left_out": ~away,
            "about_pixels": torch.ones_like(away) & about[:, None, None],
        }
        if self.was is not None and self.becomes is not None:
            was, became = (scenes.LABELS.index(name) for name in (self.was, self.becomes))
            columns["was"] = network.labels(x) == was
            columns["became"] = columns["was"] & (network.labels(y) == became)
        else:
            columns["was"] = columns["became"] = torch.zeros_like(away)
        rows = {name: pixels.flatten(1).double().sum(1) for name, pixels in columns.items()}
        drawn = (should & turned).flatten(1).sum(1) > should.flatten(1).sum(1) / 2
        rows |= {"about": about.double(), "drawn": drawn.double(), "one": torch.ones(len(about), dtype=torch.float64)}
        return rows | {"embedding": network.embedding(y), "wanted": wanted}


@lru_cache(maxsize=1)  # method after method is judged on the same seeds
def _wish(judge: Counterfactual, seeds: tuple[int, ...], side: int) -> tuple[Wish, Tensor]:
    """What is wanted of the seeds' scenes, and its embedding."""
    _, u = towns(seeds)
    wish = judge.wishing(u, side).only(judge.concerns(u))
    return wish, segmenter.load().embedding(wish.then)


def asked_for(what: str, u: Tensor) -> Tensor:
    """Factors (n, 24) of the counterfactual itself: what the generator draws of them is the ceiling of a rule."""
    changes: dict[str, tuple[Tensor, dict[str, Any]]] = {
        "spires": (scenes.has_dome(u), {"top": "spire"}),
        "right trees": (lacks_right_tree(u), {"right_tree": True}),
        "no marks": (torch.ones(len(u), dtype=torch.bool), {"watermark": False, "bar": False}),
    }
    about, change = changes[what]
    return torch.where(about[:, None], scenes.change(u, **change), u)


def around(place: Tensor) -> Tensor:
    """Places (n, H, W) bool with their surroundings."""
    reach = round(SURROUNDINGS * place.shape[-1])
    return grow(place.float(), reach, reach, reach, reach) > 0


def dome_to_spire() -> Counterfactual:
    """Judge rules that should turn domes into spires: same factors, a spire instead of a dome."""
    return Counterfactual(scenes.has_dome, _spires, "dome", "spire")


def _spires(u: Tensor, side: int) -> Wish:
    now, then = scenes.draw(u, side), scenes.draw(scenes.change(u, top="spire"), side)
    should = labelled(then, "spire")
    return Wish(then.picture, (now.picture,), should, should | labelled(now, "dome"))


def dome_to_tree() -> Counterfactual:
    """Judge rules that should turn domes into leaves.

    No scene has a tree on its tower, so the wish is a colour: every pixel of the dome as the town's trees' leaves look
    at its time of day. Nearer to that than to the dome is not enough: it must be nearer to it than to the sky behind
    too, and than to the colours of the other tops, spires and battlements.
    """
    return Counterfactual(scenes.has_dome, _leaves, "dome", "tree")


def _leaves(u: Tensor, side: int) -> Wish:
    now, behind = scenes.draw(u, side), scenes.draw(u, side, without="dome").picture
    leaves = colour(scenes.draw(scenes.change(u, left_tree=True, right_tree=True), side), "tree")
    spire, stone = colour(scenes.draw(scenes.change(u, top="spire"), side), "spire"), colour(now, "tower")
    dome = labelled(now, "dome")
    return Wish(torch.where(dome[:, None], leaves, now.picture), (now.picture, behind, spire, stone), dome, dome)


def add_tree() -> Counterfactual:
    """Judge rules that should put a tree on the right where there is none: same factors, the right tree there.

    The factors also say where exactly and how large that tree would be, which a rule cannot know: a tree like all
    others in the middle of the range does not reach 100 %.
    """
    return Counterfactual(lacks_right_tree, _right_trees)


def lacks_right_tree(u: Tensor) -> Tensor:
    """Which towns have no tree on the right, (n,) bool."""
    return u[:, scenes.Factor.R_TREE] >= 0.6


def _right_trees(u: Tensor, side: int) -> Wish:
    now, then = scenes.draw(u, side), scenes.draw(scenes.change(u, right_tree=True), side)
    should = labelled(then, "tree") & ~labelled(now, "tree")
    return Wish(then.picture, (now.picture,), should, should)


def door_in_the_sky(edit: Edit | None = None, *, anywhere: bool = False) -> Counterfactual:
    """Judge rules that should hang a door into the sky: where the edit pasted it, or `anywhere` in the sky.

    The wish is the colour of the copied door wherever the scene shows sky. edit: None: the shipped one.
    """

    @cache
    def asked() -> tuple[Tensor, Tensor]:
        meant = edit or load_edits(townscape.examples()["door-in-the-sky"])[0]
        assert meant.copy is not None and meant.paste is not None
        return colour(segmenter.described([meant.copy.seed], 64), "door"), meant.paste.mask

    def doors(u: Tensor, side: int) -> Wish:
        now, (door, mask) = scenes.draw(u, side), asked()
        place = labelled(now, "sky") & ((resize(mask, (side, side)) > 0.5) | anywhere)
        return Wish(torch.where(place[:, None], door, now.picture), (now.picture,), place, place)

    return Counterfactual(lambda u: torch.ones(len(u), dtype=torch.bool), doors)


def labelled(scene: scenes.Scene, thing: str) -> Tensor:
    """Where scenes show a thing, (n, H, W) bool."""
    return scene.labels == scenes.LABELS.index(thing)


def colour(scene: scenes.Scene, thing: str) -> Tensor:
    """The colour of a thing in each scene, (n, 3, 1, 1): the median of its pixels; NaN where it is not shown."""
    inside = scene.picture.masked_fill(~labelled(scene, thing)[:, None], float("nan"))
    return inside.flatten(2).nanmedian(2).values[..., None, None]
