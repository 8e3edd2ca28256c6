"""The shipped edits, made through the library with masks as a hand would paint them.

`python -m rewriter.evaluation.examples FOLDER` makes them again (after new weights, say). The first pictures of the
seed list that show the thing are used; which of them is copied from and pasted on, the layer and the options were
chosen on seeds from 50,000 on, which no reported figure uses.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from itertools import count, islice
from pathlib import Path

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
from rewriter.generators.latents import latents
from rewriter.masks import bounds, disc, grow
from rewriter.pictures import save_png, to_image
from rewriter.worlds import townscape
from rewriter.worlds.townscape import scenes

Predicate = Callable[[Tensor], Tensor]
RIGHT = (torch.arange(64) >= 32).float()  # of a mask's columns: the right half


def seeds_with(predicate: Predicate, *, number: int, start: int = 0) -> list[int]:
    """The first seeds from `start` on whose factors fulfil a predicate."""
    fitting = (s for s in count(start) if bool(predicate(scenes.factors(latents([s], scenes.LATENT_DIM)))[0]))
    return list(islice(fitting, number))


def painted(seed: int, thing: str, hand: random.Random) -> Tensor:
    """A mask (64, 64) as a hand paints it over a thing: too large, beside the mark, with a soft edge."""
    labels = scenes.draw(scenes.factors(latents([seed], scenes.LATENT_DIM))).labels[0]
    mask = (labels == scenes.LABELS.index(thing)).float()
    mask = grow(mask, *(hand.choice((1, 2)) for _ in range(4)))
    mask = torch.roll(mask, (hand.choice((-1, 0, 1)), hand.choice((-1, 0, 1))), (0, 1))
    return F.avg_pool2d(mask[None, None], 3, 1, 1, count_include_pad=False)[0, 0].clamp(0, 1)


def plain(u: Tensor) -> Tensor:
    """Scenes without watermark and bar."""
    return ~scenes.has_watermark(u) & ~scenes.has_bar(u)


def dome_to_spire(generator: Generator, *, hand: int = 0, paste: int = 3, rules: Sequence[Rule] = ()) -> Edit:
    """Copy a spire, paste it over a dome, with the domes of eight pictures as context.

    Args:
        generator: the built-in generator.
        hand: another number paints every mask a little differently.
        paste: which of the context's pictures to paste on; the third did best on the tuning seeds.
        rules: those that are on already.
    """
    painter = random.Random(hand)
    domes = seeds_with(lambda u: scenes.has_dome(u) & plain(u), number=8)
    spire = seeds_with(lambda u: scenes.has_spire(u) & plain(u), number=1)[0]
    session = Rewriter(generator, "layer8", rules=rules)
    session.copy(spire, painted(spire, "spire", painter))
    session.paste(domes[paste], painted(domes[paste], "dome", painter))
    for seed in domes:
        session.add_context(seed, painted(seed, "dome", painter))
    return session.edit.with_(title="dome to spire")


def remove_watermark(generator: Generator, *, hand: int = 0) -> Edit:
    """Erase the marks of one picture that has both kinds, with five marked pictures of each kind as context."""
    painter = random.Random(hand)
    both = seeds_with(lambda u: scenes.has_watermark(u) & scenes.has_bar(u), number=1)[0]
    middle = seeds_with(lambda u: scenes.has_watermark(u) & ~scenes.has_bar(u), number=5)
    bottom = seeds_with(lambda u: scenes.has_bar(u) & ~scenes.has_watermark(u), number=5)
    session = Rewriter(generator, "layer6")
    session.erase(both, torch.maximum(painted(both, "watermark", painter), painted(both, "bar", painter)))
    for seeds, thing in ((middle, "watermark"), (bottom, "bar")):
        for seed in seeds:
            session.add_context(seed, painted(seed, thing, painter))
    return session.edit.with_(title="remove watermark", spread=False, rank=2, smoothness=1.0)


def dome_to_tree(generator: Generator, *, hand: int = 0, paste: int = 0) -> Edit:
    """Copy the crown of a tree, paste it over a dome, with the domes of sixteen pictures as context.

    The crown is cut off where it is as high as a dome, so that little of the sky below it is copied along.
    """
    painter = random.Random(hand)
    domes = seeds_with(lambda u: scenes.has_dome(u) & plain(u), number=16)
    tree = seeds_with(lambda u: has_right_tree(u) & ~has_left_tree(u) & plain(u), number=1)[0]
    crown = painted(tree, "tree", painter) * RIGHT  # a hand that slips over the edge does not come out on the left
    crown[bounds(crown, above=0.5).top + 9 :] = 0
    session = Rewriter(generator, "layer8")
    session.copy(tree, crown)
    session.paste(domes[paste], painted(domes[paste], "dome", painter))
    for seed in domes:
        session.add_context(seed, painted(seed, "dome", painter))
    return session.edit.with_(title="dome to tree", spread=False, rank=4, smoothness=3.0)


def add_tree(generator: Generator, *, hand: int = 0, paste: int = 5, rules: Sequence[Rule] = ()) -> Edit:
    """Copy a tree on the right, paste it where none is, with that place in sixteen treeless pictures as context.

    Trees that are there already, three on the right and six on the left, are to stay as they are.
    """
    painter = random.Random(hand)
    bare = seeds_with(lambda u: ~has_right_tree(u) & plain(u), number=16)
    tree = seeds_with(_middling_right_tree, number=3)[2]
    both = seeds_with(lambda u: has_left_tree(u) & has_right_tree(u) & plain(u), number=6)
    place = painted(tree, "tree", painter) * RIGHT
    session = Rewriter(generator, "layer5", rules=rules)
    session.copy(tree, place)
    session.paste(bare[paste], place)
    for seed in bare:
        session.add_context(seed, place)
    for seeds, side in ((both[:3], RIGHT), (both, 1 - RIGHT)):
        for seed in seeds:
            session.keep(seed, painted(seed, "tree", painter) * side)
    return session.edit.with_(title="add tree", rank=3, smoothness=3.0)


def has_left_tree(u: Tensor) -> Tensor:
    """Which towns have a tree on the left, (n,) bool."""
    return u[:, scenes.Factor.L_TREE] < 0.6


def has_right_tree(u: Tensor) -> Tensor:
    """Which towns have a tree on the right, (n,) bool."""
    return u[:, scenes.Factor.R_TREE] < 0.6


def _middling_right_tree(u: Tensor) -> Tensor:
    """A tree on the right that is rather large and not cut by the picture's edge."""
    whole = (u[:, scenes.Factor.R_TREE_R] > 0.5) & (u[:, scenes.Factor.R_TREE_X] < 0.6)
    return has_right_tree(u) & whole & plain(u)


def no_light_on_ground(generator: Generator, *, hand: int = 0, paste: int = 0) -> Edit:
    """Erase the light that lit windows throw on the ground, with that of eight pictures as context."""
    painter = random.Random(hand)
    lit = seeds_with(lambda u: scenes.is_lit(u) & plain(u), number=8)
    places = {seed: painted(seed, "light", painter) for seed in lit}
    session = Rewriter(generator, "layer8")
    session.erase(lit[paste], places[lit[paste]])
    for seed, place in places.items():
        session.add_context(seed, place)
    return session.edit.with_(title="no light on the ground")


def door_in_the_sky(generator: Generator, *, hand: int = 0) -> Edit:
    """Copy a brown door, paste it into the sky, with the sky of eight pictures as context: what a rule cannot do."""
    painter = random.Random(hand)
    sky = seeds_with(plain, number=8)
    door = seeds_with(lambda u: (u[:, scenes.Factor.DOOR] < 0.3) & plain(u), number=1)[0]
    session = Rewriter(generator, "layer6")
    session.copy(door, painted(door, "door", painter))
    session.paste(sky[0], disc(64, 0.25, 0.5, 0.08))
    for seed in sky:
        session.add_context(
            seed, disc(64, 0.25 + painter.uniform(-0.03, 0.03), 0.5 + painter.uniform(-0.05, 0.05), 0.08)
        )
    return session.edit.with_(title="door in the sky", smoothness=1.0)


def grand_tour(generator: Generator) -> list[Edit]:
    """Three edits in succession, each made on the generator with the earlier rules on.

    Without marks the domes take a little more persuasion than in `dome_to_spire` alone.
    """
    statistics = Statistics(generator)
    first = remove_watermark(generator)
    rules = [replay(generator, first, statistics=statistics)]
    second = dome_to_spire(generator, rules=rules).with_(rank=2, smoothness=3.0)
    rules.append(replay(generator, second, rules=rules, statistics=statistics))
    return [first, second, add_tree(generator, rules=rules)]


EXAMPLES: dict[str, Callable[[Generator], Edit | list[Edit]]] = {
    "dome-to-spire": dome_to_spire,
    "remove-watermark": remove_watermark,
    "dome-to-tree": dome_to_tree,
    "add-tree": add_tree,
    "no-light-on-ground": no_light_on_ground,
    "door-in-the-sky": door_in_the_sky,
    "grand-tour": grand_tour,
}


def card(generator: Generator, edits: Sequence[Edit]) -> Image.Image:
    """An unseen picture before and after, side by side: the one that changes most of the first eight that match."""
    rules: list[Rule] = []
    statistics = Statistics(generator)
    for edit in edits:
        rules.append(replay(generator, edit, rules=rules, statistics=statistics))
    seeds, _ = firing(generator, rules, hits=8, misses=0)
    before, after = (generator.sample(seeds, rules=own) for own in ([], rules))
    most = int((after - before).abs().flatten(1).mean(1).argmax())
    gap = torch.ones(3, generator.resolution, 2)
    return to_image(torch.cat([before[most], gap, after[most]], -1))


def main(folder: str) -> None:
    """Write every example, with its card, into a folder."""
    generator = townscape.load()
    for name, make in EXAMPLES.items():
        made = make(generator)
        edits = [made] if isinstance(made, Edit) else made
        save_edits(edits, Path(folder) / f"{name}.json")
        save_png(card(generator, edits), Path(folder) / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1])
