"""Rewriter: copy, paste, context, execute on one generator; replay of a recorded edit."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rewriter import masks
from rewriter.edit import Edit, Region
from rewriter.effect import measure
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.layer import Features, LayerInfo
from rewriter.memory.directions import key_directions
from rewriter.memory.goal import RIM, Goal, corresponding, erase, fill, paste
from rewriter.memory.keys import SecondMoment
from rewriter.memory.solve import SMOOTHNESS, Bystanders, OnStep, solve
from rewriter.memory.statistics import Statistics, digest
from rewriter.rule import Rule

INSIDE = 0.5  # cells at least this much inside a mask give context keys; rims would leak background into D


class Rewriter:
    """One generator and the edit in progress: point at places by seed and mask, then execute.

    Masks are bool or [0, 1] arrays (H, W) at any resolution. The generator is never changed.
    """

    def __init__(
        self,
        generator: Generator,
        layer: str | None = None,
        *,
        truncation: float = 1.0,
        rules: Sequence[Rule] = (),
        statistics: Statistics | None = None,
    ):
        self.generator, self.rules = generator, tuple(rules)
        self.statistics = statistics or Statistics(generator, truncation=truncation)
        name = layer or default_layer(generator)
        generator.layer(name)
        self.edit = Edit(
            generator.name, name, fingerprint=generator.fingerprint, truncation=truncation, after=_digests(self.rules)
        )

    def copy(self, seed: int, mask: ArrayLike | Tensor) -> None:
        """Take the thing under the mask from picture `seed`: its values at the layer."""
        self.edit = self.edit.with_(kind="replace", copy=Region(seed, masks.as_mask(mask)))

    def paste(self, seed: int, mask: ArrayLike | Tensor) -> None:
        """Put the copied thing where the mask is on picture `seed`, centre on centre."""
        self.edit = self.edit.with_(paste=Region(seed, masks.as_mask(mask)))

    def erase(self, seed: int, mask: ArrayLike | Tensor, *, units: int | None = None) -> None:
        """Take away what is under the mask on picture `seed`; needs no copy.

        The place is filled with what similar pictures without the context have there; with `units`, so many of the
        units that stand out there are silenced instead, as the paper does.
        """
        self.edit = self.edit.with_(kind="erase", copy=None, paste=Region(seed, masks.as_mask(mask)), units=units)

    def add_context(self, seed: int, mask: ArrayLike | Tensor) -> None:
        """Mark one more place that the rule should apply to."""
        self.edit = self.edit.with_(context=(*self.edit.context, Region(seed, masks.as_mask(mask))))

    def keep(self, seed: int, mask: ArrayLike | Tensor) -> None:
        """Protect a place: its values should stay as they are."""
        self.edit = self.edit.with_(keep=(*self.edit.keep, Region(seed, masks.as_mask(mask))))

    def execute(
        self,
        *,
        rank: int = 1,
        smoothness: float | None = None,
        method: str = "least-squares",
        spread: bool = True,
        on_step: OnStep | None = None,
    ) -> Rule:
        """Turn the edit into a rule; see `Edit` for the options.

        Raises:
            InputError: the edit is incomplete (says what is missing) or cannot be carried out at this layer.
            ComputationError: the numbers went wrong.
            CancelledError: `on_step` returned False.
        """
        self.edit = self.edit.with_(rank=rank, smoothness=smoothness, method=method, spread=spread)
        return replay(self.generator, self.edit, rules=self.rules, statistics=self.statistics, on_step=on_step)


def default_layer(generator: Generator) -> str:
    """The layer to start with: layer8, good for objects, or the middle one of a smaller generator."""
    names = list(generator.layers)
    return "layer8" if "layer8" in names else names[len(names) // 2]


def replay(
    generator: Generator,
    edit: Edit,
    *,
    rules: Sequence[Rule] = (),
    statistics: Statistics | None = None,
    on_step: OnStep | None = None,
    on_statistics: Callable[[int, int], object] | None = None,
) -> Rule:
    """Make the rule that a recorded edit asks for.

    Args:
        generator: the generator that the edit was made on; it is not changed.
        edit: a complete edit.
        rules: the rules that are on; those that the edit was made after, if it was made after any.
        statistics: kept from earlier edits of this generator at this truncation; None: fresh.
        on_step: progress of the solver: (step, of, loss); returning False cancels.
        on_statistics: progress of the second moment, if it has to be measured: (pictures, of).

    Raises:
        InputError: an incomplete edit, another generator, other rules, or masks too small for the layer.
    """
    check(generator, edit)
    edit = edit.with_(generator=edit.generator or generator.name, fingerprint=generator.fingerprint)
    _check_rules(generator, edit, rules)
    if statistics is not None and statistics.generator.fingerprint != generator.fingerprint:
        raise InputError(f"the statistics are of {statistics.generator.name}, not of {generator.name}")
    if statistics is None or statistics.truncation != edit.truncation:
        statistics = Statistics(generator, truncation=edit.truncation)
    job = _Job(generator, edit, tuple(rules))
    moment = statistics.moment(edit.layer, rules=rules, recipe=edit.statistics, on_step=on_statistics)
    bystanders, usual = statistics.bystanders(edit.layer, rules=rules)
    job.look_up()
    started = time.perf_counter()
    keys, weights = job.context_keys()
    directions = key_directions(keys, moment, weights=weights, rank=edit.rank, method=edit.directions)
    goal = job.goal(usual, moment, bystanders.unmatched(directions))
    spared = bystanders.sparing(directions, scale=job.info.scale)
    change = solve(
        generator.rewritten(generator.rules_at(rules, edit.layer)).memory(edit.layer),
        goal,
        directions,
        bystanders=[spared, *job.kept()],
        method=edit.method,
        smoothness=SMOOTHNESS if edit.smoothness is None else edit.smoothness,
        on_step=on_step,
    )
    seconds = time.perf_counter() - started
    rule = Rule(
        edit.layer,
        change.delta,
        change.directions,
        edit.strength,
        fingerprint=generator.fingerprint,
        level=directions.level,
        edit=edit.with_(after=_digests(rules)).to_json(),
    )
    effect = measure(generator, rule, goal, truncation=edit.truncation, rules=rules, seconds=seconds)
    return replace(rule, effect=effect)


def _digests(rules: Sequence[Rule]) -> tuple[str, ...]:
    """What was asked for, rule by rule: the same on every machine, which the solved numbers are not to the last bit."""
    return tuple(_request(rule) for rule in rules if rule.strength)


def _request(rule: Rule) -> str:
    if not rule.edit:
        return digest([rule])
    asked = {name: value for name, value in rule.edit.items() if name != "strength"}
    return hashlib.sha256(json.dumps([rule.fingerprint, asked], sort_keys=True).encode()).hexdigest()[:16]


def check(generator: Generator, edit: Edit) -> None:
    """Raise InputError, before any work, for an incomplete edit, another generator or a layer that it lacks."""
    if lacking := edit.missing():
        raise InputError(f"the edit is incomplete: {'; '.join(lacking)}")
    if edit.fingerprint and edit.fingerprint != generator.fingerprint:
        raise InputError(
            f"the edit was made on {edit.generator} with fingerprint {edit.fingerprint[:12]}, this is "
            f"{generator.name} with {generator.fingerprint[:12]}: load the generator that it was made on"
        )
    generator.layer(edit.layer)


def _check_rules(generator: Generator, edit: Edit, rules: Sequence[Rule]) -> None:
    for rule in rules:
        rule.check(generator)
    if edit.after and edit.after != _digests(rules):
        raise InputError(
            f"the edit was made after {len(edit.after)} other rules ({', '.join(edit.after)}), which are not the "
            f"{len(rules)} that are on: apply those first"
        )


def _centre(region: Region, side: int) -> tuple[float, float]:
    """Middle of a region's box, measured on its own mask, in cells of a map of the given side."""
    height, width = region.mask.shape
    row, column = masks.bounds(region.mask, above=float(region.mask.max()) / 2).centre
    return row * side / height, column * side / width


class _Job:
    """One edit at work: the features it needs, its context's keys and its goal."""

    def __init__(self, generator: Generator, edit: Edit, rules: tuple[Rule, ...]):
        assert edit.paste is not None or edit.context
        self.generator, self.edit, self.rules = generator, edit, rules
        self.info: LayerInfo = generator.layer(edit.layer)
        self.target = edit.paste or edit.context[0]
        self.context = edit.context or (self.target,)
        self.features: dict[int, Features] = {}

    def look_up(self) -> None:
        """Features of every picture that the edit names, in one go."""
        regions = [self.target, *self.context, *self.edit.keep, *filter(None, [self.edit.copy])]
        seeds = sorted({region.seed for region in regions})
        found = self._keys(seeds)
        self.features = {seed: found[[i]] for i, seed in enumerate(seeds)}

    def _keys(self, seeds: list[int]) -> Features:
        layer, psi = self.edit.layer, self.edit.truncation
        parts = [
            self.generator.keys(seeds[i : i + 16], layer, truncation=psi, rules=self.rules)
            for i in range(0, len(seeds), 16)
        ]
        return Features.cat(parts)

    def _on(self, region: Region, side: int, what: str) -> Tensor:
        """A region's mask on a map of the layer, (side, side); refused if it covers less than one cell."""
        cells = masks.resize(region.mask, (side, side))
        if cells.sum() < 1 or cells.max() <= RIM:
            finer = [n for n, i in self.generator.layers.items() if i.key_resolution > side]
            advice = f"paint more, or choose a finer layer ({finer[0]} or later)" if finer else "paint more"
            raise InputError(
                f"the {what} on picture {region.seed} covers {float(cells.sum()):.2f} of a cell of "
                f"{self.edit.layer} ({side} × {side}): {advice}"
            )
        return cells.to(self.generator.device)

    def context_keys(self) -> tuple[Tensor, Tensor]:
        """Keys (n, in) of the cells inside the context's masks, and how far inside they are (n,)."""
        keys, weights = [], []
        for region in self.context:
            cells = self._on(region, self.info.key_resolution, "context")
            inside = cells >= min(INSIDE, float(cells.max()))
            keys.append(self.features[region.seed].keys[0][:, inside].T)
            weights.append(cells[inside])
        return torch.cat(keys), torch.cat(weights)

    def goal(self, usual: Tensor, moment: SecondMoment, donors: Features) -> Goal:
        """The wanted values of the pasted-on picture, and of each context where the edit is spread."""
        spread = [r for r in self.context if r.seed != self.target.seed] if self.edit.spread else []
        pictures = [self.target, *spread]
        features = Features.cat([self.features[region.seed] for region in pictures])
        before, side = self.generator.values(features, rules=self.rules), self.info.resolution
        whitening = moment.power(-0.5).to(before)
        if self.edit.kind == "erase":
            places = torch.stack([self._on(region, side, "place to erase") for region in pictures])
            if self.edit.units is not None:
                return erase(features, before, places, usual, units=self.edit.units)
            keys, donor_keys = (torch.einsum("ij,njhw->nihw", whitening, f.keys) for f in (features, donors))
            return fill(features, before, places, keys, donor_keys, self.generator.values(donors, rules=self.rules))
        assert self.edit.copy is not None
        source = self.generator.values(self.features[self.edit.copy.seed], rules=self.rules)[0]
        mask = self._on(self.edit.copy, side, "copied place")
        self._on(self.target, side, "place to paste")
        (top, left), (row, column) = _centre(self.edit.copy, side), _centre(self.target, side)
        middle = masks.bounds(mask, above=RIM).centre
        centre = middle[0] + row - top, middle[1] + column - left
        first = paste(features[:1], before[:1], [centre], source, mask, snap=self.info.scale)
        if not spread:
            return first
        centres = [first.boxes[0].centre, *self._elsewhere(features, spread, first, whitening)]
        return paste(features, before, centres, source, mask, snap=self.info.scale)

    def _elsewhere(
        self, features: Features, spread: list[Region], first: Goal, whitening: Tensor
    ) -> list[tuple[float, float]]:
        """Centres of the goal's box on the other context pictures' value maps: by their masks, then by their keys."""
        scale, side = self.info.scale, self.info.key_resolution
        box = masks.Box(*(edge // scale for edge in first.boxes[0][:2]), *(-(-e // scale) for e in first.boxes[0][2:]))
        drawn = next((region for region in self.context if region.seed == self.target.seed), self.target)
        centres = [_centre(region, side) for region in (drawn, *spread)]
        off = box.centre[0] - centres[0][0], box.centre[1] - centres[0][1]
        guesses = [(y + off[0], x + off[1]) for y, x in centres[1:]]
        keys = torch.einsum("ij,njhw->nihw", whitening, features.keys)
        return [(y * scale, x * scale) for y, x in corresponding(keys[0], box, keys[1:], guesses)]

    def kept(self) -> list[Bystanders]:
        """The protected places, each region one set."""
        sets = []
        for region in self.edit.keep:
            cells = self._on(region, self.info.resolution, "place to keep").flatten()
            places = cells.nonzero().T
            sets.append(Bystanders(self.features[region.seed], places, cells[places]))
        return sets
