"""Portraits as a `World`: what a generator of people is trained with and judged by."""

from __future__ import annotations

import torch
from torch import Tensor

from rewriter.worlds.base import World
from rewriter.worlds.portraits import factors, hair, person, scenes, wear
from rewriter.worlds.portraits.factors import WORN, Factor
from rewriter.worlds.shapes import palette, plateaus, shares

THINGS = tuple("hair blush eye iris brow nose mouth frown smile teeth beard glasses earring hat shadow stamp".split())
SMALL = {
    "hair": 1.5,
    "shade": 1.5,
    "blush": 1.5,
    "eye": 5.0,
    "iris": 6.0,
    "brow": 4.0,
    "nose": 4.0,
    "mouth": 5.0,
    "frown": 5.0,
    "smile": 5.0,
}
WORN_WEIGHTS = {"teeth": 6.0, "beard": 2.5, "glasses": 4.0, "earring": 7.0, "hat": 2.5, "shadow": 3.0, "stamp": 3.0}
PIXEL_WEIGHTS = dict.fromkeys(scenes.LABELS, 1.0) | SMALL | WORN_WEIGHTS
KINDS = (  # what is worn, or None; the factor that chooses its kind, and how many there are
    (None, Factor.STYLE, len(hair.STYLES)),
    (None, Factor.NECKLINE, 3),
    ("hat", Factor.HAT_KIND, len(wear.HATS)),
    ("glasses", Factor.GLASSES_KIND, len(wear.GLASSES)),
    ("beard", Factor.BEARD_KIND, 3),
    ("earrings", Factor.EARRING_KIND, 3),
)
COLOURS = (
    (None, Factor.BACKGROUND, person.BACKGROUNDS),
    (None, Factor.SKIN, person.SKINS),
    (None, Factor.HAIR, person.HAIRS),
    (None, Factor.CLOTHES, person.CLOTHES),
    (None, Factor.IRIS, person.IRISES),
    ("hat", Factor.HAT_COLOUR, wear.FELTS),
    ("glasses", Factor.GLASSES_COLOUR, wear.FRAMES),
    ("earrings", Factor.EARRING_COLOUR, wear.METALS),
)
SWITCHES = tuple(int(row[1]) for row in (*KINDS, *COLOURS)) + tuple(int(factor) for factor, _ in WORN.values())


def frequent(z: Tensor) -> Tensor:
    """Random latents (n, 48) in which more people wear hats and beards, or are stamped, than in the world."""
    z, part = z.clone(), len(z) // 8
    for i, thing in enumerate(("stamp", "hat", "beard")):
        z[i * part : (i + 1) * part, WORN[thing][0]] = 0.5 * z[i * part : (i + 1) * part, WORN[thing][0]] - 1.4
    return z


def meaning(u: Tensor) -> Tensor:
    """Factors (n, 41), what is worn (n, 5), kinds (n, 27) and colours (n, 24) of what there is, all in [-1, 1].

    A layer can only add up what the mapping network gives it. Without the colours here, it drew grey backgrounds.
    """
    worn: dict[str | None, Tensor] = {thing: factors.wears(thing)(u)[:, None].float() for thing in WORN}
    there = {None: torch.ones_like(u[:, :1]), **worn}
    parts = [u * 2 - 1, *(2 * there[thing] - 1 for thing in WORN)]
    for thing, factor, number in KINDS:
        parts.append(2 * there[thing] * shares(plateaus(u[:, factor, None, None], number), number) - 1)
    for thing, factor, colours in COLOURS:
        parts.append(there[thing] * (2 * palette(u[:, factor, None, None], colours)[:, :, 0, 0] - 1))
    return torch.cat(parts, 1)


WORLD = World(
    name="portraits",
    side=128,
    zdim=48,
    labels=scenes.LABELS,
    things=THINGS,
    factor=Factor,
    draw=scenes.draw,
    change=factors.change,
    meaning=meaning,
    pixel_weights=PIXEL_WEIGHTS,
    frequent=frequent,
    switches=SWITCHES,
    channels=(192, 192, 160, 128, 64, 40, 24),
    oversample=128,
    w_dim=512,
    mapping_layers=3,
)
