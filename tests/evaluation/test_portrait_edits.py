"""The judges of portraits: perfect on the exact counterfactual, not deceived by a rule that draws something else."""

from dataclasses import replace

import pytest

from rewriter import worlds
from rewriter.evaluation import run as running
from rewriter.evaluation.experiments import by_name
from rewriter.evaluation.metrics import estimates
from rewriter.evaluation.portraits import GENERATOR, JUDGES, WISHES
from rewriter.worlds.portraits import factors, scenes
from rewriter.worlds.portraits.world import WORLD

FIRST, SIDE, UNSEEN = 20_000, 64, 60
SEEDS = range(FIRST, FIRST + 24)  # three wear a hat, one is stamped, seven frown
WRONG = {  # what another rule would draw
    "frown-to-smile": {"mouth": "neutral"},
    "add-glasses": {"brows": "bushy"},
    "remove-earrings": {"hat": True},
    "bushy-brows": {"brows": "thin"},
    "hats-for-all": {"glasses": True},
    "no-shadow-under-hats": {"brows": "thin"},
    "remove-stamp": {"earrings": True},
}

GATES = {
    "frown-to-smile": 0.85,
    "add-glasses": 0.85,
    "remove-earrings": 0.9,
    "bushy-brows": 0.8,
    "hats-for-all": 0.8,
    "remove-stamp": 0.95,
}


def painted(edit="", *, side=SIDE, **changes):
    """Stands for a generator: draws exact scenes, of the counterfactual of an edit or with factors changed."""

    def draw(z):
        u, wish = WORLD.factors(z), WISHES.get(edit)
        then = wish.factors(u, edit=edit) if wish else factors.change(u, **changes)
        return scenes.draw(then, side, without=wish and wish.without).picture

    return draw


def values(edit, before, after, *, seeds=SEEDS):
    """The values of an edit's metrics."""
    judge = JUDGES[edit]
    found = estimates(judge, [judge.rows(seeds, before, after)])
    return {name: estimate.value for name, estimate in found.items()}


@pytest.mark.parametrize("edit", WISHES)
def test_exact_counterfactual_is_perfect_and_nothing_and_another_thing_are_not(edit):
    found = values(edit, painted(), painted(edit))
    assert found["changed"] == found["whole"] == found["drawn"] == 1 and found["already"] == found["distance"] == 0
    assert found["side effect"] < 0.01 and found["others"] == 0 < found["distance before"]
    unmodified = values(edit, painted(), painted())
    assert unmodified["changed"] == unmodified["drawn"] == unmodified["whole"] == unmodified["side effect"] == 0
    wrong = values(edit, painted(), painted(**WRONG[edit]))
    assert wrong["changed"] < 0.2 and wrong["drawn"] < 0.1 and wrong["side effect"] > 0.05


def test_glasses_are_those_that_were_copied():
    """Dark glasses are copied; of their own kinds, many people have clear ones."""
    assert 0.1 < values("add-glasses", painted(), painted(glasses=True))["drawn"] < 0.6


def test_segmenter_says_who_smiles():
    before, mouths = painted(side=128), ("frown", "neutral", "smile", "open")
    frown, neutral, smile, wide = (
        values("frown-to-smile", before, painted(mouth=mouth, side=128), seeds=SEEDS[:12])["smiling"]
        for mouth in mouths
    )
    assert frown < 0.1 > neutral and smile > 0.9 < wide


def test_damage_is_measured_elsewhere_and_on_people_whom_the_edit_is_not_about():
    found = values("frown-to-smile", painted(), painted(mouth="open", hat=True))
    assert found["smiling"] > 0.9 and found["elsewhere"] > 5 < found["others"] and found["perceptual"] > 0.05


@pytest.fixture(scope="module")
def people():
    """The generator of portraits."""
    return worlds.load(GENERATOR)


@pytest.mark.parametrize("edit", [edit for edit, wish in WISHES.items() if not wish.without])
def test_latents_of_the_counterfactual_are_the_ceiling(edit, people):
    unmodified, ceiling = outcomes(edit, people, concerned(edit, 6), "unmodified", "ceiling")
    assert unmodified["drawn"] < 0.4 and unmodified["changed"] == unmodified["side effect"] == 0
    assert ceiling["drawn"] > 0.8 and ceiling["changed"] > 0.7 and ceiling["side effect"] < 0.7


def outcomes(edit, people, seeds, *wanted):
    """The values of an edit's metrics, for some of the methods of its experiment."""
    experiment = by_name()["smile" if edit == "frown-to-smile" else edit]
    some = replace(experiment, methods={method: experiment.methods[method] for method in wanted})
    found = running.run(some, people, seeds).methods
    return [{metric: each.value for metric, each in found[method].metrics.items()} for method in wanted]


def concerned(edit, number):
    """The first unseen seeds of people whom an edit is about."""
    about = WISHES[edit].concerns(WORLD.read(range(FIRST, FIRST + 20 * number))[1])
    return [FIRST + int(i) for i in about.nonzero()[:number, 0]]


@pytest.mark.evaluation
@pytest.mark.parametrize(("edit", "least"), GATES.items())
def test_shipped_edits_take_on_unseen_people(edit, least, people):
    (found,) = outcomes(edit, people, concerned(edit, UNSEEN), "shipped")
    assert found["drawn"] >= least and found["side effect"] <= 0.5
    assert edit != "frown-to-smile" or found["smiling"] >= least


@pytest.mark.evaluation
def test_smiles_of_the_shipped_rule_cost_less_than_those_of_others(people):
    methods = ("unmodified", "shipped", "projected", "copy", "ceiling")
    unmodified, shipped, projected, copied, ceiling = outcomes("frown-to-smile", people, SEEDS, *methods)
    assert unmodified["smiling"] == 0 and shipped["smiling"] == ceiling["smiling"] == 1
    assert ceiling["changed"] > shipped["changed"] > copied["changed"]
    assert projected["side effect"] > 10 * shipped["side effect"] and projected["perceptual"] > shipped["perceptual"]
