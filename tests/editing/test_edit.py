"""Edits as JSON: exact, checked field by field, and clear about what is missing."""

import json
import math
import re

import pytest
import torch
from conftest import square

from rewriter import masks
from rewriter.editing.edit import Edit, Region, load_edits, save_edits
from rewriter.editing.recipe import Recipe
from rewriter.editing.stroke import Stroke
from rewriter.errors import InputError


def region(seed, *, side=12):
    return Region(seed, (square(2, 3, 3 + seed % 8, 9, side) * 51 / 255).maximum(square(2, 3, 3, 4, side)))


FULL = Edit(
    "townscape",
    "layer8",
    fingerprint="ab" * 32,
    title="Kuppel → Spitze",
    truncation=0.7,
    after=("cd", "ef"),
    copy=region(1),
    paste=region(2),
    context=(region(2), region(99_999)),
    keep=(region(4, side=5),),
    rank=3,
    smoothness=0.1,
    strength=1.5,
    method="projected",
    steps=40,
    directions="svd",
    spread=False,
    units=7,
    statistics=Recipe(300, 12, 5),
)
PLAIN = Edit("townscape", "layer8")
WHOLE = FULL.to_json()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "edit.json"


@pytest.mark.parametrize("edit", [FULL, PLAIN, Edit("g", "l", kind="erase", paste=region(3))])
def test_an_edit_is_read_back_to_the_bit(edit, path):
    edit.save(path)
    assert f'\n "layer": "{edit.layer}"' in path.read_text()  # a line for each field, for people
    for again in (Edit.from_json(edit.to_json()), Edit.load(path)):
        assert again.to_json() == edit.to_json() and again.digest == edit.digest
        for a, b in zip(again.regions, edit.regions, strict=True):
            assert a.seed == b.seed and torch.equal(a.mask, b.mask)
        others = set(Edit.__dataclass_fields__) - {"copy", "paste", "context", "keep"}
        assert all(getattr(again, name) == getattr(edit, name) for name in others)
    assert json.loads(json.dumps(edit.to_json(), allow_nan=False)) == edit.to_json()


def test_fields_left_out_have_their_defaults():
    assert Edit.from_json({"version": 1, "generator": "townscape", "layer": "layer8"}).to_json() == PLAIN.to_json()
    optional = dict.fromkeys(("smoothness", "statistics", "copy", "paste", "units"))
    edit = Edit.from_json({**WHOLE, **optional})
    assert {name: getattr(edit, name) for name in optional} == optional


def test_the_digest_depends_on_all_that_determines_the_rule_and_on_nothing_else():
    assert FULL.with_(title="another", strength=0.5, generator="renamed").digest == FULL.digest
    finer = Region(1, region(1).mask + 0.001 * (region(1).mask < 1))  # masks count in steps of 1/255
    assert FULL.with_(copy=finer).digest == FULL.digest
    changes = {
        **{"layer": "layer6", "fingerprint": "cd" * 32, "kind": "erase", "truncation": 1, "after": ["cd"], "rank": 2},
        **{"copy": region(3), "paste": None, "context": [region(2)], "keep": [], "smoothness": None, "steps": None},
        **{"method": "direct", "directions": "zca", "spread": True, "units": 8, "statistics": Recipe(300, 12, 6)},
        **{"form": "gated", "found": [[4, 1.5, 2.25, "machine"]], "unlike": [[4, 1.5, 2.25, "person"]]},
        **{"budget": 1.0, "gate": [0.2, 0.4], "strokes": [Stroke("layer4", (3,), (0.5,), region(4))]},
    }
    assert {*changes, "title", "strength", "generator"} == set(Edit.__dataclass_fields__)
    digests = {FULL.with_(**{name: value}).digest for name, value in changes.items()}
    assert len(digests) == len(changes) and FULL.digest not in digests
    others = [((4,), (0.5,), region(4)), ((3,), (0.6,), region(4)), ((3,), (0.5,), region(5)), ((3,), (0.5,), None)]
    digests |= {FULL.with_(strokes=[Stroke("layer4", *other)]).digest for other in others}
    digests |= {FULL.with_(strokes=[Stroke("layer5", (3,), (0.5,), region(4))]).digest}
    assert len(digests) == len(changes) + len(others) + 1


TOO_LONG = "x" * 201
WRONG = [
    ("generator", [None, 3, TOO_LONG, "two\nlines", ["townscape"]]),
    ("layer", [None, 8, "x" * 41, "a\x00b"]),
    ("fingerprint", [None, 5, "x" * 65]),
    ("kind", [None, "zeros", 3, ["erase"], {}]),
    ("title", [None, 3, TOO_LONG, "bell\x07", "\ud800"]),
    ("truncation", [None, -0.1, 2.1, "1", True, math.nan, math.inf, 10**400, [1]]),
    ("after", [None, "cd", [3], ["x" * 65], ["a"] * 65, {}]),
    ("rank", [None, 0, -1, 513, 1.0, "1", True, math.nan, 10**400]),
    ("smoothness", [-1, 1e7, "1", True, math.nan, math.inf]),
    ("strength", [None, -1.1, 2.1, "1", False, math.nan]),
    ("method", [None, "newton", 3, []]),
    ("steps", [0, -1, 1.5, "9", True, 10**9]),
    ("directions", [None, "pca", {}]),
    ("spread", [None, 1, "true"]),
    ("units", [0, 513, 1.5, True, "30"]),
    ("statistics", [3, {}, [], {"pictures": 3}, {"pictures": 3, "places": 1, "first_seed": 0, "more": 1}]),
    ("context", [None, {}, "x", [3], [{"seed": 1}], [WHOLE["copy"]] * 1001]),
    ("keep", [None, [{"seed": 1, "mask": "x"}]]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG for value in values])
def test_a_wrong_field_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        Edit.from_json({**WHOLE, name: value})
    with pytest.raises(InputError, match=name):
        FULL.with_(**{name: value})


GOOD = WHOLE["copy"]


WRONG_PLACES = [3, "x", [], {}, {"seed": 1}, {**GOOD, "extra": 1}]
WRONG_PLACES += [{**GOOD, "seed": seed} for seed in (-1, 100_000, 1.0, "1", True)]
WRONG_PLACES += [{**GOOD, "mask": mask} for mask in (None, "data:,", GOOD["mask"][:-30], masks.PREFIX)]


@pytest.mark.parametrize("name", ["copy", "paste", "context", "keep"])
@pytest.mark.parametrize("value", WRONG_PLACES)
def test_a_wrong_place_is_refused_by_name_and_number(name, value):
    several = name in ("context", "keep")
    with pytest.raises(InputError, match=f"{name} 2" if several else name):
        Edit.from_json({**WHOLE, name: [GOOD, value] if several else value})


@pytest.mark.parametrize("recipe", [(0, 1, 0), (3, 0, 0), (60_000, 1, 0), (3, 1, -1), ("3", 1, 0)])
def test_statistics_out_of_range_are_refused(recipe):
    value = dict(zip(("pictures", "places", "first_seed"), recipe, strict=True))
    with pytest.raises(InputError, match=r"pictures|places|first_seed"):
        Edit.from_json({**WHOLE, "statistics": value})


def test_masks_that_together_would_fill_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr("rewriter.editing.region.MAX_CELLS", 3 * 12**2)
    assert Edit.from_json({**WHOLE, "context": [GOOD] * 3})
    with pytest.raises(InputError, match="context 4.*together have at most"):
        Edit.from_json({**WHOLE, "context": [GOOD] * 4})


def test_unknown_and_missing_fields_and_versions_are_named():
    for data in (None, 3, "edit", [], [1]):
        with pytest.raises(InputError, match="JSON object"):
            Edit.from_json(data)
    with pytest.raises(InputError, match="'colour', 'shape'"):
        Edit.from_json({**WHOLE, "shape": 1, "colour": 2})
    for name in ("generator", "layer"):
        with pytest.raises(InputError, match=f"lacks {name}"):
            Edit.from_json({key: value for key, value in WHOLE.items() if key != name})
    for version in (None, 0, 2, "1", [1], True, 1.0):
        with pytest.raises(InputError, match=f"version {re.escape(repr(version))} is not 1"):
            Edit.from_json({**WHOLE, "version": version})
    with pytest.raises(InputError, match="version None"):
        Edit.from_json({})


def test_a_long_value_is_shown_in_part():
    for wrong in ({"title": "x" * 10_000}, {"y" * 10_000: 1}):
        with pytest.raises(InputError) as caught:
            Edit.from_json({**WHOLE, **wrong})
        assert len(str(caught.value)) < 200


def test_a_damaged_file_is_refused_with_its_name(path):
    FULL.save(path)
    whole = path.read_bytes()
    damages = [whole[: len(whole) * i // 17] for i in range(17)]
    damages += [b"[" * 50_000, b'{"version":' * 20_000, b'{"version": 1' + b"0" * 9_000 + b"}", b"\x80abc", b"NaN"]
    damages += [whole.replace(b'"rank": 3', b'"rank": NaN'), whole.replace(b'"rank": 3', b'"rank": 1e999')]
    damages += [whole.replace(b'"title": ', b'"title": ' + b"[" * 500 + b"]" * 500 + b', "x": ')]
    for damage in damages:
        path.write_bytes(damage)
        with pytest.raises(InputError, match=r"edit\.json"):
            Edit.load(path)


def test_a_missing_file_is_refused_and_a_failed_save_leaves_the_old_file(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        Edit.load(tmp_path / "nowhere.json")
    (tmp_path / "file").write_text("old")
    with pytest.raises(InputError, match="cannot write"):
        FULL.save(tmp_path / "file" / "edit.json")
    assert (tmp_path / "file").read_text() == "old"


def test_one_edit_is_saved_as_an_object_and_several_as_an_array(path):
    one, two = PLAIN.with_(title="one"), PLAIN.with_(title="two")
    save_edits([one, two], path)
    assert [edit.to_json() for edit in load_edits(path)] == [one.to_json(), two.to_json()]
    with pytest.raises(InputError, match="holds 2 edits.*load_edits"):
        Edit.load(path)
    save_edits([one], path)
    saved = path.read_bytes()
    assert Edit.load(path).title == "one" and [edit.title for edit in load_edits(path)] == ["one"]
    one.save(path)
    assert path.read_bytes() == saved


def test_a_file_of_no_edits_is_refused_and_a_bad_one_of_several_is_named(path):
    with pytest.raises(InputError, match="no edits to save"):
        save_edits([], path)
    path.write_text("[]")
    with pytest.raises(InputError, match="holds no edits"):
        load_edits(path)
    save_edits([PLAIN] * 2, path)
    path.write_text(path.read_text().replace('"rank": 1', '"rank": 0', 1))
    with pytest.raises(InputError, match="edit.json: edit 1 of 2: rank is 0"):
        load_edits(path)


COPY, PASTE, CONTEXT, ERASE = "copy a thing", "paste it", "mark the context", "mark the place to erase"


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [COPY, PASTE, CONTEXT]),
        ({"copy": region(1)}, [PASTE, CONTEXT]),
        ({"paste": region(1)}, [COPY]),
        ({"context": (region(1),)}, [COPY, PASTE]),
        ({"copy": region(1), "context": (region(1),)}, [PASTE]),
        ({"copy": region(1), "paste": region(2)}, []),
        ({"kind": "erase"}, [ERASE, CONTEXT]),
        ({"kind": "erase", "context": (region(1),)}, [ERASE]),
        ({"kind": "erase", "paste": region(1)}, []),
        ({"kind": "zero"}, [CONTEXT]),
        ({"kind": "zero", "context": (region(1),)}, []),
    ],
)
def test_an_incomplete_edit_names_the_next_steps_in_order_and_can_be_saved(changes, steps, path):
    edit = PLAIN.with_(**changes)
    missing = edit.missing()
    assert len(missing) == len(steps)
    assert all(said.startswith(step) for said, step in zip(missing, steps, strict=True))
    edit.save(path)
    assert Edit.load(path).missing() == missing
    assert PLAIN.copy is None and PLAIN.kind == "replace"  # `with_` made a copy
