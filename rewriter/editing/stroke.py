"""Stroke: units that a person set to levels, on one picture where they painted, or on all pictures.

An edit of kind "swap" has two for each picture, at one place with one set of units: its two conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rewriter import checks
from rewriter.errors import InputError
from rewriter.generators.change import LowRank
from rewriter.generators.layer import LayerInfo
from rewriter.generators.units import Units

if TYPE_CHECKING:
    from rewriter.editing.region import Region
    from rewriter.generators.base import Generator

MOST_UNITS, MOST = 512, 100  # units of one stroke; strokes of one edit
STRENGTHS = (0.0, 2.0)
REMOVED = "no "  # what the name of a thing begins with where a stroke removes it


@dataclass(frozen=True, eq=False)
class Stroke:
    """Some units of one layer, and the level that each is set to.

    With a place, the units change on that picture inside the mask; without one, everywhere on every picture.
    Units may be chosen later, see `with_units`: until then there are none, and one level that is meant for all.
    """

    layer: str
    units: tuple[int, ...]
    levels: tuple[float, ...]  # one for each unit, in the layer's values; without units, as the next layer reads them
    place: Region | None = None
    strength: float = 1.0  # 0 … 2, how far the units move to their levels, and beyond
    thing: str = ""  # what a person calls it: "tree", "no tree"

    def change(self, info: LayerInfo, mask: Tensor | None = None) -> LowRank:
        """What it does to a layer: inside its own mask, or inside another one (H, W)."""
        if not self.units:
            raise InputError(f"the units of {self.layer} that are set to a level are not chosen yet")
        if mask is None and self.place is not None:
            mask = self.place.mask
        levels = torch.tensor(self.levels, dtype=torch.float32)
        beside = Units(
            torch.tensor(self.units), levels, info.frame.lay(mask) if info.margin and mask is not None else mask
        )
        if info.name != self.layer or not beside.fits(info):
            raise InputError(
                f"{info.name} has {info.out_channels} units, numbered from 0; the units of {self.layer} that were set "
                f"({', '.join(map(str, self.units[:4]))} …) are not among them: choose units of this generator"
            )
        kernel = (info.kernel, info.kernel)
        nothing = torch.zeros(info.out_channels, 1, *kernel), torch.zeros(1, info.in_channels)
        return LowRank(self.layer, *nothing, strength=self.strength, beside=beside)

    @property
    def removes(self) -> bool:
        """Whether it removes what it names."""
        return all(name.startswith(REMOVED) for name in self.thing.split(", "))

    def plain(self, place: Callable[[Region], Any]) -> dict[str, Any]:
        """JSON object in which the place is written by `place`."""
        about = {"layer": self.layer, "units": list(self.units), "levels": list(self.levels)}
        return {**about, "place": self.place and place(self.place), "strength": self.strength, "thing": self.thing}


def stroke(name: str, value: Any, place: checks.Check) -> Stroke:
    """Check a stroke given as a Stroke or as JSON; levels in steps of 1e-4, so that a replay is exact.

    `place` checks where it was painted: see `region.region`.
    """
    if isinstance(value, Stroke):
        value = value.plain(lambda place: place)
    if not isinstance(value, Mapping):
        raise checks.refusal(name, value, "an object with layer, units and levels")
    known = {**_CHECKS, "place": place}
    found = Stroke(**checks.fields(f"the edit's {name}", value, known, optional=("place", "strength", "thing")))
    if len(set(found.units)) != len(found.units) or len(found.levels) != max(1, len(found.units)):
        raise checks.refusal(name, value, "different units and a level for each, or one level and no units yet")
    return replace(found, units=tuple(found.units), levels=tuple(round(level, 4) for level in found.levels))


UNITS = checks.list_of(checks.whole(0, 1 << 16), MOST_UNITS)
LEVELS = checks.list_of(checks.number(-1e4, 1e4), MOST_UNITS)
_CHECKS: dict[str, checks.Check] = {
    "layer": checks.text(40),
    "units": UNITS,
    "levels": LEVELS,
    "strength": checks.number(*STRENGTHS),
    "thing": checks.text(60),
}


def with_units(
    generator: Generator, strokes: Sequence[Stroke], units: Sequence[int], layer: str | None = None
) -> tuple[Stroke, ...]:
    """The strokes with their units chosen, at their own layer or another one.

    A level that was meant for whatever units get chosen is what the next layer reads; here it becomes the value of each
    unit that is read like that (`Generator.level`). In a Progressive GAN scale, bias and leaky ReLU lie between them.

    Raises:
        InputError: no stroke lacks units, or the generator has no such layer or units.
    """
    if not any(not each.units for each in strokes):
        raise InputError("no units are left to choose: this edit has no strokes without units")
    made = []
    for each in strokes:
        at = each.layer if layer is None else layer
        if not each.units:
            info, given = generator.layer(at), UNITS("units", list(units))
            if not given or len(set(given)) != len(given):
                raise checks.refusal("units", list(units), "one or more different units")
            replace(each, layer=at, units=given, levels=each.levels * len(given), place=None).change(info)
            levels = generator.level(at, given, each.levels[0]).tolist()
            each = replace(each, layer=at, units=given, levels=tuple(round(level, 4) for level in levels))
        made.append(each)
    return tuple(made)


def are_pairs(strokes: Sequence[Stroke], context: Sequence[Region]) -> bool:
    """Whether the strokes are two conditions of each picture of the context, in its order, at one place of it."""
    seeds = [region.seed for region in context]
    if len(strokes) != 2 * len(seeds) or len(set(seeds)) != len(seeds):
        return False
    for one, other, seed in zip(strokes[::2], strokes[1::2], seeds, strict=True):
        if one.place is None or other.place is None or not one.place.seed == other.place.seed == seed:
            return False
        same = (one.layer, one.units) == (other.layer, other.units) and one.levels != other.levels
        if not same or one.place.digest != other.place.digest:
            return False
    return True


def painted_on(strokes: Sequence[Stroke], place: Region, info: LayerInfo) -> list[LowRank]:
    """The strokes that were painted on a picture; on one without any, those of the first picture, inside the place.

    Of those, each way in which units were set counts once.
    """
    own = [each for each in strokes if each.place is not None and each.place.seed == place.seed]
    if own:
        return [each.change(info) for each in own]
    first = next((each.place.seed for each in strokes if each.place is not None), None)
    kinds = {(each.units, each.levels): each for each in strokes if each.place is None or each.place.seed == first}
    return [each.change(info, place.mask) for each in kinds.values()]
