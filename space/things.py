"""Things to paint with: those shipped for a generator, and a visitor's own, which their record keeps as texts."""

from __future__ import annotations

import json
from dataclasses import replace

from torch import Tensor

from received import OWN, THING_BYTES
from rewriter import masks
from rewriter.checks import fields, list_of, text
from rewriter.editing.region import Region, picture
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.latents import Seed
from rewriter.units import shipped
from rewriter.units.thing import MOST_MARKS, Thing, thing
from state import Visitor, unknown

SIDE = 64  # largest side of a painted mask: as fine as the layers whose units draw things
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def painted_place(seed: Seed, mask: Tensor) -> Region:
    """A place with a mask of at most SIDE cells a side; finer ones would only fill the visitor's record."""
    height, width = (min(side, SIDE) for side in mask.shape)
    return Region(seed, masks.as_mask(masks.resize(mask, (height, width))))


def palette(visitor: Visitor, generator: Generator) -> list[Thing]:
    """What can be painted with: the shipped things, then the visitor's own that can be read."""
    return [*shipped.things(generator), *own(visitor, generator)]


def own(visitor: Visitor, generator: Generator) -> list[Thing]:
    """The visitor's things for this generator; those that are damaged are left out, see `readable`."""
    found = (_read(kept, generator) for kept in visitor.things)
    return [one for one in found if one is not None]


def readable(visitor: Visitor, generator: Generator) -> tuple[Visitor, str]:
    """The visitor without things that are damaged, and what is wrong with these, in words."""
    kept, trouble = [], ""
    for each in visitor.things:
        try:
            _thing(each, generator)
            kept.append(each)
        except InputError as error:
            trouble = f"A thing that you pointed at cannot be read any more ({error}): point at it again."
    return replace(visitor, things=tuple(kept)), trouble


def named(visitor: Visitor, generator: Generator, name: str) -> Thing:
    """The thing of this name; InputError says which ones there are."""
    found = {each.name: each for each in palette(visitor, generator)}
    if not isinstance(name, str) or name not in found:
        if not found:
            raise InputError("there are no things to paint with on this generator yet: point at one on a picture")
        raise InputError(unknown("thing", name, found))
    return found[name]


def with_thing(visitor: Visitor, generator: Generator, made: Thing) -> Visitor:
    """The visitor with one more thing; InputError if there are too many, or one of this name."""
    check_new(visitor, generator, made.name)
    kept = json.dumps({"fingerprint": generator.fingerprint, "thing": made.to_json()}, separators=(",", ":"))
    if len(kept) > THING_BYTES:
        raise InputError(f"{made.name!r} is too large to keep: point at it on fewer pictures")
    return replace(visitor, things=(*visitor.things, kept))


def check_new(visitor: Visitor, generator: Generator, name: str) -> None:
    """Raise InputError unless a thing of this name can be added."""
    text(40)("name", name)
    if len(visitor.things) >= OWN:
        raise InputError(f"you have {OWN} things of your own, the most that a page keeps: remove one first")
    if not name.strip():
        raise InputError("give the thing a name first")
    if name in {each.name for each in palette(visitor, generator)}:
        raise InputError(f"there is a {name!r} already: give the thing another name")


def without_thing(visitor: Visitor, generator: Generator, name: str) -> Visitor:
    """The visitor without one of their own things; InputError if it is not theirs."""
    left = [each for each in visitor.things if (it := _read(each, generator)) is None or it.name != name]
    if len(left) == len(visitor.things):
        raise InputError(f"{str(name)[:60]!r} is not a thing of your own: only those can be removed")
    return replace(visitor, things=tuple(left))


def _read(kept: str, generator: Generator) -> Thing | None:
    try:
        return _thing(kept, generator)
    except InputError:
        return None


def _thing(kept: str, generator: Generator) -> Thing | None:
    """A thing as the record keeps it, None if it is another generator's; InputError if it is damaged.

    No mask is decoded that is larger than those that are kept.
    """
    try:
        data = json.loads(kept)
        if data["fingerprint"] != generator.fingerprint:
            return None
        about = dict(data["thing"])
        about["marks"] = list_of(_mark, 2 * MOST_MARKS)("marks", about.get("marks"))
        found = thing("the thing", about)
        found.stroke().change(generator.layer(found.layer))  # InputError for units that there are not
        return found
    except UNREADABLE as error:
        raise InputError(f"{error}") from error


def _mark(name: str, value: object) -> Region:
    given = fields(name, value, {"seed": picture, "mask": lambda _, mask: masks.decode(mask, side=SIDE)})
    return Region(given["seed"], given["mask"])
