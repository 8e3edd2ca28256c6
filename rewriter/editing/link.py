"""Link: a whole piece of work as a short text, which travels in the fragment of a page's address (`#edit=…`).

    text = "1", then base64url of: deflated (JSON, a line feed, the masks' bytes), then their CRC-32

The JSON is a list of edits, each without the fields that have their usual values. A place is [seed, height, width, top,
left, rows, columns]: of its mask only the box around what is painted is kept, a byte for each cell, row after row.
Found places are written as four lists: seeds, rows, columns and by whom.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from rewriter import checks, masks
from rewriter.editing.edit import MOST as EDITS
from rewriter.editing.edit import VERSION, Edit
from rewriter.editing.region import SEED, Region
from rewriter.editing.stroke import MOST as MOST_STROKES
from rewriter.errors import InputError
from rewriter.masks import MAX_SIDE

MOST = 8000  # characters of an address that browsers, chats and mails pass on unharmed: beyond, offer a file
LONGEST = 64_000  # characters that are read
CELLS = 1 << 24  # values of all masks together, 64 MB of memory
WORDS = 1 << 20  # bytes of JSON
FORMAT = "1"
# Part of the format, whatever the defaults of `Edit` become. "version" is in the format's number.
USUAL: dict[str, Any] = {
    **{"version": 1, "generator": "townscape", "kind": "replace", "title": "", "fingerprint": ""},
    **{"truncation": 1.0, "after": [], "copy": None, "paste": None, "context": [], "keep": []},
    **{"rank": 1, "smoothness": None, "strength": 1.0, "method": "least-squares", "steps": None},
    **{"directions": "zca", "spread": True, "units": None, "statistics": None},
}
NEEDED = {"generator": "townscape"}  # usual values that `Edit.from_json` does not fill in
WHOLE = {"copy": "place", "paste": "place", "context": "places", "keep": "places", "found": "found", "unlike": "found"}
WHOLE["strokes"] = "strokes"
# What most links hold, the commonest last: the text that deflate may refer to from the start. Part of the format.
COMMON = (
    b'"closed-form""projected""zero","after":["","keep":[["statistics":{"pictures":512,"places":16,"first_seed":0}'
    b'"truncation":0.7,"directions":"mean","steps":"units":"unlike":[["found":[["person","machine","budget":"gate":['
    b'"smoothness":"strength":0.5,"rank":2,"kind":"erase","title":"spread":false'
    b'[{"layer":"layer6","fingerprint":"edacba7c34c488abde37d098ed54f31aaac3c4b6974a9399ac8400f9224e0169","form":"gated",'
    b'[{"layer":"layer8","form":"template","form":"auto","copy":[1,64,64,"paste":[6,64,64,"context":[[0,64,64,],[,64,64,1'
)
AGAIN = "ask whoever sent it for the whole link, or for a file of the edits"


def encode(edits: Sequence[Edit]) -> str:
    """Edits that are to be made one after the other as one short text of letters, digits, "-" and "_".

    `decode` gives equal edits back, to the bit. Pages should offer a file where the text is longer than `MOST`.
    InputError for no edits, or for more than fit into `LONGEST` characters.
    """
    _check(len(edits), sum(edit.cells for edit in edits), "save the edits as a file instead")
    cells: list[bytes] = []
    plain = [_shortened(edit.plain(lambda place: {"place": _packed(place, cells)})) for edit in edits]
    text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()
    whole = b"\n".join([text, b"".join(cells)])
    press = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=COMMON)
    packed = press.compress(whole) + press.flush() + zlib.crc32(whole).to_bytes(4)
    link = FORMAT + base64.urlsafe_b64encode(packed).decode().rstrip("=")
    if len(link) > LONGEST or len(text) > WORDS:
        raise InputError(f"a link has at most {LONGEST:,} characters, not {len(link):,}: save the edits as a file")
    return link


def decode(text: str) -> list[Edit]:
    """The edits of a link, validated like those of a file.

    InputError for a text that is damaged, cut short, too long, of a later version, or wrong in any field; the message
    names what is wrong and what to do next. A text of at most `LONGEST` characters never fills more than 100 MB.
    """
    try:
        words, cells = _unpacked(text)
        return _edits(words, cells)
    except InputError as error:
        raise InputError(f"this link holds no edit that can be opened: {error}") from error


def _check(edits: int, cells: int, hint: str) -> None:
    if not 1 <= edits <= EDITS:
        raise InputError(f"a link holds 1 to {EDITS} edits, not {edits}: {hint}")
    if cells > CELLS:
        raise InputError(f"the masks have {cells:,} cells, and in a link at most {CELLS:,}: {hint}")


# --- writing ---


def _packed(place: Region, cells: list[bytes]) -> list[int]:
    """A place without its mask's values, which are added to `cells`; InputError for one on a photo."""
    if isinstance(place.seed, str):
        raise InputError("this edit points at a photo, which a link cannot hold: save the edit, or publish the rule")
    values = (place.mask * 255).round().byte().cpu()
    box = masks.bounds(place.mask)
    cells.append(values[box.rows, box.columns].numpy().tobytes())
    return [place.seed, *values.shape, box.top, box.left, *box.size]


def _shortened(plain: dict[str, Any]) -> dict[str, Any]:
    for name, kind in WHOLE.items():
        if kind == "place" and plain[name]:
            plain[name] = plain[name]["place"]
        elif kind == "places":
            plain[name] = [place["place"] for place in plain[name]]
        elif kind == "strokes":
            for each in plain.get(name, ()):
                each["place"] = each["place"] and each["place"]["place"]
        elif plain.get(name) and kind == "found":
            plain[name] = [list(column) for column in zip(*plain[name], strict=True)]
    return {name: value for name, value in plain.items() if name not in USUAL or USUAL[name] != value}


# --- reading ---


def _unpacked(text: str) -> tuple[bytes, bytes]:
    """The JSON and the masks' bytes; InputError unless all of them are there."""
    if not isinstance(text, str) or len(text) > LONGEST:
        raise InputError(f"it is no text of at most {LONGEST:,} characters; {AGAIN}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise InputError(f"it is empty, or has characters that no link has; {AGAIN}")
    if text[0] != FORMAT:
        raise InputError(f"it is of another version ({text[0]}, not {FORMAT}): update this package, or {AGAIN}")
    try:
        packed = base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4))
        reader = zlib.decompressobj(-15, zdict=COMMON)
        whole = reader.decompress(packed[:-4], WORDS + CELLS)
    except (binascii.Error, zlib.error) as error:
        raise InputError(f"it is damaged ({error}); {AGAIN}") from error
    if not reader.eof or reader.unused_data or zlib.crc32(whole).to_bytes(4) != packed[-4:]:
        raise InputError(f"it is damaged, cut short, or far too large; {AGAIN}")
    words, _, cells = whole.partition(b"\n")
    return words, cells


def _edits(words: bytes, cells: bytes) -> list[Edit]:
    try:
        entries = json.loads(words[: WORDS + 1])
    except (ValueError, RecursionError) as error:
        raise InputError(f"it holds no JSON ({str(error)[:100]}); {AGAIN}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"it holds no list of edits; {AGAIN}")
    reader = _Cells(cells)
    _check(len(entries), 0, AGAIN)
    edits = []
    for i, entry in enumerate(entries):
        try:
            edits.append(Edit.from_json(_whole(entry, reader)))
        except InputError as error:
            raise InputError(f"edit {i + 1} of {len(entries)}: {error}; {AGAIN}") from error
    if reader.at != len(cells):
        raise InputError(f"it has {len(cells) - reader.at} bytes too many; {AGAIN}")
    return edits


def _whole(entry: dict[str, Any], reader: _Cells) -> dict[str, Any]:
    """What `Edit.from_json` takes, for an entry of a link; the places are read in the order of writing."""
    if "version" in entry:
        raise InputError("unknown field 'version' in the edit")
    kinds: dict[str, Callable[[str, Any], Any]] = {
        "place": reader.place,
        "places": checks.list_of(reader.place, masks.MAX_CONTEXT),
        "found": _rows,
        "strokes": checks.list_of(reader.stroke, MOST_STROKES),
    }
    read = {name: kinds[kind](name, entry[name]) for name, kind in WHOLE.items() if name in entry}
    return {"version": VERSION, **NEEDED, **entry, **read}


def _rows(name: str, value: Any) -> list[tuple[Any, ...]]:
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(column, list) for column in value):
        raise checks.refusal(name, value, "four lists: seeds, rows, columns and by whom")
    try:
        return list(zip(*value, strict=True))
    except ValueError as error:
        raise checks.refusal(name, value, "four lists of equal length") from error


class _Cells:
    """The bytes of all masks, read place after place; `cells` counts the cells of the masks so far."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.cells = data, 0, 0

    def place(self, name: str, value: Any) -> Region:
        """The next place, of which `value` is what is written without its mask."""
        if not isinstance(value, list) or len(value) != 7:
            raise checks.refusal(name, value, "seven whole numbers: seed, height, width, top, left, rows, columns")
        seed, (height, width) = SEED(name, value[0]), (checks.whole(1, MAX_SIDE)(name, side) for side in value[1:3])
        top, left = (checks.whole(0, side - 1)(name, at) for at, side in zip(value[3:5], (height, width), strict=True))
        rows, columns = checks.whole(1, height - top)(name, value[5]), checks.whole(1, width - left)(name, value[6])
        self.cells += height * width
        _check(1, self.cells, AGAIN)
        part = self.data[self.at : self.at + rows * columns]
        self.at += rows * columns
        if len(part) < rows * columns:
            raise InputError(f"{name} lacks {rows * columns - len(part)} of the {rows * columns} bytes of its mask")
        mask = torch.zeros(height, width)
        box = torch.frombuffer(bytearray(part), dtype=torch.uint8).view(rows, columns)
        mask[top : top + rows, left : left + columns] = box.float() / 255
        return Region(seed, masks.as_mask(mask))

    def stroke(self, name: str, value: Any) -> Any:
        """The next stroke; its other fields are checked with the whole edit."""
        if not isinstance(value, dict):
            raise checks.refusal(name, value, "an object")
        given = value.get("place")
        return {**value, "place": given and self.place(f"{name}'s place", given)}
