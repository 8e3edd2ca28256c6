"""Hair: ten styles as rows of one table, with continuous passages between them, so that any number is a hairstyle."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rewriter.worlds.canvas import Canvas, lerp
from rewriter.worlds.portraits.factors import Factor
from rewriter.worlds.portraits.person import Person, blend
from rewriter.worlds.shapes import box, disc, ellipse, rows, smooth_max, smooth_min, tint


class Style(NamedTuple):
    """Shape of the hair; lengths in sides of the picture, y downwards from the middle of the face."""

    up: float = 0.02  # above the skull
    side: float = 0.014  # beside the face
    length: float = 0.0  # y of the lower end
    width: float = 0.0  # half-width there, beyond the face
    wave: float = 0.0
    curl: float = 0.0
    bun: float = 0.0  # radius
    bun_x: float = 0.0
    bun_y: float = -0.25
    fringe: float = -0.14  # y of the hairline at the parting
    parting: float = 0.0  # x
    fall: float = 0.0  # how steeply the hairline falls from the parting
    arch: float = 0.03  # how much lower it is at the temples
    opening: float = 0.98  # half-width that the hair leaves free, in those of the face
    lock: float = 0.0  # y of the lower end of the hair in front
    quiff: float = 0.0


STYLES = {
    "buzz": Style(up=0.004, side=0.004, fringe=-0.155, arch=0.05, lock=-0.03, opening=0.97, length=-0.03, width=-0.02),
    "crop": Style(up=0.03, side=0.014, fringe=-0.15, parting=0.09, fall=0.16, arch=0.03, lock=0.0),
    "quiff": Style(up=0.025, side=0.012, fringe=-0.15, arch=0.03, lock=0.01, quiff=1.0, parting=0.05, fall=0.05),
    "curls": Style(up=0.05, side=0.035, curl=0.012, fringe=-0.125, arch=0.0, lock=-0.01, opening=0.96, length=0.0),
    "afro": Style(
        up=0.10, side=0.10, curl=0.006, fringe=-0.145, arch=0.03, lock=0.10, opening=0.95, length=0.13, width=0.05
    ),
    "bob": Style(up=0.035, side=0.04, length=0.19, width=0.045, fringe=-0.105, arch=0.0, opening=0.9, lock=0.19),
    "long": Style(
        up=0.03, side=0.03, length=0.40, width=0.045, fringe=-0.19, parting=0.0, fall=0.42, opening=0.88, lock=0.36
    ),
    "waves": Style(
        up=0.04,
        side=0.04,
        length=0.36,
        width=0.075,
        wave=0.014,
        fringe=-0.165,
        parting=0.07,
        fall=0.3,
        opening=0.92,
        lock=0.30,
    ),
    "bun": Style(
        up=0.016, side=0.012, bun=0.085, bun_y=-0.30, fringe=-0.155, arch=0.055, lock=0.02, parting=0.0, fall=0.0
    ),
    "buns": Style(
        up=0.02, side=0.014, bun=0.07, bun_x=0.165, bun_y=-0.215, fringe=-0.165, fall=0.25, arch=0.0, lock=0.03
    ),
}


class Hair(NamedTuple):
    """Signed distances (n, size, size) to the hair behind the head and in front of it."""

    behind: Tensor
    front: Tensor


def shapes(p: Person) -> Hair:
    """The hair of every person, not yet painted."""
    s = rows(p.span(Factor.STYLE, 0, 1), list(STYLES.values()))
    (x, y), a = p.head, p.half_width
    volume, part = p.span(Factor.VOLUME, 0.85, 1.15), p.span(Factor.PART, -1, 1)
    part = part * (1.6 - 0.6 * part.abs())
    up, side = s.up * volume, s.side * volume
    angle = torch.atan2(y + 0.05, x)
    bumps = s.curl * (angle * 13).cos()
    cap = ellipse(x, (y + 0.03), a + side, p.half_height - 0.02 + up, 2.15) - bumps
    lifted = smooth_min(cap, ellipse(x + part * 0.045, y + 0.225, 0.128, 0.085), 0.05)
    cap = lerp(cap, lifted, s.quiff)
    half = (s.length + 0.06) / 2
    fall = box(x + s.wave * (y * 42).sin(), y + 0.06 - half, a + s.width * volume, half, 0.05) - bumps
    whole = smooth_min(cap, fall, 0.06)
    whole = smooth_max(whole, y - s.length - 0.02, 0.09)
    buns = torch.minimum(*(disc(x - way * s.bun_x, y - s.bun_y, s.bun * volume) for way in (-1, 1)))
    behind = torch.where(s.bun > 0.004, torch.minimum(whole, buns), whole)
    from_part = x - s.parting * part - 0.012 * p.turn
    line = s.fringe + s.fall * ((from_part**2 + 0.0006).sqrt() - 0.0245) + s.arch * (x / a) ** 2
    free = smooth_max(line - y, (x - 0.008 * p.turn).abs() - a * s.opening, 0.06)
    front = smooth_max(torch.maximum(whole, -free), y - s.lock, 0.03)
    return Hair(behind, front)


def under_hat(hair: Hair, crown: Tensor, line: Tensor, worn: Tensor) -> Hair:
    """The hair with what a hat hides pressed into its crown: nothing above the hat's `line` (distance) sticks out."""
    pressed = torch.minimum(crown, line)
    return Hair(*(torch.where(worn > 0, torch.maximum(part, pressed), part) for part in hair))


def paint_behind(c: Canvas, p: Person, hair: Hair) -> None:
    """The hair behind head and shoulders."""
    c.paint(c.cover(hair.behind), tint(p.hair, 0.78, 0.72, 0.76), "hair")


def paint_front(c: Canvas, p: Person, hair: Hair) -> None:
    """The hair in front of the face, darker on the right, with a shine on the left."""
    x, y = p.head
    cover = c.cover(hair.front)
    c.paint(cover, p.hair, "hair")
    dark = c.cover(-ellipse(x + 0.062, y + 0.02, p.half_width + 0.016, p.half_height + 0.03)) * c.cover(-x)
    dark = dark * cover
    c.paint(dark * 0.75, tint(p.hair, 0.82, 0.76, 0.80), "hair")
    arc = torch.maximum(
        ellipse(x + 0.012, y + 0.03, p.half_width - 0.012, p.half_height - 0.035),
        -ellipse(x + 0.004, y + 0.012, p.half_width - 0.016, p.half_height - 0.038),
    )
    arc = smooth_max(arc, disc(x + 0.09, y + 0.19, 0.085), 0.01)
    white = c.colour(1.0, 0.95, 0.9)
    c.paint(c.cover(arc) * cover * 0.8, blend(tint(p.hair, 1.25, 1.22, 1.2), white, 0.12), "hair")
