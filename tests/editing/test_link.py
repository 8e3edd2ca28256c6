"""Links: a whole piece of work in an address, exact to the bit, short, and safe to open."""

import base64
import json
import re
import tracemalloc
import zlib
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_edit import FULL, PLAIN, region

from rewriter import worlds
from rewriter.editing import link
from rewriter.editing.edit import Edit, Region, load_edits
from rewriter.editing.region import Place
from rewriter.errors import InputError

EVERYTHING = replace(
    FULL,
    **{"form": "gated", "gate": (0.25, 0.5), "budget": 1.5},
    **{"found": (Place(3, 1.25, 2.5), Place(2, 0.01, 60.0, "person")), "unlike": (Place(9, -4.0, 7.77),)},
)
PLACE = [1, 2, 2, 0, 0, 2, 2]
FIRST = "1w2YlPJjgZhsBoQEQAunY2liu_wwMDQBJc6DT"
DOT = b"\xff\0\0\x80"


def signed(words, cells=b"", *, first=link.FORMAT):
    """A link of any JSON and bytes, whole and undamaged."""
    plain = words if isinstance(words, bytes) else json.dumps(words).encode()
    whole = plain + b"\n" + cells
    press = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=link.COMMON)
    packed = press.compress(whole) + press.flush() + zlib.crc32(whole).to_bytes(4)
    return first + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def payload(text):
    """What a link packs."""
    packed = base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4))
    return zlib.decompressobj(-15, zdict=link.COMMON).decompress(packed)


def same(edits, others):
    return [edit.to_json() for edit in edits] == [edit.to_json() for edit in others]


masks = st.builds(
    lambda shape, values: (torch.tensor(values).float()[torch.arange(shape[0] * shape[1]) % len(values)] / 255).view(
        *shape
    ),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.lists(st.integers(0, 255), min_size=1, max_size=300).map(lambda values: [1, *values]),
)
regions = st.builds(Region, st.integers(0, 99_999), masks)
places = st.builds(
    Place,
    st.integers(0, 9999),
    st.integers(-9999, 9999).map(lambda n: n / 100),
    st.integers(-9999, 9999).map(lambda n: n / 100),
    st.sampled_from(["machine", "person"]),
)
edits = st.builds(
    Edit,
    st.sampled_from(["townscape", "", "ada/spires"]),
    st.sampled_from(["layer8", "layer6"]),
    kind=st.sampled_from(["replace", "erase", "zero"]),
    title=st.text(max_size=20).map(lambda text: "".join(filter(str.isprintable, text))),
    truncation=st.floats(0, 2),
    copy=st.none() | regions,
    paste=st.none() | regions,
    context=st.lists(regions, max_size=3).map(tuple),
    keep=st.lists(regions, max_size=2).map(tuple),
    rank=st.integers(1, 512),
    smoothness=st.none() | st.floats(0, 1e6),
    strength=st.floats(-1, 2),
    spread=st.booleans(),
    found=st.lists(places, max_size=4).map(tuple),
    form=st.sampled_from(["weight", "gated", "template", "auto"]),
)


@given(st.lists(edits, min_size=1, max_size=3))
def test_edits_come_back_from_a_link_to_the_bit(given_edits):
    text = link.encode(given_edits)
    again = link.decode(text)
    assert re.fullmatch(r"1[\w-]+", text, re.ASCII) and link.encode(again) == text
    assert same(again, given_edits)
    for one, other in zip(again, given_edits, strict=True):
        assert one.digest == other.digest
        assert all(torch.equal(a.mask, b.mask) for a, b in zip(one.regions, other.regions, strict=True))


@pytest.mark.parametrize("edit", [FULL, PLAIN, EVERYTHING, Edit("g", "l", kind="erase", paste=region(3))])
def test_every_field_travels(edit):
    again = link.decode(link.encode([edit]))[0]
    assert again.to_json() == edit.to_json() and again.digest == edit.digest


@pytest.mark.parametrize("name", worlds.examples("townscape"))
def test_a_shipped_edit_makes_a_short_link(name):
    path = worlds.examples("townscape")[name]
    shipped = load_edits(path)
    text = link.encode(shipped)
    assert same(link.decode(text), shipped) and len(text) < min(link.MOST / 3, path.stat().st_size / 3)


def test_links_of_this_format_never_change_their_meaning():
    """Written by the first version with links: the defaults of an edit, or the order of its fields, may change."""
    assert link.decode(FIRST)[0].to_json() == Edit("townscape", "layer8", copy=Region(1, dot()), rank=2).to_json()


def dot():
    return torch.tensor([[1, 0], [0, 128 / 255]])


# --- damage ---


def refused(text):
    """The message of the one error that a bad link raises."""
    with pytest.raises(InputError) as caught:
        link.decode(text)
    return str(caught.value)


def test_every_character_changed_or_missing_is_refused_or_harmless():
    text = link.encode([EVERYTHING])
    for at in range(len(text)):
        for other in ("A", "z", "_", "%", "é", ""):
            changed = text[:at] + other + text[at + 1 :]
            try:
                assert same(link.decode(changed), [EVERYTHING])  # the last bits of base64 may mean nothing
            except InputError as error:
                assert "ask whoever sent it" in str(error)
    for at in range(len(text)):
        assert "ask whoever sent it" in refused(text[:at])


def test_every_byte_changed_under_a_right_check_sum_is_refused_or_a_valid_edit():
    whole = payload(link.encode([EVERYTHING]))
    for at in range(len(whole)):
        for bit in (1, 8, 128):
            changed = whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
            words, _, cells = changed.partition(b"\n")
            try:
                again = link.decode(signed(words, cells))
                assert same([Edit.from_json(edit.to_json()) for edit in again], again)
            except InputError:
                pass


@pytest.mark.parametrize(
    ("words", "cells", "said"),
    [
        ([{"layer": "l", "colour": 1}], b"", "unknown field 'colour'"),
        ([{"layer": "l", "version": 1}], b"", "unknown field 'version'"),
        ([{}], b"", "lacks layer"),
        ([{"layer": "l", "rank": "2"}], b"", "rank is '2'"),
        ([{"layer": "l", "rank": 0}], b"", "edit 1 of 1: rank is 0"),
        ([{"layer": "l", "truncation": float("nan")}], b"", "truncation is nan"),
        ([{"layer": "l", "copy": 3}], b"", "copy is 3"),
        ([{"layer": "l", "copy": {"seed": 1, "mask": "x"}}], b"", "seven whole numbers"),
        ([{"layer": "l", "copy": None}], b"", "copy is None"),
        ([{"layer": "l", "copy": PLACE[:6]}], DOT, "seven whole numbers"),
        ([{"layer": "l", "copy": [1, 2, 2, 0, 0, 3, 2]}], DOT * 2, "copy is 3"),
        ([{"layer": "l", "copy": [1, 2, 2, 2, 0, 1, 1]}], DOT, "copy is 2"),
        ([{"layer": "l", "copy": [1, 2.0, 2, 0, 0, 2, 2]}], DOT, "copy is 2.0"),
        ([{"layer": "l", "copy": [True, *PLACE[1:]]}], DOT, "copy is True"),
        ([{"layer": "l", "copy": [-1, *PLACE[1:]]}], DOT, "copy is -1"),
        ([{"layer": "l", "copy": PLACE}], DOT[:3], "lacks 1 of the 4 bytes"),
        ([{"layer": "l", "copy": PLACE}], DOT + b"x", "1 bytes too many"),
        ([{"layer": "l", "copy": PLACE}], bytes(4), "the mask is empty"),
        ([{"layer": "l", "context": [PLACE] * 101}], DOT * 101, "at most 100"),
        ([{"layer": "l", "context": [PLACE, 7]}], DOT, "context 2 is 7"),
        ([{"layer": "l", "found": [[1], [2.0], [3.0]]}], b"", "four lists"),
        ([{"layer": "l", "found": [[1], [2.0], [3.0], "x"]}], b"", "four lists"),
        ([{"layer": "l", "found": [[1], [2.0], [3.0], []]}], b"", "equal length"),
        ([{"layer": "l", "found": [[1], [2.0], [3.0], ["cat"]]}], b"", "found 1 is 'cat'"),
        ([], b"", "1 to 64 edits, not 0"),
        ([{"layer": "l"}] * 65, b"", "1 to 64 edits, not 65"),
        ({"layer": "l"}, b"", "no list of edits"),
        ([[]], b"", "no list of edits"),
        (b"[" * 100_000, b"", "no JSON"),
        (b'[{"layer":"\xff"}]', b"", "no JSON"),
        (b"", b"", "no JSON"),
        (b'[{"layer":"l","rank":' + b"9" * 5000 + b"}]", b"", "no JSON"),
        ([{"layer": "l", "title": "a\nb"}], b"", "title is"),
    ],
)
def test_what_a_file_may_not_hold_a_link_may_not_hold_either(words, cells, said):
    message = refused(signed(words, cells))
    assert said in message and message.startswith("this link holds no edit that can be opened: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("1", "damaged"),
        ("1AAAA", "damaged"),
        ("2AAAA", "another version (2, not 1): update"),
        ("1 AA", "characters that no link has"),
        ("1AA=", "characters that no link has"),
        ("1" * (link.LONGEST + 1), "at most 64,000 characters"),
        (None, "no text"),
        (b"1AAAA", "no text"),
    ],
)
def test_what_is_no_link_is_refused(text, said):
    assert said in refused(text)


def test_more_after_the_end_of_a_link_is_refused():
    text = link.encode([FULL])
    packed = base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4))
    assert "damaged" in refused("1" + base64.urlsafe_b64encode(packed[:-4] + b"more" + packed[-4:]).decode().strip("="))


def test_a_bomb_is_refused_before_it_fills_the_memory(monkeypatch):
    many = signed([{"layer": "l", "context": [[1, 2048, 2048, 0, 0, 1, 1]] * 5}], b"\xff" * 5)
    zeros, words = signed([], bytes(40 << 20)), signed(b" " * (2 << 20))
    assert max(map(len, (many, zeros, words))) <= link.LONGEST
    tracemalloc.start()
    for text, said in ((many, "at most 16,777,216"), (zeros, "far too large"), (words, "no JSON")):
        assert said in refused(text)
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()
    with pytest.raises(InputError, match="save the edits as a file"):
        link.encode([Edit("g", "l", context=(Region(1, torch.ones(2048, 2048)),) * 5)])


def test_what_makes_no_link_is_refused_with_another_way():
    with pytest.raises(InputError, match="1 to 64 edits, not 0"):
        link.encode([])
    noise = torch.rand(300, 300, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"at most 64,000 characters, not \d+,\d+: save the edits as a file"):
        link.encode([Edit("g", "l", copy=Region(1, noise))])
