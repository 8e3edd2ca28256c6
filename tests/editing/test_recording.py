"""Recordings of the original implementation: read as edits, refused by field where they are wrong, and executed."""

import base64
import io
import json
import math

import numpy as np
import pytest
import torch
from conftest import DATA
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rewriter import Edit, Rewriter, masks, replay
from rewriter.editing import recording
from rewriter.editing.edit import read_recording
from rewriter.editing.recipe import Recipe
from rewriter.errors import InputError
from rewriter.generators.latents import SEEDS


def url(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return masks.PREFIX + base64.b64encode(buffer.getvalue()).decode()


def brush(row, column, radius, *, side=256):
    """A white stroke with a soft rim on a transparent ground, as a browser's canvas gives it."""
    alpha = (masks.disc(side, row, column, radius) * 255).round().byte().numpy()
    white = np.where(alpha > 0, 255, 0).astype(np.uint8)
    return url(Image.fromarray(np.stack([white] * 3 + [alpha], -1), "RGBA"))


OBJECT, PASTE = [7, brush(0.5, 0.5, 0.3)], [1, brush(0.6, 0.5, 0.3)]
KEY = [[1, brush(0.6, 0.5, 0.3)], [5, brush(0.5, 0.5, 0.3)], [9, brush(0.5, 0.6, 0.3)]]
FULL = {"object": OBJECT, "paste": PASTE, "key": KEY, "query": [3, brush(0.5, 0.5, 0.2)]}
COPY, ONTO, CONTEXT = "copy a thing", "paste it onto", "mark the context"
FEW = Recipe(100, 16)


def some(*names):
    return {name: FULL[name] for name in names}


def saved(data, folder, name="spire_to_dome.json"):
    (folder / name).write_text(json.dumps(data, indent=1))
    return folder / name


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (("key", "object", "paste", "query"), []),
        (("key", "object", "paste"), []),
        (("object", "paste", "query"), []),
        (("object", "paste"), []),
        (("key", "paste"), [COPY]),
        (("paste",), [COPY]),
        (("key", "object"), [ONTO]),
        (("object", "query"), [ONTO, CONTEXT]),
        (("key", "query"), [COPY, ONTO]),
        (("key",), [COPY, ONTO]),
    ],
)
def test_every_form_of_recording_is_an_edit_that_names_what_is_missing(names, missing, tmp_path):
    edit = Edit.load(saved(some(*names), tmp_path))
    assert all(said.startswith(step) for said, step in zip(edit.missing(), missing, strict=True))
    assert [region and region.seed for region in (edit.copy, edit.paste)] == [
        seed if name in names else None for name, seed in (("object", 7), ("paste", 1))
    ]
    assert [region.seed for region in edit.context] == ([1, 5, 9] if "key" in names else [])


def test_what_a_recording_does_not_say_has_its_default(run, tmp_path):
    edit = Edit.load(saved(FULL, tmp_path))
    assert (edit.generator, edit.fingerprint, edit.layer, edit.title) == ("", "", "layer8", "spire_to_dome")
    assert edit.to_json() == {
        **Edit("", "layer8", title="spire_to_dome").to_json(),
        **{name: edit.to_json()[name] for name in ("copy", "paste", "context")},
    }
    assert read_recording(FULL).title == "" and read_recording(FULL, layer="layer6", title="t").layer == "layer6"
    assert read_recording({**FULL, "key": []}).to_json() == read_recording(some("object", "paste")).to_json()
    assert "at layer8 of any generator" in run("inspect", tmp_path / "spire_to_dome.json")[1]
    edit.save(tmp_path / "ours.json")
    assert Edit.load(tmp_path / "ours.json").to_json() == edit.to_json()


def test_a_recording_without_a_copy_can_be_made_an_erasure():
    edit = read_recording(some("key", "paste"))
    assert "erase instead" in edit.missing()[0]
    assert edit.kind == "replace" and edit.with_(kind="erase").missing() == []
    assert not any("erase" in step for step in read_recording(some("key")).missing())


@pytest.mark.parametrize("side", [1, 7, 256])
def test_every_pixel_that_is_not_fully_transparent_is_painted(side):
    alpha = (torch.rand(side, 2 * side, generator=torch.Generator().manual_seed(side)) * 3).byte().numpy()
    alpha[0, 0] = 1
    pixels = np.stack([np.zeros_like(alpha)] * 3 + [alpha], -1)
    mask = read_recording({"paste": [0, url(Image.fromarray(pixels, "RGBA"))]}).paste.mask
    assert torch.equal(mask, torch.from_numpy(alpha > 0).float())


@pytest.mark.parametrize("stem", ["x" * 240, "bell\x07 and\nline"])
def test_the_title_is_the_printable_part_of_the_file_name(stem, tmp_path):
    title = Edit.load(saved(FULL, tmp_path, f"{stem}.json")).title
    assert title == "x" * 200 or title == "bell andline"


OPAQUE = url(Image.new("RGB", (4, 4), "white"))
EMPTY = url(Image.new("RGBA", (4, 4)))
HUGE = url(Image.new("LA", (masks.MAX_SIDE + 1, 1), (0, 255)))
GOOD = brush(0.5, 0.5, 0.3, side=8)
DEEP = "x"
for _ in range(5000):
    DEEP = [DEEP]
PLACES = {
    "image number, mask": [None, 3, "7,x", {}, {"seed": 7, "mask": GOOD}, [], [7], [7, GOOD, 1], DEEP],
    "the image number": [
        [seed, GOOD] for seed in (DEEP, [7, GOOD], -1, SEEDS, 10**400, 7.0, math.nan, "7", True, None)
    ],
    "data URL": [[7, mask] for mask in (None, DEEP, "x", GOOD.replace("png", "jpeg"))],
    "not a readable PNG": [[7, mask] for mask in (masks.PREFIX, GOOD[:-30], url(Image.new("RGB", (4, 4)), "JPEG"))],
    "no alpha": [[7, OPAQUE]],
    "empty": [[7, EMPTY]],
    "2049 × 1": [[7, HUGE]],
}


@pytest.mark.parametrize("name", ["object", "paste", "key"])
@pytest.mark.parametrize(("words", "value"), [(words, each) for words, values in PLACES.items() for each in values])
def test_a_wrong_place_of_a_recording_is_refused_by_name(name, value, words):
    said = f"key 2.*{words}" if name == "key" else f"{name}.*{words}"
    with pytest.raises(InputError, match=said) as caught:
        read_recording({**FULL, name: [KEY[0], value] if name == "key" else value})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [None, 3, "x", {}, [[1, GOOD]] * 201, [KEY], [1, GOOD], DEEP])
def test_a_wrong_list_of_contexts_is_refused(value):
    with pytest.raises(InputError, match="key"):
        read_recording({**FULL, "key": value})


def test_masks_of_a_recording_that_would_fill_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr(recording, "MAX_CELLS", 4 << 10)
    large = [1, url(Image.new("LA", (32, 32), (255, 255)))]
    assert len(read_recording({"paste": large, "key": [large] * 3}).context) == 3
    with pytest.raises(InputError, match="key 4.*million cells"):
        read_recording({"paste": large, "key": [large] * 4})


@pytest.mark.parametrize("data", [None, 3, "object", [], [OBJECT], [FULL]])
def test_only_an_object_is_a_recording(data):
    assert not recording.is_recording(data)
    with pytest.raises(InputError, match="JSON object"):
        read_recording(data)


def test_recordings_of_nothing_and_unknown_fields_are_refused(tmp_path):
    for nothing in ({}, some("query")):
        assert not recording.is_recording(nothing)
        with pytest.raises(InputError, match="points at nothing"):
            read_recording(nothing)
    for name in ("layers", "x" * 100_000, "\ud800", "\x1b[2J"):
        with pytest.raises(InputError, match="unknown field") as caught:
            Edit.load(saved({**FULL, name: 1}, tmp_path, "strange.json"))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 200 + len(str(tmp_path))


def test_files_of_unit_interventions_are_recognised_and_load_as_swaps(tmp_path):
    data = {str(n): {"value": "-5.0", "intervention": GOOD, "revert": GOOD} for n in (14, 21, 126)}
    edit = Edit.load(saved(data, tmp_path, "windows.json"))
    assert (edit.kind, len(edit.context), len(edit.strokes)) == ("swap", 3, 6)
    with pytest.raises(InputError, match=r"windows\.json.*picture 21: .* lacks revert"):
        Edit.load(saved({**data, "21": {"value": "-5.0", "intervention": GOOD}}, tmp_path, "windows.json"))


def test_our_own_edits_are_never_taken_for_recordings():
    ours = read_recording(FULL).to_json()
    assert not recording.is_recording(ours)
    for lacking in ours:
        assert not recording.is_recording({name: value for name, value in ours.items() if name != lacking})


TEXT = st.text("ax\n\x07é\ud800😀", max_size=9)  # all of Unicode takes a second to prepare
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from([GOOD, EMPTY, OPAQUE, HUGE]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
PLACE = st.tuples(st.integers(-1, SEEDS) | JUNK, st.just(GOOD) | JUNK).map(list) | JUNK


@given(
    st.fixed_dictionaries({}, optional={name: PLACE for name in ("object", "paste", "query")})
    | st.fixed_dictionaries({}, optional={"object": PLACE, "key": st.lists(PLACE, max_size=5) | JUNK, "x": JUNK})
    | st.dictionaries(TEXT, JUNK, max_size=4)
    | JUNK
)
def test_arbitrary_json_gives_an_edit_or_an_input_error(data):
    try:
        edit = read_recording(data)
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 400
    else:
        assert Edit.from_json(edit.to_json()).to_json() == edit.to_json()


@given(st.integers(0, 10_000), st.binary(max_size=40))
def test_a_damaged_file_gives_an_edit_or_an_input_error(tmp_path_factory, at, junk):
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    whole = json.dumps(FULL).encode()
    path.write_bytes(whole[: at % len(whole)] + junk + whole[at % len(whole) + len(junk) :])
    try:
        assert Edit.load(path).title == "damaged"
    except InputError as error:
        assert "damaged.json" in str(error)


@pytest.mark.parametrize("made", ["stylegan", "proggan"])
@pytest.mark.parametrize("names", [("object", "paste", "key"), ("object", "paste", "query")])
def test_a_recording_becomes_a_rule_on_either_kind_of_generator(made, names, request, tmp_path):
    generator = request.getfixturevalue(made)
    edit = Edit.load(saved(some(*names), tmp_path)).with_(layer="layer4", statistics=FEW)
    rule = replay(generator, edit)
    assert rule.layer == "layer4" and rule.fingerprint == generator.fingerprint
    assert 0 < rule.effect.goal_error_removed <= 1 and rule.effect.pictures > 0
    again = rule.edit
    assert (again.generator, again.fingerprint) == (generator.name, generator.fingerprint)
    assert torch.equal(replay(generator, again).delta, rule.delta)


def test_a_recording_that_pastes_where_it_copied_is_measured_at_its_contexts_or_refused(stylegan, tmp_path):
    same = {**FULL, "paste": FULL["object"]}  # one of the original's recordings is like this
    edit = Edit.load(saved(same, tmp_path)).with_(layer="layer4", statistics=FEW)
    assert 0 < replay(stylegan, edit).effect.goal_error_removed <= 1
    with pytest.raises(InputError, match="already there.*erase it instead"):
        replay(stylegan, edit.with_(context=[]))


def test_the_command_applies_a_recording_to_the_generator_named(run, tmp_path):
    path, out = saved(FULL, tmp_path), tmp_path / "sheet.png"
    options = ["--generator", DATA / "nvidia_stylegan2_16px_plain.pt", "--layer", "layer4", "--out", out, "--json"]
    status, report, _ = run("apply", path, *options)
    assert status == 0 and out.exists()
    assert json.loads(report)["layer"] == "layer4" and 0 < json.loads(report)["goal_error_removed"] <= 1


def test_a_recording_can_be_executed_as_an_erasure_or_completed_in_a_session(stylegan):
    erasure = read_recording(some("key", "paste"), layer="layer4").with_(kind="erase", statistics=FEW)
    assert replay(stylegan, erasure.with_(units=8)).effect.goal_error_removed > 0
    with pytest.raises(InputError, match="incomplete: copy a thing from a picture, or erase instead"):
        replay(stylegan, erasure.with_(kind="replace"))
    session = Rewriter(stylegan, "layer4")
    session.use(read_recording(some("key"), layer="layer4"))
    session.copy(7, torch.ones(4, 4))
    session.paste(1, torch.ones(4, 4))
    assert session.execute().effect is not None
