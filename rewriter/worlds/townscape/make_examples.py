"""Makes the shipped edits with the library, with masks as a person would paint them.

`python -m rewriter.worlds.townscape.make_examples FOLDER` writes them again, for example after new weights; with
`townscape-128` after it, for that generator. They use the first seeds whose pictures show the thing. Which of these to
copy from and paste onto, layers and options were chosen on seeds from 50,000 on, which are not used for reported
results.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rewriter import worlds
from rewriter.editing.edit import Edit
from rewriter.editing.execute import replay
from rewriter.editing.rule import Rule
from rewriter.editing.session import Rewriter
from rewriter.editing.statistics import Statistics
from rewriter.generators.base import Generator
from rewriter.masks import bounds, disc
from rewriter.worlds import by_hand
from rewriter.worlds.by_hand import Hand, Maker
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.world import WORLD

RIGHT = (torch.arange(64) >= 32).float()  # the right half of a mask's columns


def dome_to_spire(generator: Generator, *, hand: int = 0, rules: Sequence[Rule] = ()) -> Edit:
    """Copy a spire, paste it over a dome, with the domes of eight pictures as context; `rules` are on already."""
    painter, session = Hand(WORLD, hand), Rewriter(generator, "layer8", rules=rules)
    domes = WORLD.seeds_with(lambda u: factors.has_dome(u) & scenes.plain(u), number=8)
    (spire,) = WORLD.seeds_with(lambda u: factors.has_spire(u) & scenes.plain(u), number=1)
    session.copy(spire, painter.paint(spire, "spire"))
    session.paste(domes[3], painter.paint(domes[3], "dome"))
    painter.add_contexts(session, domes, "dome")
    rank = 1 if generator.resolution == 64 else 2  # finer pictures show when a spire's colour does not follow the light
    return session.edit.with_(title="dome to spire", form="gated", rank=rank)


def remove_watermark(generator: Generator, *, hand: int = 0) -> Edit:
    """Erase the marks of one picture that has both kinds, with five pictures of each kind alone as context."""
    painter, session = Hand(WORLD, hand), Rewriter(generator, "layer6")
    (both,) = WORLD.seeds_with(lambda u: factors.has_watermark(u) & factors.has_bar(u), number=1)
    middle = WORLD.seeds_with(lambda u: factors.has_watermark(u) & ~factors.has_bar(u), number=5)
    bottom = WORLD.seeds_with(lambda u: factors.has_bar(u) & ~factors.has_watermark(u), number=5)
    session.erase(both, torch.maximum(painter.paint(both, "watermark"), painter.paint(both, "bar")))
    painter.add_contexts(session, middle, "watermark")
    painter.add_contexts(session, bottom, "bar")
    return session.edit.with_(title="remove watermark", form="weight", spread=False, rank=2, smoothness=1.0)


def dome_to_tree(generator: Generator, *, hand: int = 0) -> Edit:
    """Copy the crown of a tree, paste it over a dome, with the domes of sixteen pictures as context.

    The crown is cut off at the height of a dome, so that little of the sky below it is copied.
    """
    painter, session = Hand(WORLD, hand), Rewriter(generator, "layer8")
    domes = WORLD.seeds_with(lambda u: factors.has_dome(u) & scenes.plain(u), number=16)
    (tree,) = WORLD.seeds_with(_only_a_right_tree, number=1)
    crown = painter.paint(tree, "tree") * RIGHT  # a mask displaced over the edge comes in again on the left
    crown[bounds(crown, above=0.5).top + 9 :] = 0
    session.copy(tree, crown)
    session.paste(domes[0], painter.paint(domes[0], "dome"))
    painter.add_contexts(session, domes, "dome")
    return session.edit.with_(title="dome to tree", form="gated", spread=False, rank=2)


def _only_a_right_tree(u: Tensor) -> Tensor:
    return factors.has_right_tree(u) & ~factors.has_left_tree(u) & scenes.plain(u)


def add_tree(generator: Generator, *, hand: int = 0, rules: Sequence[Rule] = ()) -> Edit:
    """Copy a tree on the right, paste it where none is, with that place in sixteen treeless pictures as context.

    Existing trees, three on the right and six on the left, are protected.
    """
    painter, session = Hand(WORLD, hand), Rewriter(generator, "layer5", rules=rules)
    bare = WORLD.seeds_with(lambda u: ~factors.has_right_tree(u) & scenes.plain(u), number=16)
    tree = WORLD.seeds_with(_large_whole_right_tree, number=3)[2]
    both = WORLD.seeds_with(lambda u: factors.has_left_tree(u) & factors.has_right_tree(u) & scenes.plain(u), number=6)
    place = painter.paint(tree, "tree") * RIGHT
    session.copy(tree, place)
    session.paste(bare[5], place)
    for seed in bare:
        session.add_context(seed, place)
    for seeds, side in ((both[:3], RIGHT), (both, 1 - RIGHT)):
        for seed in seeds:
            session.keep(seed, painter.paint(seed, "tree") * side)
    return session.edit.with_(title="add tree", form="gated", rank=2)


def _large_whole_right_tree(u: Tensor) -> Tensor:
    """A tree on the right that is rather large and not cut by the picture's edge."""
    whole = (u[:, factors.Factor.R_TREE_R] > 0.5) & (u[:, factors.Factor.R_TREE_X] < 0.6)
    return factors.has_right_tree(u) & whole & scenes.plain(u)


def no_light_on_ground(generator: Generator, *, hand: int = 0) -> Edit:
    """Erase the light that lit windows throw on the ground, with that of eight pictures as context."""
    session = Rewriter(generator, "layer8")
    lit = WORLD.seeds_with(lambda u: factors.is_lit(u) & scenes.plain(u), number=8)
    edit = Hand(WORLD, hand).mark(session, session.erase, lit, "light")
    return edit.with_(title="no light on the ground", form="gated")


def door_in_the_sky(generator: Generator, *, hand: int = 0) -> Edit:
    """Copy a brown door, paste it into the sky, with the sky of eight pictures as context. No rule can do this."""
    painter, session = Hand(WORLD, hand), Rewriter(generator, "layer6")
    sky = WORLD.seeds_with(scenes.plain, number=8)
    (door,) = WORLD.seeds_with(lambda u: (u[:, factors.Factor.DOOR] < 0.3) & scenes.plain(u), number=1)
    session.copy(door, painter.paint(door, "door"))
    session.paste(sky[0], disc(64, 0.25, 0.5, 0.08))
    for seed in sky:
        row, column = (centre + painter.random.uniform(-r, r) for centre, r in ((0.25, 0.03), (0.5, 0.05)))
        session.add_context(seed, disc(64, row, column, 0.08))
    return session.edit.with_(title="door in the sky", form="weight", smoothness=1.0)


def grand_tour(generator: Generator) -> list[Edit]:
    """Three edits in succession, each made on top of the earlier rules."""
    statistics, first = Statistics(generator), remove_watermark(generator)
    rules = [replay(generator, first, statistics=statistics)]
    second = dome_to_spire(generator, rules=rules)
    rules.append(replay(generator, second, rules=rules, statistics=statistics))
    return [first, second, add_tree(generator, rules=rules)]


MAKERS: tuple[Maker, ...] = (
    dome_to_spire,
    remove_watermark,
    dome_to_tree,
    add_tree,
    no_light_on_ground,
    door_in_the_sky,
    grand_tour,
)
EXAMPLES = {make.__name__.replace("_", "-"): make for make in MAKERS}


def main(folder: Path, name: str = "townscape") -> None:
    """Write every example for the generator of this name, with its picture, into a folder."""
    by_hand.write(worlds.load(name), EXAMPLES, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
