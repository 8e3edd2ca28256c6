"""Swaps: edits that invert what units of an earlier layer cause, and the recording that holds one."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import DATA, square
from hypothesis import given
from hypothesis import strategies as st

from rewriter import Edit, Rewriter, masks, replay
from rewriter.editing import choose, link, recording
from rewriter.editing.edit import AUTO, read_recording
from rewriter.editing.effect import advice, effect_in_words, measure, suggestion
from rewriter.editing.execute import prepare
from rewriter.editing.history import History
from rewriter.editing.likeness import Likeness
from rewriter.editing.recipe import Recipe
from rewriter.editing.region import Region
from rewriter.editing.stroke import Stroke, with_units
from rewriter.errors import InputError
from rewriter.generators.layer import Features
from rewriter.memory.directions import separating
from rewriter.memory.goal import Goal, swap
from rewriter.memory.second_moment import SecondMoment
from rewriter.memory.solve import solve
from rewriter.units import agreement
from rewriter.units.dissect import scene_labels
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.world import WORLD

FEW = Recipe(100, 16)
CAUSE, EFFECT = masks.encode(square(2, 2, 10, 10)), masks.encode(square(8, 4, 14, 12))
PICTURE = {"value": "-5.0", "intervention": CAUSE, "revert": EFFECT}
RECORDED = {"14": PICTURE, "126": {**PICTURE, "value": "10.0"}, "7": PICTURE}
UNITS = (0, 1, 2)


def saved(data, folder, name="windows.json"):
    (folder / name).write_text(json.dumps(data))
    return folder / name


def with_chosen(generator, edit, units=UNITS, **changes):
    return edit.with_(strokes=with_units(generator, edit.strokes, units, changes.pop("units_layer", None)), **changes)


@pytest.fixture
def complete(proggan):
    """The recording with units chosen, on `proggan`."""
    return with_chosen(proggan, read_recording(RECORDED), layer="layer5", statistics=FEW)


# --- the recording ---


def test_recorded_interventions_become_a_swap_whose_units_are_still_to_be_chosen(tmp_path):
    edit = Edit.load(saved(RECORDED, tmp_path))
    assert (edit.kind, edit.layer, edit.title, edit.form) == ("swap", "layer6", "windows", "weight")
    assert [region.seed for region in edit.context] == [7, 14, 126]
    assert all(torch.equal(region.mask, square(8, 4, 14, 12)) for region in edit.context)
    assert [(each.place.seed, each.levels) for each in edit.strokes] == [
        (seed, (level,)) for seed in (7, 14, 126) for level in (10.0, -5.0)
    ]
    assert all((each.layer, each.units) == ("layer4", ()) for each in edit.strokes)
    assert all(torch.equal(each.place.mask, square(2, 2, 10, 10)) for each in edit.strokes)
    (lacking,) = edit.missing()
    assert "--units 3,17,42" in lacking and "choose_units" in lacking
    assert read_recording(RECORDED, layer="layer8").layer == "layer8"


WRONG = {
    "picture 14.*value.*10.0": [{**PICTURE, "value": value} for value in (None, -5.0, "5.0", "-5", ["-5.0"], "nan")],
    "picture 14, intervention.*data URL": [{**PICTURE, "intervention": mask} for mask in (None, "x", 3, [CAUSE])],
    "picture 14, revert.*not a readable PNG": [{**PICTURE, "revert": EFFECT[:-30]}],
    "picture 14.*an object": [None, 3, "x", [], [PICTURE]],
    "picture 14.*(lacks|missing|needs|revert)": [{"value": "-5.0", "intervention": CAUSE}],
    "picture 14: unknown field 'units'": [{**PICTURE, "units": [3]}],
}


@pytest.mark.parametrize(("words", "value"), [(words, each) for words, values in WRONG.items() for each in values])
def test_a_wrong_field_of_an_intervention_is_refused_by_name(words, value):
    with pytest.raises(InputError, match=words) as caught:
        read_recording({"7": PICTURE, "14": value})
    assert len(str(caught.value)) < 300 and str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["x", "-1", "1.5", "", "٣", "9" * 9, "9" * 5000, "objects"])
def test_a_wrong_image_number_is_refused(name):
    with pytest.raises(InputError, match="image number") as caught:
        read_recording({"7": PICTURE, name: PICTURE})
    assert len(str(caught.value)) < 300


def test_too_many_pictures_and_masks_are_refused(monkeypatch):
    with pytest.raises(InputError, match="picture 7 is in the recording twice"):
        read_recording({"7": PICTURE, "007": PICTURE})
    with pytest.raises(InputError, match="51 pictures; at most 50"):
        read_recording({str(n): PICTURE for n in range(51)})
    monkeypatch.setattr(recording, "MAX_CELLS", 3 << 10)
    assert len(read_recording(RECORDED).strokes) == 6  # six masks of 256 cells
    with pytest.raises(InputError, match=r"picture 4, intervention.*million cells"):
        read_recording({str(n): PICTURE for n in range(1, 5)})


JUNK = st.none() | st.integers() | st.text("ax\n\x07é\ud800", max_size=4) | st.sampled_from([CAUSE, "10.0", [CAUSE]])


@given(
    st.dictionaries(
        st.sampled_from(["7", "8", "007", "x", "object"]),
        JUNK | st.fixed_dictionaries({}, optional={name: JUNK | st.just(PICTURE[name]) for name in PICTURE}),
        max_size=3,
    )
)
def test_arbitrary_interventions_give_an_edit_or_an_input_error(data):
    try:
        edit = read_recording(data)
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 400
    else:
        assert Edit.from_json(edit.to_json()).digest == edit.digest


# --- units and levels ---


@pytest.mark.parametrize("made", ["stylegan", "proggan", "dcgan"])
def test_levels_are_what_the_next_layer_reads(made, request):
    generator = request.getfixturevalue(made)
    high, low = with_chosen(generator, read_recording({"7": PICTURE}), units_layer="layer3").strokes
    gain, shift = (part[list(UNITS)] for part in generator.activation("layer3"))
    read = [torch.tensor(each.levels) * gain + shift for each in (high, low)]
    if made == "proggan":
        read = [torch.nn.functional.leaky_relu(x, 0.2) for x in read]
    expected = (10.0, 0.0 if made == "dcgan" else -5.0)  # a rectifier that lets nothing through shows no negative one
    for x, level in zip(read, expected, strict=True):
        assert torch.allclose(x, torch.full_like(x, level), atol=1e-2)


def test_a_level_reaches_the_next_layer_of_a_progressive_gan(proggan):
    """What enters layer5 is the activation after pixel norm: units at the same level stay equal, and dominate."""
    high, low = with_chosen(proggan, read_recording({"7": PICTURE})).strokes
    whole = Region(7, torch.ones(16, 16))
    for each, sign in ((high, 1), (low, -1)):
        change = Stroke(each.layer, each.units, each.levels, whole).change(proggan.layer("layer4"))
        keys = proggan.keys([7], "layer5", rules=[change]).keys[0]
        assert torch.allclose(keys[0], keys[1], rtol=1e-3) and bool((keys[:3] * sign > 1).all())


def test_units_are_chosen_once_and_must_exist(proggan, complete):
    edit = read_recording(RECORDED)
    moved = with_chosen(proggan, edit, units_layer="layer3")
    assert {each.layer for each in moved.strokes} == {"layer3"} and moved.missing() == []
    for units in ([48], [-1], [1, 1], [], [True], ["3"], [0.5], range(600)):
        with pytest.raises(InputError, match="units|not chosen"):
            with_units(proggan, edit.strokes, units)
    with pytest.raises(InputError, match="no layer 'layer44'"):
        with_units(proggan, edit.strokes, UNITS, "layer44")
    with pytest.raises(InputError, match="no units are left to choose"):
        with_units(proggan, complete.strokes, UNITS)
    with pytest.raises(InputError, match="not chosen yet"):
        edit.strokes[0].change(proggan.layer("layer4"))
    session = Rewriter(proggan)
    with pytest.raises(InputError, match="not chosen yet"):
        session.paint(edit.strokes[0])


# --- what is missing ---


def test_an_edit_says_whether_its_conditions_are_pairs(complete):
    strokes, pairs = complete.strokes, "two levels at one place of each picture"
    assert complete.missing() == []
    other = Region(7, square(0, 0, 3, 3))
    changed = [
        strokes[:-1],
        strokes[2:],
        (strokes[1], *strokes[1:]),
        (*strokes[:2], *strokes[4:], *strokes[2:4]),
        (strokes[0], Stroke("layer4", UNITS, strokes[1].levels, other), *strokes[2:]),
        (strokes[0], Stroke("layer4", (4, 5, 6), strokes[1].levels, strokes[1].place), *strokes[2:]),
        (strokes[0], Stroke("layer4", UNITS, strokes[1].levels), *strokes[2:]),
    ]
    for wrong in changed:
        assert any(pairs in step for step in complete.with_(strokes=wrong).missing())
    assert any(pairs in step for step in complete.with_(context=complete.context[1:]).missing())
    twice = complete.with_(context=complete.context[:1] * 2, strokes=strokes[:2] * 2)
    assert any(pairs in step for step in twice.missing())


def test_what_a_swap_cannot_be_is_refused_before_any_work(proggan, complete):
    for layer in ("layer4", "layer3"):
        with pytest.raises(InputError, match=rf"layer4, whose units are set, is not before {layer}.*later"):
            replay(proggan, complete.with_(layer=layer))
    with pytest.raises(InputError, match="set rank to 1 instead of 2"):
        replay(proggan, complete.with_(rank=2))
    for form in ("gated", "template", "units"):
        with pytest.raises(InputError, match=f"swap cannot have the form {form}"):
            choose.execute(proggan, complete.with_(form=form))
    with pytest.raises(InputError, match="covers .* of a cell"):
        replay(proggan, complete.with_(context=[Region(r.seed, square(0, 0, 1, 1, 256)) for r in complete.context]))
    still = [
        Stroke(each.layer, each.units, tuple(1e-4 * (i % 2) for _ in each.units), each.place)
        for i, each in enumerate(complete.strokes)
    ]
    with pytest.raises(InputError, match="conditions hardly differ"):
        replay(proggan, complete.with_(strokes=still))


# --- the goal ---


def test_goal_has_the_other_conditions_values_inside_the_masks_and_its_own_outside(proggan, complete):
    job = prepare(proggan, complete)
    goal, n = job.goal(), 3
    assert goal.paired and len(goal.values) == 2 * n and job.with_(smoothness=1.0).goal() is goal
    inside, outside = goal.weight == 1, goal.weight == 0
    own, wanted = goal.before.movedim(1, -1), goal.values.movedim(1, -1)
    other = torch.cat([own[n:], own[:n]])
    assert inside.any() and outside.any()
    assert torch.equal(wanted[inside], other[inside]) and torch.equal(wanted[outside], own[outside])
    rim = (goal.weight > 0) & ~inside
    assert not rim.any() or not torch.equal(wanted[rim], own[rim])
    for i, each in enumerate(complete.strokes):  # the very pictures with their units set
        change = each.change(proggan.layer("layer4"))
        features = proggan.keys([each.place.seed], "layer5", rules=[change])
        assert torch.allclose(proggan.values(features, rules=[])[0], goal.before[i // 2 + n * (i % 2)], atol=1e-3)
    first, second = goal.conditions
    assert torch.equal(first.before, goal.before[:n]) and not first.paired
    assert torch.allclose(first.mean_change(), -second.mean_change(), atol=1e-5)
    assert goal.mean_change().abs().max() < 1e-5 < first.mean_change().abs().max()


def test_direction_tells_the_conditions_apart_and_points_to_the_stronger_one(proggan, complete):
    job = prepare(proggan, complete)
    goal, cells = job.goal(), torch.nn.functional.interpolate(job.goal().weight[:, None], 16, mode="area")[:, 0]
    response = torch.einsum("i,nihw->nhw", job.directions.matrix[0], goal.features.keys) * cells
    first, second = (part.sum() / cells[:3].sum() for part in (response[:3], response[3:]))
    strong, weak = max(first, second), min(first, second)
    assert math.isclose(job.directions.level, float(strong), rel_tol=1e-3)
    assert strong > 0 and abs(strong) >= abs(weak) and abs(strong - weak) > 0.1
    turned = swap(goal.features[3:], goal.features[:3], (goal.before[3:], goal.before[:3]), goal.weight[:3])
    same = separating(turned, job.moment)
    assert torch.allclose(same.matrix, job.directions.matrix, atol=1e-5)
    assert math.isclose(same.level, job.directions.level, rel_tol=1e-5)


def test_a_linear_layer_whose_keys_differ_along_one_direction_swaps_exactly(proggan):
    """d·k is 1 in one condition and −1 in the other: Λ = v₂ − v₁ does it."""
    keys = torch.zeros(2, 32, 16, 16)
    keys[0, 0], keys[1, 0] = 1.0, -1.0
    features = [Features("layer7", torch.nn.functional.interpolate(k[None], 32)) for k in keys]
    values = [proggan.values(each, rules=[]) for each in features]
    goal = swap(*features, tuple(values), torch.ones(1, 32, 32))
    moment = SecondMoment(32)
    moment.update(torch.eye(32))
    directions = separating(goal, moment)
    change = solve(proggan.memory("layer7"), goal, directions, smoothness=0.0)
    for each, wanted in zip(features, values[::-1], strict=True):
        assert torch.allclose(proggan.values(each, rules=[change]), wanted, atol=1e-4)


# --- the rule ---


@pytest.mark.parametrize(("made", "layer"), [("proggan", "layer5"), ("stylegan", "layer5")])
def test_a_recorded_swap_becomes_a_rule(made, layer, request, tmp_path):
    generator = request.getfixturevalue(made)
    edit = with_chosen(generator, Edit.load(saved(RECORDED, tmp_path)), layer=layer, statistics=FEW)
    rule = replay(generator, edit)
    effect = rule.effect
    assert (rule.layer, rule.rank, rule.beside) == (layer, 1, None) and rule.fingerprint == generator.fingerprint
    assert effect.goal_error_removed > 0.3 and effect.likeness > 0.3 and effect.verdict == "took"
    goal = prepare(generator, rule.edit).goal()  # the error of all pictures in both conditions, not of the first alone
    left = goal.remaining(generator.values(goal.features, rules=[rule])) / goal.remaining(goal.before)
    assert math.isclose(effect.goal_error_removed, 1 - left, rel_tol=1e-3)
    assert "of the way to how the other condition looks" in effect_in_words("rule", rule) and advice(rule) is not None
    again = replay(generator, Edit.from_json(json.loads(json.dumps(rule.edit.to_json()))))
    assert torch.equal(again.delta, rule.delta) and again.effect.likeness == effect.likeness


def test_reach_is_along_the_change_that_is_wanted_of_the_condition_that_matches(proggan, complete, monkeypatch):
    """Over both conditions the wanted changes cancel."""
    rule, job, asked = replay(proggan, complete), prepare(proggan, complete), []
    mean_change = Goal.mean_change
    monkeypatch.setattr(Goal, "mean_change", lambda goal: asked.append(goal) or mean_change(goal))
    measure(proggan, rule, job.goal(), seeds=[1, 2])
    matching = [float(rule.matches(each.features.keys).float().mean()) for each in job.goal().conditions]
    stronger = job.goal().conditions[matching.index(max(matching))]
    assert asked and all(torch.equal(goal.before, stronger.before) for goal in asked)


def test_likeness_compares_each_condition_with_the_look_of_the_other(proggan, complete):
    marks = Likeness(proggan, complete, [])
    drawn = [
        proggan.sample([each.place.seed], rules=[each.change(proggan.layer("layer4"))])[0].clamp(-1, 1)
        for each in complete.strokes
    ]
    assert marks.seeds == [7, 7, 14, 14, 126, 126]
    wanted = marks.swapped()
    for i, own in enumerate(drawn):
        inside, outside = marks.marks[i] == 1, marks.marks[i] == 0
        assert torch.allclose(marks.before[i], own, atol=1e-5)
        assert torch.allclose(wanted[i][:, inside], drawn[i ^ 1][:, inside], atol=1e-5)
        assert torch.equal(wanted[i][:, outside], marks.before[i][:, outside])


@pytest.mark.parametrize("method", ["projected", "closed-form", "direct"])
def test_the_papers_and_other_methods_solve_a_swap(method, proggan, complete):
    removed = replay(proggan, complete.with_(method=method, smoothness=0.1, steps=60)).effect.goal_error_removed
    assert 0 < removed <= 1


def test_session_chooses_units_previews_executes_shows_and_keeps_a_swap(proggan, tmp_path):
    session = Rewriter(proggan)
    session.use(read_recording(RECORDED, layer="layer5").with_(statistics=FEW))
    with pytest.raises(InputError, match="incomplete: choose its units"):
        session.execute()
    with pytest.raises(InputError, match="nothing to preview yet"):
        session.preview()
    session.choose_units(UNITS)
    preview = session.preview()
    assert not torch.allclose(preview.before, preview.after)
    session.set(form=AUTO)
    rule = session.execute()
    assert rule.edit.form == "weight" and rule.effect.goal_error_removed > 0.3
    assert suggestion(rule) is None or suggestion(rule).change == {"smoothness": 1.0}
    crops = session.crops(number=3)
    assert len(crops) == 3 and all(a.shape == b.shape == c.shape for a, b, c in crops)
    before, asked, after = crops[1]  # the first picture's second condition
    assert (after - asked).square().mean() < (before - asked).square().mean()
    gentle = session.execute(budget=0.5)
    assert gentle.effect.side_effect < rule.effect.side_effect
    found = session.suggest(["layer3", "layer5", "layer6"])
    assert found[-1].layer == "layer3" and "not before layer3" in found[-1].why and found[0].rule is not None
    session.save(tmp_path / "session.safetensors")
    kept = History.load(tmp_path / "session.safetensors").present.edit
    assert kept.digest == session.edit.digest
    for made in (link.decode(link.encode([session.edit]))[0], Edit.from_json(session.edit.to_json())):
        assert made.digest == session.edit.digest and made.strokes[0].levels == session.edit.strokes[0].levels
    session.erase(1, np.ones((4, 4)))  # another edit has neither its strokes nor its context
    assert session.edit.strokes == () and session.edit.context == ()


def test_painting_after_a_swap_starts_an_edit_of_its_own(proggan, complete):
    session = Rewriter(proggan)
    session.use(complete)
    session.paint(Stroke("layer4", (3,), (1.0,), Region(2, square(2, 2, 10, 10))))
    assert session.edit.kind == "paint" and len(session.edit.strokes) == 1 and session.edit.context == ()


def test_the_command_asks_for_units_and_runs_the_swap(run, tmp_path):
    path, out = saved(RECORDED, tmp_path), tmp_path / "sheet.png"
    generator = ["--generator", DATA / "gandissect_proggan_32px.pth"]
    status, said, _ = run("inspect", path)
    assert status == 0 and "swap at layer6 of any generator" in said
    assert "6 strokes on 3 pictures" in said and "levels -5 and 10," in said
    assert "units not chosen yet of layer4" in said and "--units 3,17,42" in said
    status, _, error = run("apply", path, *generator, "--out", out)
    assert status == 2 and "--units 3,17,42" in error and not out.exists()
    for units, words in (("99", "48 units"), ("x", "units 'x' are not like"), ("3,3", "different units")):
        status, _, error = run("apply", path, *generator, "--units", units, "--out", out)
        assert status == 2 and words in " ".join(error.split())
    status, _, error = run("apply", path, *generator, "--units-layer", "layer3", "--out", out)
    assert status == 2 and "add --units" in error
    status, _, error = run("apply", "dome-to-spire", "--units", "3", "--out", out)
    assert status == 2 and "leave it out" in error
    options = ["--units", "0-2", "--units-layer", "layer3", "--layer", "layer5", "--out", out, "--json"]
    rule = tmp_path / "rule.safetensors"
    status, report, _ = run("apply", path, *generator, *options, "--save-rule", rule)
    assert status == 0 and out.exists() and json.loads(report)["goal_error_removed"] > 0.3
    status, said, _ = run("inspect", rule, "--json")
    assert status == 0 and json.loads(said)["layer"] == "layer5"


# --- on a world whose exact pictures are known ---


@pytest.mark.evaluation
def test_units_that_light_windows_of_a_town_darken_its_ground_afterwards(town):
    """As in the paper: units of layer4 draw windows, and a later layer's rule throws their light on the ground."""
    seeds = WORLD.seeds_with(lambda u: factors.is_lit(u) & scenes.plain(u), number=16)
    ranking = agreement.measure(town, "layer4", ["window"], scene_labels(WORLD, ["window"]), range(50_000, 50_100))
    units = tuple(ranking.iou[0].argsort(descending=True)[:20].tolist())
    levels = tuple(ranking.level[list(units)].tolist()), (0.0,) * 20
    scene = WORLD.described(seeds)
    windows = torch.nn.functional.max_pool2d(scene.where("window").float()[:, None], 9, 1, 4)[:, 0]
    light = scene.where("light").float()
    strokes = [[Stroke("layer4", units, own, Region(s, windows[i])) for own in levels] for i, s in enumerate(seeds)]
    context = [Region(seed, light[i]) for i, seed in enumerate(seeds)]
    edit = Edit("townscape", "layer7", kind="swap", strokes=tuple(sum(strokes[:8], [])), context=tuple(context[:8]))
    rule = replay(town, edit.validated())

    def thrown(*rules):
        """How much lighter the ground of the other eight towns is with the units up than with them down."""
        changes = [[[*rules, own[k].change(town.layer("layer4"))] for own in strokes[8:]] for k in (0, 1)]
        up, down = (town.sample(seeds[8:], rules=each).mean(1) for each in changes)
        return float(((up - down) * light[8:]).sum() / light[8:].sum())

    assert rule.effect.goal_error_removed > 0.3 and rule.effect.verdict == "took" and rule.effect.side_effect < 1
    assert thrown() > 0.2 and thrown(rule) < 0
