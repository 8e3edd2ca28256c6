"""What comes from a browser and is checked here, in one place: records of a visitor's work, and painted masks."""

from __future__ import annotations

import base64
import json
import re
from typing import Any, TypeGuard

from torch import Tensor

from rewriter import checks, masks
from rewriter.errors import InputError
from rewriter.generators.latents import PHOTO, Seed, format_seeds, parse_seeds
from state import MOST_PICTURES, WORK_BYTES, Visitor

OWN, THING_BYTES = 8, 48 << 10  # a visitor's own things on all generators; characters of one
STRANGE_BYTES = 2 << 20  # of a record that this server has not signed
WORKS = 32  # generators in one record


def to_record(visitor: Visitor) -> str:
    """A visitor as a text."""
    works = {name: base64.b64encode(data).decode("ascii") for name, data in visitor.works.items()}
    plain = {name: getattr(visitor, name) for name in ("generator", "matches", "link", "again")}
    seen = {"seeds": format_seeds(visitor.seeds), "selected": f"{visitor.selected}"}
    return json.dumps({**plain, **seen, "works": works} | ({"things": [*visitor.things]} if visitor.things else {}))


def from_record(text: str, *, ours: bool) -> Visitor:
    """Inverse of `to_record`; the work itself is decoded, and checked, when it is looked at.

    `ours`: whether this server has signed the text; else it may hold less.

    Raises:
        InputError: it is damaged, or too large.
    """
    try:
        if len(text) > (2 * WORK_BYTES if ours else STRANGE_BYTES):
            raise InputError(f"it has {len(text) >> 20} MB, more than this page takes: load your work from a file")
        kept = json.loads(text)
        if len(kept["works"]) > WORKS:
            raise InputError(f"it holds work on {len(kept['works'])} generators, more than {WORKS}")
        things = checks.list_of(checks.text(THING_BYTES), OWN)("things", kept.get("things", []))
        return Visitor(
            f"{kept['generator']}"[:200],
            seeds=tuple(parse_seeds(kept["seeds"], most=MOST_PICTURES)),
            selected=read_picture(kept["selected"]),
            matches=kept.get("matches") is True,
            link=f"{kept['link']}"[:96],
            again=f"{kept.get('again', '')}",
            things=things,
            works={f"{name}"[:200]: base64.b64decode(work, validate=True) for name, work in kept["works"].items()},
        )
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise InputError(f"the work that your browser kept cannot be restored ({error})") from error


def read_picture(value: Any) -> Seed:
    """Which picture is meant: its seed, or the name of a photo; InputError for anything else."""
    return value if is_photo(value) else parse_seeds(f"{value}", most=1)[0]


def is_photo(value: Any) -> TypeGuard[str]:
    """Whether this is the name of a photo."""
    return isinstance(value, str) and re.fullmatch(PHOTO, value) is not None


def read_painted(value: Any) -> tuple[Tensor, Seed | None]:
    """The mask (H, W) in [0, 1] and its picture's seed, or photo; None if the value lacks it.

    Raises:
        InputError: nothing is painted, or the value is damaged.
    """
    if value is None or isinstance(value, str) and value[-1:] in ("", ":"):
        raise InputError("nothing is painted yet: paint on the picture first")
    named = isinstance(value, str) and (value[0].isdecimal() or is_photo(value.partition(":")[0]))
    seed, colon, url = value.partition(":") if named else ("", "", value)
    return masks.decode(url), read_picture(seed) if colon else None
