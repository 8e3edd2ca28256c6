"""From pointing to a rule: what it achieves on the built-in world, how a session behaves on a small generator."""

import contextlib
import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import square

from rewriter import Edit, Rewriter, replay
from rewriter.editing.edit import Region
from rewriter.editing.effect import UNSEEN, firing, matching, measure
from rewriter.editing.session import default_layer
from rewriter.editing.statistics import Recipe, Statistics
from rewriter.errors import CancelledError, InputError
from rewriter.generators.latents import latents
from rewriter.masks import bounds, resize
from rewriter.memory.goal import paste
from rewriter.worlds.townscape import scenes

LAYER = "layer8"
SOME = list(range(UNSEEN, UNSEEN + 8))
FACTORS = scenes.factors(latents(range(200), scenes.LATENT_DIM))
SCENES = scenes.draw(FACTORS)


def thing(seed, name):
    """Where a thing is on a picture, bool (64, 64)."""
    return SCENES.labels[seed] == scenes.LABELS.index(name)


def seeds_with(name):
    """Seeds whose unmarked picture shows a thing at a fair size."""
    unmarked = ~scenes.has_watermark(FACTORS)
    return [seed for seed in range(len(FACTORS)) if unmarked[seed] and thing(seed, name).sum() > 40]


DOMES, SPIRES = seeds_with("dome"), seeds_with("spire")


def same(a, b):
    """The same change, to the bit."""
    return torch.equal(a.delta, b.delta) and torch.equal(a.directions, b.directions) and a.level == b.level


# --- on the built-in world: domes become spires ---


@pytest.fixture(scope="module")
def rule(town):
    """Copied, pasted, three contexts marked, executed."""
    session = Rewriter(town, LAYER)
    session.copy(SPIRES[0], thing(SPIRES[0], "spire"))
    session.paste(DOMES[0], thing(DOMES[0], "dome"))
    for seed in DOMES[:3]:
        session.add_context(seed, thing(seed, "dome"))
    return session.execute()


@pytest.fixture(scope="module")
def goal(town):
    """The paste alone, stated by hand."""
    side = town.layers[LAYER].resolution
    spire, dome = (resize(thing(*at).float(), (side, side)) for at in ((SPIRES[0], "spire"), (DOMES[0], "dome")))
    features = town.keys([DOMES[0]], LAYER)
    source = town.values(town.keys([SPIRES[0]], LAYER))[0]
    return paste(features, town.values(features), [bounds(dome).centre], source, spire, snap=1)


def test_a_rule_takes_the_goal_error_down_and_acts_where_it_should(rule, town, goal):
    assert rule.effect.goal_error_removed > 0.1
    assert rule.effect.reach > 0.1 and rule.effect.places > 0 and 8 <= rule.effect.pictures <= 48
    assert 0 <= rule.effect.left_out < 1 and rule.effect.seconds > 0
    assert (rule.layer, rule.rank, rule.fingerprint) == (LAYER, 1, town.fingerprint)
    after = town.values(goal.features, rules=[rule])
    assert goal.remaining(after) < goal.remaining(goal.before)


def test_a_rule_moves_domes_more_than_the_rest(rule, town):
    features = town.keys(DOMES[3:20], LAYER)
    side = features.keys.shape[-1]
    dome = torch.stack([resize(thing(s, "dome").float(), (side, side)) > 0.9 for s in DOMES[3:20]])
    moved = (town.values(features, rules=[rule]) - town.values(features)).norm(dim=1)
    assert moved[dome].mean() > 1.5 * moved[~dome].mean() > 0


def test_the_context_fires_on_domes(rule, town):
    features = town.keys(DOMES[3:20], LAYER)
    match = matching(rule, features)
    side = match.shape[-1]
    dome = torch.stack([resize(thing(s, "dome").float(), (side, side)) > 0.9 for s in DOMES[3:20]])
    assert match[dome].float().mean() > 2 * match[~dome].float().mean()


def test_firing_parts_pictures_by_whether_the_context_fires(rule, town):
    peaks = torch.einsum("i,nihw->nhw", rule.directions[0], town.keys(range(UNSEEN, UNSEEN + 32), LAYER).keys).amax(
        (1, 2)
    )
    strict = replace(rule, level=2 * float(peaks.median()))  # a level that half the pictures reach
    hits, misses = firing(town, [strict], hits=4, misses=3)
    assert (len(hits), len(misses)) == (4, 3) and min(hits + misses) >= UNSEEN
    assert matching(strict, town.keys(hits, LAYER)).flatten(1).any(1).all()
    assert not matching(strict, town.keys(misses, LAYER)).any()
    assert firing(town, [strict.at(1), replace(rule, level=-1.0)], hits=2, misses=2, limit=16)[1] == []


def test_replaying_the_recorded_edit_gives_the_rule_to_the_bit(rule, town, tmp_path):
    edit = Edit.from_json(json.loads(json.dumps(rule.edit.to_json())))
    again = replay(town, edit, statistics=Statistics(town, cache=tmp_path))  # nothing measured before
    assert same(again, rule) and again.edit == rule.edit
    assert replace(again.effect, seconds=0) == replace(rule.effect, seconds=0)


# --- bad rules get bad figures ---


def measured(town, rule, goal, seeds=SOME):
    return measure(town, rule, goal, seeds=seeds)


@pytest.fixture(scope="module")
def good(town, rule, goal):
    return measured(town, rule, goal)


def test_no_change_has_no_effect(town, rule, goal, good):
    for nothing in (replace(rule, delta=rule.delta * 0), rule.at(0)):
        effect = measured(town, nothing, goal)
        assert (effect.goal_error_removed, effect.reach, effect.side_effect) == (0, 0, 0)
        assert (effect.places, effect.left_out) == (good.places, good.left_out)


def test_a_random_change_removes_no_goal_error_and_reaches_little(town, rule, goal, good):
    random = torch.randn(rule.delta.shape, generator=torch.Generator().manual_seed(0))
    effect = measured(town, replace(rule, delta=random * rule.delta.norm() / random.norm()), goal)
    assert effect.goal_error_removed <= 0 < good.goal_error_removed
    assert effect.reach < good.reach / 2


def test_the_opposite_change_makes_the_goal_worse(town, rule, goal, good):
    effect = measured(town, replace(rule, delta=-rule.delta), goal)
    assert effect.goal_error_removed < 0
    assert effect.reach < 0.1 * good.reach


def test_a_change_that_acts_everywhere_has_a_high_side_effect(town, rule, goal, good):
    usual = town.keys(list(range(300, 316)), LAYER).keys.mean((0, 2, 3))
    everywhere = usual - rule.directions[0] * (usual @ rule.directions[0])
    loud = replace(
        rule,
        directions=torch.stack([rule.directions[0], everywhere / everywhere.norm()]),
        delta=rule.delta.repeat(1, 2, 1, 1),
    )
    effect = measured(town, loud, goal)
    assert effect.side_effect > 2 * good.side_effect
    assert effect.left_out == good.left_out


def test_figures_do_not_depend_on_the_order_of_the_pictures(town, rule, goal, good):
    effect = measured(town, rule, goal, seeds=SOME[::-1])
    assert effect.places == good.places and effect.left_out == good.left_out
    assert effect.reach == pytest.approx(good.reach, abs=0.01)
    assert effect.side_effect == pytest.approx(good.side_effect, rel=1e-3)


def test_a_rule_without_a_match_reaches_nothing(town, rule, goal):
    deaf = replace(rule, level=1e9)
    effect = measured(town, deaf, goal)
    assert (effect.places, effect.reach, effect.left_out) == (0, 0, 0)
    assert effect.side_effect > 0


def test_a_rule_that_matches_everywhere_has_no_outside(town, rule, goal):
    effect = measured(town, replace(rule, level=-1e9), goal)
    assert math.isnan(effect.side_effect) and effect.left_out == 1


# --- how a session behaves, on a small generator ---


@pytest.fixture
def begin(stylegan, statistics):
    """Start a session with a copy, a paste and so many contexts."""

    def make(contexts=3, **options):
        session = Rewriter(options.pop("generator", stylegan), "layer4", **{"statistics": statistics, **options})
        session.copy(7, square(4, 6, 12, 12))
        session.paste(1, square(6, 4, 12, 12))
        for seed in (1, 2, 3)[:contexts]:
            session.add_context(seed, square(6, 4, 12, 12))
        return session

    return make


@pytest.fixture
def session(begin):
    return begin()


@pytest.fixture(scope="module")
def first(stylegan, statistics):
    """The rule that `session` leads to."""
    edit = Edit("stylegan", "layer4", copy=Region(7, square(4, 6, 12, 12)), paste=Region(1, square(6, 4, 12, 12)))
    context = tuple(Region(seed, square(6, 4, 12, 12)) for seed in (1, 2, 3))
    return replay(stylegan, replace(edit, context=context, fingerprint=stylegan.fingerprint), statistics=statistics)


@pytest.mark.parametrize("share", [1.0, 0.7773])
def test_replaying_a_record_is_exact_whatever_the_mask(stylegan, statistics, share):
    """The record holds masks in steps of 1/255: the session must have worked with those."""
    session = Rewriter(stylegan, "layer4", statistics=statistics)
    session.copy(7, square(4, 6, 12, 12) * share)
    session.paste(1, square(6, 4, 12, 12) * share)
    rule = session.execute()
    assert same(replay(stylegan, rule.edit, statistics=statistics), rule)


def test_executing_again_gives_the_same_rule(session, first):
    assert same(session.execute(), first) and same(session.execute(), first)


@pytest.mark.parametrize("method", ["least-squares", "projected", "direct", "unconstrained"])
def test_the_generator_is_untouched_by_a_session(session, stylegan, method):
    before = {name: value.clone() for name, value in stylegan.state_dict().items()}
    picture, fingerprint = stylegan.sample([5]), stylegan.fingerprint
    with contextlib.suppress(CancelledError):
        session.execute(method=method, on_step=lambda step, *_: method == "least-squares" or step < 5)
    assert all(torch.equal(value, before[name]) for name, value in stylegan.state_dict().items())
    assert torch.equal(stylegan.sample([5]), picture)
    assert stylegan.fingerprint == fingerprint and stylegan.rules == ()


def test_options_reach_the_rule_and_its_record(session):
    rule = session.execute(rank=2, smoothness=30.0, spread=False)
    assert rule.rank == 2
    recorded = rule.edit
    assert (recorded.rank, recorded.smoothness, recorded.spread) == (2, 30.0, False)
    assert (recorded.generator, recorded.layer) == ("stylegan", "layer4")
    assert [region.seed for region in recorded.context] == [1, 2, 3]


def test_the_strength_of_an_edit_is_that_of_its_rule(session, first, stylegan, statistics):
    half = replay(stylegan, session.edit.with_(strength=0.5), statistics=statistics)
    assert half.strength == 0.5 and same(half, first)
    assert half.effect.goal_error_removed != first.effect.goal_error_removed


def test_without_a_context_the_pasted_place_is_the_context(begin):
    session = begin(contexts=0)
    alone = session.execute()
    session.add_context(1, square(6, 4, 12, 12))
    assert same(session.execute(), alone)


def test_cells_barely_touched_by_a_context_do_not_count(begin, first):
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


def test_erasing_needs_no_copy_and_lowers_what_stands_out(stylegan, statistics):
    session = Rewriter(stylegan, "layer4", statistics=statistics)
    session.erase(1, square(6, 4, 12, 12), units=8)
    rule = session.execute()
    assert (rule.edit.kind, rule.edit.units, rule.edit.copy) == ("erase", 8, None)
    assert rule.effect.goal_error_removed > 0.1
    with pytest.raises(InputError, match="33 units"):
        session.erase(1, square(6, 4, 12, 12), units=33)
        session.execute()


def test_erasing_fills_the_place_from_pictures_without_the_context(stylegan, statistics):
    session = Rewriter(stylegan, "layer6", statistics=statistics)
    session.erase(1, square(6, 4, 9, 7))
    assert session.edit.units is None
    assert session.execute().effect.goal_error_removed > 0.1


def test_erasing_what_is_in_every_picture_says_so(stylegan, statistics):
    session = Rewriter(stylegan, "layer4", statistics=statistics)
    session.erase(1, square(0, 0, 16, 16))
    with pytest.raises(InputError, match="fires on every picture.*narrower"):
        session.execute()


def test_a_kept_place_changes_less(session, stylegan, first):
    session.keep(5, square(0, 0, 16, 16))
    protected = session.execute()
    features = stylegan.keys([5], "layer4")
    before = stylegan.values(features)

    def moved(rule):
        return float((stylegan.values(features, rules=[rule]) - before).norm())

    assert 0 < moved(protected) < moved(first)


def test_the_recipe_of_the_statistics_counts(session, first, stylegan, statistics):
    few = replay(stylegan, session.edit.with_(statistics=Recipe(20, 8)), statistics=statistics)
    assert not torch.equal(few.directions, first.directions)
    assert few.edit.statistics == Recipe(20, 8)


def test_statistics_at_another_truncation_are_not_used(session, stylegan, statistics):
    edit = session.edit.with_(truncation=0.5)
    own = Statistics(stylegan, truncation=0.5)
    assert same(replay(stylegan, edit, statistics=statistics), replay(stylegan, edit, statistics=own))


def test_a_linear_generator_can_be_edited_too(proggan):
    session = Rewriter(proggan, "layer6")
    mask = torch.zeros(32, 32)
    mask[8:20, 10:18] = 1
    session.copy(7, mask)
    session.paste(1, mask)
    assert session.execute().effect.goal_error_removed > 0.1


# --- rules upon rules ---


def test_an_edit_after_a_rule_is_an_edit_of_the_rewritten_generator(begin, first, stylegan):
    """Functionally or folded, the second edit starts from the same weights."""
    second = begin(rules=[first]).execute(smoothness=10.0)
    twin = begin(generator=stylegan.rewritten([first]), statistics=None).execute(smoothness=10.0)
    fresh = begin().execute(smoothness=10.0)
    assert second.fingerprint == stylegan.fingerprint != twin.fingerprint
    assert torch.allclose(second.directions, twin.directions, atol=1e-3)
    assert (second.delta - twin.delta).norm() < 0.05 * (second.delta - fresh.delta).norm()
    assert second.edit.after and not first.edit.after


def test_two_rules_on_top_of_each_other_come_closer_to_the_goal(begin, first, stylegan):
    second = begin(rules=[first]).execute()
    assert second.effect.goal_error_removed > 0
    assert not torch.equal(stylegan.sample([1], rules=[first, second]), stylegan.sample([1], rules=[first]))


def test_a_rule_that_is_off_does_not_count(begin, first):
    second = begin(rules=[first.at(0)]).execute()
    assert same(second, first) and second.edit.after == ()


def test_an_edit_knows_the_rules_before_it_from_another_machine(begin, first, stylegan, statistics):
    """Their numbers may differ in the last bits there; what was asked for does not."""
    session = begin(rules=[first])
    elsewhere = replace(first, delta=first.delta * (1 + 1e-6))
    assert session.execute().edit.after == begin(rules=[elsewhere]).execute().edit.after != []
    assert replay(stylegan, session.edit, rules=[elsewhere], statistics=statistics).layer == first.layer


def test_an_edit_made_after_other_rules_is_refused(session, stylegan, statistics):
    with pytest.raises(InputError):
        replay(stylegan, session.edit.with_(after=["0123456789abcdef"]), statistics=statistics)


# --- what cannot be done says why ---


def test_an_incomplete_edit_says_what_is_missing(stylegan):
    session = Rewriter(stylegan, "layer4")
    with pytest.raises(InputError, match=r"copy a thing.*paste it.*mark the context"):
        session.execute()
    session.copy(7, square(4, 6, 12, 12))
    with pytest.raises(InputError, match="incomplete: paste it"):
        session.execute()
    with pytest.raises(InputError, match="mark the place to erase"):
        replay(stylegan, Edit("stylegan", "layer4", kind="erase"))


def test_a_mask_below_one_cell_names_a_finer_layer_that_works(stylegan, statistics):
    dot = square(5, 6, 6, 8)  # half a cell at 8², two at 16²
    session = Rewriter(stylegan, "layer4", statistics=statistics)
    session.copy(7, dot)
    session.paste(1, dot)
    with pytest.raises(InputError, match=r"picture \d covers 0\.50 .*layer4 .*layer6 or later"):
        session.execute()
    finer = Rewriter(stylegan, "layer6", statistics=statistics)
    finer.copy(7, dot)
    finer.paste(1, dot)
    assert finer.execute().layer == "layer6"


def test_at_the_finest_layer_there_is_only_painting_more(stylegan, statistics):
    session = Rewriter(stylegan, "layer6", statistics=statistics)
    dot = torch.zeros(64, 64)
    dot[10, 10] = 1
    session.copy(7, dot)
    session.paste(1, dot)
    with pytest.raises(InputError, match="paint more") as caught:
        session.execute()
    assert "finer" not in str(caught.value)


def test_a_stroke_that_is_thin_everywhere_is_told_to_be_thicker(stylegan, statistics):
    line = torch.zeros(256, 256)
    line[80] = 1  # a whole cell in all at 16², but a sixteenth of each
    session = Rewriter(stylegan, "layer6", statistics=statistics)
    session.copy(7, line)
    session.paste(1, square(6, 4, 12, 12))
    with pytest.raises(InputError, match=r"picture 7.*paint more"):
        session.execute()


def test_an_unknown_layer_lists_the_layers(stylegan):
    with pytest.raises(InputError, match=f"'layer99'.*{', '.join(stylegan.layers)}"):
        Rewriter(stylegan, "layer99")
    whole = Region(1, torch.ones(4, 4))
    with pytest.raises(InputError, match="layer99"):
        replay(stylegan, Edit("stylegan", "layer99", copy=whole, paste=whole))


def test_a_rule_or_an_edit_of_another_generator_is_refused(session, begin, first, proggan):
    with pytest.raises(InputError, match="fingerprint"):
        begin(rules=[replace(first, fingerprint=proggan.fingerprint)]).execute()
    with pytest.raises(InputError, match="stylegan .*proggan"):
        replay(proggan, session.edit)


@pytest.mark.parametrize("mask", [torch.zeros(8, 8), torch.ones(8), torch.full((8, 8), 2.0), [["x"]]])
def test_bad_masks_are_refused_when_they_are_given(session, mask):
    before = session.history
    for give in (session.copy, session.paste, session.add_context, session.keep, session.erase):
        with pytest.raises(InputError, match="mask"):
            give(1, mask)
    assert session.history is before


@pytest.mark.parametrize("seed", [-1, 100_000, "3"])
def test_bad_seeds_are_refused_when_they_are_given(session, seed):
    with pytest.raises(InputError, match="seed"):
        session.copy(seed, torch.ones(8, 8))


@pytest.mark.parametrize(
    "options", [{"rank": 0}, {"rank": 400}, {"smoothness": -1.0}, {"smoothness": math.nan}, {"method": "magic"}]
)
def test_bad_options_are_refused(session, options):
    with pytest.raises(InputError, match=next(iter(options))):
        session.execute(**options)


def test_pasting_a_thing_onto_itself_is_refused_or_measured(stylegan, statistics):
    session = Rewriter(stylegan, "layer4", statistics=statistics)
    session.copy(1, square(4, 6, 12, 12))
    session.paste(1, square(4, 6, 12, 12))
    try:
        removed = session.execute().effect.goal_error_removed
    except InputError:
        return
    assert removed == 0


def test_a_cancelled_edit_can_be_executed_again(session, first):
    with pytest.raises(CancelledError):
        session.execute(on_step=lambda *_: False)
    assert same(session.execute(), first)


def test_progress_is_reported(session):
    seen = []
    session.execute(on_step=lambda *at: seen.append(at))
    assert [step for step, _, _ in seen] == list(range(1, len(seen) + 1))
    assert all(of >= step and math.isfinite(loss) for step, of, loss in seen)


def test_the_layer_to_start_with_is_one_of_the_generators(town, stylegan, proggan):
    assert default_layer(town) == default_layer(proggan) == "layer8"
    assert default_layer(stylegan) == "layer4" == Rewriter(stylegan).edit.layer
