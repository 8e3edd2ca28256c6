"""Places on generated pictures: a Region that a person painted, a Place that was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter import masks
from rewriter.checks import choice, list_of, matching, number, refusal, whole
from rewriter.errors import InputError
from rewriter.generators.frame import Frame
from rewriter.generators.latents import PHOTO, SEEDS, Seed
from rewriter.masks import MAX_CELLS, MAX_CONTEXT

SEED = whole(0, SEEDS - 1)
_NAME = matching(PHOTO, f"a whole number from 0 to {SEEDS - 1}, or the name of a photo")
SHORT = 50_000  # characters of a mask's PNG that is kept as it came
FOUND = 4000  # places in one list
_EDGE, _WHO = number(-4096, 4096), choice(("machine", "person"))


@dataclass(frozen=True, eq=False)
class Region:
    """A place on a picture: its seed, or a photo's name, and a mask (H, W) in [0, 1] at any resolution."""

    seed: Seed
    mask: Tensor

    @cached_property
    def png(self) -> str:
        """The mask as a PNG data URL."""
        return masks.encode(self.mask)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the mask's values."""
        return masks.digest(self.mask)

    def centre_on(self, frame: Frame) -> tuple[float, float]:
        """Middle of the mask, as (row, column) in cells of a map."""
        (height, width), (row, column) = self.mask.shape, masks.centre(self.mask)
        return frame.cells((row / height, column / width))

    def to_json(self) -> dict[str, Any]:
        """The seed and the mask as a PNG data URL."""
        return {"seed": self.seed, "mask": self.png}


@dataclass(frozen=True)
class Place:
    """The middle of a place like the marked ones, in pixels from the top left corner, and who took it for one."""

    seed: Seed
    row: float
    column: float
    by: str = "machine"  # or "person"

    def shares(self, side: int) -> tuple[float, float]:
        """Row and column in shares of a picture's side."""
        return self.row / side, self.column / side

    def to_json(self) -> list[Any]:
        """The four fields in order."""
        return [self.seed, self.row, self.column, self.by]


def picture(name: str, value: Any) -> Seed:
    """Check which picture is meant: a seed, or the name of a photo."""
    found: Seed = _NAME(name, value) if isinstance(value, str) else SEED(name, value)
    return found


def place(name: str, value: Any) -> Place:
    """Check a place given as a Place or as JSON; rows and columns in steps of 1/100, so that a replay is exact."""
    if isinstance(value, Place):
        value = value.to_json()
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise refusal(name, value, "a list of seed, row, column and by whom")
    seed, row, column, by = value
    return Place(picture(name, seed), round(_EDGE(name, row), 2), round(_EDGE(name, column), 2), _WHO(name, by))


places = list_of(place, FOUND)


def covered(places: Sequence[Region]) -> list[Region]:
    """What several places cover together, one for each picture, in order."""
    found: dict[Seed, Tensor] = {}
    for each in places:
        known = found.get(each.seed)
        found[each.seed] = each.mask if known is None else _together(known, each.mask)
    return [Region(seed, mask) for seed, mask in found.items()]


def _together(a: Tensor, b: Tensor) -> Tensor:
    """The larger of two masks at each place, at the finer one's resolution."""
    size = max(a.shape, b.shape)
    return torch.maximum(*(F.interpolate(mask[None, None], size, mode="nearest")[0, 0] for mask in (a, b)))


def region(name: str, value: Any) -> Region | None:
    """Check a place given as a Region, as JSON, or as None."""
    if isinstance(value, Region):
        picture("seed", value.seed)
    if value is None or isinstance(value, Region):
        return value
    if not isinstance(value, Mapping) or set(value) != {"seed", "mask"}:
        raise refusal(name, value, "an object with seed and mask")
    try:
        found = Region(picture("seed", value["seed"]), masks.decode(value["mask"]))
        if len(value["mask"]) < SHORT:
            vars(found)["png"] = value["mask"]  # need not be encoded again
        return found
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def regions(name: str, value: Any) -> tuple[Region, ...]:
    """Check a list of places. Their masks are bounded together, because a small PNG can decode to a huge mask."""
    cells = 0

    def bounded(part: str, entry: Any) -> Region:
        nonlocal cells
        found = region(part, entry)
        cells += found.mask.numel() if found else 0
        if found is None or cells > MAX_CELLS:
            raise refusal(part, entry, f"a place; all masks in {name} together have at most {MAX_CELLS >> 20}M cells")
        return found

    places: tuple[Region, ...] = list_of(bounded, MAX_CONTEXT)(name, value)
    return places
