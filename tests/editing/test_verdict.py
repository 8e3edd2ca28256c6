"""The verdict: it says "took" where the thing is there, and of nothing else; what it looked at; what to try next."""

from dataclasses import replace

import pytest
import torch

from rewriter import Edit, Effect, Region, Rewriter, load_edits, worlds
from rewriter.editing import verdict
from rewriter.editing.effect import NextStep, advice, effect_in_words, suggestion
from rewriter.editing.execute import prepare
from rewriter.editing.job import Job
from rewriter.editing.region import Place
from rewriter.editing.statistics import Statistics
from rewriter.editing.verdict import TOOK, HeldOut, crops, held_out, judge
from rewriter.errors import InputError

SIDE = 64


@pytest.fixture
def held():
    """Four places where a striped thing is asked for on smooth pictures."""
    draw = torch.Generator().manual_seed(0)
    before = torch.rand(4, 3, 1, 1, generator=draw).expand(4, 3, SIDE, SIDE) - 0.5
    thing = torch.tensor([0.8, -0.8]).repeat(SIDE // 2).repeat_interleave(1).expand(4, 3, SIDE, SIDE)
    weight = torch.zeros(4, SIDE, SIDE)
    weight[:, 20:36, 24:40] = 1
    return HeldOut((), before, thing.contiguous(), weight)


@pytest.fixture(scope="module")
def job(town):
    (edit,) = load_edits(worlds.examples("townscape")["dome-to-spire"])
    return prepare(town, edit, statistics=Statistics(town))


def effect(**figures):
    usual = {"goal_error_removed": 0.6, "reach": 0.5, "side_effect": 0.5, "left_out": 0.2}
    return Effect(**{**usual, "pictures": 48, "places": 50, "seconds": 0.1, **figures})


def test_a_place_with_the_thing_took_and_an_unchanged_one_did_not(held):
    assert torch.allclose(held.likeness(held.wanted), torch.ones(4), atol=1e-3)
    assert torch.equal(held.likeness(held.before), torch.zeros(4))


def test_a_thing_drawn_two_pixels_beside_its_place_took(held):
    assert (held.likeness(torch.roll(held.wanted, (2, -2), (2, 3))) > 0.9).all()


def test_a_smudge_or_a_faint_thing_did_not_take(held):
    inside = held.weight[:, None]
    smudge = torch.lerp(held.before, held.thing.mean((2, 3), keepdim=True), inside)
    faint = torch.lerp(held.before, held.wanted, 0.3)
    for after in (smudge, faint):
        assert (held.likeness(after) < TOOK).all()


def test_a_larger_picture_is_judged_alike(held):
    large = HeldOut((), *(torch.nn.functional.interpolate(x, scale_factor=2) for x in (held.before, held.thing)),
                    held.weight.repeat_interleave(2, 1).repeat_interleave(2, 2))  # fmt: skip
    half = torch.lerp(held.before, held.wanted, 0.7)
    assert torch.allclose(large.likeness(torch.nn.functional.interpolate(half, scale_factor=2)), held.likeness(half))


def test_a_rule_that_changes_nothing_did_not_take(job, random_rule):
    rule = random_rule(job.generator, "layer8", size=0.0, edit=job.edit)
    found = judge(job, rule, effect())
    assert (found.verdict, found.took, found.unseen_likeness) == ("did not take", 0.0, 0.0)


def test_shipped_spires_took(shipped):
    (rule,) = shipped("dome-to-spire")
    assert rule.effect.verdict == "took" and rule.effect.took > 0.7


def test_crops_show_the_same_places_before_as_asked_for_and_after(job, shipped):
    (rule,) = shipped("dome-to-spire")
    shown = crops(job, rule)
    assert len(shown) == 3
    sizes = {picture.shape for three in shown for picture in three}
    assert len(sizes) == 1 and (size := sizes.pop())[1] == size[2] < SIDE
    for before, wanted, after in shown:
        assert (wanted - before).abs().max() > 0.2 < (after - before).abs().max()


def test_crops_of_an_erasure_show_the_marked_places(town, shipped):
    (rule,) = shipped("no-light-on-ground")
    job = prepare(town, rule.edit.with_(after=()), statistics=Statistics(town))
    assert [len(three) for three in crops(job, rule, number=2)] == [3, 3]


def test_places_are_found_on_pictures_that_the_edit_does_not_point_at(job):
    own = {region.seed for region in job.edit.regions}
    places = held_out(job).places
    assert places and own.isdisjoint(place.seed for place in places)


def test_a_session_shows_crops_of_any_of_its_rules_and_cuts_them_once(town, shipped, job, monkeypatch):
    (rule,) = shipped("dome-to-spire")
    session = Rewriter(town, rules=[rule], statistics=job.statistics)
    shown = session.crops()
    for three, same in zip(shown, crops(job, rule), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(three, same, strict=True))
    session.switch(0, False)
    monkeypatch.setattr(verdict, "crops", None)
    assert all(a is b for a, b in zip(session.crops(0)[0], shown[0], strict=True))
    for index in (1, -2):
        with pytest.raises(InputError, match="there is no rule"):
            session.crops(index)


def test_a_rule_without_an_edit_and_a_number_out_of_range_have_no_crops(town, shipped, random_rule):
    session = Rewriter(town, rules=[random_rule(town, "layer4"), *shipped("dome-to-spire")])
    for index, number in ((0, 3), (1, 0), (1, 99)):
        with pytest.raises(InputError, match="it needs an edit"):
            session.crops(index, number)


def test_a_crop_of_a_found_place_is_a_square_of_its_picture_with_the_place_in_it(town, job):
    session = Rewriter(town, statistics=job.statistics)
    session.use(job.edit)
    place = Place(12, 30.0, 40.0)
    cut, picture = session.crop(place), town.sample([12], rules=[]).clamp(-1, 1)[0]
    side = cut.shape[1]
    assert cut.shape == (3, side, side) and side < SIDE
    assert torch.equal(cut, picture[:, 30 - side // 2 :, 40 - side // 2 :][:, :side, :side])
    assert session.crop(Place(12, 0.0, SIDE)).shape == cut.shape


def test_a_second_search_of_the_same_pictures_draws_none_of_them(town, job, monkeypatch):
    session = Rewriter(town, statistics=Statistics(town))
    session.use(job.edit)
    first = session.find(4, seeds=range(100, 130))
    monkeypatch.setattr(Job, "keys", lambda job, seeds: town.keys(seeds, "layer8") if len(seeds) < 16 else None)
    assert session.find(4, seeds=range(100, 130)) == first


# --- what to try next ---

PLACE = Region(1, torch.ones(4, 4))
ASKED = Edit("", "layer4", copy=PLACE, paste=PLACE, context=(PLACE,) * 3)


@pytest.mark.parametrize("verdict", ["partly", "did not take"])
@pytest.mark.parametrize("options", [{}, {"form": "gated"}, {"form": "template"}, {"kind": "erase"}, {"kind": "zero"}])
def test_an_edit_that_did_not_take_gets_one_suggestion_that_can_be_set(stylegan, random_rule, verdict, options):
    edit = ASKED.with_(**options)
    rule = random_rule(stylegan, "layer4", edit=edit, effect=effect(verdict=verdict, took=0.2))
    step = suggestion(rule)
    changed = edit.with_(**step.change)
    assert any(getattr(changed, name) != getattr(edit, name) for name in step.change)
    assert changed.layer in stylegan.layers
    (remark,) = advice(rule)
    assert "20% of similar places" in remark and all(f"{name} {value}" in remark for name, value in step.change.items())
    assert step.action == "set" and step.words in remark and remark[-1] != "." and "`" not in remark


@pytest.mark.parametrize("kind", ["replace", "erase"])
def test_an_edit_with_few_marks_that_did_not_take_needs_more_places_first(stylegan, random_rule, kind):
    few = ASKED.with_(kind=kind, context=(PLACE,))
    failed = random_rule(stylegan, "layer4", edit=few, effect=effect(verdict="did not take", took=0.1))
    assert suggestion(failed) == NextStep("Find more places", {}, "find")
    more = few.with_(found=[Place(seed, 1.0, 1.0, "person") for seed in (5, 6)])
    assert suggestion(replace(failed, edit=more)).action == "set"


def test_an_edit_that_took_needs_no_suggestion_unless_much_else_changes(stylegan, random_rule):
    rule = random_rule(stylegan, "layer4", edit=ASKED, effect=effect(verdict="took", took=0.9))
    assert suggestion(rule) is None and advice(rule) == []
    harmful = replace(rule, effect=effect(verdict="took", took=0.9, side_effect=9.0))
    assert suggestion(harmful).change == {"form": "auto", "budget": 3.0}


def test_words_name_the_form_and_give_the_verdict_first(stylegan, random_rule):
    rule = random_rule(stylegan, "layer4", edit=ASKED, effect=effect(verdict="partly", took=0.5))
    first, second, *_ = effect_in_words("hats", rule).split("\n")
    assert first.startswith("hats: layer4, weight, rank 2")
    assert (
        second.strip()
        == "the edit took only partly: 50% of similar places on unseen pictures became what was asked for"
    )
