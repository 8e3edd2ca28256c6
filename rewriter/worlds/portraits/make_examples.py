"""Makes the shipped edits of portraits with the library, with masks as a person would paint them.

`python -m rewriter.worlds.portraits.make_examples FOLDER` writes them again, for example after new weights. They use the
first seeds whose pictures show the thing. Which of these to copy from and paste onto, layers and options were chosen on
seeds from 50,000 on, which are not used for reported results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from rewriter import worlds
from rewriter.editing.edit import AUTO, Edit
from rewriter.editing.session import Rewriter
from rewriter.generators.base import Generator
from rewriter.worlds import by_hand
from rewriter.worlds.by_hand import Hand, Maker
from rewriter.worlds.portraits.factors import WORN, Factor, frowns, neutral, smiles, wears
from rewriter.worlds.portraits.world import WORLD

Predicate = Callable[[Tensor], Tensor]
LAYER = "layer8"


def bare(*things: str) -> Predicate:
    """Who wears none of these things; of all, if none is named."""
    return lambda u: ~sum(wears(thing)(u) for thing in things or WORN).bool()


def both(*predicates: Predicate) -> Predicate:
    """Who fulfils all of these."""
    return lambda u: sum((~each(u)).int() for each in predicates) == 0


def frown_to_smile(generator: Generator, *, hand: int = 0) -> Edit:
    """Copy an open smile, paste it where a frowning person would smile, with the frowns of eight people as context.

    Four mouths that do not frown are protected.
    """
    painter, session = Hand(WORLD, hand), Rewriter(generator, LAYER)
    (smile,) = WORLD.seeds_with(both(bare("beard", "stamp"), lambda u: u[:, Factor.MOUTH] > 0.9), 1)
    frowning = WORLD.seeds_with(both(frowns, bare("beard", "stamp")), 8)
    session.copy(smile, painter.paint(smile, "smile", "teeth"))
    session.paste(frowning[0], painter.paint(frowning[0], "smile", "teeth", mouth="open"))
    for seed in frowning:
        session.add_context(seed, painter.paint(seed, "smile", "teeth", mouth="open"))
    return session.edit.with_(title="frown to smile", form=AUTO)


MAKERS: tuple[Maker, ...] = (frown_to_smile,)
EXAMPLES = {make.__name__.replace("_", "-"): make for make in MAKERS}


def main(folder: Path, name: str = "portraits") -> None:
    """Write every example, with its picture, into a folder."""
    by_hand.write(worlds.load(name), EXAMPLES, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
