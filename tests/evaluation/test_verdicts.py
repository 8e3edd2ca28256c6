"""Verdicts against the exact counterfactual."""

from rewriter.evaluation import verdicts
from rewriter.evaluation.counterfactual import DOME_TO_SPIRE, counterfactual_factors
from rewriter.evaluation.verdicts import Example, agreement, truth
from rewriter.worlds.townscape import scenes
from rewriter.worlds.townscape.world import WORLD

SEEDS = range(20_000, 20_016)


def test_the_truth_of_nothing_and_of_the_counterfactual_itself():
    _, u = WORLD.read(SEEDS)
    before = scenes.draw(u, 64).picture
    after = scenes.draw(counterfactual_factors("spires", u), 64).picture
    assert truth(DOME_TO_SPIRE, SEEDS, before, before) == "did not take"
    assert truth(DOME_TO_SPIRE, SEEDS, before, after) == "took"


def test_agreement_counts_each_pair_of_truth_and_verdict():
    made = [Example("a", {}, "took", "took"), Example("b", {}, "partly", "took"), Example("c", {}, "partly", "partly")]
    found = agreement(made)
    assert (found["edits"], found["same"], found["same on took"]) == (3, 2 / 3, 2 / 3)
    assert found["pairs"] == {"took → took": 1, "took → partly": 1, "partly → partly": 1}


def test_the_edits_are_always_the_same_and_differ_among_themselves(town):
    first, again = ([edit.digest for _, _, edit, _ in verdicts._edits(town, 8)] for _ in range(2))
    assert first == again and len(set(first)) == 8
