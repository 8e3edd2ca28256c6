"""Recordings: the JSON in which the original implementation of the paper kept its edits.

A recording holds places, each an image number and a painted mask: `object` (copied from), `paste` (pasted onto), `key`
(a list: the context; none: the paste) and `query` (a search, which no edit needs). It says neither generator, layer,
rank nor truncation, nor whether it was executed as a replacement or as an erasure.

One recording is another thing: the unit interventions of the reflection experiment (section 5.3). For each image number
it has a mask `intervention` where units that draw windows are set to a `value`, and a mask `revert` where the light
that they reflect falls. Neither units nor layers are named; of the two levels that the experiment compares, only one.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from rewriter import masks
from rewriter.checks import Check, list_of, object_of, refusal, whole
from rewriter.errors import InputError
from rewriter.generators.latents import SEEDS
from rewriter.masks import MAX_CELLS, MAX_CONTEXT

NEEDED = {"object", "paste", "key"}
FIELDS = NEEDED | {"query"}
OURS = {"version", "generator", "layer"}
UNIT_FIELDS = {"intervention", "revert"}
LAYER = "layer8"
# The experiment's choices: units of layer4 were set to either level, after the activation; layer6 was rewritten.
UNITS_LAYER, SWAP_LAYER, LEVELS = "layer4", "layer6", (10.0, -5.0)
PICTURES = MAX_CONTEXT // 2  # in two conditions each


class Place(NamedTuple):
    """An image number, which is our seed, and a mask (H, W) of zeros and ones."""

    seed: int
    mask: Tensor


class Recording(NamedTuple):
    """What a recording points at; what it lacks is None, or empty."""

    copy: Place | None
    paste: Place | None
    context: tuple[Place, ...]


def is_recording(data: Any) -> bool:
    """Whether parsed JSON means to be a recording, a good one or not, rather than an edit of this package."""
    if not isinstance(data, Mapping) or OURS & set(data):
        return False
    return bool(NEEDED & set(data)) or intervenes_on_units(data)


def parse(data: Any) -> Recording:
    """Validate a recording and decode its masks: painted is whatever is not wholly transparent.

    InputError names the first field that is unknown or wrong, and what was expected.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"a recording is a JSON object, not {type(data).__name__}")
    if unknown := set(data) - FIELDS:
        raise InputError(f"unknown field {reprlib.repr(min(map(str, unknown)))} in the recording")
    if not NEEDED & set(data):
        raise InputError("the recording has none of object, paste and key: it points at nothing")
    place = _reader(MAX_CELLS)
    copy, paste = (place(name, data[name]) if name in data else None for name in ("object", "paste"))
    return Recording(copy, paste, list_of(place, MAX_CONTEXT)("key", data.get("key", [])))


def intervenes_on_units(data: Any) -> bool:
    """Whether parsed JSON means to be the unit interventions of the reflection experiment."""
    pictures = data.values() if isinstance(data, Mapping) and not (OURS | FIELDS) & set(data) else ()
    return any(isinstance(value, Mapping) and UNIT_FIELDS & set(value) for value in pictures)


def parse_interventions(data: Mapping[Any, Any]) -> tuple[list[Place], list[Place]]:
    """For each picture, by its number, where units are set to levels, and where the consequence shows.

    InputError names the first field that is unknown or wrong, and what was expected.
    """
    if len(data) > PICTURES:
        raise InputError(f"the recording has interventions on {len(data)} pictures; at most {PICTURES}")
    place, pictures = _reader(MAX_CELLS // 2), dict[int, tuple[Place, Place]]()
    for name, value in data.items():
        if not (isinstance(name, str) and name.isascii() and name.isdecimal() and len(name) < 10):
            raise refusal("the recording's image number", name, "digits")
        picture = f"picture {name}"
        given = _INTERVENTION(picture, value)
        where, cause, effect = int(name), given["intervention"], given["revert"]
        places = place(f"{picture}, intervention", [where, cause]), place(f"{picture}, revert", [where, effect])
        if pictures.setdefault(where, places) is not places:
            raise InputError(f"picture {where} is in the recording twice")
    causes, effects = zip(*(pictures[seed] for seed in sorted(pictures)), strict=True)
    return list(causes), list(effects)


def _level(name: str, value: Any) -> float:
    """One of the experiment's levels, as text."""
    if value not in [f"{level:.1f}" for level in LEVELS]:
        raise refusal(name, value, " or ".join(f'"{level:.1f}"' for level in LEVELS))
    return float(value)


def _mask(name: str, value: Any) -> Any:
    """Decoded later, with the picture's number."""
    return value


_INTERVENTION: Check = object_of({"value": _level, "intervention": _mask, "revert": _mask})


def _reader(most: int) -> Callable[[str, Any], Place]:
    """Reads places whose masks have at most so many cells together: a small PNG can decode to a huge mask."""
    cells = 0

    def place(name: str, value: Any) -> Place:
        nonlocal cells
        found = _place(name, value)
        cells += found.mask.numel()
        if cells > most:
            raise InputError(f"{name}: the masks up to here have more than {most >> 20} million cells in all")
        return found

    return place


def _place(name: str, value: Any) -> Place:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise refusal(name, value, "[image number, mask]")
    seed = whole(0, SEEDS - 1)(f"{name}: the image number", value[0])
    try:
        return Place(seed, (masks.decode(value[1]) > 0).float())
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
