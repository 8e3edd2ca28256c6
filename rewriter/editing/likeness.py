"""How near a rule brings the marked pictures to what was asked for: a measure that layers can be compared by.

Values of different layers cannot be compared; pictures can. Inside the marks a rule should make each picture look like
what was asked for: the copied thing moved there or, for an erasure, what similar pictures have there; for a swap, the
same picture in the other condition. Outside the marks it should change nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewriter import masks
from rewriter.editing.region import Region
from rewriter.generators.latents import Seed
from rewriter.memory.goal import fill
from rewriter.pictures import difference

if TYPE_CHECKING:
    from rewriter.editing.edit import Edit
    from rewriter.editing.rule import Rule
    from rewriter.generators.base import Generator
    from rewriter.generators.layer import Features

JUDGED = 24  # at most so many marks are compared


class Likeness:
    """The marked pictures, as they are and as they were asked to be."""

    def __init__(self, generator: Generator, edit: Edit, rules: Sequence[Rule]):
        self.generator, self.edit, self.rules = generator, edit, rules
        pasted = [edit.paste] if edit.paste else []
        judged = [*pasted, *(region for region in edit.context if region.seed not in {p.seed for p in pasted})][:JUDGED]
        self.set = [each.change(generator.layer(each.layer)) for each in edit.strokes] if edit.kind == "swap" else []
        if self.set:  # each picture in both conditions, one after the other
            judged = [region for region in judged[: JUDGED // 2] for _ in (0, 1)]
        self.seeds = [region.seed for region in judged]
        self.marks = torch.stack([self._pixels(region) for region in judged])
        self.before = self._drawn()
        marked = {seed: torch.zeros_like(self.marks[0]) for seed in self.seeds}
        for region in (*pasted, *edit.context):  # one picture may be marked in several places
            if region.seed in marked:
                marked[region.seed] = torch.maximum(marked[region.seed], self._pixels(region))
        away = dict(zip(marked, ~masks.around(torch.stack(list(marked.values())) > 0), strict=True))
        self.outside = torch.stack([away[seed] for seed in self.seeds])

    def _pixels(self, region: Region) -> Tensor:
        side = self.generator.resolution
        return masks.resize(region.mask, (side, side)).to(self.generator.device)

    def _draw(self, seeds: Sequence[Seed], *more: Rule) -> Tensor:
        return self.generator.sample(seeds, truncation=self.edit.truncation, rules=[*self.rules, *more]).clamp(-1, 1)

    def _drawn(self, *more: Rule) -> Tensor:
        """The marked pictures; those of a swap with its units set."""
        if not self.set:
            return self._draw(self.seeds, *more)
        changes, psi = [[*self.rules, *more, each] for each in self.set[: len(self.seeds)]], self.edit.truncation
        return self.generator.sample(self.seeds, truncation=psi, rules=changes).clamp(-1, 1)

    @torch.no_grad()
    def judge(self, rule: Rule, donors: Features) -> tuple[float, float]:
        """How near the edit's rule comes to what was asked for, and what else it changes: (likeness, spill).

        Likeness is the share of the squared colour difference inside the marks that is gone: 1 at best, negative if it
        grew. Spill is the mean change outside the marks and their surroundings in 1/255, nan if nothing is outside.
        `donors` are features of pictures that the context does not match; an erasure aims at what they have there.
        """
        if self.edit.kind == "paint":
            wanted, weight = self.painted(), self.marks
        elif self.edit.kind == "swap":
            wanted, weight = self.swapped(), self.marks
        else:
            wanted, weight = self._moved() if self.edit.kind == "replace" else self.filled(donors)
        after = self._drawn(rule)
        start, left = (((p - wanted).square().sum(1) * weight).sum() for p in (self.before, after))
        change = difference(self.before, after)
        likeness = 1 - float(left / start) if start > 0 else 0.0
        return likeness, float(change[self.outside].mean())

    def _moved(self) -> tuple[Tensor, Tensor]:
        """The copied thing moved onto each mark, centre on centre: pictures (n, 3, H, W) and its alpha (n, H, W)."""
        assert self.edit.copy is not None
        picture, alpha = self._draw([self.edit.copy.seed])[0], self._pixels(self.edit.copy)
        pairs = [moved(picture, alpha, mark) for mark in self.marks]
        pictures, weight = map(torch.stack, zip(*pairs, strict=True))
        return torch.lerp(self.before, pictures, weight[:, None]), weight

    def painted(self) -> Tensor:
        """The marked pictures as they were painted, or as the same strokes inside the marks make them."""
        info = self.generator.layer(self.edit.layer)
        places = [Region(seed, mask.cpu()) for seed, mask in zip(self.seeds, self.marks, strict=True)]
        changes = [[*self.rules, *self.edit.painted_on(place, info)] for place in places]
        return self.generator.sample(self.seeds, truncation=self.edit.truncation, rules=changes).clamp(-1, 1)

    def swapped(self) -> Tensor:
        """The marked pictures, each with the look of its other condition inside its mark."""
        others = self.before.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
        return torch.lerp(self.before, others, self.marks[:, None])

    def filled(self, donors: Features) -> tuple[Tensor, Tensor]:
        """What similar pictures without the context have where the marks are: pictures (n, 3, H, W) and marks.

        In the light of each picture: the mean difference of colour around a mark is taken off, else the sky of noon
        would be asked for at dusk.
        """
        pictures = self.generator.picture(donors, rules=self.rules).clamp(-1, 1)
        filled = fill(donors, self.before, self.marks, self.before, pictures, pictures, around=True).values
        return filled.clamp(-1, 1), self.marks


def moved(picture: Tensor, alpha: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """A picture (3, H, W) and its mask (H, W), moved until the mask's centre lies on the centre of another mask."""
    (top, left), (row, column) = masks.centre(alpha), masks.centre(place)
    shift = round(row - top), round(column - left)
    return shifted(picture, *shift), shifted(alpha, *shift)


def shifted(image: Tensor, rows: int, columns: int) -> Tensor:
    """An image (…, H, W) moved down and to the right; what comes in at the edges is empty."""
    height, width = image.shape[-2:]
    moved = torch.zeros_like(image)
    target = [slice(max(shift, 0), size + min(shift, 0)) for shift, size in ((rows, height), (columns, width))]
    source = [slice(max(-shift, 0), size - max(shift, 0)) for shift, size in ((rows, height), (columns, width))]
    moved[..., target[0], target[1]] = image[..., source[0], source[1]]
    return moved
