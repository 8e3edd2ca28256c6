"""Do verdicts agree with the truth? Many edits of the built-in world, good and bad, each against its counterfactual.

The edits are the shipped ones, painted by other hands, with forms, layers, ranks, λ, strengths and marks drawn at
random: many of them take, some take partly, many are hopeless. The verdict sees pictures only; the truth is what
happened to the pixels of unseen towns that should have changed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from rewriter.editing.edit import Edit
from rewriter.editing.effect import Effect
from rewriter.editing.execute import judged, prepare, solved
from rewriter.editing.statistics import Statistics
from rewriter.errors import OnStep, RewriterError, report
from rewriter.evaluation.counterfactual import ADD_TREE, DOME_TO_SPIRE, DOME_TO_TREE, DOOR_IN_THE_SKY
from rewriter.evaluation.metrics import Judge
from rewriter.generators.base import Generator

EDITS, QUICK_EDITS, PICTURES = 120, 24, 48
JUDGES = (DOME_TO_SPIRE, DOME_TO_TREE, ADD_TREE, DOOR_IN_THE_SKY)
CHANGED, LITTLE = 0.65, 0.25  # share of the pixels whose colour changed as it should: took, and did not take below it
SEEN, HARDLY_SEEN = 0.25, 0.03  # the same for the share that the segmenter takes for the new thing, where it was asked
NEARER = 0.5  # share of the colours' distance that is gone, where the segmenter was not asked
NOT_MEASURED = Effect(goal_error_removed=0, reach=0, side_effect=0, left_out=0, pictures=0, places=0, seconds=0)


class Example(NamedTuple):
    """An edit with its verdict and what is true of it: "took", "partly" or "did not take"."""

    name: str
    options: dict[str, Any]
    verdict: str
    truth: str


def examples(
    generator: Generator, seeds: Sequence[int], *, number: int = EDITS, on_step: OnStep | None = None
) -> list[Example]:
    """Make and judge so many edits; those that the library refuses are left out."""
    statistics, made = Statistics(generator), list[Example]()
    before = generator.sample(seeds, rules=[]).clamp(-1, 1)
    for i, (name, judge, edit, options) in enumerate(_edits(generator, number)):
        report(on_step, i, number)
        try:
            job = prepare(generator, edit, statistics=statistics)
            rule = judged(job, solved(job)[0], NOT_MEASURED)
        except RewriterError:
            continue
        after = generator.sample(seeds, rules=[rule]).clamp(-1, 1)
        assert rule.effect is not None
        made.append(Example(name, options, rule.effect.verdict, truth(judge, seeds, before, after)))
    return made


def _edits(generator: Generator, number: int) -> Iterator[tuple[str, Judge, Edit, dict[str, Any]]]:
    """Edits by hands and with options that are drawn at random, always the same ones."""
    from rewriter.worlds.townscape import make_examples as make  # it needs a session, and only this function needs it

    makers = (make.dome_to_spire, make.dome_to_tree, make.add_tree, make.door_in_the_sky)
    for i in range(number):
        draw = random.Random(i)
        maker, judge = makers[i % len(makers)], JUDGES[i % len(makers)]
        edit = maker(generator, hand=draw.randrange(11))
        options = _options(draw, edit, list(generator.layers))
        marks = draw.choice((1, 2, 4)) if draw.random() < 0.3 else len(edit.context)
        yield maker.__name__, judge, edit.with_(**options, context=edit.context[:marks]), options | {"marks": marks}


def _options(draw: random.Random, edit: Edit, layers: list[str]) -> dict[str, Any]:
    step = draw.choice((-3, -2, -1, 1, 2, 3))
    near = layers[max(1, min(len(layers) - 1, layers.index(edit.layer) + step))]
    possible = {
        "rank": (draw.choice((1, 2, 4, 8)), 0.5),
        "spread": (draw.random() < 0.5, 0.4),
        "smoothness": (draw.choice((0.1, 3.0, 100.0, 1e4, 1e5)), 0.4),
        "layer": (near, 0.4),
        "strength": (draw.choice((0.3, 0.5, 0.7)), 0.12),
    }
    chosen = {name: value for name, (value, share) in possible.items() if draw.random() < share}
    return {"form": draw.choice(("weight", "gated", "gated", "template")), **chosen}


def truth(judge: Judge, seeds: Sequence[int], before: torch.Tensor, after: torch.Tensor) -> str:
    """What the counterfactual says of pictures (n, 3, H, W) before and after a rule."""
    rows = judge.rows(seeds, lambda z: before, lambda z: after)
    found = {
        metric.name: float(rows[metric.name][:, 0].sum() / rows[metric.name][:, 1].sum()) for metric in judge.metrics
    }
    seen, nearer = found["segmented"], 1 - found["distance"] / found["distance before"]
    took = nearer >= NEARER if seen != seen else seen >= SEEN
    if found["changed"] < LITTLE or seen < HARDLY_SEEN:
        return "did not take"
    return "took" if took and found["changed"] >= CHANGED else "partly"


def agreement(made: Sequence[Example]) -> dict[str, Any]:
    """How often verdict and truth are the same, how often they agree on "took", and counts of each pair."""
    pairs = Counter(f"{each.truth} → {each.verdict}" for each in made)
    same = sum(each.truth == each.verdict for each in made)
    taken = sum((each.truth == "took") == (each.verdict == "took") for each in made)
    return {"edits": len(made), "same": same / len(made), "same on took": taken / len(made), "pairs": dict(pairs)}
