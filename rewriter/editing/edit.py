"""Edit: what a person asked for, as human-readable JSON; enough to make the same rule again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rewriter import checks
from rewriter.checks import Region
from rewriter.editing import recording
from rewriter.editing.rule import STRENGTHS
from rewriter.editing.statistics import Recipe
from rewriter.errors import InputError
from rewriter.files import read_json, replacing
from rewriter.memory import solve

__all__ = ["Edit", "Region", "load_edits", "read_recording", "save_edits"]

VERSION = 1
MOST = 64  # edits in one file
KINDS = ("replace", "erase", "zero")


@dataclass(frozen=True, eq=False)
class Edit:
    """A request: which rule of which generator to change, and how.

    kind: "replace" (copy → paste), "erase" (the thing at the place `paste` goes), or "zero" (the layer forgets what
    singles the context out).
    generator, fingerprint: the model it was made on ("": any). after: digests of the rules that were on before it.
    copy, paste, context, keep: places; an edit without a copy, say, is incomplete (`missing`).
    spread: state the goal at each context too, not on the pasted picture alone. units: how many an erase silences,
    as the paper does; None: it fills the place with what similar pictures have there.
    smoothness None: the method's default. steps: limit on its iterations; None: its own. statistics None: the layer's
    default recipe.
    """

    generator: str
    layer: str
    fingerprint: str = ""
    kind: str = "replace"
    title: str = ""
    truncation: float = 1.0
    after: tuple[str, ...] = ()
    copy: Region | None = None
    paste: Region | None = None
    context: tuple[Region, ...] = ()
    keep: tuple[Region, ...] = ()
    rank: int = 1
    smoothness: float | None = None
    strength: float = 1.0
    method: str = "least-squares"
    steps: int | None = None
    directions: str = "zca"
    spread: bool = True
    units: int | None = None
    statistics: Recipe | None = None

    def missing(self) -> list[str]:
        """What the edit still needs, as next steps; empty when it can be executed."""
        copy = "copy a thing from a picture" + (", or erase instead" if self.paste is not None else "")
        wanted = [(copy, self.copy is None and self.kind == "replace")]
        wanted += [("paste it onto another picture", self.paste is None and self.kind == "replace")]
        wanted += [("mark the place to erase on a picture", self.paste is None and self.kind == "erase")]
        wanted += [("mark the context on at least one picture", not self.context and self.paste is None)]
        return [step for step, lacking in wanted if lacking]

    @property
    def cells(self) -> int:
        """How many values its masks have in all."""
        return sum(place.mask.numel() for place in (self.copy, self.paste, *self.context, *self.keep) if place)

    def to_json(self) -> dict[str, Any]:
        """JSON object; the inverse of `from_json`, to the bit (masks in steps of 1/255)."""
        plain = {name: getattr(self, name) for name in _FIELDS if name not in _REGIONS}
        regions = {name: (region := getattr(self, name)) and region.to_json() for name in ("copy", "paste")}
        lists = {name: [region.to_json() for region in getattr(self, name)] for name in ("context", "keep")}
        plain |= {"after": list(self.after), "statistics": self.statistics and asdict(self.statistics)}
        return {"version": VERSION, **plain, **regions, **lists}

    @staticmethod
    def from_json(data: Any) -> Edit:
        """Validate field by field.

        Raises:
            InputError: names the first field that is unknown, missing or wrong, and what was expected.
        """
        if not isinstance(data, Mapping):
            raise InputError(f"an edit is a JSON object, not {type(data).__name__}")
        if data.get("version") != VERSION or isinstance(data["version"], bool):
            raise InputError(f"edit version {data.get('version')!r} is not {VERSION}: update this package or the file")
        unknown = sorted(map(str, set(data) - set(_FIELDS) - {"version"}))
        if unknown:
            raise InputError(f"unknown field {', '.join(map(repr, unknown))} in the edit")
        lacking = [name for name in ("generator", "layer") if name not in data]
        if lacking:
            raise InputError(f"the edit lacks {', '.join(lacking)}")
        return Edit(**{name: _CHECKS[name](name, value) for name, value in data.items() if name != "version"})

    def with_(self, **changes: Any) -> Edit:
        """A copy with some fields changed, validated like a file."""
        return replace(self, **{name: _CHECKS[name](name, value) for name, value in changes.items()})

    def save(self, path: str | Path) -> None:
        """Write as indented JSON."""
        save_edits([self], path)

    @staticmethod
    def load(path: str | Path) -> Edit:
        """Read a file that holds one edit; see `load_edits`."""
        edits = load_edits(path)
        if len(edits) > 1:
            raise InputError(f"{path} holds {len(edits)} edits, to be made one after the other: use load_edits")
        return edits[0]


def save_edits(edits: Sequence[Edit], path: str | Path) -> None:
    """Write edits that are to be made one after the other: a single one as an object, several as an array.

    Raises:
        InputError: there is no edit to write.
    """
    if not edits:
        raise InputError("no edits to save: make one first")
    plain = [edit.to_json() for edit in edits]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain if len(plain) > 1 else plain[0], indent=1) + "\n", encoding="utf-8")


def load_edits(path: str | Path) -> tuple[Edit, ...]:
    """Read a file that holds one edit, an array of them, or a recording of the original implementation.

    Raises:
        InputError: names the file, which of several edits, and what is wrong with it; see `Edit.from_json`.
    """
    data = read_json(path)
    entries = data if isinstance(data, list) else [data]
    if not 1 <= len(entries) <= MOST:
        raise InputError(f"{path} holds {len(entries) or 'no'} edits: a file has 1 to {MOST}")
    edits = []
    for i, entry in enumerate(entries):
        try:
            if recording.is_recording(entry):
                edits.append(read_recording(entry, title="".join(filter(str.isprintable, Path(path).stem))[:200]))
            else:
                edits.append(Edit.from_json(entry))
        except InputError as error:
            which = f"edit {i + 1} of {len(entries)}: " if len(entries) > 1 else ""
            raise InputError(f"{path}: {which}{error}") from error
    return tuple(edits)


def read_recording(data: Any, *, layer: str = "layer8", title: str = "") -> Edit:
    """An edit that the original implementation recorded: a replacement on any generator, perhaps incomplete.

    The layer is not recorded: layer8 is its authors' advice for objects, layer6 for smiles and watermarks, layer10 for
    hair. Nor is the kind: they erased, too, by what had been recorded for a replacement; `with_(kind="erase")` does.

    Raises:
        InputError: names the first field that is wrong, and what was expected.
    """
    found = recording.parse(data)
    copy, paste = (place and Region(*place) for place in (found.copy, found.paste))
    context = [Region(*place) for place in found.context]
    return Edit("", "").with_(layer=layer, title=title, copy=copy, paste=paste, context=context)


_FIELDS = tuple(Edit.__dataclass_fields__)
_REGIONS = ("copy", "paste", "context", "keep")
_CHECKS: dict[str, checks.Check] = {
    "generator": checks.text(200),
    "layer": checks.text(40),
    "fingerprint": checks.text(64),
    "kind": checks.choice(KINDS),
    "title": checks.text(200),
    "truncation": checks.number(0, 2),
    "after": checks.list_of(checks.text(64), 64),
    "copy": checks.region,
    "paste": checks.region,
    "context": checks.regions,
    "keep": checks.regions,
    "rank": checks.whole(1, 512),
    "smoothness": checks.number(0, 1e6, optional=True),
    "strength": checks.number(*STRENGTHS),
    "method": checks.choice(solve.METHODS),
    "steps": checks.whole(1, 100_000, optional=True),
    "directions": checks.choice(("zca", "mean", "svd", "units")),
    "spread": checks.flag,
    "units": checks.whole(1, 512, optional=True),
    "statistics": checks.recipe,
}
