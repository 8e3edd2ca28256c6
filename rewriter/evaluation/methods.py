"""The method and those to compare it with, behind one signature: a case → what was made of it, which can draw.

The baselines are the paper's (Tables 1 to 3), with what the paper gave them: one goal, on the picture that was pasted
on or erased. Descents run for the paper's number of steps; each says whether it had converged.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from rewriter import masks
from rewriter.editing.edit import Edit
from rewriter.editing.execute import prepare
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError, OnStep, report
from rewriter.evaluation import segmenter
from rewriter.evaluation.counterfactual import asked_for
from rewriter.evaluation.dissection import Ranking, dissect
from rewriter.evaluation.judging import Draw
from rewriter.evaluation.propagation import Edited, paste, propagate
from rewriter.files import write_tensors
from rewriter.generators.base import Generator, exact
from rewriter.generators.change import LowRank
from rewriter.generators.layer import Features
from rewriter.memory import descent
from rewriter.memory.goal import Goal
from rewriter.worlds.townscape import scenes

DRAWN = 50  # pictures of 64 px at a time; fewer of larger ones
TUNING_RATE, FEATURES = 0.01, 0.01  # the original's: learning rate, weight of features against pixels
TUNING_STEPS = 1500  # its 20,001 at a constant rate do not settle; a rate that falls to nothing does
WINDOW, GAIN, PATIENCE = 100, 0.01, 5  # converged: so many windows of steps were not that share below the best before


@dataclass(frozen=True)
class Case:
    """A generator, what is to be done to it, and what of its second moments is known.

    things: the labels of what an edit is about, for dissection.
    """

    generator: Generator
    edit: Edit
    statistics: Statistics
    things: tuple[str, ...] = ()

    @cached_property
    def ranking(self) -> Ranking:
        """The units of the edit's layer by how well they agree with the things."""
        return dissect(self.generator, self.edit.layer, self.things)


@dataclass(frozen=True)
class Made:
    """What a method made: enough to draw with, storable.

    kind: "model" (the generator as it is), "asked" (given other latents), "rules", "weights", "units" or "pixels".
    losses: its loss at every step.
    """

    kind: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    seconds: float = 0.0

    def draw(self, generator: Generator, *, truncation: float = 1.0) -> Draw:
        """Latents → pictures, by what was made."""
        batch = max(4, DRAWN * 64 // generator.resolution)

        def draw(z: Tensor) -> Tensor:
            return torch.cat([DRAWS[self.kind](generator, self, truncation, part) for part in z.split(batch)])

        return draw

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        plain = {"kind": self.kind, "settings": self.settings, "losses": self.losses, "seconds": self.seconds}
        write_tensors(
            {name: tensor.detach().cpu() for name, tensor in self.tensors.items()}, path, {"made": json.dumps(plain)}
        )

    @staticmethod
    def load(path: Path) -> Made:
        """Read what `save` wrote."""
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            plain = json.loads(file.metadata()["made"])
        return Made(tensors=tensors, **plain | {"losses": tuple(plain["losses"])})


Method = Callable[[Case, OnStep | None], Made]


class Losses:
    """The losses of a descent, step by step, and whether it has converged."""

    def __init__(self) -> None:
        self.kept = list[float]()

    def add(self, loss: float) -> None:
        """Note a step's loss."""
        self.kept.append(loss)

    @property
    def converged(self) -> bool:
        """Whether the last windows' mean losses gained next to nothing on the best before them."""
        means = [sum(self.kept[i : i + WINDOW]) / WINDOW for i in range(0, len(self.kept) - WINDOW + 1, WINDOW)]
        last, before = means[-PATIENCE:], means[:-PATIENCE]
        return bool(before) and min(last) > (1 - GAIN) * min(before)


def unmodified(case: Case, on_step: OnStep | None = None) -> Made:
    """The generator as it is."""
    return Made("model")


def asked(case: Case, on_step: OnStep | None = None, *, what: str) -> Made:
    """The generator as it is, asked for the counterfactual itself: as far as a rule could get."""
    return Made("asked", settings={"what": what})


def solved(case: Case, on_step: OnStep | None = None, *, rate: float = descent.RATE, **changed: Any) -> Made:
    """A rule by one of the solvers; `changed` are fields of the edit that are to be other."""
    edit, losses = case.edit.with_(**changed), Losses()
    if edit.kind == "zero":
        raise InputError("methods are compared on edits that replace or erase; this one zeroes what it points at")
    job = prepare(case.generator, edit, statistics=case.statistics)
    started = time.perf_counter()
    rule = job.solve(job.goal(), on_step=on_step, on_loss=losses.add, rate=rate)
    said = {name: getattr(edit, name) for name in ("layer", "method", "rank", "smoothness", "spread", "units")}
    said |= {"places": len(job.context), "steps": len(losses.kept)}
    if edit.method != "least-squares":
        said |= {"rate": rate, "converged": losses.converged}
    return of_rules([replace(rule, strength=edit.strength)], said, losses, time.perf_counter() - started)


def of_rules(rules: Sequence[LowRank], settings: dict[str, Any], losses: Losses, seconds: float) -> Made:
    """What rules draw."""
    tensors = {f"{i} {rule.layer} delta": rule.scaled_delta() for i, rule in enumerate(rules)}
    tensors |= {f"{i} {rule.layer} directions": rule.directions for i, rule in enumerate(rules)}
    return Made("rules", tensors, settings, tuple(losses.kept), seconds)


def single_image(case: Case, on_step: OnStep | None = None) -> Made:
    """The paper's solver with a direction from the picture that was pasted on alone."""
    edit = case.edit
    seed = edit.paste.seed if edit.paste else edit.context[0].seed
    own = tuple(region for region in edit.context if region.seed == seed)[:1]
    return solved(case, on_step, method="projected", spread=False, context=own)


def all_weights(
    case: Case, on_step: OnStep | None = None, *, steps: int = TUNING_STEPS, rate: float = TUNING_RATE
) -> Made:
    """Tune all weights until the pasted-on picture looks as its goal is rendered (Eq. 3; "overfit" in the original).

    The learning rate falls to nothing along a cosine; of all steps, the weights with the least loss are taken.
    """
    job = prepare(case.generator, case.edit.with_(spread=False), statistics=case.statistics)
    goal = job.goal()
    started, losses = time.perf_counter(), Losses()
    weights = _tuned(case.generator, goal, job.target.seed, case.edit.truncation, steps, rate, losses, on_step)
    settings = {"rate": rate, "steps": steps, "converged": losses.converged}
    return Made("weights", weights, settings, tuple(losses.kept), time.perf_counter() - started)


def _tuned(
    generator: Generator,
    goal: Goal,
    seed: int,
    psi: float,
    steps: int,
    rate: float,
    losses: Losses,
    on_step: OnStep | None,
) -> dict[str, Tensor]:
    twin = copy.deepcopy(generator).requires_grad_(True)
    network = copy.deepcopy(segmenter.load()).to(generator.device)  # the shared one stays where it is
    with torch.no_grad():
        wanted = generator.picture(goal[:1].features, goal[:1].values, rules=[])
        like = network.features(wanted)
    adam, z = torch.optim.Adam(twin.parameters(), lr=rate, fused=True), generator.latents([seed])
    best: dict[str, Tensor] = {}
    for step in range(1, steps + 1):
        drawn = twin(z, truncation=psi, rules=[])
        seen = zip(network.features(drawn), like, strict=True)
        loss = F.l1_loss(drawn, wanted) + FEATURES * sum(F.mse_loss(a, b) for a, b in seen)
        adam.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        losses.add(float(loss.detach()))
        report(on_step, step, steps)
        if step > 1 and losses.kept[-1] <= min(losses.kept[1:]):  # not the first: that is the generator as it is
            best = {name: tensor.detach().clone() for name, tensor in twin.state_dict().items()}
        adam.step()
    return best


def zeroed(case: Case, on_step: OnStep | None = None, *, share: float = 0.06) -> Made:
    """Silence the units that agree best with the things that the edit is about (GAN Dissection): a share of them."""
    started, total = time.perf_counter(), case.generator.layer(case.edit.layer).out_channels
    number = max(1, round(share * total))
    settings = {"layer": case.edit.layer, "units": number, "of": total, "things": list(case.things)}
    units = case.ranking.order[:number]
    return Made("units", {"units": units}, settings, (), time.perf_counter() - started)


def pixels(case: Case, on_step: OnStep | None = None, *, blend: str = "copy") -> Made:
    """Copy the pasted pixels to the corresponding places of every picture (neural best buddies)."""
    edit, generator, side = case.edit, case.generator, (case.generator.resolution,) * 2
    assert edit.copy is not None and edit.paste is not None
    source, target = generator.sample([edit.copy.seed, edit.paste.seed], truncation=edit.truncation, rules=[]).cpu()
    edited = paste(
        source,
        masks.resize(edit.copy.mask, side),
        target,
        masks.resize(edit.paste.mask, side),
        _deep(target[None])[0],
    )
    tensors = {"picture": edited.picture, "mask": edited.mask, "features": edited.features}
    return Made("pixels", tensors, {"blend": blend})


@torch.no_grad()
def entering(generator: Generator, layer: str, z: Tensor, psi: float) -> Features:
    """The features that enter a layer, for pictures given by latents (n, zdim)."""
    generator.layer(layer)
    with exact(generator.device):
        features = generator.start(z.to(generator.device), psi)
        while features.layer != layer:
            following = generator.step(features, generator.values(features, rules=[]))
            assert not isinstance(following, Tensor)  # the layer exists, so the picture comes later
            features = following
    return features


@torch.no_grad()
def _as_it_is(generator: Generator, made: Made, psi: float, z: Tensor) -> Tensor:
    return generator(z.to(generator.device), truncation=psi, rules=[])


@torch.no_grad()
def _asked(generator: Generator, made: Made, psi: float, z: Tensor) -> Tensor:
    u = asked_for(made.settings["what"], scenes.factors(z))
    return _as_it_is(generator, made, psi, scenes.latents_of(u, z))


@torch.no_grad()
def _with_rules(generator: Generator, made: Made, psi: float, z: Tensor) -> Tensor:
    names = sorted((name.removesuffix(" delta") for name in made.tensors if name.endswith(" delta")), key=_number)
    rules = []
    for name in names:
        delta, directions = (made.tensors[f"{name} {part}"].to(generator.device) for part in ("delta", "directions"))
        rules.append(LowRank(name.split(" ")[1], delta, directions))
    return generator(z.to(generator.device), truncation=psi, rules=rules)


def _number(name: str) -> int:
    return int(name.split(" ")[0])


@torch.no_grad()
def _with_weights(generator: Generator, made: Made, psi: float, z: Tensor) -> Tensor:
    twin = copy.deepcopy(generator)
    twin.load_state_dict(made.tensors)
    return _as_it_is(twin, made, psi, z)


@torch.no_grad()
def _without_units(generator: Generator, made: Made, psi: float, z: Tensor) -> Tensor:
    features = entering(generator, made.settings["layer"], z, psi)
    values = generator.values(features, rules=[]).index_fill(1, made.tensors["units"].to(generator.device), 0.0)
    return generator.picture(features, values, rules=[])


@torch.no_grad()
def _with_pixels(generator: Generator, made: Made, psi: float, z: Tensor) -> Tensor:
    pictures = generator(z.to(generator.device), truncation=psi, rules=[]).cpu()
    reference = Edited(**made.tensors)
    return propagate(reference, pictures, _deep(pictures), blend=made.settings["blend"])


def _deep(pictures: Tensor) -> Tensor:
    """What correspondences are found by: features of the segmenter at a half and a quarter of the picture's side."""
    _, fine, coarse, _ = segmenter.load().features(pictures)
    return torch.cat([fine, F.interpolate(coarse, size=fine.shape[2:], mode="bilinear")], 1)


DRAWS: dict[str, Callable[[Generator, Made, float, Tensor], Tensor]] = {
    "model": _as_it_is,
    "asked": _asked,
    "rules": _with_rules,
    "weights": _with_weights,
    "units": _without_units,
    "pixels": _with_pixels,
}
