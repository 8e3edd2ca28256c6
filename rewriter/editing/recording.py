"""Recordings: the JSON in which the original implementation of the paper kept its edits.

A recording holds places, each an image number and a painted mask: `object` (copied from), `paste` (pasted onto), `key`
(a list: the context; none: the paste) and `query` (a search, which no edit needs). It says neither generator, layer,
rank nor truncation, nor whether it was executed as a replacement or as an erasure.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from rewriter import masks
from rewriter.checks import list_of, refusal, whole
from rewriter.errors import InputError
from rewriter.generators.latents import SEEDS
from rewriter.masks import MAX_CELLS, MAX_CONTEXT

NEEDED = {"object", "paste", "key"}
FIELDS = NEEDED | {"query"}
OURS = {"version", "generator", "layer"}
UNIT_FIELDS = {"intervention", "revert"}


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
    return bool(NEEDED & set(data)) or _intervenes_on_units(data)


def parse(data: Any) -> Recording:
    """Validate a recording and decode its masks: painted is whatever is not wholly transparent.

    InputError names the first field that is unknown or wrong, and what was expected.
    """
    if not isinstance(data, Mapping):
        raise InputError(f"a recording is a JSON object, not {type(data).__name__}")
    if _intervenes_on_units(data):
        raise InputError(
            "this file records unit interventions, picture by picture in two conditions, not an edit: "
            "it has no thing to copy and no place to paste it; record a copy, a paste and a context instead"
        )
    if unknown := set(data) - FIELDS:
        raise InputError(f"unknown field {reprlib.repr(min(map(str, unknown)))} in the recording")
    if not NEEDED & set(data):
        raise InputError("the recording has none of object, paste and key: it points at nothing")
    cells = 0

    def place(name: str, value: Any) -> Place:
        nonlocal cells
        found = _place(name, value)
        cells += found.mask.numel()
        if cells > MAX_CELLS:
            raise InputError(f"{name}: the masks up to here have more than {MAX_CELLS >> 20} million cells in all")
        return found

    copy, paste = (place(name, data[name]) if name in data else None for name in ("object", "paste"))
    return Recording(copy, paste, list_of(place, MAX_CONTEXT)("key", data.get("key", [])))


def _intervenes_on_units(data: Mapping[Any, Any]) -> bool:
    """The reflection experiment's file: for each image number, units set to a value in one mask and not in another."""
    return any(isinstance(value, Mapping) and set(value) >= UNIT_FIELDS for value in data.values())


def _place(name: str, value: Any) -> Place:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise refusal(name, value, "[image number, mask]")
    seed = whole(0, SEEDS - 1)(f"{name}: the image number", value[0])
    try:
        return Place(seed, (masks.decode(value[1]) > 0).float())
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
