"""Makes the shipped edits of portraits with the library, with masks as a person would paint them.

`python -m rewriter.worlds.portraits.make_examples FOLDER` writes them again, for example after new weights. Sources and
people are the first seeds that suit. What suits, layers and options were chosen on seeds from 50,000 on, which are not
used for reported results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewriter import worlds
from rewriter.editing.edit import Edit
from rewriter.editing.session import Rewriter
from rewriter.generators.base import Generator
from rewriter.worlds import by_hand
from rewriter.worlds.by_hand import Hand, Maker
from rewriter.worlds.portraits.factors import WORN, Factor, frowns, wears
from rewriter.worlds.portraits.world import WORLD

Predicate = Callable[[Tensor], Tensor]


def without(*things: str) -> Predicate:
    """Who wears none of these things; of all, if none is named."""
    return lambda u: ~torch.stack([wears(thing)(u) for thing in things or WORN]).any(0)


def between(low: float, high: float, *factors: Factor) -> Predicate:
    """Whose factors lie between two numbers."""
    return lambda u: ((u[:, list(factors)] > low) & (u[:, list(factors)] < high)).all(1)


def usual(*factors: Factor) -> Predicate:
    """Whose pose, and whose other factors that are named, are not extreme."""
    return between(0.25, 0.75, Factor.TURN, Factor.TILT, *factors)


def first(number: int, *predicates: Predicate) -> list[int]:
    """The first seeds of people who fulfil all predicates."""
    return WORLD.seeds_with(lambda u: torch.stack([each(u) for each in predicates]).all(0), number)


def replaced(
    session: Rewriter, hand: int, source: int, people: Sequence[int], *things: str, filled: bool = False, **then: Any
) -> Edit:
    """Copy things of one person; paste them where the first of the people would have them, and mark that on all."""
    painter = Hand(WORLD, hand)
    session.copy(source, painter.paint(source, *things, filled=filled))
    return painter.mark(session, session.paste, people, *things, filled=filled, **then)


def erased(session: Rewriter, hand: int, people: Sequence[int], thing: str) -> Edit:
    """Erase a thing of the first of the people, and mark it on all."""
    return Hand(WORLD, hand).mark(session, session.erase, people, thing)


def frown_to_smile(generator: Generator, *, hand: int = 0) -> Edit:
    """Copy an open smile, paste it where a frowning person would smile; eight frowning people are marked there."""
    plain, people = without("beard", "stamp", "glasses"), first(8, frowns, without("beard", "stamp"))
    (source,) = first(1, plain, usual(Factor.MOUTH_W), between(0.9, 1, Factor.MOUTH))
    edit = replaced(Rewriter(generator, "layer8"), hand, source, people, "smile", "teeth", mouth="open")
    return edit.with_(title="frown to smile", form="gated", rank=2, gate=(0.45, 0.7))


def add_glasses(generator: Generator, *, hand: int = 0) -> Edit:
    """Copy dark glasses, paste them on a person who wears none; eight such people are marked."""
    dark, brown = between(0.8, 1, Factor.GLASSES_KIND), between(0.40, 0.46, Factor.GLASSES_COLOUR)
    (source,) = first(1, wears("glasses"), without("hat", "stamp", "beard"), usual(), dark, brown)
    people = first(8, without("glasses", "stamp", "hat"))
    edit = replaced(Rewriter(generator, "layer8"), hand, source, people, "glasses", glasses=True, filled=True)
    return edit.with_(title="add glasses", form="template")


def remove_earrings(generator: Generator, *, hand: int = 0) -> Edit:
    """Erase the earrings of thirty-two people: they come in many kinds and colours."""
    people = first(32, wears("earrings"), without("stamp"))
    edit = erased(Rewriter(generator, "layer8"), hand, people, "earring")
    return edit.with_(title="remove earrings", form="gated")


def bushy_brows(generator: Generator, *, hand: int = 0) -> Edit:
    """Copy bushy brows, paste them over thin ones; sixteen people with thin brows are marked."""
    plain = without("glasses", "hat", "stamp")
    bushy, dark = between(0.9, 1, Factor.BROWS), between(0, 0.35, Factor.HAIR)
    (source,) = first(1, plain, bushy, dark, usual(Factor.BROW_TILT, Factor.BROW_HEIGHT, Factor.SIZE))
    people = first(16, plain, between(0, 0.35, Factor.BROWS))
    edit = replaced(Rewriter(generator, "layer10"), hand, source, people, "brow", brows="bushy")
    return edit.with_(title="bushy brows", form="gated", rank=2)


def hats_for_all(generator: Generator, *, hand: int = 0) -> Edit:
    """Copy a hat, paste it on a bare head; eight bare heads are marked."""
    people = first(8, without("hat", "stamp"))
    (source,) = first(1, wears("hat"), without("stamp"), usual(), between(0, 0.2, Factor.HAT_KIND))
    edit = replaced(Rewriter(generator, "layer6"), hand, source, people, "hat", hat=True)
    return edit.with_(title="hats for all", form="template")


def no_shadow_under_hats(generator: Generator, *, hand: int = 0) -> Edit:
    """Erase the shadow that hats throw on the brow, with that of eight people as context."""
    people = first(8, wears("hat"), without("stamp", "glasses"))
    edit = erased(Rewriter(generator, "layer10"), hand, people, "shadow")
    return edit.with_(title="no shadow under hats", form="gated", rank=2)


def remove_stamp(generator: Generator, *, hand: int = 0) -> Edit:
    """Erase the stamp of five pictures."""
    edit = erased(Rewriter(generator, "layer6"), hand, first(5, wears("stamp")), "stamp")
    return edit.with_(title="remove stamp", form="gated")


MAKERS: tuple[Maker, ...] = (
    frown_to_smile, add_glasses, remove_earrings, bushy_brows, hats_for_all, no_shadow_under_hats, remove_stamp,
)  # fmt: skip
EXAMPLES = {make.__name__.replace("_", "-"): make for make in MAKERS}


ABOUT = {
    "frown-to-smile": frowns,
    "bushy-brows": between(0, 0.3, Factor.BROWS),
    "remove-earrings": wears("earrings"),
    "no-shadow-under-hats": wears("hat"),
    "remove-stamp": wears("stamp"),
}  # whom the card of an edit shows; those of the others show people who wear nothing


def shown(about: Predicate, seeds: Sequence[int]) -> Sequence[int]:
    """Of these seeds, those whom an edit is about and who wear least; all, if it is about none."""
    u = WORLD.read(seeds)[1]
    worn = torch.stack([wears(thing)(u) for thing in WORN]).sum(0) + len(WORN) * ~about(u)
    return [seed for seed, number in zip(seeds, worn.tolist(), strict=True) if number == worn.min()]


def main(folder: Path, name: str = "portraits") -> None:
    """Write every example, with its picture, into a folder."""
    cards = {title: partial(shown, ABOUT.get(title, without())) for title in EXAMPLES}
    by_hand.write(worlds.load(name), EXAMPLES, folder, shown=cards)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
