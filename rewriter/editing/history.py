"""The state of a session, apart from its generator: the edit in progress, the rules, and the states to undo to.

Immutable, a few kilobytes, picklable. Its file is a safetensors file with the rules' tensors; each rule, edit and mask
is stored once, however many states share it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors import torch as tensors_as
from torch import Tensor

from rewriter.checks import flag, number, refusal
from rewriter.editing.edit import Edit
from rewriter.editing.provenance import requests
from rewriter.editing.region import Region, picture, region
from rewriter.editing.rule import CELLS, RULES, Rule, assemble
from rewriter.editing.stroke import MOST, Stroke, stroke
from rewriter.errors import InputError
from rewriter.files import write_bytes
from rewriter.generators.change import STRENGTHS
from rewriter.generators.latents import Seed
from rewriter.masks import decode

FORMAT = "rewriter-session-1"
LIMIT = 200  # states that can be undone
_SIZE = 64 << 20
FINEST = 256  # largest side of a mask, in cells
_DAMAGE = (SafetensorError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, eq=False)
class State:
    """The edit in progress, the rules in order, and the index of the rule solved from this edit, if any."""

    edit: Edit
    rules: tuple[Rule, ...] = ()
    made: int | None = None

    def __post_init__(self) -> None:
        """`edit.after` lists the rules that are applied before this edit."""
        if (after := requests(self.before)) != self.edit.after:
            object.__setattr__(self, "edit", self.edit.with_(after=after))

    @property
    def before(self) -> tuple[Rule, ...]:
        """The rules that are applied before this edit."""
        return self.rules[: self.made]


@dataclass(frozen=True, eq=False)
class History:
    """States in order and the index of the present one; later states can be redone."""

    states: tuple[State, ...]
    at: int = 0

    @property
    def cells(self) -> int:
        """How many values all its masks have together, each mask counted once, as in its file."""
        edits = {
            id(edit): edit for state in self.states for edit in (state.edit, *(r.edit for r in state.rules)) if edit
        }
        return sum({region.png: region.mask.numel() for edit in edits.values() for region in edit.masks}.values())

    @property
    def present(self) -> State:
        """The state that is shown."""
        return self.states[self.at]

    def then(self, state: State) -> History:
        """Add a state after the present one; InputError if it alone is too large to be saved.

        Undone states are dropped, and the oldest ones if there are too many.
        """
        states = (*self.states[: self.at + 1], state)[-LIMIT:]
        while not _fits(states):
            states = states[1:]
            if not states:
                raise InputError("this is more than a session can hold: use fewer contexts, or method least-squares")
        return History(states, len(states) - 1)

    def back(self) -> History:
        """One state earlier; InputError at the beginning."""
        if not self.at:
            raise InputError("nothing to undo")
        return replace(self, at=self.at - 1)

    def forward(self) -> History:
        """One state later; InputError at the end."""
        if self.at + 1 == len(self.states):
            raise InputError("nothing to redo")
        return replace(self, at=self.at + 1)

    def __reduce__(self) -> tuple[Callable[[bytes], History], tuple[bytes]]:
        """Pickled as its file."""
        return History.from_bytes, (self.to_bytes(),)

    def to_bytes(self) -> bytes:
        """The session as a file; exact to the bit."""
        tables = _Tables()
        states = [tables.state(state) for state in self.states]
        about = {"states": states, "at": self.at, "edits": tables.edits, "rules": tables.rules, "masks": tables.masks}
        about |= {"strokes": tables.strokes} if tables.strokes else {}
        data = tensors_as.save(tables.tensors, {"format": FORMAT, "session": json.dumps(about)})
        if len(data) > _SIZE:
            raise InputError(f"the session is larger than {_SIZE >> 20} MB: save its rules one by one")
        return data

    @staticmethod
    def from_bytes(data: bytes, *, cells: int = CELLS, limit: int = _SIZE) -> History:
        """Inverse of `to_bytes`; InputError for what is not a session, or damaged.

        Also for more than `limit` bytes, or masks of more than `cells` cells in all: whoever does not trust the data
        sets these low. No mask beyond the cap is decoded.
        """
        try:
            if len(data) > limit:
                raise InputError(f"a session is at most {limit:,} bytes here, and this has {len(data):,}")
            tensors = tensors_as.load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            metadata = header.get("__metadata__", {})
            if metadata.get("format") != FORMAT:
                raise InputError(f"this is a safetensors file, but not a session ({FORMAT})")
            return _unpack(json.loads(metadata["session"]), tensors, cells)
        except InputError:
            raise
        except _DAMAGE as error:
            raise InputError(f"the session is damaged ({error!r}): save it again") from error

    def save(self, path: str | Path) -> None:
        """Write the session's file."""
        write_bytes(self.to_bytes(), path)

    @staticmethod
    def load(path: str | Path) -> History:
        """Read a session's file; see `from_bytes`."""
        try:
            with Path(path).open("rb") as file:
                return History.from_bytes(file.read(_SIZE + 1))
        except OSError as error:
            raise InputError(f"cannot read {path} ({error.strerror})") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def _fits(states: Sequence[State]) -> bool:
    """Whether the masks and rules of all states, each counted once, are small enough to be saved and read again."""
    edits = {id(state.edit): state.edit for state in states}.values()
    cells = {id(region): region.mask.numel() for edit in edits for region in edit.masks}
    rules = {id(rule.delta): rule for state in states for rule in state.rules}
    deltas = {key: sum(tensor.nbytes for tensor in rule.tensors().values()) for key, rule in rules.items()}
    return sum(cells.values()) <= CELLS and sum(deltas.values()) <= _SIZE // 2


@dataclass
class _Tables:
    """The tables of a file: everything that states share, stored once; states refer to rows."""

    edits: list[dict[str, Any]] = field(default_factory=list)
    rules: list[dict[str, Any]] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    strokes: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    _rows: dict[Any, int] = field(default_factory=dict)

    def state(self, state: State) -> dict[str, Any]:
        rules = [[self.rule(rule), rule.strength, rule.on] for rule in state.rules]
        return {"edit": self.edit(state.edit), "rules": rules, "made": state.made}

    def rule(self, rule: Rule) -> int:
        parts = rule.delta, rule.directions, rule.beside, rule.effect, rule.edit
        key = *map(id, parts), rule.layer, rule.level, rule.fingerprint  # strength and on/off make no new rule

        def entry() -> dict[str, Any]:
            for name, tensor in rule.tensors().items():
                own = tensor.cpu().contiguous().clone()  # tensors of a file share no memory
                self.tensors[f"{len(self.rules)}.{name}"] = own
            return {**rule.about(), "edit": self.plain(rule.edit) if rule.edit else {}}

        return self._row_of(key, self.rules, entry)

    def edit(self, edit: Edit) -> int:
        return self._row_of(id(edit), self.edits, lambda: self.plain(edit))

    def plain(self, edit: Edit) -> dict[str, Any]:
        """An edit whose places and strokes are rows: each step of painting shares all strokes but its last."""
        rows = [self.stroke(each) for each in edit.strokes]
        return {**replace(edit, strokes=()).plain(self.place), **({"strokes": rows} if rows else {})}

    def stroke(self, stroke: Stroke) -> int:
        """The row of a stroke."""
        place = stroke.place and (stroke.place.seed, stroke.place.png)
        key = stroke.layer, stroke.units, stroke.levels, stroke.strength, stroke.thing, place
        return self._row_of(key, self.strokes, lambda: stroke.plain(self.place))

    def place(self, region: Region) -> dict[str, Any]:
        return {"seed": region.seed, "mask": self._row_of(region.png, self.masks, lambda: region.png)}

    def _row_of(self, key: Any, table: list[Any], entry: Callable[[], Any]) -> int:
        """The row of what the key identifies; its entry is made and added the first time."""
        if key not in self._rows:
            table.append(entry())
            self._rows[key] = len(table) - 1
        return self._rows[key]


class _Decoded:
    """The places of a file's edits, with masks of at most `cells` cells in all; each mask is decoded once."""

    def __init__(self, pngs: list[Any], cells: int, painted: list[Any]):
        self.pngs, self.cells, self._left = pngs, cells, cells
        self._painted, self._strokes = painted, dict[int, Stroke]()
        self._masks: dict[int, Tensor] = {}
        self._regions: dict[tuple[Seed, int], Region] = {}

    def edit(self, data: Mapping[str, Any]) -> Edit:
        """An edit whose places and strokes name rows of their tables."""
        lists = {name: [*map(self.region, _list(name, data[name]))] for name in ("context", "keep") if name in data}
        single = {name: data[name] and self.region(data[name]) for name in ("copy", "paste") if name in data}
        rows = _list("strokes", data.get("strokes", []))
        if len(rows) > MOST:
            raise InputError(f"an edit has at most {MOST} strokes, not {len(rows)}")
        whole = {name: value for name, value in data.items() if name != "strokes"}
        return replace(Edit.from_json({**whole, **lists, **single}), strokes=tuple(map(self.stroke, rows)))

    def stroke(self, row: Any) -> Stroke:
        """A stroke, checked once; its place names a row of the masks' table."""
        if (at := _row(row, len(self._painted))) not in self._strokes:
            data = self._painted[at]
            place = data["place"] and self.region(data["place"])
            self._strokes[at] = stroke(f"stroke {at + 1}", {**data, "place": place}, region)
        return self._strokes[at]

    def region(self, place: Mapping[str, Any]) -> Region:
        """A place with its mask decoded."""
        key = picture("the seed of a place", place["seed"]), _row(place["mask"], len(self.pngs))
        if key not in self._regions:
            self._regions[key] = made = Region(**{**place, "mask": self._mask(key[1])})
            vars(made)["png"] = self.pngs[key[1]]  # need not be encoded again
        return self._regions[key]

    def _mask(self, row: int) -> Tensor:
        if row not in self._masks:
            try:
                self._masks[row] = decode(self.pngs[row], side=FINEST, cells=self._left)
            except InputError as error:
                allowed = f"all masks of a session have at most {self.cells:,} cells together"
                raise InputError(f"mask {row + 1} of {len(self.pngs)}: {error} ({allowed})") from error
            self._left -= self._masks[row].numel()
        return self._masks[row]


def _unpack(about: Mapping[str, Any], tensors: Mapping[str, Tensor], cells: int) -> History:
    counts = [len(_list(name, about[name])) for name in ("states", "edits", "rules")]
    if any(n > most for n, most in zip(counts, (LIMIT, LIMIT, LIMIT + RULES), strict=True)):
        raise InputError(f"a session has at most {LIMIT} states, not {counts[0]} with {counts[1]} edits and so on")
    places = _Decoded(_list("masks", about["masks"]), cells, _list("strokes", about.get("strokes", [])))
    edits = [places.edit(edit) for edit in about["edits"]]
    rules = []
    for i, rule in enumerate(about["rules"]):
        own = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.partition(".")[0] == str(i)}
        rules.append(assemble(rule, own, places.edit(rule["edit"]) if rule["edit"] != {} else None))
    switched: dict[tuple[int, float, bool], Rule] = {}

    def switch(row: int, strength: float, on: bool) -> Rule:
        key = _row(row, len(rules)), number(*STRENGTHS)("strength", strength), flag("on", on)
        return switched.setdefault(key, replace(rules[key[0]].at(key[1]), on=key[2]))

    states = []
    for state in about["states"]:
        now = tuple(switch(*entry) for entry in _list("rules", state["rules"]))
        made = None if state["made"] is None else _row(state["made"], len(now))
        states.append(State(edits[_row(state["edit"], len(edits))], now, made))
    if any(len(state.rules) > RULES for state in states):
        raise InputError(f"a session has at most {RULES} rules")
    return History(tuple(states), _row(about["at"], len(states)))


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise refusal(f"the session is damaged: {name}", value, "a list")
    return value


def _row(value: Any, rows: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < rows:
        raise InputError(f"the session is damaged: it names row {value!r} of {rows}")
    return value
