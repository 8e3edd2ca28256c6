"""Eight edits of the face generator: a thing copied from one face, pasted onto another, and marked on five more.

The outlines were drawn around the copied things by hand, as a person would paint them with a brush. A mark has the
outline's own shape, moved to where the thing belongs on that face.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from rewriter.editing.edit import Edit
from rewriter.editing.region import Region
from rewriter.generators.base import Generator

SIDE, FINER = 64, 8  # px of a picture; how much finer outlines are drawn, so that their rims are soft
LAYER = "layer3"
Outline = tuple[tuple[float, float], ...]  # corners (column, row), in pixels
Places = dict[int, tuple[int, int]]  # seed → how far the thing lies from where it was copied: rows down, columns right

GLASSES: Outline = ((12, 24), (20, 23), (36, 24), (62, 22), (62, 29), (54, 34), (48, 41), (38, 41), (33, 34), (27, 38))
GLASSES += ((17, 38), (13, 31))
HAT: Outline = ((7, 25), (12, 17), (16, 7), (23, 1), (32, -1), (44, 0), (51, 6), (57, 16), (58, 25), (44, 24), (24, 24))
SMILE: Outline = ((18, 52), (23, 48), (32, 49), (42, 48), (46, 50), (43, 56), (36, 59), (29, 59), (22, 56))
BLUE_GLASSES: Outline = ((13, 23), (25, 22), (50, 22), (63, 24), (63, 30), (52, 34), (48, 39), (36, 39), (31, 34))
BLUE_GLASSES += ((27, 38), (16, 39))
FACE_MASK: Outline = ((11, 37), (20, 37), (32, 33), (45, 35), (54, 38), (53, 50), (47, 64), (20, 64), (13, 52))
MOUSTACHE: Outline = (
    (14, 47),
    (20, 45),
    (32, 43),
    (44, 45),
    (52, 46),
    (48, 54),
    (40, 56),
    (32, 54),
    (22, 56),
    (16, 53),
)
OPEN_MOUTH: Outline = ((23, 53), (26, 48), (32, 46), (38, 48), (42, 53), (39, 60), (35, 64), (29, 64), (25, 60))
RED_CAP: Outline = ((18, 15), (21, 7), (26, -1), (44, -1), (49, 5), (52, 15), (44, 13), (34, 12), (25, 13))

# name → what was copied from which seed; where it goes on the faces that were marked, that which it is pasted on first
TABLE: dict[str, tuple[int, Outline, Places]] = {
    "glasses": (59, GLASSES, {46: (0, 0), 31: (0, 0), 15: (-1, 1), 9: (-1, 0), 39: (0, 0), 63: (-1, 1)}),
    "hat": (43, HAT, {46: (1, 0), 31: (2, 0), 15: (0, 1), 9: (1, 0), 39: (2, 0), 63: (1, 1)}),
    "smile": (63, SMILE, {46: (1, 0), 31: (1, 0), 15: (0, 1), 9: (-1, 0), 39: (-2, 0), 102: (0, 1)}),
    "blue-glasses": (116, BLUE_GLASSES, {46: (0, 0), 31: (0, 0), 15: (-1, 1), 9: (-1, 0), 39: (0, -1), 63: (-1, 1)}),
    "face-mask": (17, FACE_MASK, {46: (0, 0), 31: (0, 0), 15: (0, 0), 9: (0, 1), 39: (0, 0), 102: (0, 0)}),
    "moustache": (494, MOUSTACHE, {31: (1, 0), 46: (1, -1), 102: (1, 0), 9: (0, -1), 457: (1, -1), 543: (0, -1)}),
    "open-mouth": (279, OPEN_MOUTH, {31: (0, 0), 46: (0, 0), 102: (-1, 1), 9: (-1, 0), 457: (0, 0), 543: (-1, 0)}),
    "red-cap": (56, RED_CAP, {46: (1, -1), 31: (1, -1), 15: (0, 0), 9: (0, -1), 39: (1, -2), 63: (0, 0)}),
}
NAMES = tuple(TABLE)


def edits(generator: Generator) -> dict[str, Edit]:
    """Every edit by name, for the face generator."""
    return {name: edit(generator, name) for name in NAMES}


def edit(generator: Generator, name: str) -> Edit:
    """One of the edits in `NAMES`, for the face generator."""
    seed, corners, places = TABLE[name]
    marks = tuple(Region(place, outline(corners, *moved)) for place, moved in places.items())
    return Edit(
        generator.name, LAYER, generator.fingerprint, title=name, copy=Region(seed, outline(corners)), paste=marks[0],
        context=marks,
    )  # fmt: skip


def outline(corners: Outline, down: int = 0, right: int = 0) -> Tensor:
    """The mask of a polygon, moved by whole pixels, (64, 64) in steps of 1/255, with a rim about a pixel soft."""
    fine = Image.new("L", (SIDE * FINER, SIDE * FINER))
    ImageDraw.Draw(fine).polygon([((x + right) * FINER, (y + down) * FINER) for x, y in corners], fill=255)
    soft = fine.resize((SIDE, SIDE), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(soft).astype(np.float32) / 255)
