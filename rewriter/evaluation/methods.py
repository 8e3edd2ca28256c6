"""The method and its baselines behind one signature: a case → a result that can draw.

The baselines are the paper's (Tables 1 to 3). As in the paper they have one goal, on the picture that was pasted on or
erased, on the crop that the original solves for, and run for the paper's number of steps; each reports whether it had
converged. "projected-whole" is our earlier version of the paper's solver, on the whole map.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter import masks, worlds
from rewriter.cache import Cache
from rewriter.editing.choose import execute
from rewriter.editing.edit import AUTO, BY_HAND, Edit
from rewriter.editing.execute import prepare
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError, OnStep, report
from rewriter.evaluation.metrics import BATCH, Draw
from rewriter.evaluation.propagation import paste, propagate
from rewriter.generators.base import Generator, exact
from rewriter.generators.change import LowRank
from rewriter.generators.layer import Features
from rewriter.memory import descent
from rewriter.units.dissect import dissect, scene_labels
from rewriter.worlds import segmenter
from rewriter.worlds.base import World
from rewriter.worlds.segmenter import Segmenter

PICTURES_KEPT = 256 << 20  # bytes of the unmodified generator's pictures
TUNING_RATE, FEATURE_WEIGHT = 0.01, 0.01  # the original's learning rate, and its weight of features against pixels
TUNING_STEPS = 1500  # with a falling rate; the original's 20,001 steps at a constant rate do not converge
WINDOW, GAIN, PATIENCE = 100, 0.01, 5  # converged: the last 5 windows of 100 steps gained less than 1 %


@dataclass(frozen=True)
class Case:
    """A generator and the edit that methods should carry out on it."""

    generator: Generator
    edit: Edit
    statistics: Statistics  # of the generator's layers
    things: tuple[str, ...] = ()  # labels of what the edit is about, for dissection
    _drawn: Cache = field(default_factory=lambda: Cache(PICTURES_KEPT), init=False)

    @property
    def world(self) -> World:
        """The world that the generator draws; InputError if it draws none."""
        if (world := worlds.of(self.generator)) is None:
            raise InputError(f"{self.generator.name} draws no built-in world, of which labels are known")
        return world

    @cached_property
    def ranking(self) -> list[int]:
        """The units of the edit's layer by how well they agree with the things together, as in GAN Dissection."""
        labels, names = scene_labels(self.world, self.things, together=True), (" or ".join(self.things),)
        found = dissect(self.generator, self.edit.layer, names, labels)
        return [int(unit) for unit in found.iou[0].argsort(descending=True, stable=True)]

    @torch.no_grad()
    def draw(self, z: Tensor, rules: Sequence[LowRank] = ()) -> Tensor:
        """Pictures of latents (n, zdim) under rules."""
        parts = z.to(self.generator.device).split(max(4, BATCH * 64 // self.generator.resolution))
        drawn = [self.generator(part, truncation=self.edit.truncation, rules=rules) for part in parts]
        return torch.cat(drawn)

    def before(self, z: Tensor) -> Tensor:
        """Pictures of the unmodified generator. They are kept, because every method is compared with them."""
        return self._drawn.get(z.numpy().tobytes(), lambda: self.draw(z))


@dataclass(frozen=True)
class Result:
    """What a method made: how to draw with it, its settings, the loss of every step, and the seconds it took."""

    draw: Draw
    settings: dict[str, Any] = field(default_factory=dict)
    losses: Sequence[float] = ()
    seconds: float = 0.0


Method = Callable[[Case, OnStep | None], Result]
Methods = dict[str, Method]


def has_converged(losses: Sequence[float]) -> bool:
    """Whether the mean losses of the last windows are hardly better than the best before them."""
    means = [sum(losses[i : i + WINDOW]) / WINDOW for i in range(0, len(losses) - WINDOW + 1, WINDOW)]
    last, earlier = means[-PATIENCE:], means[:-PATIENCE]
    return bool(earlier) and min(last) > (1 - GAIN) * min(earlier)


def unmodified(case: Case, on_step: OnStep | None = None) -> Result:
    """The generator as it is."""
    return Result(case.before)


def ceiling(case: Case, on_step: OnStep | None = None, *, then: Callable[[Tensor], Tensor]) -> Result:
    """The generator as it is, given latents of the counterfactual: the best that a rule could reach.

    `then`: factors (n, k) → those of the counterfactual.
    """
    world = case.world
    return Result(lambda z: case.draw(world.latents_of(then(world.factors(z)), z)))


def solved(case: Case, on_step: OnStep | None = None, *, rate: float = descent.RATE, **changed: Any) -> Result:
    """A rule by one of the solvers; `changed` are fields of the edit to replace."""
    edit, losses = case.edit.with_(form="weight", **changed), list[float]()
    if edit.kind == "zero":
        raise InputError("methods are compared on edits of kind replace or erase; this edit's kind is zero")
    job = prepare(case.generator, edit, statistics=case.statistics)
    started = time.perf_counter()
    rule = job.solve(job.goal(), on_step=on_step, on_loss=losses.append, rate=rate)
    settings = {name: getattr(edit, name) for name in ("layer", "method", "rank", "smoothness", "spread", "units")}
    settings |= {"places": len(job.context), "steps": len(losses)}
    if edit.method != "least-squares":
        settings |= {"rate": rate, "converged": has_converged(losses)}
    return of_rule(case, replace(rule, strength=edit.strength), settings, losses, started)


def chosen(case: Case, on_step: OnStep | None = None) -> Result:
    """The edit without any option, for which the machine chooses: the default of `Rewriter.execute`."""
    usual = {name: Edit.__dataclass_fields__[name].default for name in BY_HAND - {"units"}}
    edit, started = case.edit.with_(**usual, gate=None, form=AUTO), time.perf_counter()
    rule = execute(case.generator, edit, statistics=case.statistics, on_step=on_step)
    assert rule.edit is not None
    names = ("form", "layer", "rank", "smoothness", "spread")
    return of_rule(case, rule, {name: getattr(rule.edit, name) for name in names}, [], started)


def of_rule(case: Case, rule: LowRank, settings: dict[str, Any], losses: Sequence[float], started: float) -> Result:
    """The generator under a rule that is ready now."""
    return Result(lambda z: case.draw(z, [rule]), settings, losses, time.perf_counter() - started)


def single_image(case: Case, on_step: OnStep | None = None) -> Result:
    """The paper's solver with a direction from the pasted-on picture alone."""
    edit = case.edit
    seed = edit.paste.seed if edit.paste else edit.context[0].seed
    own = tuple(region for region in edit.context if region.seed == seed)[:1]
    return solved(case, on_step, method="projected", spread=False, context=own)


def all_weights(
    case: Case, on_step: OnStep | None = None, *, steps: int = TUNING_STEPS, rate: float = TUNING_RATE
) -> Result:
    """Tune all weights until the pasted-on picture looks like its goal (Eq. 3; called "overfit" in the original).

    The loss is that of the whole picture, as in the equation; the original's code compares the pasted box alone. The
    learning rate falls to zero along a cosine; the weights with the smallest loss of all steps are kept.
    """
    job = prepare(case.generator, case.edit.with_(spread=False), statistics=case.statistics)
    goal, started, losses = job.goal(), time.perf_counter(), list[float]()
    shared = segmenter.of(case.generator)  # it stays on the CPU
    network = copy.deepcopy(shared).to(case.generator.device)
    with torch.no_grad():
        wanted = case.generator.picture(goal[:1].features, goal[:1].values, rules=[])
        features = network.features(wanted)
    tuned, psi, best = copy.deepcopy(case.generator).requires_grad_(True), case.edit.truncation, dict[str, Tensor]()
    z, adam = tuned.latents([int(job.target.seed)]), torch.optim.Adam(tuned.parameters(), lr=rate, fused=True)
    for step in range(1, steps + 1):
        drawn = tuned(z, truncation=psi, rules=[])
        pairs = zip(network.features(drawn), features, strict=True)
        loss = F.l1_loss(drawn, wanted) + FEATURE_WEIGHT * sum(F.mse_loss(a, b) for a, b in pairs)
        adam.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        losses.append(float(loss.detach()))
        report(on_step, step, steps)
        if step > 1 and losses[-1] <= min(losses[1:]):  # the first loss is that of the unmodified generator
            best = {name: tensor.detach().clone() for name, tensor in tuned.state_dict().items()}
        adam.step()
    tuned.requires_grad_(False).load_state_dict(best)
    settings = {"rate": rate, "steps": steps, "converged": has_converged(losses)}
    return Result(replace(case, generator=tuned).draw, settings, losses, time.perf_counter() - started)


def zeroed(case: Case, on_step: OnStep | None = None, *, share: float = 0.06) -> Result:
    """Set to zero a share of the layer's units: those that agree best with the case's things (GAN Dissection)."""
    started, generator, layer = time.perf_counter(), case.generator, case.edit.layer
    total = generator.layer(layer).out_channels
    units = torch.tensor(case.ranking[: max(1, round(share * total))], device=generator.device)

    @torch.no_grad()
    def draw(z: Tensor) -> Tensor:
        features = entering(generator, layer, z, case.edit.truncation)
        values = generator.values(features, rules=[]).index_fill(1, units, 0.0)
        return generator.picture(features, values, rules=[])

    settings = {"layer": layer, "units": len(units), "of": total, "things": list(case.things)}
    return Result(draw, settings, seconds=time.perf_counter() - started)


def pixels(case: Case, on_step: OnStep | None = None, *, blend: str = "copy") -> Result:
    """Copy the pasted pixels to the corresponding places of every picture (neural best buddies)."""
    edit, side = case.edit, (case.generator.resolution,) * 2
    assert edit.copy is not None and edit.paste is not None
    seeds = [edit.copy.seed, edit.paste.seed]
    source, target = case.generator.sample(seeds, truncation=edit.truncation, rules=[]).cpu()
    thing, place = (masks.resize(region.mask, side) for region in (edit.copy, edit.paste))
    network = segmenter.of(case.generator)
    edited = paste(source, thing, target, place, _features(network, target[None])[0])

    def draw(z: Tensor) -> Tensor:
        pictures = case.before(z).cpu()
        return propagate(edited, pictures, _features(network, pictures), blend=blend)

    return Result(draw, {"blend": blend})


def _features(network: Segmenter, pictures: Tensor) -> Tensor:
    """Features to find corresponding places by: the segmenter's at a half and a quarter of the picture's resolution."""
    _, fine, coarse, _ = network.features(pictures)
    return torch.cat([fine, F.interpolate(coarse, size=fine.shape[2:], mode="bilinear")], 1)


@torch.no_grad()
def entering(generator: Generator, layer: str, z: Tensor, truncation: float) -> Features:
    """The features that enter a layer, for pictures given by latents (n, zdim)."""
    with exact(generator.device):
        features = generator.start(z.to(generator.device), truncation)
        while features.layer != generator.layer(layer).name:
            following = generator.step(features, generator.values(features, rules=[]))
            assert isinstance(following, Features)  # the layer exists, so the picture comes later
            features = following
    return features


EARLY = 100  # steps after which the paper's descents are near their best, on the tuning seeds
projected = partial(solved, method="projected", spread=False)
OURS: Methods = {"unmodified": unmodified, "default": chosen, "least-squares": solved}
ONE_GOAL: Methods = {"least-squares, one goal": partial(solved, spread=False)}
PAPER: Methods = {
    "projected": projected,
    f"projected, {EARLY} steps": partial(projected, steps=EARLY),
    "projected-whole": partial(projected, method="projected-whole"),
    "direct": partial(solved, method="direct", spread=False),
    "single-image": single_image,
    "unconstrained": partial(solved, method="unconstrained", spread=False),
    "all-weights": all_weights,
}
