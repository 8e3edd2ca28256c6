"""Edit → rule: look up the keys it points at, state its goal, solve, measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rewriter import masks
from rewriter.editing.context import cells_of, context_keys
from rewriter.editing.edit import Edit
from rewriter.editing.effect import measure
from rewriter.editing.likeness import Likeness, centre
from rewriter.editing.provenance import check_complete, check_rules, statistics_for
from rewriter.editing.region import Region
from rewriter.editing.rule import Rule, requests
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError, OnStep
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank
from rewriter.generators.layer import Features, LayerInfo, Memory
from rewriter.memory.directions import Directions, key_directions
from rewriter.memory.goal import RIM, Bystanders, Goal, corresponding, erase, fill, paste
from rewriter.memory.second_moment import SecondMoment
from rewriter.memory.solve import SMOOTHNESS, forget, solve

BATCH = 16
NO_CHANGE = {  # what to do about a goal that asks for no change, by the edit's kind
    "replace": "the copied thing is already there: paste it onto another picture or place, erase it instead, or, if it "
    "should appear on other pictures too, mark the context there and leave spread on",
    "erase": "the marked places already look as they would without the thing: mark it where it is",
}


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
        edit: a complete edit.
        rules: the rules that are on; those that the edit was made after, if it was made after any.
        statistics: of this generator, perhaps of earlier edits.
        on_step: progress of the solver: (step, of).
        on_statistics: progress of the second moment, if it has to be measured: (pictures, of).
        on_rule: called with the rule before its effect is measured, which takes longer than to solve it.
        unseen: seeds to measure the effect on; None: see `effect.measure`.

    Raises:
        InputError: an incomplete edit, another generator, other rules, masks too small for the layer, or a goal that
            asks for no change.
        ComputationError: the numbers went wrong.
        CancelledError: `on_step` or `on_statistics` returned False.
    """
    job = prepare(generator, edit, rules=rules, statistics=statistics, on_statistics=on_statistics)
    edit = job.edit
    started = time.perf_counter()
    directions = job.directions
    if edit.kind == "zero":
        change = forget(edit.layer, job.memory, directions)
        goal = job.forgotten(change)
    else:
        goal = job.goal()
        change = job.solve(goal, on_step=on_step)
    seconds = time.perf_counter() - started
    rule = Rule(
        edit.layer,
        change.delta,
        change.directions,
        edit.strength,
        fingerprint=generator.fingerprint,
        level=directions.level,
        edit=edit.with_(after=requests(rules)),
    )
    if on_rule is not None:
        on_rule(rule)
    effect = measure(generator, rule, goal, truncation=edit.truncation, rules=rules, seeds=unseen, seconds=seconds)
    donors = job.donors if len(job.donors) else job.bystanders.features
    likeness, spill = Likeness(generator, edit, rules).judge(rule, donors)
    return replace(rule, effect=replace(effect, likeness=likeness, spill=spill))


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
    edit = edit.with_(generator=edit.generator or generator.name, fingerprint=generator.fingerprint)
    check_rules(generator, edit, rules)
    job = Job(generator, edit, rules, statistics)
    job.measure(on_statistics)
    job.look_up()
    return job


def _centre(region: Region, side: int) -> tuple[float, float]:
    """Centre of the box around a region's mask, as (row, column) in cells of a map of the given side."""
    (height, width), (row, column) = region.mask.shape, centre(region.mask)
    return row * side / height, column * side / width


class Job:
    """The work on one edit: what is known of its layer, the features it needs, its directions and its goal.

    The edit may be incomplete: each method needs only the places that it names. Statistics are measured when they are
    first needed; `measure` does so with progress.
    """

    def __init__(self, generator: Generator, edit: Edit, rules: Sequence[Rule], statistics: Statistics | None = None):
        self.generator, self.edit, self.rules = generator, edit, tuple(rules)
        self.statistics = statistics_for(generator, statistics)
        self.info: LayerInfo = generator.layer(edit.layer)
        self.context = edit.context or ((edit.paste,) if edit.paste else ())
        self.features: dict[int, Features] = {}

    @cached_property
    def memory(self) -> Memory:
        """The layer; rules that are on at it are folded into its weight."""
        return self.generator.rewritten(self.generator.rules_at(self.rules, self.info.name)).memory(self.info.name)

    def measure(self, on_step: OnStep | None = None) -> None:
        """Measure the layer's second moment, unless it is known; `on_step` gets (pictures, of)."""
        edit = self.edit
        self.moment = self.statistics.moment(
            edit.layer, truncation=edit.truncation, rules=self.rules, recipe=edit.statistics, on_step=on_step
        )

    @cached_property
    def moment(self) -> SecondMoment:
        """The second moment of the layer's keys."""
        self.measure()
        return self.moment

    @cached_property
    def _others(self) -> tuple[Bystanders, Tensor]:
        return self.statistics.bystanders(self.edit.layer, truncation=self.edit.truncation, rules=self.rules)

    @property
    def bystanders(self) -> Bystanders:
        """Places of other pictures that should stay as they are."""
        return self._others[0]

    @cached_property
    def donors(self) -> Features:
        """Pictures among the bystanders in which the context matches nothing."""
        return self.bystanders.unmatched(self.directions)

    @property
    def target(self) -> Region:
        """The place that is pasted on or erased, or else the first context; InputError if there is none."""
        if not self.context:
            raise InputError("no place is marked yet: paste onto a picture, or mark a context")
        return self.edit.paste or self.context[0]

    def look_up(self, regions: Iterable[Region | None] | None = None) -> None:
        """Compute the features of every picture that the edit points at, or of the given places, in batches."""
        if regions is None:
            regions = [self.edit.paste, *self.context, *self.edit.keep, self.edit.copy]
        seeds = sorted({region.seed for region in regions if region})
        layer, psi = self.edit.layer, self.edit.truncation
        for i in range(0, len(seeds), BATCH):
            batch = seeds[i : i + BATCH]
            found = self.generator.keys(batch, layer, truncation=psi, rules=self.rules)
            self.features |= {seed: found[[j]] for j, seed in enumerate(batch)}

    def _on(self, region: Region, side: int, what: str) -> Tensor:
        return cells_of(region, side, what, self.generator, self.edit.layer)

    @cached_property
    def directions(self) -> Directions:
        """What singles out the context: from the keys of the cells inside its masks, weighted by how far inside."""
        keys, weights = context_keys(self.generator, self.info, self.context, self.features)
        method, rank = self.edit.directions, self.edit.rank
        return key_directions(keys, self.moment, weights=weights, rank=rank, method=method)

    def copied(self) -> tuple[Tensor, Tensor]:
        """Values (out, H, W) of the copied picture, and the copy mask at their resolution."""
        assert self.edit.copy is not None
        values = self.generator.values(self.features[self.edit.copy.seed], rules=self.rules)[0]
        return values, self._on(self.edit.copy, self.info.resolution, "copied place")

    def pasted(self) -> Goal:
        """The goal for the picture that was pasted on: the copied values, centred on the pasted place."""
        assert self.edit.copy is not None
        features, side = self.features[self.target.seed], self.info.resolution
        source, mask = self.copied()
        self._on(self.target, side, "place to paste")
        (top, left), (row, column) = _centre(self.edit.copy, side), _centre(self.target, side)
        middle = masks.bounds(mask, above=RIM).centre
        at = middle[0] + row - top, middle[1] + column - left
        before = self.generator.values(features, rules=self.rules)
        return paste(features, before, [at], source, mask, snap=self.info.scale)

    def goal(self) -> Goal:
        """The goal: the values wanted of the pasted picture and, if the edit is spread, of each context."""
        spread = [r for r in self.context if r.seed != self.target.seed] if self.edit.spread else []
        pictures = [self.target, *spread]
        features = Features.cat([self.features[region.seed] for region in pictures])
        before, side = self.generator.values(features, rules=self.rules), self.info.resolution
        whitening = self.moment.power(-0.5).to(before)
        if self.edit.kind == "erase":
            places = torch.stack([self._on(region, side, "place to erase") for region in pictures])
            if self.edit.units is not None:
                return erase(features, before, places, self._others[1], units=self.edit.units)
            donors = self.donors
            keys, donor_keys = (torch.einsum("ij,njhw->nihw", whitening, f.keys) for f in (features, donors))
            return fill(features, before, places, keys, donor_keys, self.generator.values(donors, rules=self.rules))
        first = self.pasted()
        if not spread:
            return first
        source, mask = self.copied()
        centres = [first.boxes[0].centre, *self._elsewhere(features, spread, first, whitening)]
        return paste(features, before, centres, source, mask, snap=self.info.scale)

    def forgotten(self, change: LowRank) -> Goal:
        """The goal that a zeroed layer reaches: its values at the contexts after the change."""
        features = Features.cat([self.features[region.seed] for region in self.context])
        weight = torch.stack([self._on(region, self.info.resolution, "context") for region in self.context])
        before = self.generator.values(features, rules=self.rules)
        after = self.generator.values(features, rules=[*self.rules, change])
        boxes = tuple(masks.bounds(cells, above=RIM) for cells in weight)
        return Goal(features, after, before, weight, boxes)

    def _elsewhere(
        self, features: Features, spread: list[Region], first: Goal, whitening: Tensor
    ) -> list[tuple[float, float]]:
        """Where the goal's box belongs on the other contexts' pictures: near their masks, aligned by their keys."""
        scale, side = self.info.scale, self.info.key_resolution
        box = first.boxes[0].coarser(scale)
        drawn = next((region for region in self.context if region.seed == self.target.seed), self.target)
        centres = [_centre(region, side) for region in (drawn, *spread)]
        off = box.centre[0] - centres[0][0], box.centre[1] - centres[0][1]
        guesses = [(y + off[0], x + off[1]) for y, x in centres[1:]]
        keys = torch.einsum("ij,njhw->nihw", whitening, features.keys)
        return [(y * scale, x * scale) for y, x in corresponding(keys[0], box, keys[1:], guesses)]

    def solve(self, goal: Goal, *, on_step: OnStep | None = None, **changed: Any) -> LowRank:
        """The change that comes nearest to the goal and leaves other places, and protected ones, as they are.

        `changed`: options of `memory.solve.solve` that replace the edit's. InputError if the goal asks for no change.
        """
        edit = self.edit
        if not goal.asks_for_change:
            raise InputError(NO_CHANGE[edit.kind])
        smoothness = SMOOTHNESS if edit.smoothness is None else edit.smoothness
        options: dict[str, Any] = {"method": edit.method, "smoothness": smoothness, "steps": edit.steps, **changed}
        bystanders = [self.bystanders.sparing(self.directions, scale=self.info.scale), *map(self._kept, edit.keep)]
        return solve(self.memory, goal, self.directions, bystanders=bystanders, on_step=on_step, **options)

    def _kept(self, region: Region) -> Bystanders:
        """A protected place, as a set of places whose values should stay."""
        cells = self._on(region, self.info.resolution, "place to keep").flatten()
        places = cells.nonzero().T
        return Bystanders(self.features[region.seed], places, cells[places])
