"""Edit: what a person asked for, as human-readable JSON; enough to make the same rule again."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rewriter import checks
from rewriter.checks import optional
from rewriter.editing import recording
from rewriter.editing.recipe import Recipe, recipe
from rewriter.editing.region import Place, Region, places, region, regions
from rewriter.editing.stroke import MOST as MOST_STROKES
from rewriter.editing.stroke import Stroke, are_pairs, painted_on, stroke
from rewriter.errors import InputError
from rewriter.files import read_json, write_json
from rewriter.generators.change import STRENGTHS, LowRank
from rewriter.generators.layer import LayerInfo
from rewriter.masks import MAX_CELLS
from rewriter.memory import DIRECTIONS, FORMS, SOLVERS

__all__ = ["Edit", "Region", "load_edits", "read_recording", "save_edits"]

VERSION = 1
MOST = 64  # edits in one file
ALL_UNITS = 8192  # that the strokes of one edit name
KINDS = ("replace", "erase", "zero", "paint", "switch", "swap")
AUTO = "auto"  # in place of a form: the machine chooses layer, form and numbers, and the rule's edit names them
BY_HAND = {
    "rank",
    "smoothness",
    "method",
    "steps",
    "directions",
    "spread",
    "units",
    "statistics",
}  # options of a solver
LABELS = ("strength", "generator", "title")  # fields that do not change which rule is solved


@dataclass(frozen=True, eq=False)
class Edit:
    """A request: which rule of which generator to change, and how.

    Kind "replace" draws the copied thing at the pasted place, "erase" removes what is there, and "zero" makes the layer
    forget what singles the context out. "paint" makes what was painted with units hold wherever the context is, and
    "switch" sets units to levels on all pictures. "swap" inverts what units of an earlier layer cause: with them at one
    level each picture's context gets what it has with them at another. An edit may lack places: see `missing`.
    """

    generator: str  # the one that it was made on; "": any
    layer: str
    fingerprint: str = ""  # of that generator; "": any
    kind: str = "replace"
    title: str = ""
    truncation: float = 1.0  # ψ of the pictures that it points at
    after: tuple[str, ...] = ()  # digests of the rules that were on when it was made, in order
    copy: Region | None = None
    paste: Region | None = None
    context: tuple[Region, ...] = ()
    keep: tuple[Region, ...] = ()  # places to protect
    rank: int = 1  # number of directions
    smoothness: float | None = None  # weight λ of the protection of everything else; None: the method's default
    strength: float = 1.0  # of the rule, −1…2
    method: str = "least-squares"  # see `memory.solve.solve`
    steps: int | None = None  # limit on the method's iterations; None: its own
    directions: str = "zca"  # see `memory.directions.key_directions`
    spread: bool = True  # state the goal at each context too, not only on the pasted picture
    units: int | None = None  # how many units an erase silences, as in the paper; None: fill the place instead
    statistics: Recipe | None = None  # how to sample the second moment; None: the layer's default
    form: str = "weight"  # what to make, see `memory.FORMS`, or "auto"
    found: tuple[Place, ...] = ()  # more context, that a search found; those that a person took count as marked
    unlike: tuple[Place, ...] = ()  # places that look like the context and are none
    budget: float | None = None  # how much may change elsewhere, in 1/255; None: see `choose.BUDGET`
    gate: tuple[float, float] | None = None  # where a memory beside W starts to open, and is open; None: see `forms`
    strokes: tuple[Stroke, ...] = ()  # units that were painted with, or switched

    def missing(self) -> list[str]:
        """What the edit still needs, as next steps; empty when it can be executed."""
        copy = "copy a thing from a picture" + (", or erase instead" if self.paste else "")
        steps = {
            copy: self.kind == "replace" and not self.copy,
            "paste it onto another picture": self.kind == "replace" and not self.paste,
            "mark the place to erase on a picture": self.kind == "erase" and not self.paste,
            "paint on a picture with units": self.kind == "paint" and not (self.paste and self.strokes),
            "choose units to switch, all in one stroke": self.kind == "switch" and len(self.strokes) != 1,
            "choose its units: rewriter apply with --units 3,17,42, or choose_units in a session": (
                any(not each.units for each in self.strokes)
            ),
            "set units to two levels at one place of each picture of the context, in its order": (
                self.kind == "swap" and not are_pairs(self.strokes, self.context)
            ),
            "mark the context on at least one picture": not (self.context or self.paste or self.kind == "switch"),
        }
        return [step for step, lacking in steps.items() if lacking]

    @property
    def regions(self) -> tuple[Region, ...]:
        """Every place that it points at."""
        return tuple(place for place in (self.copy, self.paste, *self.context, *self.keep) if place)

    @property
    def masks(self) -> tuple[Region, ...]:
        """Every place with a mask of its own: those that it points at, and those of its strokes."""
        return (*self.regions, *(each.place for each in self.strokes if each.place))

    @property
    def photos(self) -> tuple[str, ...]:
        """The names of the photos that it points at, each once; whoever replays it opens these first."""
        return tuple(dict.fromkeys(place.seed for place in self.masks if isinstance(place.seed, str)))

    def painted_on(self, place: Region, info: LayerInfo) -> list[LowRank]:
        """What its strokes do to a layer at a place; see `stroke.painted_on`."""
        return painted_on(self.strokes, place, info)

    @property
    def cells(self) -> int:
        """How many values its masks have together."""
        return sum(place.mask.numel() for place in self.masks)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that identify the request; the same on every machine, unlike the solved rule."""
        plain = self.plain(lambda place: {"seed": place.seed, "mask": place.digest})
        asked = {name: value for name, value in plain.items() if name not in LABELS}
        return hashlib.sha256(json.dumps([self.fingerprint, asked], sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """JSON object; the inverse of `from_json`, to the bit (masks in steps of 1/255)."""
        return self.plain(Region.to_json)

    def plain(self, place: Callable[[Region], dict[str, Any]]) -> dict[str, Any]:
        """JSON object in which each place is written by `place`."""
        single = {name: (region := getattr(self, name)) and place(region) for name in ("copy", "paste")}
        lists = {name: [place(region) for region in getattr(self, name)] for name in ("context", "keep")}
        plain = {name: getattr(self, name) for name in _CHECKS if name not in (*single, *lists)}
        plain |= {"after": list(self.after), "statistics": self.statistics and asdict(self.statistics)}
        plain |= {name: [place.to_json() for place in getattr(self, name)] for name in ("found", "unlike")}
        plain |= {"gate": self.gate and list(self.gate), "strokes": [each.plain(place) for each in self.strokes]}
        usual = {name for name in LATER if plain[name] == LATER[name]}  # so that earlier edits keep bytes and digest
        return {"version": VERSION, **{k: v for k, v in plain.items() if k not in usual}, **single, **lists}

    @staticmethod
    def from_json(data: Any) -> Edit:
        """Validate field by field; InputError names the first field that is wrong, and what was expected."""
        if not isinstance(data, Mapping):
            raise InputError(f"an edit is a JSON object, not {type(data).__name__}")
        if type(version := data.get("version")) is not int or version != VERSION:
            found = reprlib.repr(version)[:40]
            raise InputError(f"edit version {found} is not {VERSION}: update this package or the file")
        defaults = set(_CHECKS) - {"generator", "layer"}
        return Edit(**checks.fields("the edit", data, _CHECKS, optional=defaults, ignore=("version",)))

    def with_(self, **changes: Any) -> Edit:
        """A copy with some fields changed, validated like a file."""
        return replace(self, **{name: _CHECKS[name](name, value) for name, value in changes.items()})

    def validated(self) -> Edit:
        """A copy with every field validated like a file's."""
        return self.with_(**{name: getattr(self, name) for name in _CHECKS})

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
    """Write edits that are to be made one after the other: one as an object, several as an array; at least one."""
    if not edits:
        raise InputError("no edits to save: make one first")
    plain = [edit.to_json() for edit in edits]
    write_json(plain if len(plain) > 1 else plain[0], path)


def load_edits(path: str | Path) -> tuple[Edit, ...]:
    """Read a file that holds one edit, an array of them, or a recording of the original implementation.

    InputError names the file, which of several edits, and what is wrong with it; see `Edit.from_json`.
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


def read_recording(data: Any, *, layer: str | None = None, title: str = "") -> Edit:
    """An edit that the original implementation recorded: a replacement on any generator, perhaps incomplete.

    Recordings do not name a layer. Their authors advise layer8 for objects (which None means), layer6 for smiles and
    watermarks, layer10 for hair. They do not say either whether the edit was executed as an erasure:
    `with_(kind="erase")` makes it one. Unit interventions become a swap at layer6, whose units are still to be chosen:
    see `stroke.with_units`. InputError names the first field that is wrong, and what was expected.
    """
    if recording.intervenes_on_units(data):
        causes, effects = recording.parse_interventions(data)
        set_to = {"layer": recording.UNITS_LAYER, "units": ()}
        strokes = [
            {**set_to, "place": Region(*place), "levels": (level,)} for place in causes for level in recording.LEVELS
        ]
        changes: dict[str, Any] = {"context": [Region(*place) for place in effects], "strokes": strokes}
        return Edit("", "").with_(layer=layer or recording.SWAP_LAYER, kind="swap", title=title, **changes)
    found = recording.parse(data)
    layer = layer or recording.LAYER
    copy, paste = (place and Region(*place) for place in (found.copy, found.paste))
    context = [Region(*place) for place in found.context]
    return Edit("", "").with_(layer=layer, title=title, copy=copy, paste=paste, context=context)


def _gate(name: str, value: Any) -> tuple[float, float]:
    gate = checks.list_of(checks.number(-10, 10), 2)(name, value)
    if len(gate) != 2 or gate[0] >= gate[1]:
        raise checks.refusal(name, value, "two numbers, the smaller one first")
    return gate[0], gate[1]


def _strokes(name: str, value: Any) -> tuple[Stroke, ...]:
    """Check strokes; their masks are bounded together, like those of `regions`, and so are their units."""
    cells = units = 0

    def place(part: str, entry: Any) -> Region | None:
        nonlocal cells
        found = region(part, entry)
        cells += found.mask.numel() if found else 0
        if cells > MAX_CELLS:
            raise InputError(f"{part}: the masks up to here have more than {MAX_CELLS >> 20} million cells in all")
        return found

    def bounded(part: str, entry: Any) -> Stroke:
        nonlocal units
        found = stroke(part, entry, place)
        units += len(found.units)
        if units > ALL_UNITS:
            raise InputError(f"{part}: the strokes up to here name more than {ALL_UNITS:,} units in all")
        return found

    strokes: tuple[Stroke, ...] = checks.list_of(bounded, MOST_STROKES)(name, value)
    return strokes


_CHECKS: dict[str, checks.Check] = {  # every field, in the order of a file
    "generator": checks.text(200),
    "layer": checks.text(40),
    "fingerprint": checks.text(64),
    "kind": checks.choice(KINDS),
    "title": checks.text(200),
    "truncation": checks.number(0, 2),
    "after": checks.list_of(checks.text(64), 64),
    "copy": region,
    "paste": region,
    "context": regions,
    "keep": regions,
    "rank": checks.whole(1, 512),
    "smoothness": optional(checks.number(0, 1e6)),
    "strength": checks.number(*STRENGTHS),
    "method": checks.choice(SOLVERS),
    "steps": optional(checks.whole(1, 100_000)),
    "directions": checks.choice(DIRECTIONS),
    "spread": checks.flag,
    "units": optional(checks.whole(1, 512)),
    "statistics": recipe,
    "form": checks.choice((*FORMS, AUTO)),
    "found": places,
    "unlike": places,
    "budget": optional(checks.number(0.01, 255)),
    "gate": optional(_gate),
    "strokes": _strokes,
}
# Fields of version 0.2, which files leave out at these values.
LATER: Mapping[str, Any] = {"form": "weight", "found": [], "unlike": [], "budget": None, "gate": None, "strokes": []}
