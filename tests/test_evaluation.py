"""The measures themselves: perfect on the exact counterfactual, bad on a rule that does nothing or does harm."""

import pytest
import torch

from rewriter import townscape
from rewriter.edit import Edit, Region, load_edits
from rewriter.evaluation.counterfactual import add_tree, dome_to_spire, dome_to_tree, door_in_the_sky
from rewriter.evaluation.light import light_on_ground
from rewriter.evaluation.watermarks import count_marks, detector_errors
from rewriter.execute import replay
from rewriter.generators.latents import latents
from rewriter.masks import disc
from rewriter.townscape import scenes

SEEDS = range(20_000, 20_200)


class Painter:
    """Draws the exact scenes; with any rule, scenes with some factors changed, a thing left out or painted over."""

    resolution = 64

    def __init__(self, *, without=None, over=None, **changes):
        self.without, self.over, self.changes = without, over, changes

    def sample(self, seeds, rules):
        u = scenes.factors(latents(list(seeds), scenes.LATENT_DIM))
        if not rules:
            return scenes.draw(u, 64).picture
        picture, labels = scenes.draw(scenes.change(u, **self.changes), 64, without=self.without)
        if self.over is not None:
            thing, colour = self.over
            inside = labels == scenes.LABELS.index(thing)
            picture = torch.where(inside[:, None], torch.tensor(colour)[:, None, None] * 2 - 1, picture)
        return picture


def hanging():
    """A brown door pasted into the sky."""
    brown = next(s for s in range(100) if towns([s])[0, scenes.Factor.DOOR] < 0.5)
    place = disc(64, 0.1, 0.5, 0.06)
    return Edit("Painter", "layer8", copy=Region(brown, place), paste=Region(0, place))


def towns(seeds):
    return scenes.factors(latents(list(seeds), scenes.LATENT_DIM))


def test_the_exact_counterfactual_is_perfect():
    tops = dome_to_spire(Painter(top="spire"), ["rule"], SEEDS)
    assert tops.changed == tops.whole == tops.became == 1
    assert tops.already == tops.elsewhere == 0 and tops.pixels > 1000


def test_doing_nothing_changes_nothing():
    tops = dome_to_spire(Painter(), ["rule"], SEEDS)
    assert tops.changed == tops.whole == tops.elsewhere == 0


def test_damage_elsewhere_is_seen():
    assert dome_to_spire(Painter(top="spire", lit=False), ["rule"], SEEDS).elsewhere > 0.5
    assert dome_to_spire(Painter(top="battlements"), ["rule"], SEEDS).changed < 0.5


def test_pictures_that_a_rule_is_not_about_are_judged_apart():
    assert dome_to_spire(Painter(top="spire"), ["rule"], SEEDS).others > 0.1
    assert add_tree(Painter(right_tree=True), ["rule"], SEEDS).others == 0


def test_the_tree_that_could_stand_there_is_perfect():
    trees = add_tree(Painter(right_tree=True), ["rule"], SEEDS)
    assert trees.changed == trees.whole == trees.drawn == 1
    assert trees.already == trees.elsewhere == trees.distance[1] == 0 < trees.distance[0]


def test_a_tree_on_the_other_side_or_a_brown_one_is_none():
    left = add_tree(Painter(left_tree=True), ["rule"], SEEDS)
    assert left.changed == left.drawn == 0 and left.elsewhere > 1
    assert add_tree(Painter(right_tree=True, over=("tree", (1.0, 0.9, 0.8))), ["rule"], SEEDS).changed < 0.3


def test_too_much_tree_is_seen():
    green = add_tree(Painter(right_tree=True, over=("sky", (0.13, 0.42, 0.18))), ["rule"], SEEDS)
    assert green.changed > 0.9 and green.elsewhere > 10 and green.distance[1] > green.distance[0]


def test_leaves_on_the_tower_are_a_colour():
    leaves = dome_to_tree(Painter(over=("dome", (0.13, 0.42, 0.18))), ["rule"], SEEDS)
    assert leaves.changed > 0.99 and leaves.drawn == 1 and leaves.elsewhere == leaves.others == 0
    assert leaves.already == 0 and leaves.pixels > 1000


def test_a_dome_taken_away_or_turned_into_something_else_is_no_tree():
    for other in (Painter(), Painter(without="dome"), Painter(top="spire")):
        assert dome_to_tree(other, ["rule"], SEEDS).changed < 0.05


def test_light_that_is_gone_has_fallen_wholly():
    light = light_on_ground(Painter(without="light"), ["rule"], SEEDS)
    assert light.fell > 0.999 and light.windows == light.steady == 1
    assert light.elsewhere == light.unlit == 0 and light.pixels > 1000


def test_dark_windows_and_black_ground_are_bad():
    off = light_on_ground(Painter(lit=False), ["rule"], SEEDS)
    assert off.fell > 0.999 and off.windows < 0.7 and off.steady == 0
    assert light_on_ground(Painter(), ["rule"], SEEDS).fell == 0
    assert light_on_ground(Painter(over=("light", (0.0, 0.0, 0.0))), ["rule"], SEEDS).fell < 0


def test_a_door_in_the_sky_is_one_where_it_was_pasted():
    brown = Painter(over=("sky", (0.35, 0.2, 0.12)))
    place = door_in_the_sky(brown, ["rule"], hanging(), SEEDS)
    assert place.changed == place.drawn == 1 and place.elsewhere > 10
    assert door_in_the_sky(brown, ["rule"], hanging(), SEEDS, anywhere=True).pixels > 10 * place.pixels
    assert door_in_the_sky(Painter(), ["rule"], hanging(), SEEDS).changed == 0


def test_marks_are_counted_apart():
    kept = count_marks(Painter(), ["rule"], SEEDS)
    middle = count_marks(Painter(watermark=False), ["rule"], SEEDS)
    both = count_marks(Painter(watermark=False, bar=False), ["rule"], SEEDS)
    assert all(count.gone == 0 and count.before > 5 for count in kept.values())
    assert (middle["middle"].gone, middle["bottom"].gone) == (1, 0)
    assert all(count.gone == 1 for count in both.values())


def test_the_detector_does_not_err_on_scenes():
    assert all(misses < 0.02 and alarms < 0.02 for misses, alarms in detector_errors(SEEDS).values())


def rules_of(generator, name):
    """The rules of a shipped edit file, each made with the earlier ones on."""
    rules = []
    for edit in load_edits(townscape.examples()[name]):
        rules.append(replay(generator, edit, rules=rules))
    return rules


@pytest.mark.slow
def test_the_shipped_edits_do_what_they_promise():
    generator = townscape.load()
    tops = dome_to_spire(generator, rules_of(generator, "dome-to-spire"))
    assert tops.changed >= 0.9 and tops.elsewhere < 2
    for count in count_marks(generator, rules_of(generator, "remove-watermark")).values():
        assert count.before >= 100 and count.gone >= 0.9
    assert dome_to_tree(generator, rules_of(generator, "dome-to-tree")).changed >= 0.7
    trees = add_tree(generator, rules_of(generator, "add-tree"))
    assert trees.changed >= 0.7 and trees.drawn >= 0.95 and trees.elsewhere < 2
    light = light_on_ground(generator, rules_of(generator, "no-light-on-ground"))
    assert light.fell >= 0.7 and abs(light.windows - 1) < 0.05 and light.steady > 0.95


@pytest.mark.slow
def test_the_effects_of_a_grand_tour_hold_together():
    generator = townscape.load()
    rules = rules_of(generator, "grand-tour")
    assert len(rules) == 3
    assert all(count.gone >= 0.8 for count in count_marks(generator, rules).values())
    assert dome_to_spire(generator, rules).changed >= 0.8
    assert add_tree(generator, rules).drawn >= 0.9
