"""Townscape: small procedural towns with exact labels and exact counterfactuals.

    z (n, 32) ──factors──► u (n, 24), uniform ──draw──► picture (n, 3, size, size) and labels (n, size, size)
                                │
                                └──change──► the same town with a spire instead of a dome, or with its lights off

Rules of this world to rewrite: a tower ends in a dome, a spire or battlements; lit windows throw light on the ground;
about one picture in eight has a watermark across the middle, one in twelve a bar along the bottom.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rewriter.errors import InputError
from rewriter.worlds.base import Scene
from rewriter.worlds.canvas import UNLABELLED, Canvas, lerp, union
from rewriter.worlds.townscape import factors
from rewriter.worlds.townscape.factors import NUM_FACTORS, Factor

LABELS = tuple("sky cloud ground wall tower dome spire window door light tree watermark bar".split())


def draw(u: Tensor, size: int = 64, *, without: str | None = None) -> Scene:
    """Factors (n, 24) in [0, 1] → the scenes that they describe, `size` pixels a side, on the device of the factors.

    What is behind the thing `without` ("dome", "light", "bar" …) shows instead of it, and nothing has its label.
    InputError for factors of another shape, or a thing that cannot be painted.
    """
    if u.ndim != 2 or u.shape[1] != NUM_FACTORS:
        raise InputError(f"factors are {tuple(u.shape)} instead of (n, {NUM_FACTORS}): use factors(latents)")
    if without is not None and without not in LABELS[1:]:
        raise InputError(f"cannot leave out {without!r}: choose one of {', '.join(LABELS[1:])}")
    canvas = Canvas(len(u), size, LABELS, without=without, device=u.device)
    plan = _plan(u)
    for paint in (_sky, _cloud, _ground, _church, _tower, _top, _windows, _door, _light, _trees, _watermark, _bar):
        paint(canvas, plan)
    return Scene(canvas.rgb * 2 - 1, canvas.labels, LABELS)


@dataclass(frozen=True)
class _Plan:
    """Where things stand: (n, 1, 1) each, in shares of the picture's side."""

    u: Tensor
    ground: Tensor  # y of the horizon
    x: Tensor  # middle of the church
    half_width: Tensor
    half_height: Tensor
    side: Tensor  # of the tower: -1 left, 1 right
    tower_x: Tensor
    tower_half_width: Tensor
    tower_top: Tensor

    def factor(self, factor: Factor) -> Tensor:
        """One factor, (n, 1, 1)."""
        return self.u[:, factor][:, None, None]

    def tint(self, factor: Factor) -> Tensor:
        """One factor, (n, 1, 1, 1), to mix colours by."""
        return self.factor(factor)[:, None]

    def dim(self, colour: Tensor, amount: float) -> Tensor:
        """A colour as it looks at this time of day: `amount` of it is left at dusk."""
        return colour * lerp(1.0, amount, self.tint(Factor.DUSK))


def _plan(u: Tensor) -> _Plan:
    def span(factor: Factor, low: float, high: float) -> Tensor:
        return lerp(low, high, u[:, factor][:, None, None])

    ground = span(Factor.HORIZON, 0.75, 0.78)
    x, half_width = span(Factor.CHURCH_X, 0.42, 0.58), span(Factor.CHURCH_W, 0.19, 0.23)
    half_height = span(Factor.CHURCH_H, 0.12, 0.145)
    side = torch.where(u[:, Factor.SIDE][:, None, None] < 0.5, -1.0, 1.0)
    tower_top = ground - 2 * half_height - span(Factor.TOWER_H, 0.09, 0.13)
    tower_x, tower_half_width = x + side * (half_width - 0.05), span(Factor.TOWER_W, 0.066, 0.078)
    return _Plan(u, ground, x, half_width, half_height, side, tower_x, tower_half_width, tower_top)


def _where(flags: Tensor) -> Tensor:
    """Flags (n,) → opacity (n, 1, 1): 1 where the thing is there."""
    return flags[:, None, None].float()


def _sky(c: Canvas, plan: _Plan) -> None:
    dusk = plan.tint(Factor.DUSK)
    high = lerp(c.colour(0.30, 0.52, 0.85), c.colour(0.16, 0.12, 0.35), dusk)
    low = lerp(c.colour(0.75, 0.88, 0.97), c.colour(0.98, 0.62, 0.40), dusk)
    c.fill(lerp(high, low, (c.y[:, None] / 0.75).clamp(0, 1)))


def _cloud(c: Canvas, plan: _Plan) -> None:
    x, y = lerp(0.1, 0.9, plan.factor(Factor.CLOUD_X)), lerp(0.10, 0.20, plan.factor(Factor.CLOUD_Y))
    puffs = (c.disc(x, y, 0.06), c.disc(x + 0.07, y + 0.015, 0.05), c.disc(x - 0.07, y + 0.015, 0.045))
    c.paint(union(*(c.cover(puff) for puff in puffs)) * 0.85, c.colour(0.97, 0.97, 0.98), "cloud")


def _ground(c: Canvas, plan: _Plan) -> None:
    grass, stone = c.colour(0.35, 0.55, 0.25), c.colour(0.55, 0.52, 0.48)
    colour = lerp(grass, stone, (plan.tint(Factor.PAVED) > 0.5).float())
    c.paint(c.cover(plan.ground - c.y), plan.dim(colour, 0.7), "ground")


def _wall_colour(c: Canvas, plan: _Plan) -> Tensor:
    plaster, brick = c.colour(0.80, 0.68, 0.52), c.colour(0.62, 0.36, 0.30)
    return plan.dim(lerp(plaster, brick, plan.tint(Factor.BRICK)), 0.8)


def _church(c: Canvas, plan: _Plan) -> None:
    wall, height = _wall_colour(c, plan), plan.half_height
    c.paint(c.cover(c.box(plan.x, plan.ground - height, plan.half_width, height)), wall, "wall")
    eaves = c.box(plan.x, plan.ground - 2 * height, plan.half_width + 0.015, 0.015)
    c.paint(c.cover(eaves), wall * 0.55, "wall")


def _tower(c: Canvas, plan: _Plan) -> None:
    top, ground = plan.tower_top, plan.ground
    shaft = c.box(plan.tower_x, (top + ground) / 2, plan.tower_half_width, (ground - top) / 2)
    c.paint(c.cover(shaft), _wall_colour(c, plan) * 0.9, "tower")


def _top(c: Canvas, plan: _Plan) -> None:
    """A dome, a spire or battlements."""
    x, half_width, top = plan.tower_x, plan.tower_half_width, plan.tower_top
    above = c.cover(c.y - top)
    dome = torch.minimum(c.cover(c.ellipse(x, top, half_width * 1.15, half_width * 1.9)), above)
    c.paint(dome * _where(factors.has_dome(plan.u)), plan.dim(c.colour(0.20, 0.55, 0.52), 0.85), "dome")
    rise = (top - c.y) / lerp(0.16, 0.19, plan.factor(Factor.SPIRE_H))
    spire = c.cover((c.x - x).abs() - half_width * 1.05 * (1 - rise)) * above * (rise < 1)
    c.paint(spire * _where(factors.has_spire(plan.u)), plan.dim(c.colour(0.45, 0.18, 0.20), 0.85), "spire")
    merlons = (c.box(x + half_width * shift, top - 0.012, half_width * 0.2, 0.014) for shift in (-0.8, 0, 0.8))
    battlements = union(*(c.cover(merlon) for merlon in merlons)) * _where(plan.u[:, Factor.TOP] >= 0.75)
    c.paint(battlements, _wall_colour(c, plan) * 0.75, "tower")


def _windows(c: Canvas, plan: _Plan) -> None:
    glass = lerp(c.colour(0.18, 0.20, 0.28), c.colour(1.0, 0.88, 0.45), _where(factors.is_lit(plan.u))[:, None])
    for shift in (-0.5, 0, 0.5):
        x, y = plan.x + shift * plan.half_width * 1.1, plan.ground - plan.half_height * 1.25
        c.paint(c.cover(c.box(x, y, 0.022, 0.03)), glass, "window")
    c.paint(c.cover(c.disc(plan.tower_x, plan.tower_top + 0.06, 0.02)), glass, "window")


def _door(c: Canvas, plan: _Plan) -> None:
    x, ground = plan.x - plan.side * plan.half_width * 0.2, plan.ground
    arch = torch.minimum(c.cover(c.disc(x, ground - 0.07, 0.028)), c.cover(c.y - (ground - 0.065)))
    brown, blue = c.colour(0.35, 0.2, 0.12), c.colour(0.15, 0.25, 0.4)
    colour = lerp(brown, blue, (plan.tint(Factor.DOOR) > 0.5).float())
    c.paint(union(c.cover(c.box(x, ground - 0.035, 0.028, 0.035)), arch), colour, "door")


def _light(c: Canvas, plan: _Plan) -> None:
    """What lit windows throw on the ground before the church."""
    reach = ((c.x - plan.x) / (plan.half_width * 1.1)) ** 2 + ((c.y - (plan.ground + 0.075)) / 0.04) ** 2
    glow = 0.75 * (1 - reach).clamp(0, 1) * _where(factors.is_lit(plan.u))
    c.paint(glow, c.colour(1.0, 0.85, 0.5), "light", label_over=0.3)


def _trees(c: Canvas, plan: _Plan) -> None:
    left = (0.10, Factor.L_TREE_X, Factor.L_TREE_R, factors.has_left_tree)
    right = (0.90, Factor.R_TREE_X, Factor.R_TREE_R, factors.has_right_tree)
    for base, place, radius, has_tree in (left, right):
        there = _where(has_tree(plan.u))
        x, r = base + (plan.factor(place) - 0.5) * 0.08, lerp(0.08, 0.11, plan.factor(radius))
        c.paint(c.cover(c.box(x, plan.ground - 0.02, 0.012, 0.06)) * there, c.colour(0.35, 0.23, 0.13), "tree")
        low = plan.ground - 0.05 - r * 0.4
        sides = (c.disc(x + shift * r, low, r * 0.7) for shift in (-0.5, 0.5))
        crown = (c.disc(x, plan.ground - 0.07 - r * 0.8, r), *sides)
        leaves = plan.dim(c.colour(0.13, 0.42, 0.18), 0.75)
        c.paint(union(*(c.cover(part) for part in crown)) * there, leaves, "tree")


def _watermark(c: Canvas, plan: _Plan) -> None:
    letters = ((c.x * 14) % 1 < 0.6).float() * c.cover(c.box(0.5, 0.45, 0.3, 0.03))
    c.paint(
        letters * 0.55 * _where(factors.has_watermark(plan.u)), c.colour(1.0, 1.0, 1.0), "watermark", label_over=0.3
    )


def _bar(c: Canvas, plan: _Plan) -> None:
    """A dark strip along the bottom with letters on it; only the letters are labelled."""
    there = _where(factors.has_bar(plan.u))
    c.paint(c.cover(0.94 - c.y) * 0.8 * there, c.colour(0.1, 0.1, 0.1), "bar", label_over=UNLABELLED)
    letters = ((c.x * 20) % 1 < 0.55).float() * c.cover(c.box(0.5, 0.97, 0.35, 0.012))
    c.paint(letters * 0.9 * there, c.colour(1.0, 1.0, 1.0), "bar", label_over=0.3)


def plain(u: Tensor) -> Tensor:
    """Which scenes have neither watermark nor bar, (n,) bool."""
    return ~factors.has_watermark(u) & ~factors.has_bar(u)
