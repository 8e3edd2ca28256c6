"""Neck, ears, face, eyes, brows, nose, mouth, beard."""

from __future__ import annotations

import torch
from torch import Tensor

from rewriter.worlds.canvas import Canvas, lerp, union
from rewriter.worlds.portraits.factors import Factor
from rewriter.worlds.portraits.person import IRISES, Person, blend
from rewriter.worlds.shapes import box, disc, ellipse, palette, smooth_max, smooth_min, stroke, tint

EYE_X, EYE_Y, BROW_Y, NOSE_Y, MOUTH_Y = 0.078, -0.012, -0.075, 0.060, 0.122
SIDES = (-1, 1)


def neck(c: Canvas, p: Person) -> None:
    """The neck, with the shadow of the head on it."""
    x, y = p.body
    cover = union(c.cover(box(x, y - 0.25, 0.072, 0.16, 0.03)), c.cover(ellipse(x, y - 0.39, 0.125, 0.115)))
    c.paint(cover, p.skin, "skin")
    shadow = union(c.cover(ellipse(x - 0.015, y - 0.10, 0.16, 0.175)), c.cover(0.035 - x))
    c.paint(torch.minimum(cover, shadow), p.shade, "shade")


def ears(c: Canvas, p: Person) -> None:
    """Both ears; the one that the head turns towards comes in."""
    x, y = p.head
    for side in SIDES:
        at = x - side * (p.half_width + 0.006 - 0.012 * side * p.turn)
        colour = p.skin if side < 0 else blend(p.skin, p.shade, 0.55)
        c.paint(c.cover(ellipse(at, y - 0.01, 0.032, 0.046)), colour, "skin")
        c.paint(c.cover(ellipse(at - side * 0.002, y - 0.012, 0.015, 0.026)), p.shade, "shade")


def face(c: Canvas, p: Person) -> None:
    """The face, its side away from the light, and blush."""
    (x, y), turn = p.head, p.turn
    cover = c.cover(p.face)
    c.paint(cover, p.skin, "skin")
    blush = blend(tint(p.skin, 1.0, 0.74, 0.70), c.colour(0.95, 0.35, 0.35), 0.12)
    for side in SIDES:
        there = c.cover(ellipse(x - side * 0.108 - 0.02 * turn, y - 0.062, 0.036, 0.025)) * cover
        c.paint(there * 0.55, blush, "blush", label_over=0.3)
    lit = ellipse(x + 0.050, y + 0.03, p.half_width + 0.010, p.half_height + 0.034)
    c.paint(torch.minimum(cover, c.cover(-lit)), p.shade, "shade")


def hair_shadow(c: Canvas, p: Person, front: Tensor) -> None:
    """The shadow on the face of the hair in front of it, a distance (n, size, size)."""
    c.paint(torch.minimum(c.cover(p.face), c.cover(front - 0.013)), p.shade, "shade")


def nose(c: Canvas, p: Person) -> None:
    """A soft shadow on the right of the bridge, and below the tip."""
    x, y = p.head
    size = p.span(Factor.NOSE, 0.85, 1.2)
    x, y = x - 0.026 * p.turn, y - NOSE_Y
    tip = ellipse(x, y, 0.026 * size, 0.016 * size)
    bridge = stroke(y + 0.035, -(x - 0.006), 0.03, lambda t: -0.006 * t, lambda t: 0.009 + 0.006 * t)
    shape = smooth_min(tip, bridge, 0.02)
    light = ellipse(x + 0.009, y + 0.012, 0.021 * size, 0.018 * size)
    c.paint(torch.minimum(c.cover(shape), c.cover(-light)), tint(p.skin, 0.86, 0.68, 0.65), "nose")


def eyes(c: Canvas, p: Person) -> None:
    """White, iris, pupil, a glint, and the upper lid."""
    x, y = p.head
    size = p.span(Factor.EYE_SIZE, 0.92, 1.1)
    gaze_x, gaze_y = p.span(Factor.GAZE_X, -0.014, 0.014) + 0.006 * p.turn, p.span(Factor.GAZE_Y, -0.005, 0.006)
    iris = palette(p.span(Factor.IRIS, 0, 1), IRISES)
    white, dark = c.colour(0.995, 0.985, 0.97), c.colour(0.13, 0.09, 0.10)
    lid = blend(tint(p.hair, 0.35, 0.3, 0.3), dark, 0.7)
    slant = p.span(Factor.SLANT, -0.10, 0.16)
    for side in SIDES:
        ex, ey = x - side * EYE_X - 0.018 * p.turn, y - EYE_Y
        ey = ey + side * slant * ex
        half, high = 0.043 * size, 0.030 * size
        opening = ellipse(ex, ey, half, high, 2.2)
        cover = c.cover(opening)
        c.paint(cover, white, "eye")
        gx, gy = ex - gaze_x, ey - gaze_y + 0.002
        c.paint(torch.minimum(cover, c.cover(disc(gx, gy, 0.0265 * size))), iris, "iris")
        c.paint(torch.minimum(cover, c.cover(disc(gx, gy, 0.0125 * size))), dark, "iris")
        c.paint(torch.minimum(cover, c.cover(disc(gx + 0.008, gy + 0.009, 0.0085))), white, "iris")
        lash = torch.maximum(
            ellipse(ex, ey + 0.003, half + 0.006, high + 0.007, 2.2),
            -ellipse(ex, ey - 0.010, half + 0.004, high + 0.003, 2.2),
        )
        c.paint(c.cover(smooth_max(lash, ey - 0.006, 0.006)), lid, "eye")


def brows(c: Canvas, p: Person) -> None:
    """Thin to bushy, worried to determined."""
    x, y = p.head
    thick, tilt = p.span(Factor.BROWS, 0.008, 0.019), p.span(Factor.BROW_TILT, -0.15, 0.17)
    lift = p.span(Factor.BROW_HEIGHT, -0.010, 0.008)
    colour = blend(tint(p.hair, 0.62, 0.58, 0.6), c.colour(0.16, 0.10, 0.08), 0.35)
    for side in SIDES:
        bx, by = side * (x - 0.019 * p.turn) - EYE_X, y - BROW_Y - lift
        shape = stroke(
            bx,
            by,
            0.047,
            lambda t: -0.047 * tilt * t - 0.010 * (1 - t * t),
            lambda t: thick * (1 - 0.32 * (t + 0.2).clamp_min(-0.3)),
        )
        c.paint(c.cover(shape), colour, "brow")


def mouth(c: Canvas, p: Person) -> None:
    """From a frown over a smile to an open one with teeth and tongue."""
    x, y = p.head
    mood = p.span(Factor.MOUTH, 0, 1)
    bend = lerp(-0.028, 0.038, (mood / 0.72).clamp(0, 1)) - 0.018 * ((mood - 0.72) / 0.16).clamp(0, 1)
    wide = p.span(Factor.MOUTH_W, 0.052, 0.066) * (1 + 0.22 * ((mood - 0.35) / 0.4).clamp(0, 1))
    gape = 0.029 * ((mood - 0.70) / 0.16).clamp(0, 1)
    mx, my = x - 0.021 * p.turn, y - MOUTH_Y

    def profile(t: Tensor) -> Tensor:
        return (1 - t * t).clamp_min(1e-6) ** 0.75

    def middle(t: Tensor) -> Tensor:
        return bend * (0.5 - t * t) + gape * 0.9 * profile(t)

    rose = blend(tint(p.skin, 0.80, 0.55, 0.54), c.colour(0.70, 0.16, 0.20), 0.15)
    red = blend(rose, c.colour(0.80, 0.15, 0.24), 0.65)
    lips = lerp(rose, red, p.span(Factor.LIPS, 0, 1)[:, None] ** 2)
    full = p.span(Factor.LIPS, 0.0, 0.006)
    outer = stroke(mx, my, wide, lambda t: middle(t) + full, lambda t: 0.0085 + (gape + full) * profile(t))
    c.paint(c.cover(outer), lips, "mouth")
    inner = stroke(mx, my, wide - 0.006, middle, lambda t: (1.12 * gape - 0.0045) * profile(t) - 0.0005)
    hollow = c.cover(inner) * (gape > 0.003)
    c.paint(hollow, c.colour(0.36, 0.08, 0.12), "mouth")
    tongue = disc(mx, my - bend * 0.5 - gape * 2.6, 0.032)
    c.paint(torch.minimum(hollow, c.cover(tongue)), c.colour(0.90, 0.42, 0.42), "mouth")
    upper = stroke(mx, my, wide - 0.006, lambda t: bend * (0.5 - t * t) + gape * 0.05 * (1 - t * t), 0.62 * gape)
    c.paint(torch.minimum(hollow, c.cover(upper)), c.colour(1.0, 0.985, 0.96), "teeth")


def beard(c: Canvas, p: Person) -> None:
    """Full, a goatee or a moustache."""
    x, y = p.head
    full, goatee, moustache = p.kinds(Factor.BEARD_KIND, 3)
    mx = x - 0.021 * p.turn
    jaw = p.face - 0.012
    line = 0.085 - 0.35 * (mx.abs() - 0.05).clamp_min(0) - 3.0 * (mx.abs() - 0.115).clamp_min(0)
    free = ellipse(mx, y - MOUTH_Y - 0.004, 0.062, 0.030, 2.4)
    whole = torch.maximum(torch.maximum(jaw, line - y), -free)
    small = torch.maximum(torch.maximum(ellipse(mx, y - 0.150, 0.088, 0.098, 2.6), jaw), -free)
    upper = stroke(mx, y - 0.094, 0.062, lambda t: -0.012 + 0.022 * t * t, lambda t: 0.017 - 0.007 * t * t)
    shape = full * whole + goatee * small + moustache * upper
    shape = torch.where(moustache > 0.5, upper, torch.minimum(shape, upper))
    there = c.cover(shape) * p.worn("beard")
    c.paint(there, tint(p.hair, 0.86, 0.82, 0.84), "beard")
    c.paint(there * c.cover(0.075 - x - 0.2 * (y - 0.1)) * 0.7, tint(p.hair, 0.70, 0.64, 0.68), "beard")
