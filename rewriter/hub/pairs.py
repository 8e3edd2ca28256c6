"""Pairs of pictures, before and after, taken out of a published comparison: a stranger's file, decoded and bounded."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops, ImageStat

from rewriter.checks import Check, fields, list_of, whole
from rewriter.errors import InputError
from rewriter.generators.latents import SEEDS
from rewriter.masks import UNREADABLE
from rewriter.pictures import PAIRS, enlarged, wall

COMPARISON = "comparison.png"  # of a published generator
LIMIT = 32 << 20  # bytes of one
MOST, EDGE = 24, 8192  # pairs, and px of a side of the sheet
SHOWN = 256  # px of a picture on a page


@dataclass(frozen=True)
class Pair:
    """A picture before and after, as RGB images of `SHOWN` px; `matches`: a rule's context is in it."""

    seed: int
    matches: bool
    before: Image.Image
    after: Image.Image

    @property
    def change(self) -> float:
        """How much of it changed, where a rule matches: the mean difference, in 1/255; -1 where none does."""
        return sum(ImageStat.Stat(ImageChops.difference(self.before, self.after)).mean) / 3 if self.matches else -1.0


def pairs(data: bytes) -> list[Pair]:
    """The pairs in a comparison as `pictures.to_png` writes it; InputError for every other file."""
    try:
        if len(data) > LIMIT:
            raise InputError(f"it has {len(data):,} bytes, and may have {LIMIT:,}")
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if max(image.size) > EDGE:
                raise InputError(f"it is {image.width} × {image.height}, and may have {EDGE} px a side")
            about = json.loads(image.info[PAIRS]) if PAIRS in image.info else None
            sheet = image.convert("RGB")
        return _cut(sheet, fields("its list of pairs", about, _CHECKS))
    except InputError as error:
        raise InputError(f"{COMPARISON} cannot be shown: {error}; publish the rules again") from error
    except (*UNREADABLE, RecursionError, Image.DecompressionBombError) as error:
        raise InputError(f"{COMPARISON} is damaged ({str(error)[:100]}): publish the rules again") from error


def _cut(sheet: Image.Image, about: dict[str, Any]) -> list[Pair]:
    seeds, corners, side, size = (about[name] for name in ("seeds", "corners", "side", "size"))
    if not seeds or len(corners) != len(seeds) or side % size:
        raise InputError("its seeds, corners and sizes do not belong together")
    found = []
    for i, (seed, (left, top)) in enumerate(zip(seeds, corners, strict=True)):
        if left + side > sheet.width or top + 2 * side > sheet.height:
            raise InputError(f"pair {i + 1} lies outside")
        boxes = ((left, upper, left + side, upper + side) for upper in (top, top + side))
        before, after = (_shown(sheet.crop(box), size) for box in boxes)
        found.append(Pair(seed, i < about["firing"], before, after))
    return found


def _shown(image: Image.Image, size: int) -> Image.Image:
    """A picture of the sheet, in blocks, as it was drawn, and then enlarged."""
    return enlarged(image.resize((size, size), Image.Resampling.NEAREST), SHOWN)


def _corner(name: str, value: Any) -> tuple[int, ...]:
    found = list_of(whole(0, EDGE), 2)(name, value)
    if len(found) != 2:
        raise InputError(f"{name} has {len(found)} numbers, expected left and top")
    return found


_CHECKS: dict[str, Check] = {
    "seeds": list_of(whole(0, SEEDS - 1), MOST),
    "firing": whole(0, MOST),
    "side": whole(8, 1024),
    "size": whole(8, 1024),
    "corners": list_of(_corner, MOST),
}


def walls(shown: Sequence[Pair], *, columns: int, rows: int, side: int) -> tuple[Image.Image, Image.Image]:
    """Pairs beside each other, before and after: those that change most, repeated if there are few."""
    best = sorted(shown, key=lambda pair: -pair.change)
    lines = max(1, min(rows, len(best) // columns))
    chosen = [best[i % len(best)] for i in range(columns * lines)]
    before, after = ([getattr(pair, name) for pair in chosen] for name in ("before", "after"))
    return wall(before, side, columns=columns), wall(after, side, columns=columns)
