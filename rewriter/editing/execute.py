"""Edit → rule: look up the keys it points at, state its goal, solve, measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rewriter.editing import forms
from rewriter.editing.edit import AUTO, Edit
from rewriter.editing.effect import Effect, measure, measure_switch
from rewriter.editing.job import Job
from rewriter.editing.likeness import Likeness
from rewriter.editing.provenance import check_complete, check_rules, requests
from rewriter.editing.rule import Rule
from rewriter.editing.statistics import Statistics
from rewriter.editing.verdict import judge
from rewriter.errors import InputError, OnStep
from rewriter.generators.base import Generator
from rewriter.generators.beside import Beside
from rewriter.generators.change import LowRank
from rewriter.memory import SMOOTHNESS
from rewriter.memory.goal import Goal
from rewriter.memory.solve import forget


def replay(
    generator: Generator,
    edit: Edit,
    *,
    rules: Sequence[Rule] = (),
    statistics: Statistics | None = None,
    on_step: OnStep | None = None,
    on_statistics: OnStep | None = None,
    on_rule: Callable[[Rule], object] | None = None,
    unseen: Sequence[int] | None = None,
) -> Rule:
    """Make the rule that a recorded edit asks for.

    Args:
        generator: the generator that the edit was made on; it is not changed.
        edit: a complete edit, whose form is not "auto": see `choose.execute`.
        rules: the rules that are on; those that the edit was made after, if it was made after any.
        statistics: of this generator, perhaps of earlier edits.
        on_step: progress of the solver, or of the search for more context: (step, of).
        on_statistics: progress of the second moment, if it has to be measured: (pictures, of).
        on_rule: called with the rule before its effect is measured, which takes longer than to solve it.
        unseen: seeds to measure the effect on; None: see `effect.measure`.

    Raises:
        InputError: an incomplete edit, another generator, other rules, masks too small for the layer, a goal that asks
            for no change, or a form that this kind of edit cannot have.
        ComputationError: the numbers went wrong.
        CancelledError: `on_step` or `on_statistics` returned False.
    """
    if edit.kind == "switch":
        rule = switched(generator, edit, rules, unseen)
        if on_rule is not None:
            on_rule(rule)
        return rule
    job = prepare(generator, edit, rules=rules, statistics=statistics, on_statistics=on_statistics)
    rule, goal, seconds = solved(job, on_step=on_step)
    rule = with_twin(job, rule, goal)
    if on_rule is not None:
        on_rule(rule)
    return judged(job, rule, measure_effect(job, rule, goal, unseen=unseen, seconds=seconds))


def prepare(
    generator: Generator,
    edit: Edit,
    *,
    rules: Sequence[Rule] = (),
    statistics: Statistics | None = None,
    on_statistics: OnStep | None = None,
) -> Job:
    """Check an edit and look up what solving it needs; arguments and errors as for `replay`."""
    check_complete(generator, edit)
    _check_form(generator, edit)
    edit = edit.with_(generator=edit.generator or generator.name, fingerprint=generator.fingerprint)
    check_rules(generator, edit, rules)
    job = Job(generator, edit, rules, statistics)
    job.measure(on_statistics)
    job.look_up()
    return job


FORMS_OF = {  # that an edit of a kind can have; those of others are weight and gated
    "replace": ("weight", "gated", "template"),
    "zero": ("weight",),
    "switch": ("units",),
    "swap": ("weight",),
}


def _check_form(generator: Generator, edit: Edit) -> None:
    if edit.form == AUTO:
        raise InputError("the form of the edit is not chosen yet: execute it, or set form to weight, gated or template")
    if edit.form not in FORMS_OF.get(edit.kind, ("weight", "gated")):
        usual = FORMS_OF.get(edit.kind, ("weight",))[0]
        raise InputError(f"an edit of kind {edit.kind} cannot have the form {edit.form}: set form to {usual}")
    if edit.kind == "swap":
        _check_swap(generator, edit)
    elif layers := {stroke.layer for stroke in edit.strokes} - {edit.layer}:
        raise InputError(
            f"a rule changes one layer, and {edit.layer} is not the layer of all units that were set "
            f"({', '.join(sorted(layers))}): undo some strokes, or set layer to theirs"
        )


def _check_swap(generator: Generator, edit: Edit) -> None:
    """Raise InputError unless the units lie before the edit's layer, which has one direction to be changed in."""
    order = list(generator.layers)
    for each in edit.strokes:
        if order.index(generator.layer(each.layer).name) >= order.index(edit.layer):
            raise InputError(
                f"a swap changes what a layer makes of units before it, and {each.layer}, whose units are set, is not "
                f"before {edit.layer}: set layer to a later one, or choose units of an earlier layer"
            )
        each.change(generator.layer(each.layer))
    if edit.copy or edit.paste:
        raise InputError("a swap has two conditions of each picture: there is nothing to copy or paste")
    if edit.rank != 1:
        raise InputError(f"two conditions are told apart in one direction: set rank to 1 instead of {edit.rank}")


def solved(job: Job, *, on_step: OnStep | None = None) -> tuple[Rule, Goal, float]:
    """The rule, its goal, and the seconds that solving took.

    Its effect is not measured yet; a rule beside W has no change of W yet: see `with_twin`.
    """
    started, edit = time.perf_counter(), job.edit
    beside: Beside | None = None
    if edit.form == "template":
        job = forms.find(job, on_step=on_step)
        edit, beside = job.edit, forms.recall(job)
    if edit.kind == "zero":
        change = forget(edit.layer, job.memory, job.directions)
        goal = job.forgotten(change)
    else:
        goal = job.goal()
        if edit.form == "weight":
            change = job.solve(goal, on_step=on_step)
        else:
            beside = beside or forms.gated(job, goal, on_step=on_step)
            outputs, _, *kernel = job.memory.weight.shape
            nothing = job.memory.weight.new_zeros(outputs, len(job.directions.matrix), *kernel)
            change = LowRank(edit.layer, nothing, job.directions.matrix)
    rule = Rule(
        edit.layer,
        change.delta,
        change.directions,
        edit.strength,
        fingerprint=job.generator.fingerprint,
        beside=beside,
        level=job.directions.level,
        edit=edit.with_(after=requests(job.rules)),
    )
    return rule, goal, time.perf_counter() - started


def switched(generator: Generator, edit: Edit, rules: Sequence[Rule], unseen: Sequence[int] | None = None) -> Rule:
    """The rule that sets units to levels on all pictures, and how much these change; nothing has to be solved."""
    check_complete(generator, edit)
    _check_form(generator, edit)
    check_rules(generator, edit, rules)
    (stroke,) = edit.strokes
    if stroke.strength != 1:
        raise InputError(f"its stroke has strength {stroke.strength:g}: set the edit's strength instead")
    change = stroke.change(generator.layer(edit.layer))
    edit = edit.with_(generator=edit.generator or generator.name, fingerprint=generator.fingerprint)
    about: dict[str, Any] = {"fingerprint": generator.fingerprint, "edit": edit.with_(after=requests(rules))}
    rule = Rule(edit.layer, change.delta, change.directions, edit.strength, beside=change.beside, **about)
    rule = rule.to(generator.device)
    return replace(rule, effect=measure_switch(generator, rule, truncation=edit.truncation, rules=rules, seeds=unseen))


def with_twin(job: Job, rule: Rule, goal: Goal) -> Rule:
    """A rule beside W with the change of W that comes nearest to it, for programs that know W only."""
    if rule.beside is None:
        return rule
    change = job.solve(goal, method="least-squares", smoothness=SMOOTHNESS)
    return replace(rule, delta=change.delta, directions=change.directions)


def measure_effect(
    job: Job, rule: Rule, goal: Goal, *, unseen: Sequence[int] | None = None, seconds: float = 0.0
) -> Effect:
    """What a rule does on unseen pictures and at the marked places, without a verdict."""
    assert rule.edit is not None
    generator, edit, rules = job.generator, rule.edit, job.rules
    effect = measure(generator, rule, goal, truncation=edit.truncation, rules=rules, seeds=unseen, seconds=seconds)
    likeness, spill = Likeness(generator, edit, rules).judge(rule, job.references)
    return replace(effect, likeness=likeness, spill=spill)


def judged(job: Job, rule: Rule, effect: Effect) -> Rule:
    """The rule with its effect and the verdict."""
    return replace(rule, effect=judge(job, rule, effect))
