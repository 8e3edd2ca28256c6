"""Who is drawn: place and shape of the head, its frame of coordinates, and the colours that belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewriter.worlds.canvas import Canvas, lerp
from rewriter.worlds.portraits.factors import WORN, Factor
from rewriter.worlds.shapes import ellipse, palette, plateaus, shares, tint

# neighbours are alike: a palette that jumps to and fro takes the mapping network ten times as long to learn
BACKGROUNDS = ("f5e0a0", "bcdcae", "9fd8d2", "a8d3f0", "b9c8f2", "d9c3ec", "f6b9b3", "f7cf9b")
SKINS = ("fde0cb", "f6cba9", "e8b184", "c98d5e", "9d6540", "6e4430")
HAIRS = ("241f2b", "3f2820", "71402a", "a8502c", "d69a4e", "f0d48c", "c3c6d1", "e2849b")
CLOTHES = ("f2ede4", "f0b23e", "e4674f", "d9577a", "6a4c8c", "2f4a6d", "4a86c8", "2f8f83")
IRISES = ("4a2c1c", "7a4a22", "5a7a3c", "3f7fa8", "6b7f8f")
TILTS_ABOUT = 0.2  # y of the neck, about which the head tilts

Coordinates = tuple[Tensor, Tensor]  # x and y, (n, size, size) each


@dataclass(frozen=True)
class Person:
    """Factors u (n, 41) read as geometry, in shares of the picture's side; numbers are (n, 1, 1).

    In the frame of the head, 0 is the middle of the face, with x to the right and y down before the head is tilted; in
    that of the body nothing is tilted.
    """

    u: Tensor
    head: Coordinates
    body: Coordinates
    turn: Tensor  # from -1, to the left, to 1
    half_width: Tensor  # of the face
    half_height: Tensor
    face: Tensor  # signed distance, (n, size, size): an oval, narrower at the chin
    skin: Tensor  # colour (n, 3, 1, 1)
    shade: Tensor  # of skin away from the light
    hair: Tensor

    def span(self, factor: Factor, low: float, high: float) -> Tensor:
        """One factor, from `low` at 0 to `high` at 1."""
        return span(self.u, factor, low, high)

    def kinds(self, factor: Factor, number: int, steep: float = 4.0) -> list[Tensor]:
        """How much of each of `number` kinds a factor chooses: mostly one is 1 and the others 0."""
        return list(shares(plateaus(self.span(factor, 0, 1), number, steep), number)[:, :, None, None].unbind(1))

    def worn(self, thing: str) -> Tensor:
        """1 where a thing of `WORN` is there, else 0."""
        factor, threshold = WORN[thing]
        return (self.u[:, factor] < threshold)[:, None, None].float()


def person(c: Canvas, u: Tensor) -> Person:
    """Read factors (n, 41) as people on a canvas."""
    size = span(u, Factor.SIZE, 1.08, 1.18)
    x, y = (c.x - span(u, Factor.X, 0.482, 0.518)) / size, (c.y - span(u, Factor.Y, 0.47, 0.50)) / size
    tilt, up = span(u, Factor.TILT, -0.1, 0.1), y - TILTS_ABOUT
    hx, hy = x * tilt.cos() + up * tilt.sin(), up * tilt.cos() - x * tilt.sin() + TILTS_ABOUT
    half_width, half_height = span(u, Factor.FACE_W, 0.168, 0.188), span(u, Factor.FACE_H, 0.212, 0.232)
    narrow = 1 - span(u, Factor.JAW, 0.10, 0.30) * (hy / half_height).clamp(0, 1.2) ** 2
    face = ellipse(hx / narrow, hy, half_width, half_height, 2.25) * narrow
    tone, warm = palette(span(u, Factor.SKIN, 0, 1), SKINS, 1.5), span(u, Factor.WARMTH, 0, 1)[:, None]
    skin = lerp(tint(tone, 1.0, 0.965, 0.98), tint(tone, 1.0, 1.0, 0.95), warm)
    shape: dict[str, Any] = {"half_width": half_width, "half_height": half_height, "face": face}
    colours: dict[str, Any] = {"skin": skin, "shade": tint(skin, 0.90, 0.78, 0.77)}
    colours["hair"] = palette(span(u, Factor.HAIR, 0, 1), HAIRS)
    return Person(u, (hx, hy), (x, y), span(u, Factor.TURN, -1, 1), **shape, **colours)


def span(u: Tensor, factor: Factor, low: float, high: float) -> Tensor:
    """One factor of u (n, 41) from `low` at 0 to `high` at 1, (n, 1, 1)."""
    return lerp(low, high, u[:, factor][:, None, None])


def blend(a: Tensor, b: Tensor, share: float) -> Tensor:
    """`share` of colour b in colour a."""
    return torch.lerp(a, b.expand_as(a), share)
