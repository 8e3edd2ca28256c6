"""Units set to levels: exact inside their mask, nothing outside, per picture, with rules of every form, as weights."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import near, square

from rewriter import Edit, Rewriter, Rule, replay
from rewriter.editing import link
from rewriter.editing.effect import effect_in_words
from rewriter.editing.history import History
from rewriter.editing.region import Region
from rewriter.editing.rule import assemble
from rewriter.editing.stroke import MOST, Stroke
from rewriter.editing.twin import approximation
from rewriter.errors import InputError
from rewriter.generators.change import identity
from rewriter.generators.units import Units
from rewriter.hub.draft import draft
from rewriter.hub.player import told
from rewriter.masks import encode

SEEDS = [3, 11]


def is_level(values, level):
    return bool(((values - level).abs() < 1e-4).all())


def inner(generator):
    """A layer with layers before and after it."""
    return list(generator.layers)[3 if len(generator.layers) > 4 else 1]


def switch(generator, units=(0, 2), level=1.5, mask=None, strength=1.0):
    """Units of a layer in the middle set to a level, as a change to draw with."""
    stroke = Stroke(inner(generator), tuple(units), (level,) * len(units), None, strength)
    return stroke.change(generator.layer(stroke.layer), mask)


def test_units_have_their_level_everywhere_and_others_keep_their_values_to_the_bit(generator):
    features = generator.keys(SEEDS, inner(generator))
    before, after = generator.values(features), generator.values(features, rules=[switch(generator)])
    assert is_level(after[:, [0, 2]], 1.5)
    others = [unit for unit in range(before.shape[1]) if unit not in (0, 2)]
    assert torch.equal(after[:, others], before[:, others])


def test_a_mask_limits_a_switch_and_outside_of_it_values_are_the_same_to_the_bit(generator):
    layer = inner(generator)
    frame = generator.layer(layer).frame
    side = frame.across
    mask = torch.zeros(side, side)
    mask[: side // 2] = 1
    features = generator.keys(SEEDS, layer)
    values = generator.values(features), generator.values(features, rules=[switch(generator, mask=mask)])
    before, after = map(frame.shown, values)
    assert torch.equal(after[..., side // 2 :, :], before[..., side // 2 :, :])
    assert is_level(after[:, [0, 2], : side // 2], 1.5)


def test_strength_goes_from_nothing_to_the_level_and_beyond(proggan):
    layer = inner(proggan)
    features = proggan.keys(SEEDS, layer)
    before = proggan.values(features)[:, 0]
    for strength in (0.0, 0.5, 1.0, 1.5):
        found = proggan.values(features, rules=[switch(proggan, (0,), strength=strength)])[:, 0]
        assert near(found, before + strength * (1.5 - before), 1e-5)


def test_each_picture_of_a_batch_has_its_own_switches_on_top_of_rules_of_both_forms(stylegan, change):
    rule, own = change(stylegan, "layer4"), switch(stylegan, (1, 5), -0.3, square(4, 4, 12, 12))
    lists = [[rule], [rule, own], [own], []]
    z = stylegan.latents([1, 2, 3, 4])
    together = stylegan(z, rules=lists)
    for i, rules in enumerate(lists):
        assert near(together[[i]], stylegan(z[[i]], rules=rules), 4e-5)
    assert not near(together[1], stylegan(z[[1]], rules=[rule])[0], 1e-3)


@pytest.mark.parametrize("generator", ["stylegan3", "proggan", "dcgan", "town"], indirect=True)
def test_switches_in_weights_draw_the_same_pictures(generator):
    change = switch(generator, (0, 1), 0.7)
    folded = generator.rewritten([change])
    drawn = generator.sample(SEEDS, rules=[change])
    assert near(folded.sample(SEEDS), drawn, 2e-4) and not near(drawn, generator.sample(SEEDS), 1e-3)


def test_silent_units_are_read_by_nothing_that_follows(generator):
    """The level of activation zero: what the next layer reads of the unit is zero, whatever lies between."""
    layer = inner(generator)
    level = generator.level(layer, [0, 2], 0.0)
    stroke = Stroke(layer, (0, 2), tuple(round(float(each), 4) for each in level))
    features = generator.keys(SEEDS, layer)
    following = generator.step(features, generator.values(features, rules=[stroke.change(generator.layer(layer))]))
    assert float(following.keys[:, [0, 2]].abs().max()) < 1e-3 < float(generator.step(
        features, generator.values(features)).keys[:, [0, 2]].abs().max())  # fmt: skip


def test_weights_keep_the_noise_that_is_added_to_a_silent_unit(stylegan):
    change = switch(stylegan, (0, 1), 0.0)
    folded, layer = stylegan.rewritten([change]), inner(stylegan)
    drawn, plain = stylegan.sample(SEEDS, rules=[change]), stylegan.sample(SEEDS)
    off, effect = (folded.sample(SEEDS) - drawn).norm(), (drawn - plain).norm()
    noisy = float(stylegan.memory(layer).noise_strength) != 0
    assert noisy and 0 < off < 0.5 * effect
    values = folded.values(folded.keys(SEEDS, layer))[:, :2]
    assert near(values[0], values[1], 1e-6)  # the same on every picture: noise alone


def test_a_mask_and_a_faint_switch_do_not_fold_and_the_card_says_how_far_off_weights_are(stylegan, proggan):
    for made in (switch(stylegan, mask=square(0, 0, 8, 8)), switch(stylegan, strength=0.3)):
        assert torch.equal(stylegan.rewritten([made]).sample(SEEDS), stylegan.sample(SEEDS))
    session = Rewriter(proggan, inner(proggan))
    session.switch_units(Stroke(inner(proggan), (0, 2), (0.5, 0.5)))
    assert approximation(proggan, [session.execute()]) == ""
    session.switch_units(Stroke(inner(proggan), (0, 2), (0.5, 0.5), Region(0, square(0, 0, 8, 8))))
    assert "units" in approximation(proggan, [session.execute()])


@pytest.mark.parametrize(
    "tensors",
    [
        {"units": torch.tensor([0.0, 0.0]), "levels": torch.zeros(2)},
        {"units": torch.tensor([-1.0]), "levels": torch.zeros(1)},
        {"units": torch.tensor([4096.0]), "levels": torch.zeros(1)},
        {"units": torch.zeros(0), "levels": torch.zeros(0)},
        {"units": torch.zeros(1), "levels": torch.zeros(2)},
        {"units": torch.zeros(1), "levels": torch.zeros(1), "mask": torch.full((2, 2), 2.0)},
        {"units": torch.zeros(1), "levels": torch.zeros(1), "mask": torch.zeros(2, 2, 2)},
        {"units": torch.zeros(1), "levels": torch.zeros(1), "mask": torch.zeros(0, 3)},
        {"units": torch.zeros(1), "levels": torch.zeros(1), "mask": torch.zeros(1, 4096)},
    ],
)
def test_damaged_units_of_a_file_fit_no_layer(stylegan, tensors):
    assert not Units.from_tensors(tensors).fits(stylegan.layer("layer4"))


def test_a_rule_of_units_is_saved_loaded_replayed_and_undone(stylegan, tmp_path):
    session = Rewriter(stylegan, "layer4")
    session.switch_units(Stroke("layer4", (3, 7), (0.0, 0.25), thing="no hats"))
    rule = session.execute()
    drawn = session.sample(SEEDS)
    assert rule.effect.side_effect > 0.1 and rule.effect.verdict == "" and rule.edit.form == "units"
    rule.save(tmp_path / "rule.safetensors")
    again = Rule.load(tmp_path / "rule.safetensors")
    assert torch.equal(stylegan.sample(SEEDS, rules=[again]), drawn) and identity([again]) == identity([rule])
    replayed = replay(stylegan, Edit.from_json(again.edit.to_json()))
    assert torch.equal(stylegan.sample(SEEDS, rules=[replayed]), drawn)
    assert again.angle(rule) == 90 and bool(again.matches(torch.zeros(1, 4, 8, 8)).all())
    session.undo()
    assert not session.rules and torch.equal(session.sample(SEEDS), stylegan.sample(SEEDS))


def test_a_published_rule_of_units_says_what_it_is(proggan):
    session = Rewriter(proggan, "layer4")
    session.switch_units(Stroke("layer4", (3, 7), (0.0, 0.25), thing="no hats"))
    rule = session.execute()
    made = draft(proggan, [rule], "ada/no-hats", export=["genforce"], pictures=False)
    assert "2 units off" in effect_in_words("it", rule) and "units set to levels" in made.card
    assert "GAN Dissection" in made.card and "gated" not in made.card
    ((title, how, said),) = told([rule])
    assert title == "no hats" and "units of the layer" in how


def painted(generator, strokes=2):
    session = Rewriter(generator, "layer4")
    for i in range(strokes):
        session.paint(Stroke("layer4", (1, 4), (2.0, -1.0), Region(5, square(2 + 4 * i, 2, 8 + 4 * i, 8))))
    return session


def test_strokes_show_on_their_picture_only_and_are_undone_one_by_one(stylegan):
    session, plain = painted(stylegan), stylegan.sample([5, 6])
    both = session.painted([5, 6])
    assert near(both[1], plain[1], 4e-5) and not near(both[0], plain[0], 1e-2)
    session.undo()
    one = session.painted([5])[0]
    assert len(session.edit.strokes) == 1 and not near(one, both[0], 1e-3)
    session.undo()
    assert torch.equal(session.painted([5, 6]), plain) and session.edit.kind == "replace"


def test_painting_asks_for_what_was_painted_and_a_rule_of_it_holds_there(stylegan):
    session = painted(stylegan)
    assert session.edit.missing() == [] and session.edit.paste.seed == 5
    rule = session.execute(form="weight")
    assert rule.edit.kind == "paint" and rule.effect.goal_error_removed > 0.5
    assert not near(session.sample([5]), stylegan.sample([5]), 1e-2)
    assert session.strokes_on(5) == []  # the rule draws them now


def test_the_goal_of_a_painted_edit_is_the_painted_values_and_other_marks_get_the_same_units(stylegan):
    from rewriter.editing.execute import prepare

    session = painted(stylegan, strokes=1)
    session.add_context(9, square(8, 8, 16, 16))
    job = prepare(stylegan, session.edit.with_(form="weight"))
    goal = job.goal()
    assert [len(goal.values), goal.weight[0].max(), goal.weight[1].max()] == [2, 1, 1]
    at = goal.weight[1] == 1
    assert is_level(goal.values[1, 1][at], 2.0)
    away = goal.weight[1] == 0
    assert near(goal.values[1][:, away], goal.before[1][:, away], 1e-5)  # a batch of changes may round otherwise


def test_links_sessions_and_files_hold_strokes_to_the_bit(stylegan, tmp_path):
    session = painted(stylegan)
    edit = session.edit
    (opened,) = link.decode(link.encode([edit]))
    session.save(tmp_path / "session.safetensors")
    loaded = History.load(tmp_path / "session.safetensors").present.edit
    edit.save(tmp_path / "edit.json")
    for again in (opened, loaded, Edit.load(tmp_path / "edit.json")):
        assert again.digest == edit.digest and len(again.strokes) == 2
        assert torch.equal(again.strokes[1].place.mask, edit.strokes[1].place.mask)


def test_another_kind_of_edit_leaves_strokes_behind(stylegan):
    session = painted(stylegan)
    session.copy(7, square(4, 6, 12, 12))
    assert (session.edit.kind, session.edit.strokes, session.edit.paste) == ("replace", (), None)
    session.switch_units(Stroke("layer4", (1,), (0.0,)))
    session.erase(1, square(4, 6, 12, 12))
    assert (session.edit.kind, session.edit.strokes, session.edit.form) == ("erase", (), "auto")


REGION = Region(5, square(2, 2, 8, 8))
STROKE = Stroke("layer4", (1,), (0.5,), REGION)


@pytest.mark.parametrize(
    ("stroke", "words"),
    [
        (replace(STROKE, place=None), "has a place"),
        (replace(STROKE, layer="layer99"), "no layer 'layer99'"),
        (replace(STROKE, units=(4096,)), "not among them"),
        (replace(STROKE, units=(1, 1), levels=(0.0, 0.0)), "different units"),
        (replace(STROKE, units=(), levels=()), "one level"),
        (replace(STROKE, levels=("high",)), "levels 1"),
        ("tree", "Thing.stroke"),
        (replace(STROKE, levels=(math.nan,)), "levels 1"),
        (replace(STROKE, strength=2.5), "strength"),
        (replace(STROKE, thing="two\nlines"), "thing"),
    ],
)
def test_a_wrong_stroke_is_refused_and_nothing_changes(stylegan, stroke, words):
    session = painted(stylegan)
    before = session.edit.digest
    with pytest.raises(InputError, match=words):
        session.paint(stroke)
    assert session.edit.digest == before


def test_switches_that_overlap_fold_to_the_last_one(proggan, dcgan):
    for generator in (proggan, dcgan):
        both = [switch(generator, (0, 2), 1.5), switch(generator, (2, 1), -0.7)]
        assert near(generator.rewritten(both).sample(SEEDS), generator.sample(SEEDS, rules=both), 2e-4)


def test_the_strength_of_a_switch_is_the_edits_and_a_replay_has_the_same(stylegan):
    session = Rewriter(stylegan, "layer4")
    session.switch_units(Stroke("layer4", (1, 2), (2.0, 2.0), strength=0.5))
    rule = session.execute()
    assert (rule.strength, session.edit.strength, session.edit.strokes[0].strength) == (0.5, 0.5, 1.0)
    (edit,) = session.edits
    assert torch.equal(stylegan.sample(SEEDS, rules=[replay(stylegan, edit)]), session.sample(SEEDS))
    with pytest.raises(InputError, match="set the edit's strength"):
        replay(stylegan, edit.with_(strokes=[replace(edit.strokes[0], strength=0.5)]))


def test_painting_goes_on_after_a_switch_was_removed(stylegan):
    session = Rewriter(stylegan, "layer4")
    session.switch_units(Stroke("layer4", (1,), (0.0,)))
    session.execute()
    session.remove(0)
    session.paint(STROKE)
    assert session.edit.form == "auto" and session.execute(form="weight").edit.kind == "paint"


def test_a_switch_has_one_stroke_and_a_rule_of_it_is_whole(stylegan):
    session = Rewriter(stylegan, "layer4")
    session.switch_units(Stroke("layer4", (1,), (0.0,)))
    rule = session.execute()
    for strokes in ([], [STROKE, STROKE]):
        wrong = rule.edit.with_(strokes=strokes)
        assert wrong.missing() and pytest.raises(InputError, replay, stylegan, wrong)
        with pytest.raises(InputError, match="incomplete"):
            assemble(rule.about(), rule.tensors(), wrong)
    with pytest.raises(InputError, match="crops"):
        session.crops()


def test_units_that_a_generator_lacks_are_refused_when_a_session_is_opened(stylegan, proggan):
    session = painted(stylegan)
    foreign = session.edit.with_(strokes=[replace(STROKE, units=(4000,))], fingerprint="")
    state = replace(session.history.present, edit=foreign)
    with pytest.raises(InputError, match="units 0 to"):
        Rewriter(stylegan, history=History((state,)))


def test_masks_and_units_of_strokes_are_bounded_before_all_are_decoded():
    huge = {"seed": 1, "mask": encode(torch.ones(2048, 2048))}
    stroke = {"layer": "layer4", "units": [1], "levels": [0.0], "place": huge}
    data = {"version": 1, "generator": "", "layer": "layer4", "kind": "paint", "strokes": [stroke] * 100}
    with pytest.raises(InputError, match="million cells"):
        Edit.from_json(data)
    many = {**stroke, "place": None, "units": list(range(500)), "levels": [0.0] * 500}
    with pytest.raises(InputError, match="units in all"):
        Edit.from_json({**data, "strokes": [many] * 100})


def test_an_edit_has_a_bounded_number_of_strokes(stylegan):
    session = painted(stylegan, strokes=1)
    with pytest.raises(InputError, match=f"at most {MOST}"):
        session.use(session.edit.with_(strokes=[STROKE] * (MOST + 1)))


def test_units_of_several_layers_make_no_rule(stylegan):
    session = painted(stylegan, strokes=1)
    session.paint(replace(STROKE, layer="layer5"))
    with pytest.raises(InputError, match="one layer"):
        session.execute(form="weight")
    with pytest.raises(InputError, match="no other layer"):
        session.suggest()
