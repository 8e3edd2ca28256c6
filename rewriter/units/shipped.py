"""The things that are shipped for some generators, to paint with at once; `make_things` made them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from rewriter.errors import InputError
from rewriter.files import read_json
from rewriter.generators.base import Generator
from rewriter.units.thing import Thing, thing

FOLDER = Path(__file__).parent / "shipped"
VERSION = 1


def things(generator: Generator) -> tuple[Thing, ...]:
    """Things for a generator; none where none are shipped, or where it is another one of that name."""
    known = _files().get(generator.fingerprint)
    return _read(known) if known else ()


def named(generator: Generator, name: str) -> Thing:
    """The shipped thing of that name; InputError if there is none."""
    known = {each.name: each for each in things(generator)}
    if name not in known:
        there = ", ".join(known) or "none"
        raise InputError(f"nothing named {name!r} is shipped for {generator.name} to paint with: there are {there}")
    return known[name]


@cache
def _files() -> dict[str, Path]:
    """The shipped files by the fingerprint of their generator."""
    return {str(read_json(path)["fingerprint"]): path for path in sorted(FOLDER.glob("*.json"))}


@cache
def _read(path: Path) -> tuple[Thing, ...]:
    data = read_json(path)
    if data.get("version") != VERSION:
        raise InputError(
            f"{path.name} has version {data.get('version')!r}, expected {VERSION}: install the package again"
        )
    return tuple(thing(f"thing {i + 1}", each) for i, each in enumerate(data["things"]))
