"""Which layer an edit works best at: the same edit at every layer, ranked by effect against side effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewriter.edit import Edit
from rewriter.effect import HARM, UNSEEN
from rewriter.errors import ComputationError, InputError
from rewriter.execute import check, replay
from rewriter.generators.base import Generator
from rewriter.memory.statistics import Statistics
from rewriter.rule import Rule

UNSEEN_SEEDS = range(UNSEEN, UNSEEN + 16)


@dataclass(frozen=True)
class Suggestion:
    """An edit at one layer.

    rule: what it leads to, or None, and then `why` not. score: higher is better. picture: (3, H, W), the pasted-on
    picture with the rule.
    """

    layer: str
    score: float
    rule: Rule | None = None
    picture: Tensor | None = None
    why: str = ""


@torch.no_grad()
def suggest(
    generator: Generator,
    edit: Edit,
    layers: Sequence[str] | None = None,
    *,
    rules: Sequence[Rule] = (),
    statistics: Statistics | None = None,
    on_step: Callable[[int, int], object] | None = None,
) -> list[Suggestion]:
    """Solve the edit at every layer, or these, and rank them: the best first, those that cannot be done last."""
    check(generator, edit)
    names = list(generator.layers if layers is None else layers)
    found = []
    for i, layer in enumerate(names):
        found.append(_try(generator, edit.with_(layer=layer), rules, statistics))
        if on_step is not None:
            on_step(i + 1, len(names))
    return sorted(found, key=lambda one: one.score, reverse=True)


def _try(generator: Generator, edit: Edit, rules: Sequence[Rule], statistics: Statistics | None) -> Suggestion:
    try:
        rule = replay(generator, edit, rules=rules, statistics=statistics, unseen=UNSEEN_SEEDS)
    except (InputError, ComputationError) as error:
        return Suggestion(edit.layer, float("-inf"), why=str(error))
    assert rule.effect is not None  # replay measures it
    seed = (edit.paste or edit.context[0]).seed
    picture = generator.sample([seed], truncation=edit.truncation, rules=[*rules, rule])[0]
    side = rule.effect.side_effect if math.isfinite(rule.effect.side_effect) else HARM  # it matches everywhere
    return Suggestion(edit.layer, rule.effect.goal_error_removed - side / 10, rule, picture)
