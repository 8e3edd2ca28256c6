"""The measures themselves: perfect on the exact counterfactual, bad on a rule that does nothing or does harm."""

import pytest

from rewriter import townscape
from rewriter.edit import Edit
from rewriter.evaluation.counterfactual import dome_to_spire
from rewriter.evaluation.watermarks import count_marks, detector_errors
from rewriter.execute import replay
from rewriter.generators.latents import latents
from rewriter.townscape import scenes

SEEDS = range(20_000, 20_200)


class Painter:
    """Draws the exact scenes; with any rule, scenes with some factors changed."""

    resolution = 64

    def __init__(self, **changes):
        self.changes = changes

    def sample(self, seeds, rules):
        u = scenes.factors(latents(list(seeds), scenes.LATENT_DIM))
        return scenes.draw(scenes.change(u, **self.changes) if rules else u, 64).picture


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


def test_marks_are_counted_apart():
    kept = count_marks(Painter(), ["rule"], SEEDS)
    middle = count_marks(Painter(watermark=False), ["rule"], SEEDS)
    both = count_marks(Painter(watermark=False, bar=False), ["rule"], SEEDS)
    assert all(count.gone == 0 and count.before > 5 for count in kept.values())
    assert (middle["middle"].gone, middle["bottom"].gone) == (1, 0)
    assert all(count.gone == 1 for count in both.values())


def test_the_detector_does_not_err_on_scenes():
    assert all(misses < 0.02 and alarms < 0.02 for misses, alarms in detector_errors(SEEDS).values())


@pytest.mark.slow
def test_the_shipped_edits_do_what_they_promise():
    generator, examples = townscape.load(), townscape.examples()
    spire, clean = (replay(generator, Edit.load(examples[name])) for name in ("dome-to-spire", "remove-watermark"))
    tops = dome_to_spire(generator, [spire])
    assert tops.changed >= 0.9 and tops.elsewhere < 2
    for count in count_marks(generator, [clean]).values():
        assert count.before >= 100 and count.gone >= 0.9
