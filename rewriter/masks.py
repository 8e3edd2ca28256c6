"""Masks: where on a picture a person pointed, as tensors and as PNG files.

A mask is a float tensor (H, W) in [0, 1] at any resolution; in files it is the alpha channel of a small PNG.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import struct
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from rewriter.errors import InputError

PREFIX = "data:image/png;base64,"
MAX_SIDE = 2048
MAX_CONTEXT = 100  # masks in one list; the longest of the original's recordings has 34
MAX_CELLS = 1 << 26  # values of the masks in one list together: 64 of 1024 a side, a quarter of a gigabyte
SURROUNDINGS = 6 / 64  # of a picture's side: changes this near to a mark are not counted as side effects
MAX_TEXT = 4 * 1024 * 1024
UNREADABLE = (binascii.Error, struct.error, OSError, SyntaxError, ValueError, IndexError)  # of damaged files


class Box(NamedTuple):
    """Half-open rectangle of cells: rows top…bottom-1, columns left…right-1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in cells."""
        return self.bottom - self.top, self.right - self.left

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column of the middle, in cells from the top left corner."""
        return (self.top + self.bottom) / 2, (self.left + self.right) / 2

    @property
    def rows(self) -> slice:
        """The rows, as an index."""
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        """The columns, as an index."""
        return slice(self.left, self.right)

    def coarser(self, scale: int) -> Box:
        """The smallest box around this one on a map with `scale` times fewer rows and columns."""
        return Box(*(edge // scale for edge in self[:2]), *(-(-edge // scale) for edge in self[2:]))


def as_mask(values: ArrayLike | Tensor) -> Tensor:
    """Check an array (H, W), bool or in [0, 1], at most 2048 a side and not all zero; as a float32 tensor."""
    if isinstance(values, Tensor):
        mask = values.detach().cpu().float()
    else:
        try:
            array = np.asarray(values)
        except ValueError as error:
            raise InputError("a mask is (height, width): its rows have different lengths") from error
        if array.dtype.kind not in "biuf":
            raise InputError(f"a mask holds numbers or booleans, not {array.dtype}")
        mask = torch.from_numpy(array.astype(np.float32))
    if mask.ndim != 2 or not 0 < min(mask.shape) <= max(mask.shape) <= MAX_SIDE:
        raise InputError(f"a mask is (height, width) with sides of 1 to {MAX_SIDE}, not {tuple(mask.shape)}")
    if not bool(mask.isfinite().all()) or mask.min() < 0 or mask.max() > 1:
        raise InputError("mask values must lie in [0, 1]: divide a 0…255 mask by 255")
    mask = (mask * 255).round() / 255  # the steps of a file, so that a replay is exact
    if mask.max() == 0:
        raise InputError("the mask is empty: paint something first")
    return mask


def encode(mask: Tensor) -> str:
    """Mask (H, W) in [0, 1] → PNG data URL whose alpha channel is the mask in steps of 1/255."""
    alpha = (mask.detach().cpu() * 255).round().byte().numpy()
    pixels = np.stack([np.full_like(alpha, 255), alpha], -1)
    buffer = io.BytesIO()
    Image.fromarray(pixels, "LA").save(buffer, "PNG", optimize=True)
    return PREFIX + base64.b64encode(buffer.getvalue()).decode("ascii")


def decode(text: str, *, side: int = MAX_SIDE, cells: int = MAX_SIDE**2) -> Tensor:
    """Inverse of `encode`; InputError for another URL, or a PNG that is damaged, too large, empty or without alpha.

    Too large, with more than `side` cells a side or `cells` in all, is refused before its pixels are decoded.
    """
    if not isinstance(text, str) or not text.startswith(PREFIX) or len(text) > MAX_TEXT:
        raise InputError(f"a mask is a PNG data URL ({PREFIX}…) of at most {MAX_TEXT >> 20} MB")
    try:
        data = base64.b64decode(text[len(PREFIX) :], validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            width, height = image.size
            if max(width, height) > side:
                raise InputError(f"the mask is {width} × {height}; at most {side} a side")
            if width * height > cells:
                raise InputError(f"the mask is {width} × {height}; at most {cells:,} cells")
            if "A" not in image.getbands():
                raise InputError("the mask's PNG has no alpha channel: painted means opaque")
            alpha = np.array(image.getchannel("A"))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the mask is not a readable PNG ({error}): paint it again") from error
    return as_mask(torch.from_numpy(alpha.astype(np.float32)) / 255)


def digest(mask: Tensor) -> str:
    """SHA-256 of a mask's size and values in steps of 1/255; PNG files of the same mask differ between writers."""
    return hashlib.sha256(f"{tuple(mask.shape)}".encode() + (mask * 255).round().byte().numpy().tobytes()).hexdigest()


def resize(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask (H, W) → (h, w) by area averages, which keep thin strokes."""
    return F.interpolate(mask[None, None], size=size, mode="area")[0, 0]


def bounds(mask: Tensor, *, above: float = 0.0) -> Box:
    """Smallest box around the cells whose value exceeds `above`; the mask must have one."""
    rows = (mask > above).any(1).nonzero().flatten().tolist()
    columns = (mask > above).any(0).nonzero().flatten().tolist()
    if not rows:
        raise InputError(f"no cell of the mask is above {above}")
    return Box(rows[0], columns[0], rows[-1] + 1, columns[-1] + 1)


def grow(mask: Tensor, up: int, down: int, left: int, right: int) -> Tensor:
    """Dilate (…, H, W) by that many cells up, down, left and right."""
    padded = F.pad(mask.flatten(0, -3) if mask.ndim > 2 else mask[None], (right, left, down, up))
    rows = F.max_pool2d(padded, (up + down + 1, 1), 1)
    return F.max_pool2d(rows, (1, left + right + 1), 1).view(mask.shape)


def around(places: Tensor) -> Tensor:
    """Places (n, H, W) bool with their surroundings, whose changes do not count as side effects."""
    reach = round(SURROUNDINGS * places.shape[-1])
    return grow(places.float(), reach, reach, reach, reach) > 0


def disc(side: int, row: float, column: float, radius: float) -> Tensor:
    """A soft round mask (side, side); places and radius in shares of the side."""
    centres = (torch.arange(side) + 0.5) / side
    distance = ((centres[:, None] - row) ** 2 + (centres[None] - column) ** 2).sqrt()
    return ((radius - distance) * side + 0.5).clamp(0, 1)


def centre(mask: Tensor) -> tuple[float, float]:
    """Row and column of the middle of a mask (H, W): of the box around what exceeds half its maximum."""
    return bounds(mask, above=float(mask.max()) / 2).centre
