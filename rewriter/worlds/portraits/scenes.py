"""Portraits: procedural people with exact labels and exact counterfactuals.

    z (n, 48) ──factors──► u (n, 41), uniform ──draw──► picture (n, 3, size, size) and labels (n, size, size)
                                │
                                └──change──► the same person smiling, with glasses, without a hat

Rules of this world to rewrite: a hat throws a shadow on the brow; about one picture in eight is stamped in a corner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rewriter.errors import InputError
from rewriter.worlds.base import Scene
from rewriter.worlds.canvas import Canvas
from rewriter.worlds.portraits import face, factors, hair, wear
from rewriter.worlds.portraits.factors import NUM_FACTORS, Factor
from rewriter.worlds.portraits.person import BACKGROUNDS, Person, blend, person
from rewriter.worlds.shapes import disc, palette

SKIN = "skin shade blush eye iris brow nose mouth teeth beard".split()
WORN = "glasses earring hat shadow stamp".split()
LABELS = ("background", "hair", "clothes", *SKIN, *WORN, "frown", "smile")  # "mouth": a neutral one
MOUTHS = {"frown": factors.frowns, "smile": factors.smiles, "mouth": factors.neutral}


def draw(u: Tensor, size: int = 128, *, without: str | None = None) -> Scene:
    """Factors (n, 41) in [0, 1] → the people that they describe, `size` pixels a side, on the device of the factors.

    What is behind the thing `without` ("hat", "shadow", "stamp" …) shows instead of it, and nothing has its label.
    InputError for factors of another shape, or a thing that cannot be painted.
    """
    if u.ndim != 2 or u.shape[1] != NUM_FACTORS:
        raise InputError(f"factors are {tuple(u.shape)} instead of (n, {NUM_FACTORS}): use factors(latents)")
    if without is not None and without not in LABELS[1:]:
        raise InputError(f"cannot leave out {without!r}: choose one of {', '.join(LABELS[1:])}")
    whole = _drawn(u, size, None if without in MOUTHS else without)
    if without not in MOUTHS:
        return whole
    there, hidden = MOUTHS[without](u)[:, None, None], _drawn(u, size, "mouth")
    picture = torch.where(there[:, None], hidden.picture, whole.picture)
    return Scene(picture, torch.where(there, hidden.labels, whole.labels), LABELS)


def _drawn(u: Tensor, size: int, without: str | None) -> Scene:
    c = Canvas(len(u), size, LABELS, without=without, device=u.device)
    p = person(c, u)
    hat = wear.hat_shapes(p)
    locks = hair.under_hat(hair.shapes(p), hat.crown, hat.line, p.worn("hat"))
    _background(c, p)
    hair.paint_behind(c, p, locks)
    face.neck(c, p)
    wear.clothes(c, p)
    face.ears(c, p)
    face.face(c, p)
    face.beard(c, p)
    face.hair_shadow(c, p, locks.front)
    hair.paint_front(c, p, locks)
    wear.hat_shadow(c, p, hat)
    for paint in (face.nose, face.eyes, face.brows, face.mouth, wear.glasses, wear.earrings):
        paint(c, p)
    wear.paint_hat(c, p, hat)
    _stamp(c, p)
    mouth = c.labels == LABELS.index("mouth")
    for label, shows in MOUTHS.items():
        c.labels = torch.where(mouth & shows(u)[:, None, None], LABELS.index(label), c.labels)
    return Scene(c.rgb * 2 - 1, c.labels, LABELS)


def _background(c: Canvas, p: Person) -> None:
    colour = palette(p.span(Factor.BACKGROUND, 0, 1), BACKGROUNDS)
    c.fill(colour)
    c.paint(c.cover(disc(c.x - 0.5, c.y - 0.5, 0.44)), blend(colour, c.colour(1.0, 1.0, 1.0), 0.38), "background")


def _stamp(c: Canvas, p: Person) -> None:
    """A round seal in the lower right corner."""
    x, y, there = c.x - 0.87, c.y - 0.87, p.worn("stamp")
    red, white = c.colour(0.80, 0.16, 0.22), c.colour(1.0, 0.97, 0.93)
    c.paint(c.cover(disc(x, y, 0.096)) * there, red, "stamp")
    c.paint(c.cover(disc(x, y, 0.070).abs() - 0.0085) * there, white, "stamp")
    c.paint(c.cover((x.abs() + y.abs()) * 0.7071 - 0.026) * there, white, "stamp")
