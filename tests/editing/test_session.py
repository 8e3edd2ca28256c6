"""A session's methods: what each does and shows, and that a refusal leaves everything as it was."""

import math
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import same_rule, square, weight_session

from rewriter import Edit, Effect, Region, Rewriter, load_edits, replay, save_edits
from rewriter.cache import Cache
from rewriter.editing import history
from rewriter.editing import session as session_module
from rewriter.editing.history import RULES
from rewriter.editing.provenance import requests
from rewriter.editing.statistics import Statistics
from rewriter.errors import CancelledError, ComputationError, InputError
from rewriter.masks import resize


@pytest.fixture
def made(stylegan, random_rule):
    """Make a rule of the small StyleGAN2, as it might come from a file."""
    return partial(random_rule, stylegan)


# --- zeroing ---


@pytest.mark.parametrize(("model", "layer"), [("stylegan", "layer4"), ("stylegan", "layer5"), ("proggan", "layer6")])
@pytest.mark.parametrize("rank", [1, 3])
def test_zeroing_removes_the_response_to_the_directions_and_no_other(request, model, layer, rank):
    generator = request.getfixturevalue(model)
    session = weight_session(generator, layer)
    session.add_context(1, square(6, 4, 14, 14))
    session.add_context(2, square(6, 4, 14, 14))
    session.zero()
    rule = session.execute(rank=rank)
    assert (rule.rank, rule.edit.kind, rule.edit.copy, rule.edit.paste) == (rank, "zero", None, None)
    memory = generator.memory(layer)
    other = torch.randn(memory.weight.shape[1], generator=torch.Generator().manual_seed(0))
    other = other - rule.directions.T @ (rule.directions @ other)
    along, across = (key[None, :, None, None].expand(1, -1, 4, 4) for key in (rule.directions[0], other))
    before = memory.response(along, memory.weight)
    assert memory.response(along, memory.weight + rule.weight()).abs().max() < 1e-5 * before.abs().max()
    kept = memory.response(across, memory.weight + rule.weight()) - memory.response(across, memory.weight)
    assert kept.abs().max() < 1e-5 * before.abs().max()


def test_after_zeroing_keys_that_differ_only_along_the_directions_answer_alike(stylegan, session):
    session.zero()
    rule, features = session.execute(), stylegan.keys([1], "layer4")
    moved = replace(features, keys=features.keys + 5 * rule.directions[0][None, :, None, None])
    base = stylegan.values(features, rules=[rule])
    assert torch.allclose(stylegan.values(moved, rules=[rule]), base, atol=1e-4)
    assert not torch.allclose(stylegan.values(moved), stylegan.values(features), atol=1e-1)


def test_zeroing_needs_a_context_and_nothing_else(stylegan, statistics, session):
    empty = weight_session(stylegan, "layer4", statistics=statistics)
    empty.zero()
    before = empty.history
    with pytest.raises(InputError, match="incomplete: mark the context"):
        empty.execute()
    with pytest.raises(InputError, match="no picture to preview"):
        empty.preview()
    assert empty.history is before
    session.zero()
    assert session.edit.copy is session.edit.paste is None and len(session.edit.context) == 3
    assert session.execute().effect.goal_error_removed == pytest.approx(1, abs=1e-3)


def test_zeroing_twice_changes_nothing_more(session):
    session.zero()
    first, context = session.execute(), session.edit.context
    session.begin()
    for place in context:
        session.add_context(place.seed, place.mask)
    session.zero()
    assert session.execute().delta.norm() < 1e-4 * first.delta.norm()


# --- looking before executing ---


def test_the_copy_is_shown_whole_cut_out_and_alone(session, stylegan):
    shown, mask = session.copied(), square(4, 6, 12, 12)
    features = stylegan.keys([7], "layer4")
    assert torch.equal(shown.picture, stylegan.sample([7])[0])
    assert (shown.cut_out[:, mask == 0] == 1).all()
    assert torch.equal(shown.cut_out[:, mask == 1], shown.picture[:, mask == 1])
    cells = resize(mask, (8, 8))
    alone = replace(features, skip=features.skip * resize(mask, tuple(features.skip.shape[2:])))
    expected = stylegan.picture(alone, stylegan.values(features) * cells)[0]
    assert torch.allclose(shown.alone, expected, atol=1e-5)
    assert not torch.allclose(shown.alone, shown.picture, atol=1e-2)
    session.copy(7, square(0, 0, 16, 16) * 0.6)
    half = session.copied()
    assert torch.allclose(half.cut_out, 0.6 * half.picture + 0.4, atol=1e-5)


@pytest.mark.parametrize(("model", "layer"), [("stylegan", "layer6"), ("stylegan", "layer3"), ("proggan", "layer6")])
def test_a_copy_of_the_whole_picture_is_shown_unchanged(request, model, layer):
    session = weight_session(request.getfixturevalue(model), layer)
    session.copy(7, torch.ones(5, 5))
    shown = session.copied()
    assert torch.equal(shown.picture, shown.cut_out)
    assert torch.allclose(shown.alone, shown.picture, atol=1e-5)


@pytest.mark.parametrize("layer", ["layer4", "layer5", "layer6"])
def test_the_preview_shows_the_picture_before_and_with_the_wanted_values(session, stylegan, layer):
    session.set(layer=layer)
    shown, info = session.preview(), stylegan.layers[layer]
    assert torch.allclose(shown.before, stylegan.sample([1])[0], atol=1e-4)  # looked up in a batch
    features = stylegan.keys([1], layer)
    values, source = stylegan.values(features), stylegan.values(stylegan.keys([7], layer))
    cell = 16 // info.resolution
    top, left, bottom, right = (edge // cell for edge in shown.box)
    values[0, :, top:bottom, left:right] = source[0, :, 4 // cell : 12 // cell, 6 // cell : 12 // cell]
    assert torch.allclose(shown.after, stylegan.picture(features, values)[0], atol=1e-4)
    row, column = shown.box.centre  # centre on centre, as far as the layer's cells allow
    assert abs(row - 9) <= cell * info.scale and abs(column - 8) <= cell * info.scale
    assert shown.box.size == (8, 6)


def test_copy_and_preview_see_the_rules_before_the_edit_and_not_its_own(session, stylegan, made):
    copied, pasted = session.copied(), session.preview()
    session.execute()
    again = session.preview()
    assert torch.equal(again.before, pasted.before) and torch.equal(again.after, pasted.after)
    session.undo()
    session.add(made("layer6", size=0.5))
    assert torch.equal(session.copied().picture, session.sample([7])[0])
    assert not torch.equal(session.copied().picture, copied.picture)
    assert torch.allclose(session.preview().before, stylegan.sample([1], rules=session.rules)[0], atol=1e-4)
    assert not torch.allclose(session.preview().before, pasted.before, atol=1e-2)


@pytest.mark.parametrize("units", [None, 6])
def test_the_preview_of_an_erasure_changes_the_place_and_nothing_far_away(stylegan, statistics, units):
    session = weight_session(stylegan, "layer6", statistics=statistics)
    session.erase(1, square(6, 4, 9, 7), units=units)
    shown = session.preview()
    assert torch.equal(shown.before, stylegan.sample([1])[0])
    assert not torch.allclose(shown.after, shown.before, atol=1e-3)
    assert shown.box == (6, 4, 9, 7)
    far = torch.ones(16, 16, dtype=torch.bool)
    reach = stylegan.receptive_field("layer6")
    far[max(0, 6 - reach) : 9 + reach, max(0, 4 - reach) : 7 + reach] = False
    assert far.any() and torch.allclose(shown.after[:, far], shown.before[:, far], atol=1e-5)


def test_looking_is_no_step_and_needs_something_to_look_at(stylegan, statistics, session):
    empty = weight_session(stylegan, "layer4", statistics=statistics)
    for look, words in ((empty.copied, "copy a thing"), (empty.preview, "copy a thing"), (empty.direction, "mark")):
        before = empty.history
        with pytest.raises(InputError, match=words):
            look()
        assert empty.history is before
    before = session.history
    session.copied(), session.preview(), session.direction(), session.suggest(["layer6"]), session.remarks()
    assert session.history is before and session.marked == 1


# --- executing and beginning ---


def test_executing_again_replaces_the_rule_and_keeps_its_strength_and_place(session, made):
    session.add(made("layer6"))
    first = session.execute()
    session.add(made("layer2"))
    session.set_strength(1, 0.25)
    second = session.execute(smoothness=50.0)
    assert [rule.layer for rule in session.rules] == ["layer6", "layer4", "layer2"]
    assert session.rules[1] is second and second.strength == 0.25
    assert not same_rule(first, second) and second.edit.smoothness == 50.0
    third = session.execute(smoothness=10.0)
    assert same_rule(third, first) and third.strength == 0.25  # later rules and the edit's own do not count


def test_the_effect_of_a_rule_does_not_depend_on_its_slider(session):
    first, remarks = session.execute(), session.remarks()
    session.set_strength(0, 0)
    assert session.remarks() == []
    session.execute()
    session.set_strength(0, 1)
    assert replace(session.rules[0].effect, seconds=0) == replace(first.effect, seconds=0)
    assert session.remarks() == remarks


def test_options_given_to_execute_stay_with_the_edit_and_its_replay(session, stylegan, statistics):
    session.set(steps=3)
    told = []
    rule = session.execute(rank=2, method="direct", spread=False, on_step=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]
    for edit in (rule.edit, session.edit):
        assert (edit.rank, edit.method, edit.spread, edit.steps) == (2, "direct", False, 3)
        assert (edit.generator, edit.layer, [place.seed for place in edit.context]) == ("stylegan", "layer4", [1, 2, 3])
    assert rule.rank == 2 and same_rule(replay(stylegan, rule.edit, statistics=statistics), rule)
    session.undo()
    assert (session.edit.rank, session.edit.method, session.edit.spread) == (1, "least-squares", True)


def test_truncation_is_an_option_of_the_edit(session):
    before = session.sample([1])
    session.set(truncation=0.5)
    assert not torch.equal(session.sample([1]), before)
    session.undo()
    assert torch.equal(session.sample([1]), before)


def test_the_rule_is_reported_before_its_effect_is_measured(session):
    told = []
    rule = session.execute(rank=1, on_rule=told.append)
    assert len(told) == 1 and told[0].effect is None and same_rule(told[0], rule)


def test_the_next_edit_names_the_rules_before_it_that_are_on_and_their_strengths(session):
    first = session.execute()
    assert first.edit.after == ()
    session.begin("layer6")
    assert (session.edit.layer, session.edit.copy, session.edit.context) == ("layer6", None, ())
    (named,) = session.edit.after
    assert session.edit.after == requests([first])
    session.set_strength(0, 0.5)
    assert session.edit.after == (f"{named}@0.5",)
    session.set_strength(0, 1)
    session.erase(2, square(6, 4, 9, 7))
    second = session.execute(form="weight")
    assert same_rule(session.rules[0], first) and session.rules[1] is second and second.edit.after == (named,)
    for nothing in (lambda: session.switch(0, False), lambda: session.set_strength(0, 0)):
        nothing()
        assert session.edit.after == ()
        session.undo()
    session.switch(0, False)
    assert session.execute().edit.after == ()


def test_saved_edits_lead_to_the_same_rules_again(session, stylegan, tmp_path):
    session.execute()
    session.set_strength(0, 0.5)
    session.begin(layer="layer6")
    session.erase(2, square(6, 4, 9, 7))
    session.execute(form="weight")
    save_edits(session.edits, tmp_path / "both.json")
    rules = []
    for edit in load_edits(tmp_path / "both.json"):
        rules.append(replay(stylegan, edit, rules=rules, statistics=session.statistics))
    assert [rule.strength for rule in rules] == [0.5, 1.0]
    assert all(map(same_rule, rules, session.rules))
    session.set_strength(0, 1.0)  # the second rule was not solved on top of this
    with pytest.raises(InputError, match="rule 2 was solved on top of different rules.*save the session"):
        _ = session.edits


def test_masks_have_at_most_256_cells_a_side_and_old_states_make_room_for_new_ones(session, monkeypatch):
    session.add_context(5, torch.ones(1024, 700))
    session.paste(1, torch.ones(2048, 100))
    assert session.edit.context[-1].mask.shape == (256, 256) and session.edit.paste.mask.shape == (256, 100)
    session.remove_context(3)
    before = len(session.history.states)
    monkeypatch.setattr(history, "CELLS", 5 * 256)
    session.paste(1, square(6, 4, 12, 12))
    assert 1 <= len(session.history.states) < before + 1
    kept = session.history
    monkeypatch.setattr(history, "CELLS", 10)
    with pytest.raises(InputError, match="more than a session can hold"):
        session.paste(1, square(6, 4, 12, 12))
    assert session.history is kept


def test_an_edit_that_failed_or_was_cancelled_changes_nothing(session, stylegan):
    before = session.history

    def broken(*_):
        raise RuntimeError("the caller's own")

    for options, error in (
        ({"rank": 500}, InputError),
        ({"on_step": lambda *_: False}, CancelledError),
        ({"on_step": broken}, RuntimeError),
        ({"smoothness": math.inf}, InputError),
    ):
        with pytest.raises(error):
            session.execute(**options)
        assert session.history is before
    twin = stylegan.rewritten([])
    twin.memory("layer4").weight = torch.nn.Parameter(stylegan.memory("layer4").weight * torch.nan, requires_grad=False)
    damaged = weight_session(twin, "layer4")
    damaged.add_context(1, square(6, 4, 12, 12))
    damaged.zero()
    before = damaged.history
    with pytest.raises(ComputationError):
        damaged.execute()
    assert damaged.history is before


# --- rules that were made before ---


@pytest.fixture
def solved(monkeypatch):
    """Count the edits that sessions solve."""
    solve, edits = session_module.execute, []

    def counted(generator, edit, **options):
        edits.append(edit)
        return solve(generator, edit, **options)

    monkeypatch.setattr(session_module, "execute", counted)
    return edits


def test_the_same_request_is_not_solved_again_whoever_asks(begin, solved):
    made, seen = Cache(1 << 24), []
    first = begin(made=made)
    assert first.prepared is None
    rule = first.execute(on_rule=seen.append)
    assert first.prepared is rule
    other = begin(made=made)
    assert other.prepared is rule and other.execute(on_rule=seen.append) is rule
    assert first.execute() is rule and len(solved) == 1
    assert len(seen) == 2 and same_rule(*seen)
    assert same_rule(rule, begin().execute()) and len(solved) == 2


def test_another_request_is_solved(begin, made, solved):
    rules = Cache(1 << 24)
    begin(made=rules).execute()
    changes = (
        lambda session: session.add_context(4, square(6, 4, 12, 12)),
        lambda session: session.use(session.edit.with_(strength=0.5)),
        lambda session: session.use(session.edit.with_(paste=Region(1, square(6, 4, 12, 11)))),
        lambda session: session.add(made("layer3")),
        lambda session: session.set(layer="layer5"),
    )
    for i, change in enumerate(changes):
        session = begin(made=rules)
        change(session)
        assert session.prepared is None
        session.execute()
        assert len(solved) == 2 + i
    session.execute(rank=2)
    assert len(solved) == 2 + len(changes)


def test_earlier_rules_count_as_they_act(begin, made, solved):
    rules, earlier = Cache(1 << 24), made("layer3")
    session = begin(made=rules)
    session.add(earlier)
    session.execute()
    session.set_strength(0, 0.5)
    assert session.prepared is None
    session.switch(0, False)
    assert session.prepared is None
    session.switch(0, True)
    session.set_strength(0, 1.0)
    assert session.prepared is not None and session.execute() is session.prepared and len(solved) == 1


def test_a_rule_of_a_cancelled_or_failed_execution_is_not_remembered(session):
    for options, error in (({"on_step": lambda *_: False}, CancelledError), ({"rank": 500}, InputError)):
        with pytest.raises(error):
            session.execute(**options)
    assert session.prepared is None
    session.execute()
    before = session.history
    with pytest.raises(CancelledError):
        session.execute(on_step=lambda *_: False)
    assert session.history is before


def test_a_session_that_was_saved_finds_the_rules_that_were_made_before(begin, stylegan, statistics, solved, tmp_path):
    rules = Cache(1 << 24)
    session = begin(made=rules)
    session.save(tmp_path / "session")
    rule = session.execute()
    again = Rewriter.load(stylegan, tmp_path / "session", statistics=statistics, made=rules)
    assert again.execute() is rule and len(solved) == 1


# --- the list of rules ---


def test_the_edit_follows_its_rule_when_rules_move_or_go(session, made):
    session.add(made("layer6"))
    session.add(made("layer5"))
    mine = session.execute()
    session.move(2, 0)
    assert session.rules[0] is mine and session.edit.after == ()
    session.execute(smoothness=40.0)
    assert [rule.layer for rule in session.rules] == ["layer4", "layer6", "layer5"]
    session.remove(1)
    session.execute(smoothness=20.0)
    assert [rule.layer for rule in session.rules] == ["layer4", "layer5"]
    session.remove(0)  # its own: the next execution makes a new rule
    session.execute(smoothness=10.0)
    assert [rule.layer for rule in session.rules] == ["layer5", "layer4"]
    session.revert()
    assert session.rules == () and session.edit.copy is not None
    again = session.execute()
    assert same_rule(again, mine) and again.edit.after == ()  # the other rules were at later layers


@pytest.mark.parametrize(("index", "to", "order"), [(0, 2, "bca"), (2, 0, "cab"), (1, 1, "abc"), (0, 1, "bac")])
def test_a_moved_rule_takes_its_new_place_and_the_others_keep_their_order(stylegan, made, index, to, order):
    rules = {name: made("layer4", seed=i) for i, name in enumerate("abc")}
    session = Rewriter(stylegan, rules=list(rules.values()))
    session.move(index, to)
    assert all(same_rule(one, rules[name]) for one, name in zip(session.rules, order, strict=True))


def test_pictures_follow_the_rules_that_are_on(stylegan, made):
    a, b = made("layer4", seed=1), made("layer6", seed=2)
    session = Rewriter(stylegan, rules=[a, b])
    before, after = session.before_after([1, 2])
    assert torch.equal(before, stylegan.sample([1, 2])) and torch.equal(after, stylegan.sample([1, 2], rules=[a, b]))
    session.switch(0, False)
    assert torch.equal(session.sample([1, 2]), stylegan.sample([1, 2], rules=[b]))
    session.set_strength(1, 0.5)
    session.switch(0, True)
    assert torch.equal(session.sample([1, 2]), stylegan.sample([1, 2], rules=[a, b.at(0.5)]))
    session.switch(1, False)
    session.switch(1, True)
    assert session.rules[1].strength == 0.5  # switched off and on again, it keeps its strength
    session.revert()
    assert torch.equal(session.sample([1, 2]), before)


# --- remarks ---


def effect(**figures):
    usual = {"goal_error_removed": 0.6, "reach": 0.5, "side_effect": 0.5, "left_out": 0.2}
    return Effect(**{**usual, "pictures": 48, "places": 50, "seconds": 0.1, **figures})


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"goal_error_removed": 0.05}, "5%.*another layer"),
        ({"goal_error_removed": -0.5}, "-50%"),
        ({"likeness": 0.1}, "10%.*every layer"),
        ({"likeness": 0.1, "side_effect": 9.0}, r"10%.*9\.0/255.*every layer"),
        ({"places": 0, "reach": 0.0}, "matches nothing in 48.*mark more"),
        ({"reach": 0.01}, "1%.*more pictures"),
        ({"left_out": 0.99}, "99%.*narrowly"),
        ({"side_effect": 9.0}, r"9\.0/255.*protect the places"),
    ],
)
def test_an_edit_that_did_not_take_says_so_and_what_to_try_next(stylegan, made, figures, words):
    session = Rewriter(stylegan, rules=[made("layer6", effect=effect()), made("layer4", effect=effect(**figures))])
    (remark,) = session.remarks()
    assert remark.startswith("rule 2: ") and re.search(words, remark)
    session.switch(1, False)
    assert session.remarks() == []


def test_a_rule_that_took_or_was_not_measured_gives_no_remark(stylegan, made):
    assert Rewriter(stylegan, rules=[made("layer4", effect=effect(side_effect=math.nan))]).remarks() == []
    assert Rewriter(stylegan, rules=[made("layer4")]).remarks() == []


def test_a_method_that_does_not_protect_says_so(stylegan, made):
    place = Region(1, torch.ones(4, 4))
    for options, number in (({"method": "direct"}, 1), ({"kind": "zero"}, 1), ({}, 0)):
        edit = Edit("", "layer4", keep=(place,), context=(place,)).with_(**options)
        session = Rewriter(stylegan, rules=[made("layer4", effect=effect(), edit=edit)])
        assert sum("protected places had no effect" in remark for remark in session.remarks()) == number


def test_rules_that_answer_to_the_same_places_are_reported_with_their_angle(stylegan, made):
    a, b = made("layer4", seed=1), made("layer4", seed=2)
    tilted = torch.stack([math.cos(0.5) * a.directions[0] + math.sin(0.5) * a.directions[1]])
    c = replace(a, directions=tilted, delta=a.delta[:, :1])
    a = replace(a, directions=a.directions[:1], delta=a.delta[:, :1])
    session = Rewriter(stylegan, rules=[a, made("layer6", seed=1), c])
    (remark,) = session.remarks()
    assert "rule 1 and rule 3" in remark and "layer4" in remark and f"{math.degrees(0.5):.0f}°" in remark
    for away in (lambda: session.switch(2, False), lambda: session.set_strength(2, 0)):
        away()
        assert session.remarks() == []
        session.undo()
    far = [replace(a, directions=row[None]) for row in torch.linalg.qr(b.directions.T)[0].T]
    assert Rewriter(stylegan, rules=far).remarks() == []


# --- suggestions ---


def test_every_layer_is_tried_once_and_ranked_by_score(session, stylegan):
    told, before = [], session.history
    found = session.suggest(on_step=lambda *at: told.append(at))
    assert sorted(one.layer for one in found) == sorted(stylegan.layers)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert all(math.isfinite(one.score) for one in found) and told == [(i, 5) for i in range(1, 6)]
    for one in found:
        assert one.rule.layer == one.layer and not one.why
        drawn = stylegan.sample([1], rules=[one.rule])[0].clamp(-1, 1)
        assert torch.allclose(one.picture.clamp(-1, 1), drawn, atol=1e-3)  # drawn in a batch there
    with pytest.raises(CancelledError, match="1 of 5"):
        session.suggest(on_step=lambda *_: False)
    assert session.history is before


def test_layers_where_the_edit_is_impossible_come_last_and_say_why(stylegan, statistics):
    session = weight_session(stylegan, "layer6", statistics=statistics)
    session.copy(7, square(5, 6, 7, 8))
    session.paste(1, square(5, 6, 7, 8))
    found = session.suggest()
    done = [one.rule is not None for one in found]
    assert done == sorted(done, reverse=True) and any(done) and not all(done)
    for one in found:
        assert (one.rule is None) == bool(one.why) == (one.picture is None) == (one.score == -math.inf)
    assert all("paint more" in one.why for one in found if one.rule is None)
    with pytest.raises(InputError, match="layer99"):
        session.suggest(["layer6", "layer99"])


def test_suggestions_see_the_rules_before_the_edit_and_can_be_taken_up(session, stylegan, made):
    session.add(made("layer2"))
    best = session.suggest(["layer5", "layer6"])[0]
    assert best.rule.edit.after == session.edit.after != ()
    drawn = stylegan.sample([1], rules=[*session.rules, best.rule])[0].clamp(-1, 1)
    assert torch.allclose(best.picture.clamp(-1, 1), drawn, atol=1e-3)
    session.set(layer=best.layer)
    rule = session.execute(form="weight")
    assert torch.allclose(rule.delta, best.rule.delta, atol=1e-6) and torch.equal(rule.directions, best.rule.directions)
    with pytest.raises(InputError, match="incomplete"):
        Rewriter(stylegan).suggest()


# --- bad input ---

BAD_PLACES = [
    *((seed, torch.ones(4, 4)) for seed in (-1, 100_000, "3")),
    *((1, mask) for mask in (torch.zeros(4, 4), torch.ones(4), torch.full((4, 4), 2.0), "mask", None, [["x"]])),
]
BAD_OPTIONS = [  # the fields themselves are checked in test_edit.py
    *({"colour": 1}, {"strength": 1}, {"rank": 0}, {"smoothness": math.nan}, {"method": torch.ones(3)}),
    *({"spread": 1}, {"title": "two\nlines"}, {"statistics": 5}, {"layer": "layer99"}, {"layer": 4}),
    {"rank": 2, "layer": None},
]


def bad_places(session, _):
    """Calls with wrong places, each with a pattern for the error."""
    for place in BAD_PLACES:
        for give in (session.copy, session.paste, session.erase, session.add_context, session.keep):
            yield partial(give, *place), "mask|seed"
    for units in (0, "all"):
        yield partial(session.erase, 1, torch.ones(4, 4), units=units), "units"
    for seed in (-1, "3", 100_000):
        yield partial(session.matches, seed), "seed"
        yield partial(session.sample, [seed]), "seed"


def bad_edits(session, _):
    for options in BAD_OPTIONS:
        yield partial(session.set, **options), "|".join(["expected", "layer", "option", *options])
    for options in ({"rank": 0}, {"rank": 400}, {"smoothness": -1}, {"method": "magic"}, {"spread": 1}):
        yield partial(session.execute, **options), next(iter(options))
    for layer in ("layer99", 4):
        yield partial(session.begin, layer), "layer99|no layer"
    for edit, words in (
        (Edit("other", "layer4", fingerprint="f" * 64), "other"),
        (Edit("", "layer99"), "layer99"),
        (Edit("", "layer4", copy=Region(1, torch.ones(4, 4)), rank=0), "rank"),
        (Edit("", "layer4", copy=Region(1, torch.zeros(4, 4))), "mask"),
        (Edit("", "layer4", paste=Region(-1, torch.ones(4, 4))), "seed"),
    ):
        yield partial(session.use, edit), words


def bad_rules(session, made):
    good = made("layer4")
    for changes, words in (
        ({"fingerprint": "f" * 64}, "fingerprint"),
        ({"fingerprint": ""}, "fingerprint"),
        ({"layer": "layer99"}, "layer99"),
        ({"strength": 5.0}, "strength"),
        ({"level": math.nan}, "level"),
        ({"edit": Edit("", "layer4", rank=0)}, "rank"),
        ({"delta": good.delta.double()}, "float32"),
        ({"delta": good.delta * torch.nan}, "finite"),
    ):
        yield partial(session.add, replace(good, **changes)), words
    for strength in (2.5, math.nan, "1"):
        yield partial(session.set_strength, 0, strength), "strength"


def bad_numbers(session, _):
    for index in (99, -1, "0", None, True, 0.0):
        yield partial(session.remove_context, index), "place"
        yield partial(session.remove_keep, index), "place"
        for act in (session.remove, lambda i: session.set_strength(i, 1), lambda i: session.switch(i, True)):
            yield partial(act, index), "no rule"
        yield partial(session.move, index, 0), "no rule"
        yield partial(session.move, 0, index), "no rule"
    yield session.redo, "redo"
    yield partial(session.save, "/dev/null/session"), "cannot write"


@pytest.mark.parametrize("calls", [bad_places, bad_edits, bad_rules, bad_numbers])
def test_bad_input_is_refused_in_words_and_changes_nothing(session, made, calls):
    session.add(made("layer6"))
    session.keep(5, square(0, 0, 8, 8))
    before = session.history
    for call, words in calls(session, made):
        with pytest.raises(InputError, match=words):
            call()
            pytest.fail(f"{call} was not refused")
        assert session.history is before


def test_a_session_holds_a_limited_number_of_rules(stylegan, session, made):
    full = weight_session(stylegan, "layer4", rules=[made("layer4")] * RULES, statistics=session.statistics)
    full.zero()
    full.add_context(1, square(6, 4, 12, 12))
    before = full.history
    for more in (lambda: full.add(made("layer4")), full.execute):
        with pytest.raises(InputError, match=f"at most {RULES} rules"):
            more()
        assert full.history is before
    full.remove(0)
    full.add(made("layer4"))
    assert len(full.rules) == RULES
    with pytest.raises(InputError, match="at most"):
        Rewriter(stylegan, rules=[made("layer4")] * (RULES + 1))


def test_a_session_does_not_start_with_what_does_not_fit(stylegan, proggan, made):
    for words, arguments, options in (
        (f"'layer99'.*{', '.join(stylegan.layers)}", (stylegan, "layer99"), {}),
        ("truncation", (stylegan,), {"truncation": 3.0}),
        ("fingerprint", (proggan,), {"rules": [made("layer4")]}),
        ("strength", (stylegan,), {"rules": [replace(made("layer4"), strength=3.0)]}),
        ("statistics are of proggan", (stylegan,), {"statistics": Statistics(proggan)}),
    ):
        with pytest.raises(InputError, match=words):
            Rewriter(*arguments, **options)
