"""The shipped edits, made through the library with masks as a hand would paint them.

`python -m rewriter.evaluation.examples FOLDER` makes them again (after new weights, say). The first pictures of the
seed list that show the thing are used; which of them is pasted on was chosen on the tuning seeds of `smoothness`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter import townscape
from rewriter.edit import Edit
from rewriter.generators.base import Generator
from rewriter.generators.latents import latents
from rewriter.masks import grow
from rewriter.session import Rewriter
from rewriter.townscape import scenes

Predicate = Callable[[Tensor], Tensor]


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


def dome_to_spire(generator: Generator, *, hand: int = 0, paste: int = 3) -> Edit:
    """Copy a spire, paste it over a dome, with the domes of eight pictures as context.

    Args:
        generator: the built-in generator.
        hand: another number paints every mask a little differently.
        paste: which of the context's pictures to paste on; the third did best on the tuning seeds.
    """
    painter = random.Random(hand)
    domes = seeds_with(lambda u: scenes.has_dome(u) & plain(u), number=8)
    spire = seeds_with(lambda u: scenes.has_spire(u) & plain(u), number=1)[0]
    session = Rewriter(generator, "layer8")
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
    return session.edit.with_(title="remove watermark", spread=False, rank=2, smoothness=2.0)


EXAMPLES = {"dome-to-spire": dome_to_spire, "remove-watermark": remove_watermark}


def main(folder: str) -> None:
    """Write every example into a folder."""
    generator = townscape.load()
    for name, make in EXAMPLES.items():
        make(generator).save(Path(folder) / f"{name}.json")


if __name__ == "__main__":
    main(sys.argv[1])
