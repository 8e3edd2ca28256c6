"""From pointing to a rule: what it achieves on the built-in world, and on what the rule of an edit depends."""

import contextlib
import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import same_rule, square, weight_session

from rewriter import Edit, Rewriter, replay, worlds
from rewriter.editing.effect import firing, measure
from rewriter.editing.execute import prepare
from rewriter.editing.provenance import default_layer
from rewriter.editing.recipe import Recipe
from rewriter.editing.region import Place, Region
from rewriter.editing.statistics import Statistics
from rewriter.errors import CancelledError, InputError
from rewriter.generators.latents import UNSEEN, latents
from rewriter.masks import resize
from rewriter.memory import SOLVERS
from rewriter.worlds.townscape import scenes
from rewriter.worlds.townscape.world import WORLD

LAYER = "layer8"
SOME = list(range(UNSEEN, UNSEEN + 8))
UNMARKED = [22, 30, 31, 37, 40, 42, 43, 47, 50, 53, 58, 61]  # towns with a dome that the edit does not point at


# --- on the built-in world: domes become spires ---


@pytest.fixture(scope="module")
def rule(town):
    """A change of W: measures of places and of the goal are about its directions."""
    edit = Edit.load(worlds.examples("townscape")["dome-to-spire"])
    return replay(town, edit.with_(form="weight", gate=None))


@pytest.fixture(scope="module")
def goal(town, rule):
    return prepare(town, rule.edit).goal()[:1]


@pytest.fixture(scope="module")
def domes(town):
    """Keys of the unmarked towns, and which cells lie on a dome."""
    labels = scenes.draw(WORLD.factors(latents(UNMARKED, WORLD.zdim))).labels
    features = town.keys(UNMARKED, LAYER)
    side = features.keys.shape[-1]
    shown = [resize((label == scenes.LABELS.index("dome")).float(), (side, side)) > 0.9 for label in labels]
    return features, torch.stack(shown)


def test_a_rule_lowers_the_goal_error_and_acts_on_matching_places(rule, town, goal):
    assert rule.effect.goal_error_removed > 0.1
    assert rule.effect.reach > 0.1 and rule.effect.places > 0 and 8 <= rule.effect.pictures <= 48
    assert 0 <= rule.effect.left_out < 1 and rule.effect.seconds > 0
    assert (rule.layer, rule.rank, rule.fingerprint) == (LAYER, 1, town.fingerprint)
    after = town.values(goal.features, rules=[rule])
    assert goal.remaining(after) < goal.remaining(goal.before)


def test_unmarked_domes_match_the_context_and_move_more_than_the_rest(rule, town, domes):
    features, dome = domes
    moved = (town.values(features, rules=[rule]) - town.values(features)).norm(dim=1)
    assert moved[dome].mean() > 1.5 * moved[~dome].mean() > 0
    match = rule.matches(features.keys)
    assert match[dome].float().mean() > 2 * match[~dome].float().mean()


def test_unseen_pictures_are_divided_by_whether_the_context_fires(rule, town):
    responses = torch.einsum("i,nihw->nhw", rule.directions[0], town.keys(range(UNSEEN, UNSEEN + 32), LAYER).keys)
    strict = replace(rule, level=2 * float(responses.amax((1, 2)).median()))  # a level that half the pictures reach
    hits, misses = firing(town, [strict], hits=4, misses=3)
    assert (len(hits), len(misses)) == (4, 3) and min(hits + misses) >= UNSEEN
    assert strict.matches(town.keys(hits, LAYER).keys).flatten(1).any(1).all()
    assert not strict.matches(town.keys(misses, LAYER).keys).any()
    assert firing(town, [strict.at(1), replace(rule, level=-1.0)], hits=2, misses=2, limit=16)[1] == []


# --- bad rules get bad figures ---


@pytest.fixture(scope="module")
def good(town, rule, goal):
    return measure(town, rule, goal, seeds=SOME)


def test_no_change_has_no_effect(town, rule, goal, good):
    for nothing in (replace(rule, delta=rule.delta * 0), rule.at(0)):
        effect = measure(town, nothing, goal, seeds=SOME)
        assert (effect.goal_error_removed, effect.reach, effect.side_effect) == (0, 0, 0)
        assert (effect.places, effect.left_out) == (good.places, good.left_out)


def test_a_random_change_removes_no_goal_error_and_reaches_little(town, rule, goal, good):
    random = torch.randn(rule.delta.shape, generator=torch.Generator().manual_seed(0))
    random *= rule.delta.norm() / random.norm()
    effect = measure(town, replace(rule, delta=random), goal, seeds=SOME)
    assert effect.goal_error_removed <= 0 < good.goal_error_removed and effect.reach < good.reach / 2


def test_the_opposite_change_makes_the_goal_error_worse(town, rule, goal, good):
    effect = measure(town, replace(rule, delta=-rule.delta), goal, seeds=SOME)
    assert effect.goal_error_removed < 0 and effect.reach < 0.1 * good.reach


def test_a_change_that_acts_everywhere_has_a_large_side_effect(town, rule, goal, good):
    usual = town.keys(list(range(300, 316)), LAYER).keys.mean((0, 2, 3))
    everywhere = usual - rule.directions[0] * (usual @ rule.directions[0])
    directions = torch.stack([rule.directions[0], everywhere / everywhere.norm()])
    loud = replace(rule, directions=directions, delta=rule.delta.repeat(1, 2, 1, 1))
    effect = measure(town, loud, goal, seeds=SOME)
    assert effect.side_effect > 2 * good.side_effect and effect.left_out == good.left_out


def test_figures_do_not_depend_on_the_order_of_the_pictures(town, rule, goal, good):
    effect = measure(town, rule, goal, seeds=SOME[::-1])
    assert effect.places == good.places and effect.left_out == good.left_out
    assert effect.reach == pytest.approx(good.reach, abs=0.01)
    assert effect.side_effect == pytest.approx(good.side_effect, rel=1e-3)


def test_matching_nowhere_gives_no_reach_and_matching_everywhere_leaves_no_outside(town, rule, goal):
    nowhere, everywhere = (measure(town, replace(rule, level=at), goal, seeds=SOME) for at in (1e9, -1e9))
    assert (nowhere.places, nowhere.reach, nowhere.left_out) == (0, 0, 0) and nowhere.side_effect > 0
    assert math.isnan(everywhere.side_effect) and everywhere.left_out == 1


# --- what the rule of an edit depends on, on a small generator ---


@pytest.fixture(scope="module")
def first(stylegan, statistics):
    """The rule that `session` leads to."""
    place = square(6, 4, 12, 12)
    edit = Edit("stylegan", "layer4", copy=Region(7, square(4, 6, 12, 12)), paste=Region(1, place))
    context = tuple(Region(seed, place) for seed in (1, 2, 3))
    return replay(stylegan, replace(edit, context=context, fingerprint=stylegan.fingerprint), statistics=statistics)


@pytest.mark.parametrize("share", [1.0, 0.7773])
def test_replaying_a_recorded_edit_gives_the_rule_to_the_bit_whatever_the_mask(stylegan, statistics, tmp_path, share):
    """A file holds masks in steps of 1/255, so the session must round them before it uses them."""
    session = weight_session(stylegan, "layer4", statistics=statistics)
    session.copy(7, square(4, 6, 12, 12) * share)
    session.paste(1, square(6, 4, 12, 12) * share)
    rule = session.execute()
    edit = Edit.from_json(json.loads(json.dumps(rule.edit.to_json())))
    again = replay(stylegan, edit, statistics=Statistics(stylegan, cache=tmp_path))  # nothing measured before
    assert same_rule(again, rule) and again.edit.to_json() == rule.edit.to_json()
    assert replace(again.effect, seconds=0) == replace(rule.effect, seconds=0)


def test_a_closed_form_of_chosen_rank_is_replayed_to_the_bit(session, stylegan, tmp_path):
    rule = session.execute(method="closed-form", rank=5)
    assert rule.rank == 5 and rule.edit.method == "closed-form"
    again = replay(stylegan, rule.edit, statistics=Statistics(stylegan, cache=tmp_path))
    assert same_rule(again, rule)
    found = [Place(seed, 8.0, 8.0) for seed in range(300, 320)]  # further context goes into the solution as well
    assert not same_rule(replay(stylegan, rule.edit.with_(found=found)), rule)


def test_executing_again_gives_the_same_rule_also_after_cancelling(session, first):
    with pytest.raises(CancelledError):
        session.execute(on_step=lambda *_: False)
    assert same_rule(session.execute(), first) and same_rule(session.execute(), first)


@pytest.mark.parametrize("method", SOLVERS)
def test_a_session_leaves_the_generator_untouched(session, stylegan, method):
    before = {name: value.clone() for name, value in stylegan.state_dict().items()}
    picture, fingerprint = stylegan.sample([5]), stylegan.fingerprint
    with contextlib.suppress(CancelledError):
        session.execute(method=method, on_step=lambda step, of: method == "least-squares" or step < 5)
    assert all(torch.equal(value, before[name]) for name, value in stylegan.state_dict().items())
    assert torch.equal(stylegan.sample([5]), picture)
    assert stylegan.fingerprint == fingerprint and stylegan.rules == ()


def test_the_strength_of_an_edit_is_that_of_its_rule(session, first, stylegan, statistics):
    half = replay(stylegan, session.edit.with_(strength=0.5), statistics=statistics)
    assert half.strength == 0.5 and same_rule(half, first)
    assert half.effect.goal_error_removed != first.effect.goal_error_removed


def test_without_a_context_the_pasted_place_is_the_context(begin):
    session = begin(contexts=0)
    alone = session.execute()
    session.add_context(1, square(6, 4, 12, 12))
    assert same_rule(session.execute(), alone)


def test_cells_that_a_context_barely_touches_do_not_count(begin, first):
    touching = square(6, 4, 12, 12)
    touching[5, 3:13], touching[12, 3:13] = 1, 1  # half of the cells above and below
    touching[5, 3:13:2] = touching[12, 3:13:2] = 0  # a quarter of them
    session = begin(contexts=0)
    for seed in (1, 2, 3):
        session.add_context(seed, touching)
    assert torch.equal(session.execute().directions, first.directions)


def test_the_order_of_contexts_does_not_matter(begin, first):
    session = begin(contexts=0)
    for seed in (3, 1, 2):
        session.add_context(seed, square(6, 4, 12, 12))
    assert torch.cosine_similarity(session.execute().directions, first.directions) > 1 - 1e-4


def test_erasing_needs_no_copy_and_silences_units_or_fills_from_similar_pictures(stylegan, statistics):
    session = weight_session(stylegan, "layer6", statistics=statistics)
    session.erase(1, square(6, 4, 9, 7), units=8)
    rule = session.execute()
    assert (rule.edit.kind, rule.edit.units, rule.edit.copy) == ("erase", 8, None)
    assert rule.effect.goal_error_removed > 0.1
    session.erase(1, square(6, 4, 9, 7))
    assert session.edit.units is None and session.execute().effect.goal_error_removed > 0.1
    session.set(layer="layer4")
    for units, mask, words in (
        (33, square(6, 4, 9, 7), "33 units"),
        (None, square(0, 0, 16, 16), "every picture.*narrower"),
    ):
        session.erase(1, mask, units=units)
        with pytest.raises(InputError, match=words):
            session.execute()


def test_a_protected_place_changes_less(session, stylegan, first):
    session.keep(5, square(0, 0, 16, 16))
    protected, features = session.execute(), stylegan.keys([5], "layer4")

    def moved(rule):
        return float((stylegan.values(features, rules=[rule]) - stylegan.values(features)).norm())

    assert 0 < moved(protected) < moved(first)


def test_the_recipe_and_the_truncation_of_the_statistics_count(session, first, stylegan, statistics):
    few = replay(stylegan, session.edit.with_(statistics=Recipe(20, 8)), statistics=statistics)
    assert not torch.equal(few.directions, first.directions) and few.edit.statistics == Recipe(20, 8)
    edit = session.edit.with_(truncation=0.5)
    halfway = replay(stylegan, edit, statistics=statistics)
    assert same_rule(halfway, replay(stylegan, edit, statistics=Statistics(stylegan)))
    assert not torch.equal(halfway.directions, first.directions)


def test_a_linear_generator_can_be_edited_too(proggan):
    session = weight_session(proggan, "layer6")
    session.copy(7, square(8, 10, 20, 18, 32))
    session.paste(1, square(8, 10, 20, 18, 32))
    assert session.execute().effect.goal_error_removed > 0.1


# --- rules upon rules ---


def test_an_edit_after_a_rule_is_an_edit_of_the_rewritten_generator(begin, first, stylegan):
    """Whether the first rule is applied beside the weights or folded into them."""
    second = begin(rules=[first]).execute(smoothness=10.0)
    twin = begin(generator=stylegan.rewritten([first]), statistics=None).execute(smoothness=10.0)
    fresh = begin().execute(smoothness=10.0)
    assert second.fingerprint == stylegan.fingerprint != twin.fingerprint
    assert torch.allclose(second.directions, twin.directions, atol=1e-3)
    assert (second.delta - twin.delta).norm() < 0.05 * (second.delta - fresh.delta).norm()
    assert second.edit.after and not first.edit.after
    assert second.effect.goal_error_removed > 0
    assert not torch.equal(stylegan.sample([1], rules=[first, second]), stylegan.sample([1], rules=[first]))


def test_a_rule_that_is_off_does_not_count(begin, first):
    second = begin(rules=[first.at(0)]).execute()
    assert same_rule(second, first) and second.edit.after == ()


def test_earlier_rules_are_recognised_by_their_request_not_their_numbers(begin, first, session, stylegan, statistics):
    """On another machine the same edit leads to slightly different numbers."""
    elsewhere = replace(first, delta=first.delta * (1 + 1e-6))
    after = begin(rules=[first]).edit
    assert after.after == begin(rules=[elsewhere]).execute().edit.after != ()
    assert replay(stylegan, after, rules=[elsewhere], statistics=statistics).layer == first.layer
    for rules in ([], [first.at(0.5)], [first, first]):
        with pytest.raises(InputError, match="made after 1 earlier rule"):
            replay(stylegan, after, rules=rules, statistics=statistics)


# --- what cannot be done says why ---


def test_an_incomplete_edit_says_what_is_missing(stylegan):
    session = weight_session(stylegan, "layer4")
    with pytest.raises(InputError, match=r"copy a thing.*paste it.*mark the context"):
        session.execute()
    session.copy(7, square(4, 6, 12, 12))
    with pytest.raises(InputError, match="incomplete: paste it"):
        session.execute()
    with pytest.raises(InputError, match="mark the place to erase"):
        replay(stylegan, Edit("stylegan", "layer4", kind="erase"))


@pytest.mark.parametrize(
    ("layer", "mask", "words"),
    [
        ("layer4", square(5, 6, 6, 8), r"picture \d covers 0\.50 .*layer4 .*finer layer .layer6 or later"),
        ("layer6", square(10, 10, 11, 11, 64), r"picture \d.*paint more$"),  # there is no finer layer
        ("layer6", square(80, 0, 81, 256, 256), r"picture \d.*paint more"),  # a cell in all, a sixteenth of each
    ],
)
def test_a_mask_that_covers_no_cell_names_the_picture_and_a_finer_layer(stylegan, statistics, layer, mask, words):
    session = weight_session(stylegan, layer, statistics=statistics)
    session.copy(7, mask)
    session.paste(1, mask)
    with pytest.raises(InputError, match=words):
        session.execute()
    if layer == "layer4":
        session.set(layer="layer6")
        assert session.execute().layer == "layer6"


def test_rules_edits_and_layers_of_another_generator_are_refused(session, begin, first, proggan, stylegan):
    with pytest.raises(InputError, match="fingerprint"):
        begin(rules=[replace(first, fingerprint=proggan.fingerprint)])
    with pytest.raises(InputError, match="stylegan .*proggan"):
        replay(proggan, session.edit)
    whole = Region(1, torch.ones(4, 4))
    with pytest.raises(InputError, match=f"'layer99'.*{', '.join(stylegan.layers)}"):
        replay(stylegan, Edit("stylegan", "layer99", copy=whole, paste=whole))


def test_pasting_a_thing_onto_itself_is_refused_unless_it_belongs_at_contexts_elsewhere(stylegan, statistics):
    session = weight_session(stylegan, "layer4", statistics=statistics)
    session.copy(1, square(4, 6, 12, 12))
    session.paste(1, square(4, 6, 12, 12))
    with pytest.raises(InputError, match="already there: paste it onto another picture"):
        session.execute()
    session.add_context(1, square(4, 6, 12, 12))
    session.add_context(2, square(4, 6, 12, 12))
    with pytest.raises(InputError, match="already there"):
        session.execute(spread=False)  # the only goal is the pasted place
    assert 0 < session.execute().effect.goal_error_removed < 1
    session.paste(1, square(6, 6, 14, 12))  # the same picture, but another place
    assert 0 < session.execute().effect.goal_error_removed < 1


def test_the_default_layer_is_one_of_the_generators(town, stylegan, proggan):
    assert default_layer(town) == default_layer(proggan) == "layer8"
    assert default_layer(stylegan) == "layer4" == Rewriter(stylegan).edit.layer
