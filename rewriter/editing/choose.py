"""The machine chooses layer, form and numbers for an edit, by what they do on pictures that it was not made with.

A gated change of low rank follows light, size and pose, because it answers linearly to the keys: it is taken where it
takes. Where keys are too varied for a few directions, as on faces, copied values behind a template are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rewriter.editing import forms
from rewriter.editing.edit import AUTO, Edit
from rewriter.editing.effect import PROTECTING
from rewriter.editing.execute import judged, measure_effect, prepare, replay, solved, with_twin
from rewriter.editing.job import Job
from rewriter.editing.likeness import Likeness
from rewriter.editing.rule import Rule
from rewriter.editing.statistics import Statistics
from rewriter.editing.verdict import ASKED, MOST, TOOK, HeldOut, held_out
from rewriter.errors import ComputationError, InputError, OnStep, report
from rewriter.generators.base import Generator
from rewriter.memory import SMOOTHNESS
from rewriter.memory.goal import Goal

SECONDS = 10.0  # after which no further candidate is tried
SEARCHED = range(8000, 8064)  # pictures on which candidates are compared; verdicts are given on others
RANKS = (2, 1)  # the second is for edits that do not take with the first
NEIGHBOURS = (1, -1, 2, -2)  # layers to try if the edit takes at none of its own layer's forms
BUDGET = 3.0  # in 1/255: more than this elsewhere is too much, whatever the edit says
STEPS, FACTOR = 6, 3.0  # times that λ grows until the budget is met, and by how much
ENOUGH = 0.35  # score at which a candidate that took ends the search; a lower one may be beaten
PENALTY = 0.05  # of a mean change of 1/255 elsewhere, against how far the places came
ALONE = 0.08  # penalty of a goal at the pasted place alone: marks say more, unless it is clearly better
FEW = 4  # marks of an erasure, below which more context is looked for
DOUBLED = 0.002  # penalty of twice the rank: of two that do the same, the lower rank


@dataclass(frozen=True)
class Attempt:
    """A rule that was tried."""

    job: Job
    rule: Rule
    goal: Goal
    seconds: float
    took: float  # share of the places that became what was asked for
    score: float  # how far they came, less what happened elsewhere


def execute(
    generator: Generator,
    edit: Edit,
    *,
    rules: Sequence[Rule] = (),
    statistics: Statistics | None = None,
    seconds: float = SECONDS,
    on_step: OnStep | None = None,
    on_statistics: OnStep | None = None,
    on_rule: Callable[[Rule], object] | None = None,
) -> Rule:
    """Make the rule that an edit asks for; where its form is "auto", the best of several.

    The rule's edit names what was chosen, so that `replay` makes the same rule again. A `budget` is met by a larger λ,
    or a narrower template, unless the edit names these itself. `seconds`: after which no further candidate is tried.
    `on_step` is called with (candidates tried, of). For the rest see `execute.replay`.
    """
    if edit.kind == "switch":
        edit = edit.with_(form="units")
    if edit.kind == "swap" and edit.form == AUTO:
        edit = edit.with_(form="weight")
    if edit.form != AUTO and (
        edit.budget is None or edit.kind in ("zero", "switch") or edit.smoothness is not None or edit.gate
    ):
        steps = {"on_step": on_step, "on_statistics": on_statistics, "on_rule": on_rule}
        return replay(generator, edit, rules=rules, statistics=statistics, **steps)  # type: ignore[arg-type]
    first = edit if edit.form != AUTO else edit.with_(form="weight" if edit.kind == "zero" else "gated")
    job = prepare(generator, first, rules=rules, statistics=statistics, on_statistics=on_statistics)
    if edit.form == AUTO and edit.kind == "erase" and edit.units is None and len(job.context) < FEW:
        found = forms.find_erased(job).edit
        job = prepare(generator, found, rules=rules, statistics=job.statistics)  # in the batches of a replay
    stages = [[edit]] if edit.form != AUTO else list(_candidates(generator, edit))
    best = _best(job, stages, seconds, on_step)
    best = replace(best, rule=with_twin(best.job, best.rule, best.goal))
    if on_rule is not None:
        on_rule(best.rule)
    named = edit.smoothness is not None or edit.gate is not None
    return _within_budget(best, 0 if named else STEPS, on_step)


def _best(job: Job, stages: Sequence[Sequence[Edit]], seconds: float, on_step: OnStep | None) -> Attempt:
    """The best candidate that could be tried in time; the search ends where one has taken."""
    started, tried, refused = time.monotonic(), list[Attempt](), list[Exception]()
    held = held_out(job, SEARCHED) if job.edit.kind in ASKED else None
    total, done = sum(map(len, stages)), 0
    for stage in stages:
        for edit in stage:
            report(on_step, done, total)
            done += 1
            late = time.monotonic() - started > seconds
            if tried and late and edit.layer != job.edit.layer:  # the edit's own layer is always tried
                break
            try:
                tried.append(_attempt(job, edit, held, partial(_still, on_step, done, total)))
            except (InputError, ComputationError) as error:
                refused.append(error)
        if any(attempt.took >= MOST and attempt.score >= ENOUGH for attempt in tried):
            break
    if not tried:
        raise refused[0]
    report(on_step, total, total)
    return max(tried, key=lambda attempt: attempt.score)


def _candidates(generator: Generator, edit: Edit) -> Iterator[list[Edit]]:
    """What to try, in stages; a later stage is for edits that took in no earlier one."""
    if edit.kind == "zero":
        yield [edit.with_(form="weight")]
        return
    ranks = RANKS if edit.rank in RANKS else (edit.rank, *RANKS)
    if edit.kind == "erase":
        yield [edit.with_(form=form, rank=rank) for form in ("gated", "weight") for rank in ranks]
        for layer in _near(generator, edit.layer):
            yield [edit.with_(layer=layer, form="gated", rank=rank) for rank in ranks]
        return
    for rank in ranks:
        yield [edit.with_(form="gated", rank=rank, spread=spread) for spread in (True, False)]
    if edit.kind == "paint":  # units belong to a layer
        yield [edit.with_(form="weight", rank=rank) for rank in ranks]
        return
    yield [edit.with_(form="template")]
    near = _near(generator, edit.layer)
    yield [edit.with_(form="gated", layer=layer) for layer in near]
    yield [edit.with_(form="template", layer=layer) for layer in near]
    yield [edit.with_(form="weight")]


def _near(generator: Generator, layer: str) -> list[str]:
    """The layers beside one, nearest first."""
    layers = list(generator.layers)
    at = layers.index(layer)
    return [layers[at + step] for step in NEIGHBOURS if 0 <= at + step < len(layers)]


def _still(on_step: OnStep | None, done: int, total: int, step: int, of: int) -> None:
    """Report the same candidate again while it is made, so that it can be cancelled."""
    report(on_step, done, total)


def _attempt(job: Job, edit: Edit, held: HeldOut | None, on_step: OnStep) -> Attempt:
    """Make a candidate's rule and look at what it does."""
    asked = job.edit.form
    if edit.layer == job.edit.layer:
        job = job.with_(form=edit.form, rank=edit.rank, spread=edit.spread)
    else:
        found = job.edit.found if edit.kind == "erase" else edit.found
        job = prepare(job.generator, edit.with_(found=found), rules=job.rules, statistics=job.statistics)
    if edit.form == "template" != asked and not forms.Finder(job).is_selective():
        raise InputError("a template of the marked places matches other places as well: mark larger or other places")
    return _judged(job, *solved(job, on_step=on_step), held)


def _judged(job: Job, rule: Rule, goal: Goal, seconds: float, held: HeldOut | None) -> Attempt:
    assert rule.edit is not None
    job = job.with_(**{name: getattr(rule.edit, name) for name in ("found", "gate")})
    if held is None:
        everywhere = rule.edit.with_(context=job.context)  # the places that were found too
        likeness, spill = Likeness(job.generator, everywhere, job.rules).judge(rule, job.references)
        return Attempt(job, rule, goal, seconds, float(likeness >= TOOK), likeness - _penalty(spill))
    seeds = [place.seed for place in held.places]
    after = job.generator.sample(seeds, truncation=job.edit.truncation, rules=[*job.rules, rule]).clamp(-1, 1)
    reached, elsewhere = held.likeness(after), held.elsewhere(after)
    took = float((reached >= TOOK).float().mean())
    score = float(reached.median()) - _penalty(elsewhere) - DOUBLED * math.log2(rule.edit.rank)
    score -= 0.0 if rule.edit.spread else ALONE
    return Attempt(job, rule, goal, seconds, took, score)


def _penalty(elsewhere: float) -> float:
    """Of a mean change elsewhere in 1/255; none where the places fill the pictures."""
    return 0.0 if math.isnan(elsewhere) else PENALTY * elsewhere


def _within_budget(attempt: Attempt, steps: int, on_step: OnStep | None) -> Rule:
    """The measured rule; with a larger λ, or a narrower template, until no more than the budget changes elsewhere."""
    job, seconds = attempt.job, attempt.seconds
    budget = BUDGET if job.edit.budget is None else job.edit.budget
    rule, goal = attempt.rule, attempt.goal
    effect = measure_effect(job, rule, goal, seconds=seconds)
    for _ in range(steps):
        if not effect.side_effect > budget or rule.edit is None or not _can_be_gentler(rule.edit):
            break
        report(on_step, 1, 1)  # so that it can be cancelled
        edit = _gentler(rule.edit)
        job = job.with_(smoothness=edit.smoothness, gate=edit.gate)
        rule, goal, more = solved(job)
        seconds += more
        effect = measure_effect(job, rule, goal, seconds=seconds)
    if rule is not attempt.rule:
        rule = with_twin(job, rule, goal)
    return judged(job, rule, effect)


def _can_be_gentler(edit: Edit) -> bool:
    return edit.kind not in ("zero", "switch") and (edit.form != "weight" or edit.method in PROTECTING)


def _gentler(edit: Edit) -> Edit:
    if edit.form == "template" and edit.gate is not None:
        low, high = (min(bound * 1.15, limit) for bound, limit in zip(edit.gate, (0.98, 0.99), strict=True))
        return edit.with_(gate=(round(low, 4), round(high, 4)))
    usual = forms.SMOOTHNESS if edit.form == "gated" else SMOOTHNESS
    return edit.with_(smoothness=(usual if edit.smoothness is None else edit.smoothness) * FACTOR)
