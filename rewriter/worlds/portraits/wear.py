"""What people wear: clothes, glasses, earrings, hats."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rewriter.worlds.canvas import Canvas, lerp
from rewriter.worlds.portraits.face import EYE_X, EYE_Y, SIDES
from rewriter.worlds.portraits.factors import Factor
from rewriter.worlds.portraits.person import CLOTHES, Person, blend
from rewriter.worlds.shapes import box, disc, ellipse, palette, rows, stroke, tint

FRAMES = ("1f6f78", "2b2530", "7a4326", "b83245", "d9a441")
METALS = ("f2c14e", "e9eef2", "ef6f6c", "38b2ac")
FELTS = ("e8d9c0", "e9b44c", "d94f3d", "d66a8c", "7b4b94", "3b3640", "2e4372", "3a7d6b")


def clothes(c: Canvas, p: Person) -> None:
    """Shoulders, darker on the right, with a polo neck, a round neck or a V."""
    x, y = p.body
    colour = palette(p.span(Factor.CLOTHES, 0, 1), CLOTHES)
    dark = tint(colour, 0.84, 0.80, 0.84)
    polo, rounded, deep = p.kinds(Factor.NECKLINE, 3)
    body = ellipse(x, y - 0.64, 0.40, 0.335, 2.6)
    v = torch.maximum(x.abs() * 0.86 + (y - 0.40) * 0.5, -y + 0.2)
    neck_hole = (
        rounded * ellipse(x, y - 0.295, 0.105, 0.085) + deep * v + polo * (ellipse(x, y - 0.2, 0.1, 0.05) + 0.05)
    )
    trim = neck_hole - 0.022
    cover = torch.minimum(c.cover(body), c.cover(-neck_hole))
    c.paint(cover, colour, "clothes")
    c.paint(torch.minimum(cover, c.cover(0.10 - x + 0.5 * (y - 0.5) ** 2)), dark, "clothes")
    c.paint(torch.minimum(cover, c.cover(trim)) * (1 - polo), blend(dark, c.colour(1.0, 1.0, 1.0), 0.35), "clothes")
    collar = box(x, y - 0.29, 0.084, 0.052, 0.03)
    c.paint(c.cover(collar) * (polo > 0.5), blend(colour, c.colour(1.0, 1.0, 1.0), 0.14), "clothes")
    c.paint(torch.minimum(c.cover(collar), c.cover(0.035 - x)) * (polo > 0.5), dark, "clothes")


class GlassesKind(NamedTuple):
    """Half-width, half-height, how square, how much the outer corners rise, how dark the lenses are."""

    wide: float
    high: float
    power: float
    rise: float
    dark: float


GLASSES = {
    "round": GlassesKind(0.062, 0.058, 2.0, 0.0, 0.0),
    "square": GlassesKind(0.066, 0.050, 4.5, 0.0, 0.0),
    "cat-eye": GlassesKind(0.068, 0.048, 2.7, 0.32, 0.0),
    "sunglasses": GlassesKind(0.069, 0.054, 2.9, 0.06, 1.0),
}


def glasses(c: Canvas, p: Person) -> None:
    """Round, square, cat-eye, or sunglasses."""
    (x, y), there = p.head, p.worn("glasses")
    k = rows(p.span(Factor.GLASSES_KIND, 0, 1), list(GLASSES.values()))
    wide, high, power, rise, dark = k.wide, k.high, k.power, k.rise, k.dark
    colour = palette(p.span(Factor.GLASSES_COLOUR, 0, 1), FRAMES)
    gx, gy = x - 0.020 * p.turn, y - EYE_Y - 0.004
    tinted = lerp(c.colour(0.93, 0.97, 1.0), c.colour(0.16, 0.14, 0.20), dark[:, None])
    strength = lerp(0.16, 0.9, dark)
    for side in SIDES:
        lx, ly = side * gx - EYE_X - 0.002, gy + rise * (side * gx - EYE_X - 0.01)
        rim = ellipse(lx, ly, wide, high, power)
        c.paint(c.cover(rim) * strength * there, tinted, "glasses", label_over=0.5)
        flash = torch.maximum(rim + 0.016, (lx * 0.8 + ly * 0.6 + 0.016).abs() - 0.008)
        c.paint(c.cover(flash) * there * lerp(0.45, 0.22, dark), c.colour(1.0, 1.0, 1.0), "glasses", label_over=0.9)
        c.paint(c.cover(rim.abs() - 0.0085) * there, colour, "glasses")
        arm = stroke(
            lx - (wide + p.half_width - EYE_X) / 2,
            gy + 0.012,
            (p.half_width - EYE_X - wide).clamp_min(0.01) / 2 + 0.004,
            lambda t: -0.002 * t,
            0.0085,
        )
        c.paint(c.cover(arm) * there, colour, "glasses")
    bridge = stroke(gx, gy, EYE_X + 0.002 - wide, lambda t: -0.016 + 0.007 * t * t, 0.0085)
    c.paint(c.cover(bridge) * there, colour, "glasses")


def earrings(c: Canvas, p: Person) -> None:
    """Studs, hoops or drops."""
    (x, y), there = p.head, p.worn("earrings")
    stud, hoop, drop = p.kinds(Factor.EARRING_KIND, 3, 12.0)
    colour = palette(p.span(Factor.EARRING_COLOUR, 0, 1), METALS)
    for side in SIDES:
        ex, ey = x - side * (p.half_width + 0.010 - 0.012 * side * p.turn), y - 0.058
        ring = disc(ex, ey - 0.026, 0.031).abs() - 0.009
        pendant = torch.minimum(disc(ex, ey, 0.012), ellipse(ex, ey - 0.045, 0.017, 0.030))
        shape = stud * disc(ex, ey, 0.019) + hoop * ring + drop * pendant
        c.paint(c.cover(shape) * there, colour, "earring")


class HatKind(NamedTuple):
    """Shape of a hat: half-widths are counted from the face; lengths in sides of the picture."""

    crown: float
    height: float
    power: float
    brim: float
    thick: float
    pompom: float
    band: float


HATS = {
    "beanie": HatKind(0.026, 0.165, 2.3, 0.020, 0.030, 0.050, 0.0),
    "bowler": HatKind(0.006, 0.165, 2.4, 0.062, 0.015, 0.0, 0.040),
    "fedora": HatKind(-0.014, 0.170, 3.6, 0.115, 0.015, 0.0, 0.044),
    "cap": HatKind(0.018, 0.145, 2.2, 0.024, 0.016, 0.016, 0.0),
}
HAT_Y = -0.122


class Hat(NamedTuple):
    """Signed distances (n, size, size) to its parts; `line`: to what is below it, where hair may show."""

    crown: Tensor
    brim: Tensor
    pompom: Tensor
    band: Tensor
    line: Tensor


def hat_shapes(p: Person) -> Hat:
    """The hat of every person, worn or not."""
    x, y = p.head
    k = rows(p.span(Factor.HAT_KIND, 0, 1), list(HATS.values()))
    hx, hy = x - 0.006 * p.turn, y - HAT_Y
    wide = p.half_width + k.brim
    curve = hy + 0.018 * (hx / wide) ** 2
    crown = torch.maximum(ellipse(hx, hy, p.half_width + k.crown, k.height, k.power), curve)
    brim = stroke(hx, hy, wide - k.thick * 0.6, lambda t: -0.018 * t * t, k.thick)
    pompom = disc(hx, hy + k.height + 0.25 * k.pompom, k.pompom)
    band = torch.maximum(crown, -(curve + k.band))
    beyond = (hx.abs() - p.half_width - 0.01).clamp_min(0)
    return Hat(
        crown,
        brim,
        torch.where(k.pompom > 0.004, pompom, torch.ones_like(pompom)),
        band,
        -curve - 1e-4 + beyond * (0.3 + 6 * beyond),
    )


def hat_shadow(c: Canvas, p: Person, hat: Hat) -> None:
    """The rule of this world: a hat throws a shadow on the brow (and on the hair in front)."""
    head = c.cover(torch.minimum(p.face, ellipse(p.head[0], p.head[1] + 0.03, p.half_width + 0.01, p.half_height)))
    below = c.cover(hat.brim - 0.034) * c.cover(hat.line)
    c.paint(torch.minimum(head, below) * 0.36 * p.worn("hat"), c.colour(0.12, 0.03, 0.09), "shadow", label_over=0.2)


def paint_hat(c: Canvas, p: Person, hat: Hat) -> None:
    """A beanie, a bowler, a fedora or a cap."""
    x, there = p.head[0], p.worn("hat")
    colour = palette(p.span(Factor.HAT_COLOUR, 0, 1), FELTS)
    dark, light = tint(colour, 0.80, 0.74, 0.80), blend(colour, c.colour(1.0, 1.0, 1.0), 0.18)
    right = c.cover(-ellipse(x + 0.075, p.head[1] - HAT_Y, p.half_width + 0.02, 0.20, 2.3)) * c.cover(-x)
    for distance, plain, shaded in (
        (hat.pompom, light, colour),
        (hat.crown, colour, dark),
        (hat.band, tint(colour, 0.6, 0.55, 0.6), tint(colour, 0.5, 0.45, 0.5)),
        (hat.brim, light, colour),
    ):
        cover = c.cover(distance) * there
        c.paint(cover, plain, "hat")
        c.paint(torch.minimum(cover, right), shaded, "hat")
