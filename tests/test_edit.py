"""Edits as JSON: exact, checked field by field, and honest about what is missing."""

import json
import math

import pytest
import torch

from rewriter import masks
from rewriter.editing.edit import Edit, Region, load_edits, save_edits
from rewriter.editing.statistics import Recipe
from rewriter.errors import InputError


def region(seed, *, side=12):
    mask = torch.zeros(side, side)
    mask[2 : 3 + seed % 8, 3:9] = 51 / 255
    mask[2, 3] = 1
    return Region(seed, mask)


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


def regions(edit):
    return [r for r in (edit.copy, edit.paste, *edit.context, *edit.keep) if r is not None]


@pytest.mark.parametrize("edit", [FULL, PLAIN, Edit("g", "l", kind="erase", paste=region(3))])
def test_an_edit_comes_back_as_it_was(edit, tmp_path):
    edit.save(tmp_path / "edit.json")
    for again in (Edit.from_json(edit.to_json()), Edit.load(tmp_path / "edit.json")):
        assert again.to_json() == edit.to_json()
        for a, b in zip(regions(again), regions(edit), strict=True):
            assert a.seed == b.seed and torch.equal(a.mask, b.mask)
        others = set(Edit.__dataclass_fields__) - {"copy", "paste", "context", "keep"}
        assert all(getattr(again, name) == getattr(edit, name) for name in others)


def test_an_edit_can_be_read_by_people(tmp_path):
    FULL.save(tmp_path / "edit.json")
    text = (tmp_path / "edit.json").read_text()
    assert '\n "layer": "layer8"' in text and '\n "rank": 3' in text


def test_fields_have_defaults():
    short = Edit.from_json({"version": 1, "generator": "townscape", "layer": "layer8"})
    assert short.to_json() == PLAIN.to_json()


# --- every field is checked ---

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
    ("statistics", [3, {}, [], {"pictures": 3}]),
    ("context", [None, {}, "x", [3], [{"seed": 1}], [FULL.to_json()["copy"]] * 1001]),
    ("keep", [None, [{"seed": 1, "mask": "x"}]]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG for value in values])
def test_a_wrong_field_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        Edit.from_json({**FULL.to_json(), name: value})
    with pytest.raises(InputError, match=name):
        FULL.with_(**{name: value})


GOOD = FULL.to_json()["copy"]


@pytest.mark.parametrize("name", ["copy", "paste", "context", "keep"])
@pytest.mark.parametrize(
    "value",
    [
        3,
        "x",
        [],
        {},
        {"seed": 1},
        {**GOOD, "extra": 1},
        {**GOOD, "seed": -1},
        {**GOOD, "seed": 100_000},
        {**GOOD, "seed": 1.0},
        {**GOOD, "seed": "1"},
        {**GOOD, "seed": True},
        {**GOOD, "mask": None},
        {**GOOD, "mask": "data:,"},
        {**GOOD, "mask": GOOD["mask"][:-30]},
        {**GOOD, "mask": masks.PREFIX},
    ],
)
def test_a_wrong_region_is_refused_by_name(name, value):
    wrong = [GOOD, value] if name in ("context", "keep") else value
    with pytest.raises(InputError, match=f"{name} 2" if name in ("context", "keep") else name):
        Edit.from_json({**FULL.to_json(), name: wrong})


@pytest.mark.parametrize("recipe", [(0, 1, 0), (3, 0, 0), (60_000, 1, 0), (3, 1, -1), ("3", 1, 0)])
def test_statistics_out_of_range_are_refused(recipe):
    value = dict(zip(("pictures", "places", "first_seed"), recipe, strict=True))
    with pytest.raises(InputError, match=r"pictures|places|first_seed"):
        Edit.from_json({**FULL.to_json(), "statistics": value})


def test_none_means_the_default_where_there_is_one():
    optional = dict.fromkeys(("smoothness", "statistics", "copy", "paste", "units"))
    edit = Edit.from_json({**FULL.to_json(), **optional})
    assert {name: getattr(edit, name) for name in optional} == optional


@pytest.mark.parametrize("data", [None, 3, "edit", [], [1]])
def test_only_an_object_is_an_edit(data):
    with pytest.raises(InputError, match="JSON object"):
        Edit.from_json(data)


def test_unknown_and_lacking_fields_and_versions_are_named():
    whole = FULL.to_json()
    with pytest.raises(InputError, match="'colour', 'shape'"):
        Edit.from_json({**whole, "shape": 1, "colour": 2})
    for name in ("generator", "layer"):
        with pytest.raises(InputError, match=f"lacks {name}"):
            Edit.from_json({key: value for key, value in whole.items() if key != name})
    for version in (None, 0, 2, "1", [1]):
        with pytest.raises(InputError, match="version"):
            Edit.from_json({**whole, "version": version})
    with pytest.raises(InputError, match="None"):
        Edit.from_json({})


def test_a_long_value_is_shown_in_part():
    with pytest.raises(InputError) as caught:
        Edit.from_json({**PLAIN.to_json(), "title": "x" * 10_000})
    assert len(str(caught.value)) < 200


# --- files ---


def test_a_damaged_file_is_refused_with_its_name(tmp_path):
    path = tmp_path / "edit.json"
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


def test_a_missing_file_is_refused_and_an_unwritable_place_leaves_the_old_one(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        Edit.load(tmp_path / "nowhere.json")
    (tmp_path / "file").write_text("old")
    with pytest.raises(InputError, match="cannot write"):
        FULL.save(tmp_path / "file" / "edit.json")
    assert (tmp_path / "file").read_text() == "old"


def test_an_edit_is_plain_json():
    assert json.loads(json.dumps(FULL.to_json(), allow_nan=False)) == FULL.to_json()


# --- what is missing ---

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
    ],
)
def test_missing_says_the_next_steps_in_order(changes, steps):
    missing = PLAIN.with_(**changes).missing()
    assert len(missing) == len(steps)
    assert all(said.startswith(step) for said, step in zip(missing, steps, strict=True))


def test_an_incomplete_edit_is_an_edit_all_the_same(tmp_path):
    PLAIN.with_(context=(region(1),)).save(tmp_path / "edit.json")
    assert Edit.load(tmp_path / "edit.json").missing()


def test_with_changes_a_copy():
    assert FULL.with_(rank=2).rank == 2 and FULL.rank == 3


# --- several edits in one file ---


def test_one_edit_is_saved_as_an_object_and_several_as_an_array(tmp_path):
    one, two = Edit("town", "layer8", title="one"), Edit("town", "layer6", title="two")
    save_edits([one], tmp_path / "one.json")
    save_edits([one, two], tmp_path / "two.json")
    assert Edit.load(tmp_path / "one.json").title == "one"
    assert [edit.title for edit in load_edits(tmp_path / "one.json")] == ["one"]
    assert [edit.to_json() for edit in load_edits(tmp_path / "two.json")] == [one.to_json(), two.to_json()]


def test_a_single_edit_is_written_as_edit_save_writes_it(tmp_path):
    edit = Edit("town", "layer8")
    edit.save(tmp_path / "a.json")
    save_edits([edit], tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_no_edits_are_refused_and_a_bad_one_is_named(tmp_path):
    with pytest.raises(InputError, match="no edits to save"):
        save_edits([], tmp_path / "none.json")
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(InputError, match="holds no edits"):
        load_edits(tmp_path / "none.json")
    save_edits([Edit("town", "layer8")] * 2, tmp_path / "two.json")
    (tmp_path / "bad.json").write_text((tmp_path / "two.json").read_text().replace('"rank": 1', '"rank": 0', 1))
    with pytest.raises(InputError, match="bad.json: edit 1 of 2: rank is 0"):
        load_edits(tmp_path / "bad.json")
