"""The measures themselves: perfect on the exact counterfactual, bad on a rule that does nothing or does harm."""

import math

import pytest
import torch
from rewriter.evaluation.judging import Figure, estimate, figures, frechet, frechet_estimate, judged, towns

from rewriter.editing.edit import Edit, Region
from rewriter.evaluation import segmenter
from rewriter.evaluation.counterfactual import add_tree, asked_for, dome_to_spire, dome_to_tree, door_in_the_sky
from rewriter.evaluation.light import Light
from rewriter.evaluation.watermarks import Watermarks, detector_errors
from rewriter.masks import disc
from rewriter.worlds import townscape
from rewriter.worlds.townscape import scenes

SEEDS = range(20_000, 20_080)


class Painter:
    """Draws the exact scenes, with some factors changed, a thing left out or painted over."""

    def __init__(self, *, without=None, over=None, **changes):
        self.without, self.over, self.changes = without, over, changes

    def __call__(self, z):
        u = scenes.change(scenes.factors(z), **self.changes)
        picture, labels = scenes.draw(u, 64, without=self.without)
        if self.over is not None:
            thing, colour = self.over
            inside = labels == scenes.LABELS.index(thing)
            picture = torch.where(inside[:, None], torch.tensor(colour)[:, None, None] * 2 - 1, picture)
        return picture


def judge(by, after, seeds=SEEDS):
    """The values of a judge's figures, given what is drawn instead of the scenes."""
    return {name: found.value for name, found in figures(by, judged(by, seeds, Painter(), after)).items()}


def hanging():
    """A brown door pasted into the sky."""
    brown = next(s for s in range(100) if towns([s])[1][0, scenes.Factor.DOOR] < 0.5)
    place = disc(64, 0.1, 0.5, 0.06)
    return Edit("Painter", "layer8", copy=Region(brown, place), paste=Region(0, place))


def test_the_exact_counterfactual_is_perfect():
    tops = judge(dome_to_spire(), Painter(top="spire"))
    assert tops["changed"] == tops["whole"] == tops["drawn"] == 1
    assert tops["already"] == tops["elsewhere"] == tops["distance"] == 0 < tops["distance before"]


def test_doing_nothing_changes_nothing():
    tops = judge(dome_to_spire(), Painter())
    assert tops["changed"] == tops["whole"] == tops["segmented"] == tops["side effect"] == tops["perceptual"] == 0


def test_damage_elsewhere_is_seen():
    dark = judge(dome_to_spire(), Painter(top="spire", lit=False))
    assert dark["elsewhere"] > 0.5 and dark["perceptual"] > 0.005
    assert judge(dome_to_spire(), Painter(top="battlements"))["changed"] < 0.5


def test_pictures_that_a_rule_is_not_about_are_judged_apart():
    assert judge(dome_to_spire(), Painter(top="spire"))["others"] > 0.1
    assert judge(add_tree(), Painter(right_tree=True))["others"] == 0


def test_the_segmenter_sees_what_became_of_domes():
    """Half of a dome's pixels are sky when a spire stands there, so a perfect rule does not reach 100 %."""
    spires, stone = (judge(dome_to_spire(), Painter(top=top))["segmented"] for top in ("spire", "battlements"))
    assert spires > 0.5 and stone < 0.05


def test_the_tree_that_could_stand_there_is_perfect():
    trees = judge(add_tree(), Painter(right_tree=True))
    assert trees["changed"] == trees["whole"] == trees["drawn"] == 1
    assert trees["already"] == trees["elsewhere"] == trees["distance"] == 0 < trees["distance before"]


def test_a_tree_on_the_other_side_or_a_brown_one_is_none():
    left = judge(add_tree(), Painter(left_tree=True))
    assert left["changed"] == left["drawn"] == 0 and left["elsewhere"] > 1
    assert judge(add_tree(), Painter(right_tree=True, over=("tree", (1.0, 0.9, 0.8))))["changed"] < 0.3


def test_too_much_tree_is_seen():
    green = judge(add_tree(), Painter(right_tree=True, over=("sky", (0.13, 0.42, 0.18))))
    assert green["changed"] > 0.9 and green["elsewhere"] > 10 and green["distance"] > green["distance before"]


def test_leaves_on_the_tower_are_a_colour():
    leaves = judge(dome_to_tree(), Painter(over=("dome", (0.13, 0.42, 0.18))))
    assert leaves["changed"] > 0.99 and leaves["drawn"] == 1 and leaves["side effect"] == 0
    assert leaves["already"] == 0 and leaves["segmented"] > 0.6


def test_a_dome_taken_away_or_turned_into_something_else_is_no_tree():
    for other in (Painter(), Painter(without="dome"), Painter(top="spire")):
        assert judge(dome_to_tree(), other)["changed"] < 0.05


def test_light_that_is_gone_leaves_no_rule():
    light = judge(Light(), Painter(without="light"))
    assert abs(light["rule"]) < 0.01 and light["light left"] < 0.01
    assert light["windows"] == light["steady"] == pytest.approx(1) and light["side effect"] == 0
    assert light["windows' difference"] == pytest.approx(1)


def test_a_rule_upside_down_is_minus_one():
    def other_way(z):
        u = scenes.factors(z)
        lit = scenes.is_lit(u)
        swapped = [scenes.draw(scenes.change(u, lit=not on), 64).picture for on in (True, False)]
        own = scenes.draw(u, 64)
        ground = (scenes.draw(scenes.change(u, lit=True), 64).labels == scenes.LABELS.index("light"))[:, None]
        return torch.where(ground, torch.where(lit[:, None, None, None], *swapped), own.picture)

    light = judge(Light(), other_way)
    assert light["rule"] == pytest.approx(-1, abs=1e-6) and light["windows"] == pytest.approx(1)


def test_dark_windows_and_black_ground_are_bad():
    off = judge(Light(), Painter(lit=False))
    assert off["light left"] < 0.01 and off["windows"] < 0.7 and off["steady"] == 0
    assert off["windows' difference"] == 0
    assert judge(Light(), Painter())["rule"] == judge(Light(), Painter())["light left"] == 1
    assert judge(Light(), Painter(over=("light", (0.0, 0.0, 0.0))))["light left"] > 1


def test_a_door_in_the_sky_is_one_where_it_was_pasted():
    brown = Painter(over=("sky", (0.35, 0.2, 0.12)))
    place = judge(door_in_the_sky(hanging()), brown)
    assert place["changed"] == place["drawn"] == 1 and place["elsewhere"] > 10
    everywhere = judged(door_in_the_sky(hanging(), anywhere=True), SEEDS, Painter(), brown)
    assert everywhere["could"].sum() > 10 * judged(door_in_the_sky(hanging()), SEEDS, Painter(), brown)["could"].sum()
    assert judge(door_in_the_sky(hanging()), Painter())["changed"] == 0


def test_marks_are_counted_apart():
    kept, middle, both = (
        judge(Watermarks(), after)
        for after in (Painter(), Painter(watermark=False), Painter(watermark=False, bar=False))
    )
    assert all(kept[f"{kind} gone"] == 0 and kept[kind] > 0.02 for kind in ("middle", "bottom"))
    assert (middle["middle gone"], middle["bottom gone"]) == (1, 0)
    assert both["middle"] == both["bottom"] == both["distance"] == 0 and both["side effect"] < 0.05


def test_marks_that_were_not_there_and_damage_are_counted():
    worse = judge(Watermarks(), Painter(watermark=True, lit=False))
    assert worse["middle new"] > 0.8 and worse["bottom new"] == 0 and worse["side effect"] > 0.5


def test_the_detector_does_not_err_on_scenes_and_generated_pictures():
    assert all(misses < 0.02 and alarms < 0.02 for misses, alarms in detector_errors(SEEDS).values())
    draw, few = townscape.load(), range(20_000, 20_050)
    found = figures(Watermarks(), judged(Watermarks(), few, draw, draw))
    assert all(found[f"{kind} {error}"].value == 0 for kind in ("middle", "bottom") for error in ("misses", "alarms"))


def test_the_segmenter_knows_generated_pictures():
    network, seeds = segmenter.load(), list(range(20_000, 20_040))
    table = segmenter.accuracy(network, townscape.load().sample(seeds), segmenter.described(seeds, 64).labels)
    assert table["all"][0] > 0.97 and all(table[thing][0] > 0.85 for thing in ("dome", "spire", "tree", "watermark"))
    noise = torch.rand(4, 3, 64, 64) * 2 - 1
    assert segmenter.accuracy(network, noise, segmenter.described(seeds[:4], 64).labels)["all"][0] < 0.7


def test_the_perceptual_distance_is_local_and_grows_with_the_damage():
    network, picture = segmenter.load(), segmenter.described(range(4), 64).picture
    corner = picture.clone()
    corner[:, :, :16, :16] = 0
    there = network.distance(picture, corner)
    assert there[:, :16, :16].mean() > 100 * there[:, 48:, 48:].mean()
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    grown = [float(network.distance(picture, picture + amount * noise).mean()) for amount in (0, 0.05, 0.2, 0.5)]
    assert grown[0] == 0 and grown == sorted(grown)


def test_what_latents_ask_for_can_be_changed():
    z, u = towns(range(300))
    asked = asked_for("spires", u)
    again = scenes.factors(scenes.latents_of(asked, z))
    assert torch.allclose(again, asked, atol=1e-4)
    assert not scenes.has_dome(again).any() and torch.equal(asked[~scenes.has_dome(u)], u[~scenes.has_dome(u)])
    assert torch.allclose(scenes.factors(scenes.latents_of(u, z)), u, atol=1e-5)


def test_an_interval_holds_the_value_and_narrows_with_more_pictures():
    draw = torch.Generator().manual_seed(0)
    hits = (torch.rand(4000, generator=draw) < 0.3).double()
    figure = Figure("share", "hit", "one")
    few, many = (estimate(figure, {"hit": hits[:n], "one": torch.ones(n)}) for n in (100, 4000))
    assert few.low < few.value < few.high and many.low < 0.3 < many.high
    assert 5 < (few.high - few.low) / (many.high - many.low) < 8  # by the root of 40
    assert few.high - few.low == pytest.approx(2 * 1.96 * (0.3 * 0.7 / 100) ** 0.5, rel=0.2)
    nothing = estimate(Figure("none", "zero", "zero"), {"zero": torch.zeros(40)})
    assert all(math.isnan(each) for each in (nothing.value, nothing.low, nothing.high))
    never = estimate(Figure("never", "zero", "one", "per 1,000"), {"zero": torch.zeros(100), "one": torch.ones(100)})
    assert never.value == never.low == 0 and never.high == pytest.approx(0.037, abs=0.001)  # Wilson's


def test_the_frechet_distance_of_normal_distributions():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 3, generator=draw).double() * torch.tensor([1.0, 2.0, 0.5])
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, x + torch.tensor([1.0, 0.0, 2.0])) == pytest.approx(5, abs=1e-6)
    assert frechet(x, 2 * x) == pytest.approx(float(x.var(0, correction=0).sum() + x.mean(0).square().sum()), rel=1e-6)
    far = frechet_estimate({"embedding": x[:500], "wanted": x[500:1000] + 1})
    assert far.low < far.value < far.high and far.low > 1.5
