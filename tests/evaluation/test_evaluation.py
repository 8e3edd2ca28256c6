"""The judges' metrics: perfect on the exact counterfactual, bad for a rule that does nothing or damages pictures."""

import math
from functools import cache

import pytest
import torch

from rewriter.evaluation import counterfactual as cf
from rewriter.evaluation.light import LIGHT
from rewriter.evaluation.metrics import Metric, estimate, estimates, frechet, frechet_estimate
from rewriter.evaluation.watermarks import WATERMARKS
from rewriter.worlds import segmenter
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.marks import detector_errors
from rewriter.worlds.townscape.world import WORLD

SEEDS = range(20_000, 20_012)  # two show a watermark, one a bar, six a dome
LEAVES, BROWN = (0.13, 0.42, 0.18), (0.35, 0.2, 0.12)


@cache
def painted(*, without=None, over=None, **changes):
    """Stands for a generator: draws exact scenes with some factors changed, a thing left out or painted over."""

    def draw(z):
        scene = scenes.draw(factors.change(WORLD.factors(z), **changes), without=without)
        if over is None:
            return scene.picture
        return torch.where(scene.where(over[0])[:, None], torch.tensor(over[1])[:, None, None] * 2 - 1, scene.picture)

    return draw


@cache
def values(judge, after, *, before=None):
    """The values of a judge's metrics when `after` draws instead of the exact scenes."""
    rows = judge.rows(SEEDS, before or painted(), after)
    return {metric.name: estimate(metric, rows[metric.name]).value for metric in judge.metrics}


def inverted_light(z):
    """Lit towns with dark ground where light would fall, unlit towns with light there."""
    u = WORLD.factors(z)
    on, off = (scenes.draw(factors.change(u, lit=lit)) for lit in (True, False))
    swapped = torch.where(factors.is_lit(u)[:, None, None, None], off.picture, on.picture)
    return torch.where(on.where("light")[:, None], swapped, scenes.draw(u).picture)


@pytest.mark.parametrize(
    ("judge", "after"), [(cf.DOME_TO_SPIRE, painted(top="spire")), (cf.ADD_TREE, painted(right_tree=True))]
)
def test_exact_counterfactual_is_perfect_and_the_unmodified_generator_is_not(judge, after):
    found = values(judge, after)
    assert found["changed"] == found["whole"] == found["drawn"] == 1
    assert found["already"] == found["elsewhere"] == found["distance"] == 0 < found["distance before"]
    unmodified = values(judge, painted())
    assert unmodified["changed"] == unmodified["whole"] == unmodified["side effect"] == unmodified["perceptual"] == 0


def test_damage_is_measured_elsewhere_and_in_pictures_without_the_thing():
    dark = values(cf.DOME_TO_SPIRE, painted(top="spire", lit=False))
    assert dark["elsewhere"] > 0.5 and dark["perceptual"] > 0.005
    green = values(cf.ADD_TREE, painted(right_tree=True, over=("sky", LEAVES)))
    assert green["changed"] > 0.9 and green["elsewhere"] > 10 and green["distance"] > green["distance before"]
    assert values(cf.DOME_TO_SPIRE, painted(top="spire"))["others"] > 0.1
    assert values(cf.ADD_TREE, painted(right_tree=True))["others"] == 0


def test_segmenter_distinguishes_spires_from_battlements():
    """Half of a dome's pixels are sky behind a spire, so a perfect rule does not reach 100 %."""
    spires, battlements = (values(cf.DOME_TO_SPIRE, painted(top=top)) for top in ("spire", "battlements"))
    assert spires["segmented"] > 0.5 and battlements["segmented"] < 0.05 and battlements["changed"] < 0.5


@pytest.mark.parametrize(
    ("judge", "after", "most"),
    [
        (cf.ADD_TREE, painted(left_tree=True), 0.0),
        (cf.ADD_TREE, painted(right_tree=True, over=("tree", (1.0, 0.9, 0.8))), 0.3),
        (cf.DOME_TO_TREE, painted(without="dome"), 0.05),
        (cf.DOME_TO_TREE, painted(top="spire"), 0.05),
        (cf.DOOR_IN_THE_SKY, painted(), 0.0),
    ],
    ids=["left tree", "pale tree", "no dome", "spire instead of tree", "no door"],
)
def test_wrong_result_does_not_count_as_changed(judge, after, most):
    assert values(judge, after)["changed"] <= most


def test_leaves_and_doors_are_recognised_by_colour():
    leaves = values(cf.DOME_TO_TREE, painted(over=("dome", LEAVES)))
    assert leaves["changed"] > 0.99 and leaves["drawn"] == 1 and leaves["side effect"] == leaves["already"] == 0
    assert leaves["segmented"] > 0.6
    brown = values(cf.DOOR_IN_THE_SKY, painted(over=("sky", BROWN)))
    assert brown["changed"] == brown["drawn"] == 1 and brown["elsewhere"] > 10


def test_no_light_on_the_ground_means_no_rule():
    found = values(LIGHT, painted(without="light"))
    assert abs(found["rule"]) < 0.01 and found["light left"] < 0.01 and found["side effect"] == 0
    assert found["windows"] == found["steady"] == found["windows' difference"] == pytest.approx(1)


def test_inverted_light_is_minus_one():
    found = values(LIGHT, inverted_light)
    assert found["rule"] == pytest.approx(-1, abs=1e-6) and found["windows"] == pytest.approx(1)


def test_dark_windows_and_black_ground_are_measured():
    off = values(LIGHT, painted(lit=False))
    assert off["light left"] < 0.01 and off["windows"] < 0.7 and off["steady"] == off["windows' difference"] == 0
    unmodified = values(LIGHT, painted())
    assert unmodified["rule"] == unmodified["light left"] == 1
    assert values(LIGHT, painted(over=("light", (0.0, 0.0, 0.0))))["light left"] > 1


def test_both_kinds_of_mark_are_counted_separately():
    kept, middle, both = (
        values(WATERMARKS, painted(**off)) for off in ({}, {"watermark": False}, {"watermark": False, "bar": False})
    )
    assert all(kept[f"{kind} gone"] == 0 and kept[kind] > 0.02 for kind in ("middle", "bottom"))
    assert (middle["middle gone"], middle["bottom gone"]) == (1, 0)
    assert both["middle"] == both["bottom"] == both["distance"] == 0 and both["side effect"] < 0.05


def test_new_marks_and_damage_are_counted():
    worse = values(WATERMARKS, painted(watermark=True, lit=False))
    assert worse["middle new"] > 0.8 and worse["bottom new"] == 0 and worse["side effect"] > 0.5


def test_detector_errors_are_counted():
    assert all(misses < 0.02 and alarms < 0.02 for misses, alarms in detector_errors(SEEDS).values())
    blind, white = (
        values(WATERMARKS, painted(), before=before)
        for before in (lambda z: torch.zeros(len(z), 3, 64, 64), painted(watermark=True))
    )
    assert blind["middle misses"] == 1 and blind["middle alarms"] == 0 and white["middle alarms"] == 1


@pytest.mark.evaluation
def test_detector_and_segmenter_make_few_errors_on_generated_pictures(town):
    found = values(WATERMARKS, town, before=town)
    assert all(found[f"{kind} {error}"] == 0 for kind in ("middle", "bottom") for error in ("misses", "alarms"))
    pictures, labels = town.sample(SEEDS), WORLD.described(SEEDS).labels
    table = segmenter.accuracy(segmenter.load(), [(pictures, labels)], WORLD.labels)
    assert table["all"][0] > 0.97 and all(table[thing][0] > 0.85 for thing in ("dome", "spire", "tree", "watermark"))
    noise = torch.rand(4, 3, 64, 64) * 2 - 1
    assert segmenter.accuracy(segmenter.load(), [(noise, labels[:4])], WORLD.labels)["all"][0] < 0.7


def test_perceptual_distance_is_local_and_grows_with_the_damage():
    network, picture = segmenter.load(), WORLD.described(range(4)).picture
    corner = picture.clone()
    corner[:, :, :16, :16] = 0
    there = network.distance(picture, corner)
    assert there[:, :16, :16].mean() > 100 * there[:, 48:, 48:].mean()
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    grown = [float(network.distance(picture, picture + amount * noise).mean()) for amount in (0, 0.05, 0.2, 0.5)]
    assert grown[0] == 0 and grown == sorted(grown)


def test_counterfactual_factors_change_only_the_towns_concerned():
    _, u = WORLD.read(range(300))
    domes, bare = factors.has_dome(u), ~factors.has_right_tree(u)
    spires, trees, unmarked = (cf.counterfactual_factors(what, u) for what in ("spires", "right trees", "no marks"))
    assert factors.has_spire(spires)[domes].all() and torch.equal(spires[~domes], u[~domes])
    assert factors.has_right_tree(trees).all() and torch.equal(trees[~bare], u[~bare])
    assert not (factors.has_bar(unmarked) | factors.has_watermark(unmarked)).any()


def test_interval_contains_the_value_and_narrows_with_more_pictures():
    hits = (torch.rand(4000, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    rows = torch.stack([hits, torch.ones(4000)], 1)
    few, many = (estimate(Metric("share"), rows[:n]) for n in (100, 4000))
    assert few.low < few.value < few.high and many.low < 0.3 < many.high
    assert 5 < (few.high - few.low) / (many.high - many.low) < 8  # √40
    assert few.high - few.low == pytest.approx(2 * 1.96 * (0.3 * 0.7 / 100) ** 0.5, rel=0.2)


def test_interval_of_an_undefined_or_unseen_share():
    undefined = estimate(Metric("none"), torch.zeros(40, 2))
    assert all(math.isnan(each) for each in (undefined.value, undefined.low, undefined.high))
    assert Metric("none").text(undefined.value) == "–"
    never = estimate(Metric("never", "per 1,000"), torch.tensor([[0.0, 1.0]]).expand(100, 2))
    assert never.value == never.low == 0 and never.high == pytest.approx(0.037, abs=0.001)  # Wilson's
    always = estimate(Metric("always"), torch.tensor([[1.0, 1.0], [0.0, 0.0]]).repeat(100, 1))
    assert always.value == always.high == 1 and always.low == pytest.approx(1 - never.high)
    pixels = estimate(Metric("pixels"), torch.tensor([[30.0, 30.0]]).expand(100, 2))
    assert pixels.low == pixels.high == 1  # they are no trials


def test_frechet_distance_of_normal_distributions():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 3, generator=draw).double() * torch.tensor([1.0, 2.0, 0.5])
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, x + torch.tensor([1.0, 0.0, 2.0])) == pytest.approx(5, abs=1e-6)
    assert frechet(x, 2 * x) == pytest.approx(float(x.var(0, correction=0).sum() + x.mean(0).square().sum()), rel=1e-6)
    far = frechet_estimate({"embedding": x[:500], "wanted": x[500:1000] + 1})
    assert far.low < far.value < far.high and far.low > 1.5
    batches = [WATERMARKS.rows(seeds, painted(), painted()) for seeds in (SEEDS[:4], SEEDS[4:10])]
    assert list(estimates(WATERMARKS, batches))[-1] == "fréchet"
