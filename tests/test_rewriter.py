"""A session's every method: what it does, what it shows, and that a refusal leaves everything as it was."""

import math
import re
from dataclasses import replace

import pytest
import torch
from conftest import square

from rewriter import Edit, Rewriter, Rule
from rewriter.editing import history
from rewriter.editing.edit import Region, load_edits, save_edits
from rewriter.editing.execute import replay
from rewriter.editing.history import RULES, History
from rewriter.editing.provenance import requests
from rewriter.editing.rule import Effect
from rewriter.editing.statistics import Statistics
from rewriter.errors import CancelledError, ComputationError, InputError
from rewriter.masks import resize

BAD = [
    (-1, torch.ones(4, 4)),
    ("3", torch.ones(4, 4)),
    (1, torch.zeros(4, 4)),
    (1, "mask"),
    (1, None),
    (1, torch.ones(4)),
]


@pytest.fixture
def session(stylegan, statistics):
    """Copied and pasted, three contexts."""
    session = Rewriter(stylegan, "layer4", statistics=statistics)
    session.copy(7, square(4, 6, 12, 12))
    session.paste(1, square(6, 4, 12, 12))
    for seed in (1, 2, 3):
        session.add_context(seed, square(6, 4, 12, 12))
    return session


@pytest.fixture
def made(stylegan, change):
    """A rule made elsewhere."""

    def make(layer, *, seed=0, size=0.3, **about):
        one = change(stylegan, layer, seed=seed, size=size)
        return Rule(layer, one.delta, one.directions, fingerprint=stylegan.fingerprint, **about)

    return make


def same(a, b):
    return torch.equal(a.delta, b.delta) and torch.equal(a.directions, b.directions) and a.level == b.level


# --- zero ---


@pytest.mark.parametrize(("model", "layer"), [("stylegan", "layer4"), ("stylegan", "layer5"), ("proggan", "layer6")])
@pytest.mark.parametrize("rank", [1, 3])
def test_zeroing_leaves_no_response_to_the_directions(request, model, layer, rank):
    generator = request.getfixturevalue(model)
    session = Rewriter(generator, layer)
    session.add_context(1, square(6, 4, 14, 14))
    session.add_context(2, square(6, 4, 14, 14))
    session.zero()
    rule = session.execute(rank=rank)
    memory, (row, *_) = generator.memory(layer), rule.directions
    keys = row[None, :, None, None].expand(1, -1, 4, 4)
    before = memory.response(keys, memory.weight)
    assert memory.response(keys, memory.weight + rule.weight()).abs().max() < 1e-5 * before.abs().max()
    assert (rule.rank, rule.edit.kind, rule.edit.copy, rule.edit.paste) == (rank, "zero", None, None)
    other = torch.randn(memory.weight.shape[1], generator=torch.Generator().manual_seed(0))
    other = (other - rule.directions.T @ (rule.directions @ other))[None, :, None, None].expand(1, -1, 4, 4)
    kept = memory.response(other, memory.weight + rule.weight()) - memory.response(other, memory.weight)
    assert kept.abs().max() < 1e-5 * before.abs().max()  # all else is read as before


def test_after_zeroing_keys_that_differ_along_the_directions_alone_answer_alike(stylegan, session):
    session.zero()
    rule = session.execute()
    features = stylegan.keys([1], "layer4")
    moved = replace(features, keys=features.keys + 5 * rule.directions[0][None, :, None, None])
    base = stylegan.values(features, rules=[rule])
    assert torch.allclose(stylegan.values(moved, rules=[rule]), base, atol=1e-4)
    assert not torch.allclose(stylegan.values(moved), stylegan.values(features), atol=1e-1)


def test_zeroing_needs_a_context_and_nothing_else(stylegan, statistics, session):
    empty = Rewriter(stylegan, "layer4", statistics=statistics)
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


def test_what_one_zeroing_forgot_the_next_one_finds_forgotten(session):
    session.zero()
    first = session.execute()
    session.begin()
    for seed in (1, 2, 3):
        session.add_context(seed, square(6, 4, 12, 12))
    session.zero()
    second = session.execute()
    assert second.delta.norm() < 1e-4 * first.delta.norm()


# --- looking ---


def test_what_was_copied_is_shown_whole_cut_out_and_alone(session, stylegan):
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


@pytest.mark.parametrize(("model", "layer"), [("stylegan", "layer6"), ("stylegan", "layer3"), ("proggan", "layer6")])
def test_copying_everything_leaves_nothing_out(request, model, layer):
    session = Rewriter(request.getfixturevalue(model), layer)
    session.copy(7, torch.ones(5, 5))
    shown = session.copied()
    assert torch.equal(shown.picture, shown.cut_out)
    assert torch.allclose(shown.alone, shown.picture, atol=1e-5)


def test_the_copy_is_shown_with_the_rules_that_the_edit_is_made_after(session, made):
    base = session.copied()
    rule = made("layer6")
    session.add(rule)
    assert torch.equal(session.copied().picture, session.sample([7])[0])
    assert not torch.equal(session.copied().picture, base.picture)


def test_a_half_painted_copy_is_half_white(stylegan):
    session = Rewriter(stylegan, "layer6")
    session.copy(7, square(0, 0, 16, 16) * 0.6)
    shown = session.copied()
    assert torch.allclose(shown.cut_out, 0.6 * shown.picture + 0.4, atol=1e-5)


@pytest.mark.parametrize("layer", ["layer4", "layer5", "layer6"])
def test_the_preview_shows_the_picture_before_and_with_the_wanted_values(session, stylegan, layer):
    session.set(layer=layer)
    shown, info = session.preview(), stylegan.layers[layer]
    assert torch.allclose(shown.before, stylegan.sample([1])[0], atol=1e-4)  # looked up in a batch
    features = stylegan.keys([1], layer)
    values, source = stylegan.values(features), stylegan.values(stylegan.keys([7], layer))
    pixels = 16 // info.resolution
    rows, columns = (
        slice(shown.box.top // pixels, shown.box.bottom // pixels),
        slice(shown.box.left // pixels, shown.box.right // pixels),
    )
    copied = slice(4 // pixels, 12 // pixels), slice(6 // pixels, 12 // pixels)
    values[0, :, rows, columns] = source[0, :, *copied]
    assert torch.allclose(shown.after, stylegan.picture(features, values)[0], atol=1e-4)
    row, column = shown.box.centre  # centre on centre, as far as the layer's cells allow
    assert abs(row - 9) <= pixels * info.scale and abs(column - 8) <= pixels * info.scale
    assert shown.box.size == (8, 6)


def test_the_preview_is_of_the_generator_that_the_edit_is_made_after(session, stylegan, made):
    base = session.preview()
    session.add(made("layer6", size=0.5))
    assert torch.allclose(session.preview().before, stylegan.sample([1], rules=session.rules)[0], atol=1e-4)
    assert not torch.allclose(session.preview().before, base.before, atol=1e-2)


def test_a_preview_does_not_see_the_rule_that_the_edit_itself_led_to(session):
    before = session.preview()
    session.execute()
    again = session.preview()
    assert torch.equal(again.before, before.before) and torch.equal(again.after, before.after)


@pytest.mark.parametrize("units", [None, 6])
def test_an_erasure_can_be_previewed(stylegan, statistics, units):
    session = Rewriter(stylegan, "layer6", statistics=statistics)
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
    empty = Rewriter(stylegan, "layer4", statistics=statistics)
    for look, words in ((empty.copied, "copy a thing"), (empty.preview, "copy a thing"), (empty.direction, "mark")):
        before = empty.history
        with pytest.raises(InputError, match=words):
            look()
        assert empty.history is before
    before = session.history
    session.copied(), session.preview(), session.direction(), session.suggest(["layer6"]), session.remarks()
    assert session.history is before


# --- executing and beginning ---


def test_executing_again_replaces_the_rule_and_keeps_its_strength_and_place(session, made):
    session.add(made("layer6"))
    first = session.execute()
    session.add(made("layer2"))
    session.set_strength(1, 0.25)
    second = session.execute(smoothness=50.0)
    assert [rule.layer for rule in session.rules] == ["layer6", "layer4", "layer2"]
    assert session.rules[1] is second and second.strength == 0.25
    assert not same(first, second) and second.edit.smoothness == 50.0
    third = session.execute(smoothness=first.edit.smoothness or 10.0)
    assert same(third, first) and third.strength == 0.25  # the later rule and the own one do not count


def test_the_effect_of_a_rule_does_not_depend_on_where_its_slider_is(session):
    """Executed again while it is turned down, it has not failed."""
    first, remarks = session.execute(), session.remarks()
    session.set_strength(0, 0)
    assert session.remarks() == []
    session.execute()
    session.set_strength(0, 1)
    assert replace(session.rules[0].effect, seconds=0) == replace(first.effect, seconds=0)
    assert session.remarks() == remarks


def test_options_given_to_execute_are_the_edits_from_then_on(session):
    session.execute(rank=2, method="direct", spread=False, on_step=lambda *_: True)
    assert (session.edit.rank, session.edit.method, session.edit.spread) == (2, "direct", False)
    session.undo()
    assert (session.edit.rank, session.edit.method, session.edit.spread) == (1, "least-squares", True)


def test_a_limit_on_steps_belongs_to_the_edit_so_that_a_replay_is_the_same(session, stylegan):
    session.set(method="direct", steps=3)
    told = []
    rule = session.execute(on_step=lambda step, of, _: told.append((step, of)) or True)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(replay(stylegan, rule.edit).delta, rule.delta)


def test_truncation_is_a_setting_of_the_edit(session):
    before = session.sample([1])
    session.set(truncation=0.5)
    assert not torch.equal(session.sample([1]), before)
    session.undo()
    assert torch.equal(session.sample([1]), before)


def test_a_rule_is_told_of_before_its_effect_is_measured(session):
    told = []
    rule = session.execute(on_rule=told.append)
    assert len(told) == 1 and told[0].effect is None and torch.equal(told[0].delta, rule.delta)


def test_beginning_stacks_and_the_next_edit_names_the_rules_before_it(session):
    first = session.execute()
    assert first.edit.after == ()
    session.begin("layer6")
    assert (session.edit.layer, session.edit.copy, session.edit.context) == ("layer6", None, ())
    assert session.edit.after == requests([first])
    session.erase(2, square(6, 4, 9, 7))
    second = session.execute()
    assert session.rules == (first, second) and second.edit.after == requests([first])
    session.switch(0, False)
    assert session.edit.after == ()
    assert session.execute().edit.after == ()


def test_an_edit_names_the_strength_of_the_rules_before_it(session):
    session.execute()
    session.begin()
    (named,) = session.edit.after
    session.set_strength(0, 0.5)
    assert session.edit.after == (f"{named}@0.5",)
    session.set_strength(0, 0)
    assert session.edit.after == ()


def test_the_edits_behind_the_rules_lead_to_the_same_rules_again(session, stylegan, tmp_path):
    session.execute()
    session.set_strength(0, 0.5)
    session.begin(layer="layer6")
    session.erase(2, square(6, 4, 9, 7))
    session.execute()
    save_edits(session.edits, tmp_path / "both.json")
    rules = []
    for edit in load_edits(tmp_path / "both.json"):
        rules.append(replay(stylegan, edit, rules=rules, statistics=session.statistics))
    assert [rule.strength for rule in rules] == [0.5, 1.0]
    assert all(torch.equal(a.delta, b.delta) for a, b in zip(rules, session.rules, strict=True))
    session.set_strength(0, 1.0)  # the second rule was not made on this
    with pytest.raises(InputError, match="rule 2 was made after others"):
        _ = session.edits


def test_fine_masks_are_kept_no_finer_than_a_session_needs(session, stylegan):
    session.add_context(5, torch.ones(1024, 700))
    assert session.edit.context[-1].mask.shape == (256, 256)
    for _ in range(150):  # more than fits at full size
        session.paste(1, torch.ones(2048, 2048))
    assert History.from_bytes(session.history.to_bytes()).at == session.history.at


def test_what_a_session_cannot_hold_is_refused_and_the_past_makes_room(session, monkeypatch):
    before = len(session.history.states)
    monkeypatch.setattr(history, "CELLS", 5 * 256)
    session.paste(1, square(6, 4, 12, 12))
    assert 1 <= len(session.history.states) < before + 1
    kept = session.history
    monkeypatch.setattr(history, "CELLS", 10)
    with pytest.raises(InputError, match="more than a session can hold"):
        session.paste(1, square(6, 4, 12, 12))
    assert session.history is kept


def test_an_edit_that_failed_or_was_cancelled_changes_nothing(session):
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


def test_damaged_weights_are_told_not_written_into_a_rule(stylegan, session):
    twin = stylegan.rewritten([])
    twin.memory("layer4").weight = torch.nn.Parameter(stylegan.memory("layer4").weight * torch.nan, requires_grad=False)
    damaged = Rewriter(twin, "layer4")
    damaged.add_context(1, square(6, 4, 12, 12))
    damaged.zero()
    before = damaged.history
    with pytest.raises(ComputationError):
        damaged.execute()
    assert damaged.history is before


def test_removing_the_edits_own_rule_makes_the_next_execution_a_new_one(session, made):
    session.execute()
    session.add(made("layer6"))
    session.remove(0)
    session.execute()
    assert [rule.layer for rule in session.rules] == ["layer6", "layer4"]


def test_the_edit_follows_its_rule_when_rules_move(session, made):
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
    session.revert()
    assert session.rules == () and session.edit.copy is not None
    again = session.execute(smoothness=10.0)
    assert same(again, mine) and again.edit.after == ()  # the other rules were at later layers


@pytest.mark.parametrize(("index", "to", "order"), [(0, 2, "bca"), (2, 0, "cab"), (1, 1, "abc"), (0, 1, "bac")])
def test_a_rule_moves_where_it_is_put(stylegan, made, index, to, order):
    rules = {name: made("layer4", seed=i) for i, name in enumerate("abc")}
    session = Rewriter(stylegan, rules=list(rules.values()))
    session.move(index, to)
    assert all(same(one, rules[name]) for one, name in zip(session.rules, order, strict=True))


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
    assert session.rules[1].strength == 0.5  # a switch is no slider
    session.revert()
    assert torch.equal(session.sample([1, 2]), before)


# --- remarks ---


def effect(**figures):
    return Effect(**{
        "goal_error_removed": 0.6, "reach": 0.5, "side_effect": 0.5, "left_out": 0.2,
        "pictures": 48, "places": 50, "seconds": 0.1, **figures,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({"goal_error_removed": 0.05}, "hardly reaches the goal .5%.*another layer"),
        ({"goal_error_removed": -0.5}, "hardly reaches the goal"),
        ({"places": 0, "reach": 0.0}, "matches nothing in 48.*mark more"),
        ({"reach": 0.01}, "moves few"),
        ({"left_out": 0.99}, "nearly everywhere .99%.*narrowly"),
        ({"side_effect": 9.0}, r"9\.0/255.*more smoothness"),
    ],
)
def test_an_edit_that_did_not_take_says_so_and_what_to_try(stylegan, made, figures, words):
    session = Rewriter(stylegan, rules=[made("layer6", effect=effect()), made("layer4", effect=effect(**figures))])
    (remark,) = session.remarks()
    assert remark.startswith("rule 2: ")
    assert re.search(words, remark)
    session.switch(1, False)
    assert session.remarks() == []


def test_a_rule_that_took_gives_no_remark(stylegan, made):
    assert Rewriter(stylegan, rules=[made("layer4", effect=effect(side_effect=math.nan))]).remarks() == []
    assert Rewriter(stylegan, rules=[made("layer4")]).remarks() == []  # nothing is known of it


def test_rules_that_answer_to_the_same_places_are_told_with_their_angle(stylegan, made):
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
    far = [replace(a, directions=row[None], delta=a.delta) for row in torch.linalg.qr(b.directions.T)[0].T]
    assert Rewriter(stylegan, rules=far).remarks() == []


# --- suggestions ---


def test_every_layer_is_tried_once_and_ranked(session, stylegan):
    told, before = [], session.history
    found = session.suggest(on_step=lambda *at: told.append(at))
    assert sorted(one.layer for one in found) == sorted(stylegan.layers)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert all(math.isfinite(one.score) for one in found) and told == [(i, 5) for i in range(1, 6)]
    for one in found:
        assert one.rule.layer == one.layer and not one.why
        drawn = stylegan.sample([1], rules=[one.rule])[0].clamp(-1, 1)
        assert torch.allclose(one.picture.clamp(-1, 1), drawn, atol=1e-3)  # drawn in a batch there
    assert session.history is before


def test_layers_where_it_cannot_be_done_come_last_and_say_why(stylegan, statistics):
    session = Rewriter(stylegan, "layer6", statistics=statistics)
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


def test_a_suggestion_can_be_taken_up(session):
    best = session.suggest(["layer5", "layer6"])[0]
    session.set(layer=best.layer)
    rule = session.execute()
    assert torch.allclose(rule.delta, best.rule.delta, atol=1e-6) and torch.equal(rule.directions, best.rule.directions)


def test_suggestions_come_after_the_rules_before_the_edit(session, stylegan, made):
    session.add(made("layer2"))
    (one,) = session.suggest(["layer6"])
    assert one.rule.edit.after == session.edit.after != []
    drawn = stylegan.sample([1], rules=[*session.rules, one.rule])[0].clamp(-1, 1)
    assert torch.allclose(one.picture.clamp(-1, 1), drawn, atol=1e-3)
    with pytest.raises(InputError, match="incomplete"):
        Rewriter(stylegan).suggest()


# --- bad input ---


def calls(session, made):
    """Every method with something that it cannot do, and a word of what it should say."""
    foreign = replace(made("layer4"), fingerprint="f" * 64)
    whole = Region(1, torch.ones(4, 4))
    for seed, mask in BAD:
        for give in (session.copy, session.paste, session.erase, session.add_context, session.keep):
            yield lambda give=give, seed=seed, mask=mask: give(seed, mask), "mask|seed"
    yield lambda: session.erase(1, torch.ones(4, 4), units=0), "units"
    yield lambda: session.erase(1, torch.ones(4, 4), units="all"), "units"
    for index in (99, -1, "0", None, True, 0.0):
        yield lambda i=index: session.remove_context(i), "place"
        yield lambda i=index: session.remove_keep(i), "place"
        for act in (
            lambda i: session.set_strength(i, 1),
            lambda i: session.switch(i, True),
            lambda i: session.move(i, 0),
            lambda i: session.move(0, i),
            session.remove,
        ):
            yield lambda act=act, i=index: act(i), "no rule"
    for strength in (2.5, -1.5, math.nan, "1", None, True):
        yield lambda s=strength: session.set_strength(0, s), "strength"
    for options in (
        {"colour": 1},
        {"strength": 1},
        {"rank": 0},
        {"rank": 1.0},
        {"rank": True},
        {"smoothness": "high"},
        {"smoothness": math.nan},
        {"method": "magic"},
        {"method": torch.ones(3)},
        {"directions": 5},
        {"spread": 1},
        {"units": 0},
        {"title": "two\nlines"},
        {"title": 5},
        {"statistics": 5},
        {"statistics": {"pictures": 0, "places": 1, "first_seed": 0}},
        {"layer": "layer99"},
        {"layer": 4},
        {"rank": 2, "layer": None},
    ):
        yield lambda o=options: session.set(**o), "|".join(["expected", "layer", "option", *options])
    for options in ({"rank": 0}, {"rank": "1"}, {"smoothness": -1}, {"method": "magic"}, {"spread": 1}):
        yield lambda o=options: session.execute(**o), next(iter(options))
    yield lambda: session.begin("layer99"), "layer99"
    yield lambda: session.begin(4), "no layer"
    yield lambda: session.use(Edit("other", "layer4", fingerprint="f" * 64)), "other"
    yield lambda: session.use(Edit("", "layer99")), "layer99"
    yield lambda: session.use(Edit("", "layer4", copy=whole, rank=0)), "rank"
    yield lambda: session.use(Edit("", "layer4", copy=Region(1, torch.zeros(4, 4)))), "mask"
    yield lambda: session.use(Edit("", "layer4", paste=Region(-1, torch.ones(4, 4)))), "seed"
    yield lambda: session.add(foreign), "fingerprint"
    yield lambda: session.add(replace(made("layer4"), layer="layer99")), "layer99"
    yield lambda: session.add(replace(made("layer4"), strength=5.0)), "strength"
    yield lambda: session.add(replace(made("layer4"), level=math.nan)), "level"
    yield lambda: session.add(replace(made("layer4"), edit={"copy": 5})), "edit"
    yield lambda: session.add(replace(made("layer4"), delta=made("layer4").delta.double())), "float32"
    yield lambda: session.add(replace(made("layer4"), delta=made("layer4").delta * torch.nan)), "finite"
    for k in (0, "3"):
        yield lambda k=k: session.search(k), "1 to 400"
    for seed in (-1, "3", 100_000):
        yield lambda s=seed: session.matches(s), "seed"
        yield lambda s=seed: session.sample([s]), "seed"
    yield lambda: session.redo(), "redo"
    yield lambda: session.save("/dev/null/session"), "cannot write"


def test_bad_input_is_refused_in_words_and_changes_nothing(session, made):
    session.add(made("layer6"))
    session.keep(5, square(0, 0, 8, 8))
    before = session.history
    for number, (call, words) in enumerate(calls(session, made)):
        with pytest.raises(InputError, match=words):
            call()
            pytest.fail(f"call {number} was not refused")
        assert session.history is before


def test_a_session_holds_so_many_rules_and_no_more(stylegan, session, made):
    full = Rewriter(stylegan, "layer4", rules=[made("layer4")] * RULES, statistics=session.statistics)
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


def test_a_session_starts_with_what_fits_or_not_at_all(stylegan, proggan, made):
    with pytest.raises(InputError, match="layer99"):
        Rewriter(stylegan, "layer99")
    with pytest.raises(InputError, match="truncation"):
        Rewriter(stylegan, truncation=3.0)
    with pytest.raises(InputError, match="fingerprint"):
        Rewriter(proggan, rules=[made("layer4")])
    with pytest.raises(InputError, match="strength"):
        Rewriter(stylegan, rules=[replace(made("layer4"), strength=3.0)])


def test_statistics_of_another_generator_are_refused(stylegan, proggan):
    with pytest.raises(InputError, match="statistics are of proggan"):
        Rewriter(stylegan, statistics=Statistics(proggan))
