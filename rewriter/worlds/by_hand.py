"""Makes the shipped edits of a world as a person would: masks painted by an unsteady hand, and a card for each edit."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rewriter.editing.edit import Edit, save_edits
from rewriter.editing.effect import firing
from rewriter.editing.execute import replay
from rewriter.editing.rule import Rule
from rewriter.editing.session import Rewriter
from rewriter.editing.statistics import Statistics
from rewriter.generators.base import Generator
from rewriter.masks import grow
from rewriter.pictures import save_png, to_image
from rewriter.worlds.base import World

Shown = Callable[[Sequence[int]], Sequence[int]]  # unseen seeds → those that a card may show
Begin = Callable[[int, Tensor], object]
Maker = Callable[[Generator], Edit | list[Edit]]  # several edits are made on top of each other
FOUND = 80  # places that a file keeps: more would make it longer, and hardly better
SHOWN, CLEAR = 48, 80  # pictures that a card is chosen from; pixels that should change clearly


class Hand:
    """Paints masks as a person would: too large, displaced, with a soft edge; another number paints differently."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.random = world, random.Random(number)

    def paint(self, seed: int, *things: str, filled: bool = False, **then: Any) -> Tensor:
        """A mask (side, side) over things in the picture of a seed, or over where they would be if it were changed so.

        `filled`: with what lies between them in each row, such as the lenses of glasses. `then`: arguments of the
        world's `change`.
        """
        scene = self.world.draw(self.world.change(self.world.read([seed])[1], **then), self.world.side)
        there = scene.where(*things)[0].float()
        if filled:
            there = torch.minimum(there.cummax(1).values, there.flip(1).cummax(1).values.flip(1))
        return self.trace(there)

    def trace(self, mask: Tensor) -> Tensor:
        """A mask (side, side) as the hand paints it."""
        mask = grow(mask, *(self.random.choice((1, 2)) for _ in range(4)))
        mask = torch.roll(mask, (self.random.choice((-1, 0, 1)), self.random.choice((-1, 0, 1))), (0, 1))
        return F.avg_pool2d(mask[None, None], 3, 1, 1, count_include_pad=False)[0, 0].clamp(0, 1)

    def mark(self, session: Rewriter, begin: Begin, seeds: Sequence[int], *things: str, **options: Any) -> Edit:
        """Begin an edit of things on the first picture, by `session.paste` or `erase`, and mark them on all as context.

        `options`: see `paint`.
        """
        for i, seed in enumerate(seeds):
            place = self.paint(seed, *things, **options)
            if not i:
                begin(seed, place)
            session.add_context(seed, place)
        return session.edit

    def add_contexts(self, session: Rewriter, seeds: Sequence[int], *things: str) -> None:
        """Mark things in several pictures as context."""
        for seed in seeds:
            session.add_context(seed, self.paint(seed, *things))


def as_shipped(generator: Generator, edit: Edit, statistics: Statistics) -> tuple[Edit, Rule]:
    """An edit with the places that were found for it, so that a replay need not look for them; and its rule."""
    made = replay(generator, edit, statistics=statistics).edit
    assert made is not None
    kept = made.with_(found=made.found[:FOUND], after=())
    return kept, replay(generator, kept, statistics=statistics)


def card(generator: Generator, edits: Sequence[Edit], shown: Shown = lambda seeds: seeds) -> Image.Image:
    """An unseen picture before and after, side by side: of those that match, a bright one that changes clearly.

    `shown` says which of their seeds to choose from.
    """
    rules: list[Rule] = []
    statistics = Statistics(generator)
    for edit in edits:
        rules.append(replay(generator, edit, rules=rules, statistics=statistics))
    seeds = shown(firing(generator, rules, hits=SHOWN, misses=0)[0])
    before, after = (generator.sample(seeds, rules=own).clamp(-1, 1) for own in ([], rules))
    change = (after - before).abs().mean(1).flatten(1)
    clear = change.topk(CLEAR, 1).values.mean(1) * (1 + before.flatten(1).mean(1))
    most = int(clear.argmax())
    return to_image(torch.cat([before[most], before.new_ones(3, generator.resolution, 2), after[most]], -1))


def write(
    generator: Generator, examples: Mapping[str, Maker], folder: Path, *, shown: Mapping[str, Shown] | None = None
) -> None:
    """Write every example for a generator, with its card, into a folder; `shown`: see `card`."""
    statistics = Statistics(generator)
    for title, make in examples.items():
        made = make(generator)
        edits = [as_shipped(generator, made, statistics)[0]] if isinstance(made, Edit) else made
        save_edits(edits, folder / f"{title}.json")
        save_png(card(generator, edits, (shown or {}).get(title, lambda seeds: seeds)), folder / f"{title}.png")
