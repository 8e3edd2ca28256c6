"""How well each unit of a layer singles out things: IoU and AUC, and how strong it usually is on them.

A unit is one channel of a layer's values. GAN Dissection (Bau et al. 2019) calls it on above its own 0.99 quantile over
many pictures, and compares where it is on with where pictures show a thing. A thing that covers more than a hundredth
of the pictures cannot be covered by so few places: so IoU is also given at the level that suits the thing best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.errors import InputError, OnStep, report
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank
from rewriter.generators.latents import Seed

QUANTILE = 0.99  # of a unit's activations, above which it is on
STEPS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.84, 0.88, 0.91, 0.93, 0.95, 0.965, 0.98, QUANTILE, 0.995)  # levels that are tried
COMPARED = 64  # cells a side at which units and things are compared
LEVELS_FROM = range(5000, 5064)  # pictures whose activations set the levels
SAMPLES = 4096  # cells of a layer's maps, from each eighth picture, that a quantile is computed from
COVERED = 0.5  # share of a cell that a thing must cover
BATCH = 32

Labels = Callable[[Sequence[Any], Tensor], Tensor]  # seeds and their pictures → where things are, (n, things, H, W)


@dataclass(frozen=True, eq=False)
class Agreement:
    """Every unit of a layer with every thing; all tensors but `level` are (things, units)."""

    layer: str
    things: tuple[str, ...]
    level: Tensor  # (units,), the 0.99 quantile of each unit's activations
    iou: Tensor  # at that level
    best: Tensor  # at the level of STEPS that suits the thing best
    auc: Tensor  # area under the ROC curve: how surely a cell of the thing has the larger activation
    on: Tensor  # mean value on the thing, mostly of cells that it covers wholly
    off: Tensor  # mean value elsewhere

    def order(self, thing: int = 0) -> list[int]:
        """Units by how well they agree with a thing, best first: by IoU at their best level, then by AUC."""
        score = self.best[thing] + 1e-3 * self.auc[thing]
        return [int(unit) for unit in score.argsort(descending=True, stable=True)]

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("layer", "things")}


class Counts:
    """What agreement is computed from: sums over pictures, which add up over batches and processes."""

    def __init__(self, things: int, units: int):
        steps = len(STEPS)
        self.both = torch.zeros(steps, things, units, dtype=torch.float64)  # cells that are on and of the thing
        self.on = torch.zeros(steps, 1, units, dtype=torch.float64)
        self.shown = torch.zeros(things, 1, dtype=torch.float64)  # cells of each thing, and of all
        self.cells = torch.zeros(1, dtype=torch.float64)
        self.inside, self.outside = (torch.zeros(things, units, dtype=torch.float64) for _ in range(2))
        self.weights = torch.zeros(2, things, 1, dtype=torch.float64)

    def sums(self) -> list[Tensor]:
        """All of them, in order."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    def add(self, activations: Tensor, values: Tensor, masks: Tensor, levels: Tensor) -> None:
        """Count a batch.

        Args:
            activations: of all units, (n, units, h, w), compared with `levels` (steps, units).
            values: of the layer, of the same shape, whose means are taken.
            masks: where the things are, (n, things, H, W) in 0 … 1.
            levels: from which on a unit counts as on, one row for each of STEPS.
        """
        side = max(values.shape[-1], min(COMPARED, masks.shape[-1]))
        wide = F.interpolate(activations, (side, side), mode="bilinear").transpose(0, 1).flatten(1)
        covered = F.interpolate(masks, (side, side), mode="area") if masks.shape[-1] != side else masks
        thing = (covered >= COVERED).transpose(0, 1).flatten(1).float()
        for step, level in enumerate(levels):
            on = (wide > level[:, None]).float()
            self.both[step] += (thing @ on.T).double().cpu()
            self.on[step] += on.sum(1).double().cpu()
        self.shown += thing.sum(1, keepdim=True).double().cpu()
        self.cells += thing.shape[1]
        share = F.interpolate(masks, values.shape[2:], mode="area")
        for i, (total, weight) in enumerate(((self.inside, share**3), (self.outside, 1 - share))):
            total += torch.einsum("nthw,nuhw->tu", weight, values).double().cpu()
            self.weights[i] += weight.sum((0, 2, 3))[:, None].double().cpu()

    def agreement(self, layer: str, things: Sequence[str], level: Tensor) -> Agreement:
        """IoU, AUC and mean values of what was counted."""
        iou = self.both / (self.on + self.shown - self.both).clamp_min(1)
        hit = self.both / self.shown.clamp_min(1)
        alarm = (self.on - self.both) / (self.cells - self.shown).clamp_min(1)
        (hit, alarm) = (F.pad(each, (0, 0, 0, 0, 0, 1)) for each in (hit, alarm))  # none is on above all levels
        (hit, alarm) = (torch.cat([torch.ones_like(each[:1]), each]) for each in (hit, alarm))
        auc = ((hit[:-1] + hit[1:]) / 2 * (alarm[:-1] - alarm[1:])).sum(0)
        on, off = self.inside / self.weights[0].clamp_min(1e-9), self.outside / self.weights[1].clamp_min(1e-9)
        parts = iou[STEPS.index(QUANTILE)], iou.amax(0), auc, on, off
        return Agreement(layer, tuple(things), level.cpu(), *(part.float() for part in parts))


@torch.no_grad()
def measure(
    generator: Generator,
    layer: str,
    things: Sequence[str],
    labels: Labels,
    seeds: Sequence[Seed],
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
    shared: Callable[[Counts], Counts] = lambda counts: counts,
    on_step: OnStep | None = None,
) -> Agreement:
    """Compare every unit of a layer with things on pictures; `labels` says where the things are on them.

    `shared` adds up what several processes counted, each on its own seeds. `on_step` gets (pictures done, of).
    InputError without seeds, or for a layer that the generator lacks.
    """
    if not len(seeds):
        raise InputError("no pictures to compare units on: name at least one")
    levels = usual_levels(generator, layer, truncation, rules)
    counts = Counts(len(things), generator.layer(layer).out_channels)
    for i in range(0, len(seeds), BATCH):
        batch = list(seeds[i : i + BATCH])
        values, pictures = drawn(generator, layer, batch, truncation, rules)
        masks = labels(batch, pictures).to(values)
        counts.add(activations(generator, layer, values), values, masks, levels)
        report(on_step, min(i + BATCH, len(seeds)), len(seeds))
    return shared(counts).agreement(layer, things, levels[STEPS.index(QUANTILE)])


def drawn(
    generator: Generator, layer: str, seeds: Sequence[Seed], truncation: float, rules: Sequence[LowRank]
) -> tuple[Tensor, Tensor]:
    """A layer's values within the pictures (n, units, h, w), and the pictures (n, 3, H, W) of seeds."""
    features = generator.keys(seeds, layer, truncation=truncation, rules=rules)
    values = generator.values(features, rules=rules)
    pictures = generator.picture(features, values, rules=rules).clamp(-1, 1)
    return generator.layer(layer).frame.shown(values), pictures


def activations(generator: Generator, layer: str, values: Tensor) -> Tensor:
    """What units show to the layers that read them, before it is rectified: (n, units, h, w) of values."""
    gain, shift = generator.activation(layer)
    return values * gain[:, None, None] + shift[:, None, None]


def usual_levels(generator: Generator, layer: str, truncation: float, rules: Sequence[LowRank]) -> Tensor:
    """The quantiles STEPS of each unit's activations, (steps, units)."""
    frame = generator.layer(layer).frame

    def batches() -> Iterator[Tensor]:
        for i in range(0, len(LEVELS_FROM), BATCH // 4):
            seeds = list(LEVELS_FROM[i : i + BATCH // 4])
            values = generator.values(generator.keys(seeds, layer, truncation=truncation, rules=rules), rules=rules)
            flat = activations(generator, layer, frame.shown(values)).transpose(0, 1).flatten(1)
            yield flat[:, :: max(1, flat.shape[1] // SAMPLES)]

    return torch.quantile(torch.cat([*batches()], 1), torch.tensor(STEPS, device=generator.device), 1)
