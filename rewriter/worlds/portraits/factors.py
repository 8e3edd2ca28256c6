"""The factors of a portrait: a latent as named numbers in [0, 1]. Switching one gives an exact counterfactual."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Literal

from torch import Tensor

from rewriter.errors import InputError

Mouth = Literal["frown", "neutral", "smile", "open"]
Brows = Literal["thin", "bushy"]


class Factor(IntEnum):
    """Column of each factor in u; comments say what 0 and 1 mean, or the threshold of a switch."""

    BACKGROUND = 0  # through a palette, as other colours
    X = 1  # left … right
    Y = 2  # up … down
    SIZE = 3
    TILT = 4  # to the left … to the right
    TURN = 5  # to the left … to the right
    SKIN = 6  # light … dark
    WARMTH = 7  # rosy … golden
    HAIR = 8
    STYLE = 9  # through `hair.STYLES`
    VOLUME = 10
    PART = 11  # on the left … on the right
    FACE_W = 12
    JAW = 13  # wide … narrow
    FACE_H = 14
    EYE_SIZE = 15
    SLANT = 16
    IRIS = 17
    GAZE_X = 18
    GAZE_Y = 19
    BROWS = 20  # thin … bushy
    BROW_TILT = 21  # worried … determined
    BROW_HEIGHT = 22
    NOSE = 23  # small … large
    MOUTH = 24  # frown … smile … open smile
    MOUTH_W = 25
    LIPS = 26  # pale … red
    GLASSES = 27  # worn below 0.35
    GLASSES_KIND = 28  # through `wear.GLASSES`
    GLASSES_COLOUR = 29
    EARRINGS = 30  # worn below 0.35
    EARRING_KIND = 31  # stud … hoop … drop
    EARRING_COLOUR = 32
    HAT = 33  # worn below 0.25
    HAT_KIND = 34  # through `wear.HATS`
    HAT_COLOUR = 35
    BEARD = 36  # worn below 0.25
    BEARD_KIND = 37  # full … goatee … moustache
    CLOTHES = 38
    NECKLINE = 39  # polo neck … round … V
    STAMP = 40  # stamped below 0.125


NUM_FACTORS = len(Factor)
WORN = {  # below which threshold a thing is there
    "glasses": (Factor.GLASSES, 0.35),
    "earrings": (Factor.EARRINGS, 0.35),
    "hat": (Factor.HAT, 0.25),
    "beard": (Factor.BEARD, 0.25),
    "stamp": (Factor.STAMP, 0.125),
}
MOUTHS = {"frown": 0.1, "neutral": 0.4, "smile": 0.7, "open": 0.95}
BROWS = {"thin": 0.05, "bushy": 0.95}


def wears(thing: str) -> Callable[[Tensor], Tensor]:
    """A function that says who wears a thing of `WORN`: factors (n, 41) → (n,) bool."""
    if thing not in WORN:
        raise InputError(f"nobody wears {thing!r}: choose one of {', '.join(WORN)}")
    factor, threshold = WORN[thing]
    return lambda u: u[:, factor] < threshold


def smiles(u: Tensor) -> Tensor:
    """Who smiles, (n,) bool."""
    return u[:, Factor.MOUTH] > 0.55


def frowns(u: Tensor) -> Tensor:
    """Who frowns, (n,) bool."""
    return u[:, Factor.MOUTH] < 0.25


def neutral(u: Tensor) -> Tensor:
    """Who neither smiles nor frowns, (n,) bool."""
    return ~smiles(u) & ~frowns(u)


def change(
    u: Tensor,
    *,
    mouth: Mouth | None = None,
    brows: Brows | None = None,
    glasses: bool | None = None,
    earrings: bool | None = None,
    hat: bool | None = None,
    beard: bool | None = None,
    stamp: bool | None = None,
) -> Tensor:
    """The exact counterfactual: the same factors (n, 41) with these things set; None leaves a thing as it is."""
    u = u.clone()
    for factor, chosen, known in ((Factor.MOUTH, mouth, MOUTHS), (Factor.BROWS, brows, BROWS)):
        if chosen is not None and chosen not in known:
            raise InputError(f"there is no {chosen!r} among {', '.join(known)}: choose one of these")
        if chosen is not None:
            u[:, factor] = known[chosen]
    switches = {"glasses": glasses, "earrings": earrings, "hat": hat, "beard": beard, "stamp": stamp}
    for thing, there in switches.items():
        if there is not None:
            factor, threshold = WORN[thing]
            u[:, factor] = threshold / 2 if there else (1 + threshold) / 2
    return u
