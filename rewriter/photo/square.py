"""Image files → square pictures for a generator: turned as the camera was held, cut, and scaled."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError
from torch import Tensor

from rewriter.errors import InputError
from rewriter.files import read_bytes
from rewriter.generators.inverted import Inverted
from rewriter.pictures import enlarged, to_image

LIMIT = 48 << 20  # bytes of a file
MOST_PIXELS = 100_000_000
LEAST = 16  # px of a side
SCANS = 100  # of a progressive JPEG: each takes as long as a whole picture, and few bytes
FADE = 0.06  # of the square's side: how far from its edges, inside the photo, edits fade out
ENLARGED = 4096  # px of a side up to which what was edited is enlarged with crisp edges, and softly from there on
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
HEIC = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis")  # brands in a file's first box
DAMAGE = (OSError, SyntaxError, ValueError, IndexError, KeyError, TypeError, struct.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class Crop:
    """A square in a photo, in pixels of the photo as it is seen; it may reach beyond the edges."""

    left: float
    top: float
    side: float

    def __post_init__(self) -> None:
        values = (self.left, self.top, self.side)
        if not all(-1e6 < value < 1e6 for value in values) or self.side < 1:
            raise InputError(f"a crop is left, top and side in pixels, with a side of at least 1, not {values}")


def read(source: str | Path | bytes, name: str = "the photo", *, most: int = MOST_PIXELS) -> Image.Image:
    """An image file, or its content, as RGB; turned as its EXIF says. `name` calls it that in errors.

    `most`: pixels that it may have.

    Transparent parts become white; of an animation, the first picture is taken. InputError for other files, damaged
    ones, and those that are too large or too small; it says what to do.
    """
    if not isinstance(source, bytes):
        name = Path(source).name
        source = read_bytes(source, limit=LIMIT)
    if len(source) > LIMIT:
        raise InputError(f"{name} has {len(source) >> 20} MB: the most is {LIMIT >> 20}; save it smaller")
    if source[4:8] == b"ftyp" and source[8:12] in HEIC:
        kind = "AVIF" if source[8:12].startswith(b"avi") else "HEIC, as phones save it,"
        raise InputError(f"{name} is {kind} which cannot be read here: save it as JPEG or PNG first")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked here, and odd metadata
            with Image.open(io.BytesIO(source), formats=FORMATS) as image:
                width, height = image.size
                if width * height > most:
                    million = f"the most is {most / 1e6:.0f} million"
                    raise InputError(f"{name} has {width} × {height} pixels: {million}; scale it down")
                if min(width, height) < LEAST:
                    raise InputError(f"{name} has {width} × {height} pixels: give one of at least {LEAST} a side")
                if image.info.get("progressive") and source.count(b"\xff\xda") > SCANS:
                    raise InputError(f"{name} is a JPEG with more than {SCANS} scans: save it again")
                seen = ImageOps.exif_transpose(image)
                colours = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None
                found = _opaque(seen)
                found.info = {"icc_profile": colours} if colours else {}  # and no comment, place or name with it
                return found
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise InputError(f"{name} is no image that can be read here: give one of {known}") from error
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is damaged, or cut short ({error}): save it again") from error


def put_back(image: Image.Image, crop: Crop, photo: Inverted, picture: Tensor) -> Image.Image:
    """The whole photo, as large as it is, with what was edited in its square: `picture` (3, h, w), without residue.

    Where nothing changed, the photo stays as it is, to the pixel. Elsewhere the generator's picture is shown, enlarged;
    it fades out towards the edges of the square.
    """
    side = max(1, round(crop.side))
    left, top = round(crop.left), round(crop.top)
    corners = max(0, left), max(0, top), min(image.width, left + side), min(image.height, top + side)
    size, whole = (corners[2] - corners[0], corners[3] - corners[1]), image.copy()
    if min(size) < 1:
        return whole
    inside = [(edge - start) / side for edge, start in zip(corners, (left, top, left, top), strict=True)]

    def part(square: Image.Image, smooth: Image.Resampling) -> Image.Image:
        """What of the square is on the photo, as large as there; a crop that reaches far beyond it costs no more."""
        x0, y0, x1, y1 = (share * square.width for share in inside)
        return square.resize(size, smooth, box=(x0, y0, min(x1, square.width), min(y1, square.width)))

    changed = Image.fromarray(((1 - photo.kept(picture)) * 255).round().byte().cpu().numpy())
    within = [edge != end for edge, end in zip(corners, (0, 0, *image.size), strict=True)]
    changed = ImageChops.darker(changed, _faded(changed.size, within))
    drawn = enlarged(to_image(picture), min(side, ENLARGED))
    whole.paste(part(drawn, Image.Resampling.LANCZOS), corners, part(changed, Image.Resampling.BICUBIC))
    return whole


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # more than 8 bits: which Pillow would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_eight_bits(np.asarray(image, dtype=np.float32), image.mode != "F"))
    if "A" in image.getbands() or "transparency" in image.info:
        image, white = image.convert("RGBA"), Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def _faded(size: tuple[int, int], edges: Sequence[bool]) -> Image.Image:
    """A mask that fades out towards those of its edges, left, top, right and bottom, that are marked."""
    ramps = [np.minimum(1, (np.arange(length) + 0.5) / (FADE * length)) for length in size]
    left, top, right, bottom = (
        ramp if on else np.ones_like(ramp) for ramp, on in zip((*ramps, *(r[::-1] for r in ramps)), edges, strict=True)
    )
    mask = np.minimum(top, bottom)[:, None] * np.minimum(left, right)
    return Image.fromarray((mask * 255).round().astype(np.uint8))


def _eight_bits(values: NDArray[np.float32], whole: bool) -> NDArray[np.uint8]:
    """Grey levels from 0 to 65535, or to 1 in a file of fractions, in 256 steps; those of other ranges fill it."""
    values = np.nan_to_num(values, posinf=0, neginf=0)
    low, high, most = float(values.min()), float(values.max()), 65535.0 if whole else 1.0
    if low < 0 or high > most:
        values, most = values - low, high - low
    return (values / most * 255).round().astype(np.uint8)


def middle(image: Image.Image) -> Crop:
    """The largest square in the middle; of an upright photo, a little above it, where people are."""
    width, height = image.size
    side = min(width, height)
    return Crop((width - side) / 2, (height - side) / (3 if height > width else 2), side)


def cut(image: Image.Image, crop: Crop, side: int) -> Tensor:
    """A square of an image, scaled to (3, side, side), uint8. Beyond the image's edges, its outermost pixels go on."""
    edges = crop.left, crop.top, crop.left + crop.side, crop.top + crop.side
    beyond = max(0.0, -edges[0], -edges[1], edges[2] - image.width, edges[3] - image.height)
    if beyond >= crop.side:
        raise InputError(f"the crop {crop} is not on the photo, which has {image.width} × {image.height} pixels")
    if beyond > 0:
        scale = min(1.0, 4 * side / crop.side)  # an image that is needed small is made small before it is continued
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        margin = int(beyond * scale) + 2
        values = np.asarray(image.resize(size, Image.Resampling.BOX) if scale < 1 else image)
        image = Image.fromarray(np.pad(values, ((margin, margin), (margin, margin), (0, 0)), mode="edge"))
        edges = tuple(edge * scale + margin for edge in edges)  # type: ignore[assignment]  # four
    small = image.resize((side, side), Image.Resampling.LANCZOS, box=edges, reducing_gap=3.0)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).contiguous()
