"""Which layer an edit works best at: try it at every layer and compare the marked pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rewriter.editing.edit import AUTO, Edit
from rewriter.editing.execute import measure_effect, prepare, solved, with_twin
from rewriter.editing.job import Job
from rewriter.editing.provenance import check_complete
from rewriter.editing.rule import Rule
from rewriter.editing.statistics import Statistics, statistics_for
from rewriter.errors import ComputationError, InputError, OnStep, report
from rewriter.generators.base import Generator
from rewriter.generators.latents import UNSEEN

MEASURED = range(UNSEEN, UNSEEN + 16)
PENALTY = 0.1  # a mean change of 1/255 outside the marks lowers the score by so much


@dataclass(frozen=True)
class Suggestion:
    """An edit at one layer."""

    layer: str
    score: float = -math.inf  # the rule's likeness, less a tenth for each 1/255 of spill (see `Effect`)
    rule: Rule | None = None  # None if the edit is not possible at this layer
    picture: Tensor | None = None  # the picture that was pasted on or marked first, with the rule, (3, H, W)
    why: str = ""  # the reason if the edit is not possible


@torch.no_grad()
def suggest(
    generator: Generator,
    edit: Edit,
    layers: Sequence[str] | None = None,
    *,
    rules: Sequence[Rule] = (),
    statistics: Statistics | None = None,
    on_step: OnStep | None = None,
) -> list[Suggestion]:
    """Solve the edit at every layer, or the given ones; best first, impossible ones last.

    `on_step` is called with (layers done, of).
    """
    check_complete(generator, edit)
    if edit.strokes and edit.kind != "swap":
        raise InputError(f"this edit is made of units of {edit.layer}, which no other layer has: choose other units")
    if edit.form == AUTO:
        edit = edit.with_(form="weight")
    statistics = statistics_for(generator, statistics)
    names = [layers] if isinstance(layers, str) else list(generator.layers if layers is None else layers)
    statistics.moments(names, truncation=edit.truncation, rules=rules, recipe=edit.statistics)  # in one walk
    first = (edit.paste or edit.context[0]).seed
    found = []
    for i, layer in enumerate(names):
        try:
            rule = _made(prepare(generator, edit.with_(layer=layer), rules=rules, statistics=statistics))
            picture = generator.sample([first], truncation=edit.truncation, rules=[*rules, rule])[0]
            found.append(Suggestion(layer, _score(rule), rule, picture))
        except (InputError, ComputationError) as error:
            found.append(Suggestion(layer, why=str(error)))
        report(on_step, i + 1, len(names))
    return sorted(found, key=lambda one: one.score, reverse=True)


def _made(job: Job) -> Rule:
    """The rule with its effect, but no verdict, which takes longer."""
    rule, goal, seconds = solved(job)
    effect = measure_effect(job, rule, goal, unseen=MEASURED, seconds=seconds)
    return replace(with_twin(job, rule, goal), effect=effect)


def _score(rule: Rule) -> float:
    assert rule.effect is not None  # replay measures it
    spill = rule.effect.spill if math.isfinite(rule.effect.spill) else 255.0  # nothing is unmarked
    return rule.effect.likeness - PENALTY * spill
