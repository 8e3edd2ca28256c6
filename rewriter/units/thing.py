"""A thing as units draw it: which units of which layer, and how strong they usually are on it.

marks on pictures ──agreement──► units, best first ──tried on other pictures──► layer and number of units
                                                                                    │
                             strokes that draw or remove the thing  ◄── Thing ◄─────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter import checks, masks
from rewriter.editing.region import Region, regions
from rewriter.editing.stroke import LEVELS, MOST_UNITS, REMOVED, UNITS, Stroke
from rewriter.errors import InputError, OnStep, report
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank
from rewriter.generators.latents import Seed
from rewriter.pictures import difference
from rewriter.units.agreement import Agreement, Labels, activations, measure

COUNTS, GAINS = (5, 10, 20, 40), (1.0, 1.5)  # numbers of units that are tried, and how far beyond their usual change
REACHED = 0.75  # of the pictures tried, the one that counts: on some the thing may not stand where it is painted
FEWER, LEFT = (1, 2, 3, 5, 10, 20), 0.35  # units to remove a thing by, and how much of it may be left
BEST = 10  # units by which layers are compared
FEW = 5  # layers, all of which are tried
TRIED = range(7000, 7012)  # pictures to try a thing on
OTHERS = range(7000, 7064)  # pictures whose same places marks are compared with
STEADY = 0.1  # of the mean deviation, added to each unit's: a unit that hardly ever moves singles nothing out
MOST_MARKS = 5  # pictures that a person points at
FINEST = 64  # cells a side: finer layers draw texture; units of coarser ones than COARSEST draw whole scenes
COARSEST = 8
ELSEWHERE = 0.05  # penalty of a mean change of 1/255 outside the painted place


@dataclass(frozen=True, eq=False)
class Thing:
    """What paints a thing: units of a layer, best first, with their values on it, and silent."""

    name: str
    layer: str
    units: tuple[int, ...]
    on: tuple[float, ...]  # the usual value of each unit on the thing
    off: tuple[float, ...]  # the value at which nothing reads the unit
    marks: tuple[Region, ...] = ()  # where it was pointed at
    few: int | None = None  # how many of the first units suffice to remove it; None: all

    def stroke(self, place: Region | None = None, *, remove: bool = False, strength: float = 1.0) -> Stroke:
        """Draw the thing at a place, or remove it; without a place: on all pictures, everywhere.

        What is removed everywhere is removed by as few units as suffice: each of them does other things elsewhere too.
        """
        levels, name = (self.off, REMOVED + self.name) if remove else (self.on, self.name)
        count = self.few if remove and place is None else None
        return Stroke(self.layer, self.units[:count], levels[:count], place, strength, name)

    def to_json(self) -> dict[str, Any]:
        """JSON object; the inverse of `thing`."""
        plain = {name: list(getattr(self, name)) for name in ("units", "on", "off")}
        marks = [mark.to_json() for mark in self.marks]
        return {"name": self.name, "layer": self.layer, **plain, "marks": marks, "few": self.few}


_CHECKS: dict[str, checks.Check] = {
    "name": checks.text(60),
    "layer": checks.text(40),
    "units": UNITS,
    **dict.fromkeys(("on", "off"), LEVELS),
    "marks": regions,
    "few": checks.optional(checks.whole(1, MOST_UNITS)),
}


def thing(name: str, value: Any) -> Thing:
    """Check a thing given as JSON."""
    found = Thing(**checks.fields(name, value, _CHECKS, optional=("marks", "few")))
    if not len(found.units) == len(found.on) == len(found.off) > 0 or len({*found.units}) < len(found.units):
        raise checks.refusal(name, value, "different units, each with a value on the thing and a silent one")
    return found


def marked(marks: Sequence[Region]) -> tuple[list[Seed], Labels]:
    """The pictures that marks are on, and their masks as labels of one thing."""
    known: dict[Seed, list[Tensor]] = {}
    for mark in marks:
        known.setdefault(mark.seed, []).append(mark.mask)

    def labels(seeds: Sequence[Seed], pictures: Tensor) -> Tensor:
        side = pictures.shape[-1]
        each = [torch.stack([masks.resize(mask, (side, side)) for mask in known[seed]]).amax(0) for seed in seeds]
        return torch.stack(each)[:, None]

    return [*known], labels


def point(
    generator: Generator,
    marks: Sequence[Region],
    layer: str,
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
    most: int = MOST_MARKS,
) -> Agreement:
    """The units of a layer by how well they single out what a person marked on one to five pictures, or on `most`.

    Raises:
        InputError: no marks, or more pictures than that.
    """
    seeds, labels = marked(marks)
    _check_marks(seeds, most)
    return measure(generator, layer, ("it",), labels, seeds, truncation=truncation, rules=rules)


def _check_marks(seeds: Sequence[Seed], most: int = MOST_MARKS) -> None:
    if not 1 <= len(seeds) <= most:
        raise InputError(f"point at a thing on 1 to {most} pictures, not {len(seeds)}")


@torch.no_grad()
def contrast(
    generator: Generator,
    marks: Sequence[Region],
    layer: str,
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
) -> list[int]:
    """The units of a layer by how much stronger they are at the marks than other pictures have them at the same place.

    In deviations of those pictures. What always stands there, as the eyes behind glasses, counts for nothing.
    """
    seeds, labels = marked(marks)

    def active(seeds: Sequence[Seed]) -> Tensor:
        values = generator.values(generator.keys(seeds, layer, truncation=truncation, rules=rules), rules=rules)
        return activations(generator, layer, generator.layer(layer).frame.shown(values)).relu()

    at = active(seeds)
    share = labels(seeds, at.new_zeros(1, 1, side := generator.resolution, side))[:, 0].to(at)
    share = F.interpolate(share[:, None], at.shape[2:], mode="area") ** 3
    share = (share / share.sum((2, 3), keepdim=True))[:, 0]
    there = torch.einsum("nuhw,mhw->mnu", active(list(OTHERS)), share)
    on, mean, deviation = torch.einsum("muhw,mhw->u", at, share) / len(at), there.mean((0, 1)), there.mean(0).std(0)
    score = (on - mean) / (deviation + STEADY * deviation.mean()).clamp_min(1e-9)
    return [int(unit) for unit in score.argsort(descending=True, stable=True)]


def made_of(
    generator: Generator,
    agreement: Agreement,
    count: int,
    *,
    name: str,
    which: int = 0,
    order: Sequence[int] | None = None,
    gain: float = 1.0,
) -> Thing:
    """A thing as `count` units draw it, with their usual values on it and silent ones.

    They are the first of `order`; None: of those that agree with it best. `gain`: how far the values on the thing lie
    from those elsewhere, in terms of the usual distance; more makes up for the units that are left as they are.
    """
    units = list(agreement.order(which) if order is None else order)[:count]
    values = torch.lerp(agreement.off[which], agreement.on[which], gain)
    silent = generator.level(agreement.layer, units, 0.0)
    on, off = ([round(float(level), 4) for level in each] for each in (values[units], silent))
    return Thing(name, agreement.layer, tuple(units), tuple(on), tuple(off))


def candidate_layers(generator: Generator) -> list[str]:
    """Layers whose units may draw things: neither the whole scene nor single pixels."""
    if len(generator.layers) <= FEW:
        return [*generator.layers]
    return [n for n, info in generator.layers.items() if COARSEST < info.resolution <= FINEST][:-1]


@dataclass(frozen=True, eq=False)
class Tried:
    """A way to draw a thing, and how far it drew it on other pictures: 1 at best."""

    thing: Thing
    score: float


@torch.no_grad()
def choose(
    generator: Generator,
    marks: Sequence[Region],
    *,
    name: str = "",
    layers: Sequence[str] | None = None,
    likeliest: int | None = None,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
    on_step: OnStep | None = None,
) -> Tried:
    """Which units draw what a person marked on one to five pictures: the layer and number that draw it best elsewhere.

    Each candidate paints the thing, where it was marked, on pictures that were not marked; what it paints is compared
    with the thing itself. `likeliest`: try only so many layers, those whose units single out the marks best. `on_step`
    gets (layers compared and candidates tried, of). Errors as for `point`.
    """
    names = candidate_layers(generator) if layers is None else list(layers)
    seeds, labels = marked(marks)
    _check_marks(seeds)
    shown = generator.sample(seeds, truncation=truncation, rules=rules).clamp(-1, 1)
    trial = _Trial(generator, truncation, rules, shown, labels(seeds, shown)[:, 0].to(shown))
    ways = list(product(range(2), COUNTS, GAINS))
    tried, compared, of = list[Tried](), list[Agreement](), len(names) + len(names[:likeliest]) * len(ways)
    for layer in names:
        compared.append(point(generator, marks, layer, truncation=truncation, rules=rules))
        report(on_step, len(compared), of)
    for agreement in sorted(compared, key=lambda each: -_singled_out(each))[:likeliest]:
        layer = agreement.layer
        orders = agreement.order(), contrast(generator, marks, layer, truncation=truncation, rules=rules)
        for which, count, gain in ways:
            made = made_of(generator, agreement, count, name=name, order=orders[which], gain=gain)
            tried.append(Tried(replace(made, marks=tuple(marks)), trial.score(made)))
            report(on_step, len(compared) + len(tried), of)
    best = max(tried, key=lambda each: each.score)
    return replace(best, thing=with_few(generator, best.thing, truncation=truncation, rules=rules))


def _singled_out(agreement: Agreement) -> float:
    """How well the best units of a layer single out the marks."""
    return float(agreement.best[0].sort(descending=True).values[:BEST].mean())


@torch.no_grad()
def with_few(generator: Generator, thing: Thing, *, truncation: float = 1.0, rules: Sequence[LowRank] = ()) -> Thing:
    """The thing, with how many of its first units suffice to remove it from the pictures that were marked."""
    seeds, labels = marked(thing.marks)
    info = generator.layer(thing.layer)
    before = generator.sample(seeds, truncation=truncation, rules=rules).clamp(-1, 1)
    where = labels(seeds, before).to(before)

    def without(count: int | None) -> Tensor:
        change = replace(thing, few=count).stroke(remove=True).change(info)
        drawn = generator.sample(seeds, truncation=truncation, rules=[*rules, change])
        return drawn.clamp(-1, 1) * where

    gone = without(None)
    whole = (before * where - gone).norm().clamp_min(1e-6)
    enough = (count for count in FEWER if count < len(thing.units) and (without(count) - gone).norm() < LEFT * whole)
    return replace(thing, few=next(enough, len(thing.units)))


class _Trial:
    """Pictures on which a thing is painted where it was marked on others."""

    def __init__(
        self, generator: Generator, truncation: float, rules: Sequence[LowRank], shown: Tensor, where: Tensor
    ) -> None:
        self.generator, self.rules, self.truncation = generator, list(rules), truncation
        self.seeds = list(TRIED)
        self.thing, self.mask = (
            each.repeat(-(-len(self.seeds) // len(each)), *[1] * (each.ndim - 1))[: len(self.seeds)]
            for each in (shown, where)
        )
        self.before = generator.sample(self.seeds, truncation=truncation, rules=rules).clamp(-1, 1)
        self.away = ~masks.around(self.mask > 0)

    def score(self, thing: Thing) -> float:
        """How far painting goes towards the thing where it may stand, less what it changes elsewhere."""
        info = self.generator.layer(thing.layer)
        changes = [[*self.rules, thing.stroke().change(info, mask.cpu())] for mask in self.mask]
        after = self.generator.sample(self.seeds, truncation=self.truncation, rules=changes).clamp(-1, 1)
        start, left = (((p - self.thing).square().sum(1) * self.mask).sum((1, 2)) for p in (self.before, after))
        share = 1 - (left / start.clamp_min(1e-6)).sqrt()
        spill = float(difference(self.before, after)[self.away].mean()) if self.away.any() else 0.0
        return float(share.quantile(REACHED)) - ELSEWHERE * spill
