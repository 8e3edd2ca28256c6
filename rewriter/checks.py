"""The fields of an edit, and what each may be: files come from strangers, and so do the arguments of a web page."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from rewriter import masks
from rewriter.editing import recording
from rewriter.editing.statistics import Recipe
from rewriter.errors import InputError
from rewriter.generators.latents import SEEDS


@dataclass(frozen=True, eq=False)
class Region:
    """A place on a generated picture: its seed and a mask (H, W) in [0, 1] at any resolution."""

    seed: int
    mask: Tensor

    @cached_property
    def png(self) -> str:
        """The mask as a PNG data URL, made once however many edits share the place."""
        return masks.encode(self.mask)

    def to_json(self) -> dict[str, Any]:
        """The seed and the mask as a PNG data URL."""
        return {"seed": self.seed, "mask": self.png}


Check = Callable[[str, Any], Any]


def _fail(name: str, value: Any, expected: str) -> InputError:
    return InputError(f"{name} is {reprlib.repr(value)}, expected {expected}")


def text(length: int) -> Check:
    """One printable line of at most so many characters."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > length or not value.isprintable():
            raise _fail(name, value, f"one line of at most {length} characters")
        return value

    return check


def choice(choices: tuple[str, ...]) -> Check:
    """One of these words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _fail(name, value, f"one of {', '.join(choices)}")
        return str(value)

    return check


def number(low: float, high: float, *, optional: bool = False) -> Check:
    """A finite number within bounds; None where it is optional."""

    def check(name: str, value: Any) -> float | None:
        if value is None and optional:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise _fail(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    return check


def whole(low: int, high: int, *, optional: bool = False) -> Check:
    """A whole number within bounds; None where it is optional."""

    def check(name: str, value: Any) -> int | None:
        if value is None and optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _fail(name, value, f"a whole number from {low} to {high}")
        return value

    return check


def flag(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise _fail(name, value, "true or false")
    return value


def region(name: str, value: Any) -> Region | None:
    """A place, as a Region or as JSON, or None."""
    if isinstance(value, Region):
        whole(0, SEEDS - 1)("seed", value.seed)
    if value is None or isinstance(value, Region):
        return value
    if not isinstance(value, Mapping) or set(value) != {"seed", "mask"}:
        raise _fail(name, value, "an object with seed and mask")
    try:
        return Region(whole(0, SEEDS - 1)("seed", value["seed"]), masks.decode(value["mask"]))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def list_of(item: Check, most: int) -> Check:
    """At most so many of something, as a tuple."""

    def check(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)) or len(value) > most:
            raise _fail(name, value, f"a list of at most {most}")
        return tuple(item(f"{name} {i + 1}", entry) for i, entry in enumerate(value))

    return check


def regions(name: str, value: Any) -> tuple[Region, ...]:
    """Places whose masks are not too large in all: a small file could hold some that fill the memory."""
    cells, most = 0, recording.MAX_CELLS

    def place(part: str, entry: Any) -> Region:
        nonlocal cells
        found = region(part, entry)
        cells += found.mask.numel() if found else 0
        if found is None or cells > most:
            raise _fail(part, entry, f"a place; the masks in {name} have at most {most >> 20} million cells in all")
        return found

    places: tuple[Region, ...] = list_of(place, recording.MAX_CONTEXT)(name, value)
    return places


def recipe(name: str, value: Any) -> Recipe | None:
    """How statistics are sampled, as a Recipe or as JSON, or None."""
    if value is None or isinstance(value, Recipe):
        return value
    if not isinstance(value, Mapping) or set(value) != set(Recipe.__dataclass_fields__):
        raise _fail(name, value, f"an object with {', '.join(Recipe.__dataclass_fields__)}")
    return Recipe(**{key: whole(0, SEEDS)(key, entry) for key, entry in value.items()})
