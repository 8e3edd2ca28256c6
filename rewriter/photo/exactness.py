"""How exactly a photo is drawn, and how much of it an edit changes: in figures, and in words that people understand."""

from __future__ import annotations

import math

from torch import Tensor

from rewriter.pictures import difference

SEEN = 24.0  # change of a pixel, in 1/255, from which on it counts as changed
SAME = 42.0  # dB from which on nothing is left to improve that an eye could see
ROUGH = 26.0  # dB below which a photo is found only roughly
CLOSENESS = (  # from how many dB on a picture is how close to the photo
    (38.0, "the same to the eye"),
    (32.0, "very close"),
    (ROUGH, "close, fine detail differs"),
    (20.0, "alike, much differs"),
    (-math.inf, "hardly alike"),
)
ADVICE = "choose a square cut like the generator's own pictures, a photo of what it draws, or a dial nearer to editable"


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures (…, H, W) in [-1, 1]; values outside are cut."""
    error = float(((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def closeness(ratio: float) -> str:
    """How close a picture of so many dB is to the photo, in words."""
    return next(words for least, words in CLOSENESS if ratio >= least)


def changed(picture: Tensor, original: Tensor) -> float:
    """The share of a picture's (3, H, W) pixels that visibly differ from another."""
    return float((difference(picture[None], original[None]) > SEEN).float().mean())
