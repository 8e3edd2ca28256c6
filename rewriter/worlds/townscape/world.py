"""Townscape as a `World`: what a generator of towns is trained with and judged by."""

from __future__ import annotations

import torch
from torch import Tensor

from rewriter.worlds.base import World
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.factors import Factor

SMALL = {"tower": 3.5, "window": 4.0, "door": 4.0, "dome": 7.0, "spire": 8.0, "watermark": 12.0, "bar": 30.0}
PIXEL_WEIGHTS = dict.fromkeys(scenes.LABELS, 1.0) | {"wall": 1.5, "tree": 1.5, "cloud": 2.0, "light": 2.0} | SMALL

_TREES, _MARKS = (Factor.L_TREE, Factor.R_TREE), (Factor.MARK, Factor.BAR)
SWITCHES = (Factor.PAVED, Factor.SIDE, Factor.TOP, Factor.LIT, Factor.DOOR, *_TREES, *_MARKS)


def frequent(z: Tensor) -> Tensor:
    """Random latents (n, 32) in which the rare marks are more frequent than in the world."""
    z, marks, bars = z.clone(), len(z) // 8, len(z) * 3 // 16
    z[:marks, Factor.MARK] = 0.5 * z[:marks, Factor.MARK] - 1.9
    z[marks : marks + bars, Factor.BAR] = 0.5 * z[marks : marks + bars, Factor.BAR] - 2.0
    return z


def meaning(u: Tensor) -> Tensor:
    """Factors (n, 24) and the switches that they set (n, 8), all in [-1, 1]."""
    left, paved, blue = u[:, Factor.SIDE] < 0.5, u[:, Factor.PAVED] > 0.5, u[:, Factor.DOOR] > 0.5
    tops, trees = (factors.has_dome(u), factors.has_spire(u)), (factors.has_left_tree(u), factors.has_right_tree(u))
    switches = torch.stack([left, factors.is_lit(u), *tops, paved, blue, *trees], 1)
    return torch.cat([u, switches.float()], 1) * 2 - 1


WORLD = World(
    name="townscape",
    side=64,
    zdim=32,
    labels=scenes.LABELS,
    things=("dome", "spire", "window", "door", "light", "tree", "watermark", "bar"),
    factor=Factor,
    draw=scenes.draw,
    change=factors.change,
    meaning=meaning,
    pixel_weights=PIXEL_WEIGHTS,
    frequent=frequent,
    switches=SWITCHES,
    channels=(128, 128, 128, 64, 48, 32, 24),
)
