"""The paper's experiments on the built-in worlds: an edit, the methods that carry it out, and a judge.

Layers, ranks, λ and numbers of units were chosen on seeds from 50,000 on; results are reported on seeds from 20,000 on.
Smiles, the paper's Table 1, are of portraits; its other tables are of towns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from rewriter import worlds
from rewriter.checkpoints.catalogue import BUILT_IN
from rewriter.editing.edit import Edit, load_edits
from rewriter.editing.execute import replay
from rewriter.editing.rule import Rule
from rewriter.errors import OnStep
from rewriter.evaluation import TITLES, methods, physical, portraits
from rewriter.evaluation.counterfactual import (
    ADD_TREE,
    DOME_TO_SPIRE,
    DOME_TO_TREE,
    DOOR_IN_THE_SKY,
    counterfactual_factors,
)
from rewriter.evaluation.light import LIGHT
from rewriter.evaluation.methods import ONE_GOAL, OURS, PAPER, Case, Methods, Result, projected, solved
from rewriter.evaluation.metrics import Judge
from rewriter.evaluation.run import Edits, Experiment
from rewriter.evaluation.watermarks import WATERMARKS
from rewriter.generators.base import Generator

HANDS = range(1, 11)
QUICK_STEPS = 100  # of tuning all weights
SVD_EARLY = 2000  # steps after which the paper's descent with SVD is near its best, on the tuning seeds
GENTLE = 0.0002  # a fiftieth of the original's learning rate
SHARES = (0.01, 0.03, 0.06, 0.12, 0.25, 0.5)  # of a layer's units, to be zeroed
RANKS, SMOOTHNESS = (1, 2, 3), (1.0, 3.0, 10.0, 30.0, 100.0)
STEPS, RATES = (100, 500, 2001), (0.002, 0.01, 0.05)

all_weights_quickly = partial(methods.all_weights, steps=QUICK_STEPS)
GENTLY: Methods = {"all-weights, gently": partial(methods.all_weights, rate=GENTLE)}
PIXELS: Methods = {"copy": methods.pixels, "laplace": partial(methods.pixels, blend="laplace")}
QUICKER: dict[str, Methods] = {  # what replaces methods that take minutes
    "all-weights": {f"all-weights, {QUICK_STEPS} steps": all_weights_quickly},
    "all-weights, gently": {f"all-weights, gently, {QUICK_STEPS} steps": partial(all_weights_quickly, rate=GENTLE)},
    "inverted, SVD": {},
}
CHANGE, SHAPES = ("changed", "side effect"), ("changed", "drawn", "elsewhere", "others")
TURNED = ("already", "changed", "segmented", "side effect", "perceptual", "distance", "fréchet")
DRAWN = ("drawn", "side effect")
TAKEN = ("drawn", "changed", "side effect", "elsewhere", "others")
SMILING = ("drawn", "smiling", "changed", "side effect", "perceptual", "distance", "fréchet")
MARKS = ("middle", "bottom", "side effect", "perceptual", "distance", "fréchet")
LIT = ("rule", "light left", "windows", "steady", "side effect", "perceptual")


def quicker(experiment: Experiment) -> Experiment:
    """The same without the descents that take minutes: shorter ones, whose names say so, replace them."""
    chosen = [QUICKER.get(name, {name: method}) for name, method in experiment.methods.items()]
    return replace(experiment, methods={name: method for each in chosen for name, method in each.items()})


def by_name() -> dict[str, Experiment]:
    """Every experiment."""
    made = (*_paper(), _frontier(), *_others(), *_portraits(), *_hands())
    return {each.name: replace(each, title=TITLES[each.name], generator=each.generator or BUILT_IN) for each in made}


def shipped(name: str, generator: str = BUILT_IN) -> Edits:
    """The edits of a file that is shipped for a generator."""
    return lambda _: load_edits(worlds.examples(generator)[name])


def ceiling(what: str) -> Methods:
    """The best that a rule could reach on towns."""
    return {"ceiling": partial(methods.ceiling, then=partial(counterfactual_factors, what))}


def _paper() -> Iterator[Experiment]:
    """The paper's tables."""
    spires = OURS | ONE_GOAL | PAPER | GENTLY | PIXELS | ceiling("spires")
    yield Experiment("dome-to-spire", DOME_TO_SPIRE, spires, shipped("dome-to-spire"), TURNED, CHANGE)
    yield Experiment("dome-to-tree", DOME_TO_TREE, OURS | PAPER | PIXELS, shipped("dome-to-tree"), TURNED, CHANGE)
    rank_1: Methods = {"least-squares, rank 1": partial(solved, rank=1, directions="mean", smoothness=0.5)}
    zeroed: Methods = {f"zeroed {share:.0%}": partial(methods.zeroed, share=share) for share in SHARES}
    marks, axes = OURS | rank_1 | PAPER | zeroed | ceiling("no marks"), ("distance", "side effect")
    edits, things = shipped("remove-watermark"), ("watermark", "bar")
    yield Experiment("watermark", WATERMARKS, marks, edits, MARKS, axes, things)
    inverting: Methods = {
        "zeroed 6%": methods.zeroed,
        "inverted": physical.inverted,
        "inverted, SVD": physical.inverted_by_svd,
        f"inverted, SVD, {SVD_EARLY} steps": partial(physical.inverted_by_svd, steps=SVD_EARLY),
    }
    light, axes = OURS | ONE_GOAL | PAPER | inverting, ("rule", "side effect")
    yield Experiment("light", LIGHT, light, shipped("no-light-on-ground"), LIT, axes, ("light",))


def _frontier() -> Experiment:
    """Effect against side effect: rank × λ of least squares, steps × learning rate of the paper's solver."""
    ours: Methods = {
        f"least-squares, rank {rank}, λ {smoothness:g}": partial(solved, rank=rank, smoothness=smoothness)
        for rank in RANKS
        for smoothness in SMOOTHNESS
    }
    paper: Methods = {
        f"projected, rate {rate:g}, {steps} steps": partial(projected, steps=steps, rate=rate)
        for rate in RATES
        for steps in STEPS
    }
    shown, edits = (*CHANGE, "perceptual"), shipped("dome-to-spire")
    return Experiment("frontier", DOME_TO_SPIRE, ours | paper, edits, shown, CHANGE)


def replayed(case: Case, on_step: OnStep | None = None, *, edits: Edits) -> Result:
    """The rules of recorded edits, each made on top of the earlier ones."""
    rules: list[Rule] = []
    for edit in edits(case.generator):
        rules.append(replay(case.generator, edit, rules=rules, statistics=case.statistics))
    seconds = sum(rule.effect.seconds for rule in rules if rule.effect)
    return Result(lambda z: case.draw(z, rules), {"rules": len(rules)}, seconds=seconds)


def _others() -> Iterator[Experiment]:
    """The other shipped edits."""
    table: tuple[tuple[str, str, Judge, tuple[str, ...], Methods], ...] = (
        ("add-tree", "", ADD_TREE, SHAPES, ceiling("right trees")),
        ("door-in-the-sky", "", DOOR_IN_THE_SKY, SHAPES, {}),
        ("grand-tour", "-spires", DOME_TO_SPIRE, SHAPES, ceiling("spires")),
        ("grand-tour", "-trees", ADD_TREE, SHAPES, ceiling("right trees")),
        ("grand-tour", "-marks", WATERMARKS, ("middle", "bottom", "distance"), ceiling("no marks")),
    )
    for name, suffix, judge, shown, best in table:
        ours: Methods = {**OURS, "shipped": partial(replayed, edits=shipped(name))}
        ours.pop("least-squares")
        yield Experiment(f"{name}{suffix}", judge, ours | best, shipped(name), shown, (shown[0], "side effect"))


def _portraits() -> Iterator[Experiment]:
    """The shipped edits of portraits; smiles, of which the paper has a table, by all methods."""
    for name, wish in portraits.WISHES.items():
        edits, smile = shipped(name, portraits.GENERATOR), name == "frown-to-smile"
        every = OURS | ONE_GOAL | PAPER | GENTLY | PIXELS if smile else OURS | {"projected": projected}
        every = every | {"shipped": partial(replayed, edits=edits)}
        if not wish.without:
            every["ceiling"] = partial(methods.ceiling, then=partial(wish.factors, edit=name))
        title, judge = "smile" if smile else name, portraits.JUDGES[name]
        yield Experiment(title, judge, every, edits, _shown(name), DRAWN, generator=portraits.GENERATOR)


def _shown(edit: str) -> tuple[str, ...]:
    return SMILING if edit == "frown-to-smile" else TAKEN


def _hands() -> Iterator[Experiment]:
    """Shipped edits with masks painted in other ways."""
    from rewriter.worlds.portraits.make_examples import EXAMPLES  # they need a session, and only this function needs it
    from rewriter.worlds.townscape import make_examples

    table: list[tuple[Callable[..., Edit | list[Edit]], Judge, tuple[str, ...], str]] = [
        (make_examples.dome_to_spire, DOME_TO_SPIRE, CHANGE, BUILT_IN),
        (make_examples.dome_to_tree, DOME_TO_TREE, CHANGE, BUILT_IN),
        (make_examples.add_tree, ADD_TREE, CHANGE, BUILT_IN),
        (make_examples.no_light_on_ground, LIGHT, ("light left", "side effect"), BUILT_IN),
        *((make, portraits.JUDGES[name], _shown(name), portraits.GENERATOR) for name, make in EXAMPLES.items()),
    ]
    for make, judge, shown, generator in table:
        name = make.__name__.replace("_", "-")
        hands: Methods = {f"hand {hand}": partial(replayed, edits=partial(_by_hand, make, hand)) for hand in HANDS}
        edits, axes = shipped(name, generator), (shown[0], "side effect")
        yield Experiment(f"hands-{name}", judge, hands, edits, shown, axes, generator=generator)


def _by_hand(make: Callable[..., Edit | list[Edit]], hand: int, generator: Generator) -> list[Edit]:
    made = make(generator, hand=hand)
    return [made] if isinstance(made, Edit) else made
