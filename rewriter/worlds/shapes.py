"""Signed distances, negative inside, to shapes in any frame of coordinates; and colours that pass through a palette.

Coordinates x, y are (n, size, size); the numbers that describe a shape are floats or (n, 1, 1). Distances are right
near the edge, to first order, which is where they are seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rewriter.worlds.canvas import Length

EPS = 1e-6


def plateaus(t: Tensor, number: int, steep: float = 4.0) -> Tensor:
    """Numbers in [0, 1] → places from 0 to `number` - 1, mostly whole ones, with quick continuous passages between."""
    place = t * number - 0.5
    low = place.floor()
    return (low + ((place - low - 0.5) * steep + 0.5).clamp(0, 1)).clamp(0, number - 1)


def shares(places: Tensor, number: int) -> Tensor:
    """Places (n, 1, 1) from 0 to `number` - 1 → the share of each whole one, (n, number)."""
    return (1 - (places[:, 0] - torch.arange(number, device=places.device)).abs()).clamp_min(0)


def mixed(places: Tensor, table: Sequence[Sequence[float]]) -> list[Tensor]:
    """The columns of a table at places (n, 1, 1) between its rows: a list of (n, 1, 1), one a column."""
    columns = shares(places, len(table)) @ torch.tensor(table, device=places.device)
    return list(columns[:, :, None, None].unbind(1))


def rows(t: Tensor, table: Sequence[Any]) -> Any:
    """Numbers (n, 1, 1) in [0, 1] → the row of a table of named tuples that each chooses, its fields (n, 1, 1).

    Mostly one row; on quick passages, something between two.
    """
    return type(table[0])(*mixed(plateaus(t, len(table)), table))


def palette(t: Tensor, colours: Sequence[str], steep: float = 1.5) -> Tensor:
    """Numbers (n, 1, 1) in [0, 1] → colours (n, 3, 1, 1) of a palette of "RRGGBB", with passages between them."""
    rgb = [[int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)] for colour in colours]
    return torch.stack(mixed(plateaus(t, len(colours), steep), rgb), 1)


def tint(colour: Tensor, r: float, g: float, b: float) -> Tensor:
    """A colour (n, 3, 1, 1) with its channels multiplied, at most 1."""
    return (colour * torch.tensor([r, g, b], device=colour.device)[None, :, None, None]).clamp(0, 1)


def ellipse(x: Tensor, y: Tensor, a: Length, b: Length, power: Length = 2.0) -> Tensor:
    """To an ellipse around 0 with half-axes a and b, or with a higher power to a rounder rectangle."""
    dx, dy = (x / a).abs() + EPS, (y / b).abs() + EPS
    px, py = dx ** (power - 1), dy ** (power - 1)
    q = px * dx + py * dy
    reach = q ** (1 / power)
    slope = ((px / a) ** 2 + (py / b) ** 2).sqrt() * reach / q
    return (reach - 1) / slope.clamp_min(1.0)


def disc(x: Tensor, y: Tensor, radius: Length) -> Tensor:
    """To a disc around 0."""
    return (x * x + y * y).sqrt() - radius


def box(x: Tensor, y: Tensor, a: Length, b: Length, radius: Length = 0.0) -> Tensor:
    """To a rectangle around 0 of half-sides a and b with round corners."""
    dx, dy = x.abs() - a + radius, y.abs() - b + radius
    outside = (dx.clamp_min(0) ** 2 + dy.clamp_min(0) ** 2 + EPS * EPS).sqrt()
    return outside + torch.maximum(dx, dy).clamp_max(0) - radius


def stroke(
    x: Tensor, y: Tensor, half: Length, curve: Callable[[Tensor], Tensor], thick: Callable[[Tensor], Tensor] | Length
) -> Tensor:
    """To a line along y = curve(t), t = x / half in [-1, 1], with round ends; `thick`: half its width, of t too."""
    t = (x / half).clamp(-1, 1)
    slope = (curve(t + 1e-3) - curve(t - 1e-3)) / (2e-3 * half)
    along, across = x - t * half, (y - curve(t)) * torch.rsqrt(1 + slope * slope)
    return (along * along + across * across).sqrt() - (thick(t) if callable(thick) else thick)


def smooth_max(a: Tensor, b: Tensor, radius: float) -> Tensor:
    """To the intersection of two shapes, its corners rounded."""
    h = (radius - (a - b).abs()).clamp_min(0) / radius
    return torch.maximum(a, b) + h * h * radius / 4


def smooth_min(a: Tensor, b: Tensor, radius: float) -> Tensor:
    """To the union of two shapes, its corners rounded."""
    return -smooth_max(-a, -b, radius)
