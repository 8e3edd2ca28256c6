"""What the method has to know of a layer before any edit: measured once, kept in memory and on disk.

A measurement belongs to the generator's fingerprint, the rules at earlier layers, the layer, the truncation and the
recipe; another value of any of these is another measurement.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rewriter.cache import Cache, default_folder
from rewriter.editing.recipe import BATCH, BLOCK, Recipe
from rewriter.errors import InputError, OnStep, report
from rewriter.files import write_tensors
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank, digest
from rewriter.generators.layer import Features
from rewriter.memory.goal import Bystanders
from rewriter.memory.keys import SecondMoment, random_places
from rewriter.memory.sites import at_places

KEPT = 512 << 20  # bytes of moments and features kept in memory
BYSTANDERS = range(5000, 5024)
BYSTANDER_PLACES = 96


@dataclass(frozen=True)
class Block:
    """One walk through the generator: the seeds of one block, and how many places of each picture a layer takes."""

    seeds: range
    places: Mapping[str, int]


def plan(recipes: Mapping[str, Recipe], *, done: Mapping[str, int] | None = None) -> list[Block]:
    """The walks that measure each layer by its recipe, in order; layers share those over the same pictures.

    `done`: how many keys of a layer are measured already; their blocks are left out.
    """
    shared: dict[range, dict[str, int]] = {}
    for layer, recipe in recipes.items():
        for seeds in recipe.blocks():
            if (seeds.start - recipe.first_seed) * recipe.places >= (done or {}).get(layer, 0):
                shared.setdefault(seeds, {})[layer] = recipe.places
    return [Block(seeds, shared[seeds]) for seeds in sorted(shared, key=lambda seeds: (seeds.start, seeds.stop))]


def block_moments(
    generator: Generator,
    block: Block,
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
    on_step: OnStep | None = None,
) -> dict[str, SecondMoment]:
    """The second moments of one block by layer. Those of all blocks, merged in order, are the moment of a recipe.

    Raises:
        ComputationError: features that are not finite.
        CancelledError: `on_step`, called with (pictures done, of), returned False.
    """
    moments = {layer: SecondMoment(generator.layer(layer).in_channels) for layer in block.places}
    last = [layer for layer in generator.layers if layer in moments][-1]
    rules = generator.rules_at(rules, last, before=True)
    for start in range(0, len(block.seeds), BATCH):
        seeds = list(block.seeds[start : start + BATCH])
        for features in generator.walk(seeds, truncation=truncation, rules=rules):
            if features.layer in moments:
                keys = features.keys
                places = random_places(seeds, block.places[features.layer], keys.shape[2] * keys.shape[3])
                moments[features.layer].update(at_places(keys, places.to(keys.device)))
            if features.layer == last:
                break
        report(on_step, start + len(seeds), len(block.seeds))
    return moments


@dataclass(frozen=True)
class Sampling:
    """Which moment of a generator is meant: a layer's, with `rules` at earlier layers (their digest), by a recipe."""

    layer: str
    truncation: float
    rules: str
    recipe: Recipe


class Statistics:
    """Second moments and bystanders of one generator's layers, measured once and kept within a bound.

    May be shared by several sessions and threads.
    """

    def __init__(self, generator: Generator, *, cache: Path | None = None):
        self.generator = generator
        self.cache = default_folder() if cache is None else cache
        self._known = Cache(KEPT)

    def moment(
        self,
        layer: str,
        *,
        truncation: float = 1.0,
        rules: Sequence[LowRank] = (),
        recipe: Recipe | None = None,
        on_step: OnStep | None = None,
    ) -> SecondMoment:
        """The second moment of the keys entering a layer; `on_step` gets (pictures done, of)."""
        return self.moments([layer], truncation=truncation, rules=rules, recipe=recipe, on_step=on_step)[layer]

    def moments(
        self,
        layers: Sequence[str],
        *,
        truncation: float = 1.0,
        rules: Sequence[LowRank] = (),
        recipe: Recipe | None = None,
        on_step: OnStep | None = None,
    ) -> dict[str, SecondMoment]:
        """The second moments of several layers. Those not known yet are measured in one walk, with the same bits."""
        wanted = {layer: self.sampling(layer, truncation, rules=rules, recipe=recipe) for layer in layers}
        found = {layer: self.stored(sampling) for layer, sampling in wanted.items()}
        missing = {layer: wanted[layer].recipe for layer, moment in found.items() if moment is None}
        measured = self._measure(missing, truncation, rules, on_step)
        for layer, moment in measured.items():
            if wanted[layer].rules:  # of one person's rules: in memory only
                self._known.put(wanted[layer], moment)
                continue
            with contextlib.suppress(InputError):  # a cache that cannot be written is no reason to fail
                self.keep(wanted[layer], moment)
        return {layer: moment or measured[layer] for layer, moment in found.items()}

    def _measure(
        self, recipes: Mapping[str, Recipe], truncation: float, rules: Sequence[LowRank], on_step: OnStep | None
    ) -> dict[str, SecondMoment]:
        moments = {layer: SecondMoment(self.generator.layer(layer).in_channels) for layer in recipes}
        walks = plan(recipes)
        done, of = 0, sum(len(block.seeds) for block in walks)
        for block in walks:
            step = None if on_step is None else lambda here, _, before=done: report(on_step, before + here, of)
            part = block_moments(self.generator, block, truncation=truncation, rules=rules, on_step=step)
            for layer, moment in part.items():
                moments[layer].merge(moment)
            done += len(block.seeds)
        return moments

    def sampling(
        self, layer: str, truncation: float = 1.0, *, rules: Sequence[LowRank] = (), recipe: Recipe | None = None
    ) -> Sampling:
        """Which moment is meant; recipe None: the layer's default."""
        recipe = recipe or Recipe.for_channels(self.generator.layer(layer).in_channels)
        return Sampling(layer, truncation, digest(self.generator.rules_at(rules, layer, before=True)), recipe)

    def stored(self, sampling: Sampling) -> SecondMoment | None:
        """A moment that was measured before, or None where there is none that can be used."""
        known: SecondMoment | None = self._known.peek(sampling)
        if known is not None:
            return known
        found = self.read(self.path(sampling), sampling)
        if found is None or found.count != sampling.recipe.keys:
            return None
        self._known.put(sampling, found)
        return found

    def keep(self, sampling: Sampling, moment: SecondMoment) -> None:
        """Keep a moment for the next time; InputError where it cannot be written (it stays in memory then)."""
        self._known.put(sampling, moment)
        self.write(self.path(sampling), sampling, moment)

    def read(self, path: Path, sampling: Sampling) -> SecondMoment | None:
        """What `write` wrote, or None where there is nothing of this kind that can be used."""
        channels = self.generator.layer(sampling.layer).in_channels
        try:
            with safe_open(path, "pt") as file:
                label, total, count = file.metadata(), file.get_tensor("total"), file.get_tensor("count")
        except (OSError, SafetensorError):
            return None
        sound = total.shape == (channels, channels) and total.dtype == torch.float64 and bool(total.isfinite().all())
        if label != self._label(sampling) or not sound or count.dtype != torch.int64 or count.numel() != 1:
            return None
        moment = SecondMoment(channels)
        moment.total, moment.count = total, int(count)
        return moment

    def write(self, path: Path, sampling: Sampling, moment: SecondMoment) -> None:
        """Write a moment, complete or not; InputError where that is not possible."""
        tensors = {"total": moment.total, "count": torch.tensor(moment.count)}
        write_tensors(tensors, path, self._label(sampling))

    def _label(self, sampling: Sampling) -> dict[str, str]:
        return {"of": f"{self.generator.fingerprint} {self.path(sampling).stem} by {BATCH} of {BLOCK}"}

    def path(self, sampling: Sampling) -> Path:
        """The file of a moment."""
        recipe = sampling.recipe
        sampled = f"{recipe.pictures}x{recipe.places}from{recipe.first_seed}"
        psi = f"psi{float(sampling.truncation)!r}"
        name = "-".join(filter(None, [sampling.layer, psi, sampled, sampling.rules]))
        return self.cache / "moments" / self.generator.fingerprint[:16] / f"{name}.safetensors"

    def bystanders(
        self, layer: str, *, truncation: float = 1.0, rules: Sequence[LowRank] = ()
    ) -> tuple[Bystanders, Tensor]:
        """Random places of pictures that no edit is about, all of weight 1; and E[v²] (out,) of each value there."""
        same = self.generator.rules_at(rules, layer)
        earlier = self.generator.rules_at(rules, layer, before=True)
        seeds, info, before = list(BYSTANDERS), self.generator.layer(layer), digest(earlier)

        def look_up() -> Features:
            return self.generator.keys(seeds, layer, truncation=truncation, rules=earlier)

        features = self._known.get(("features", layer, truncation, before), look_up)
        places = random_places(seeds, BYSTANDER_PLACES, info.resolution**2).to(features.keys.device)

        def answers() -> tuple[Tensor, Tensor]:
            memory = self.generator.rewritten(same).memory(layer)
            base = [
                at_places(memory.response(features.keys[[i]], memory.weight), places[[i]]) for i in range(len(seeds))
            ]
            values = self.generator.values(features[:4], rules=same)
            return torch.cat(base), values.square().mean((0, 2, 3))

        base, mean_square = self._known.get(("answers", layer, truncation, before, digest(same)), answers)
        return Bystanders(features, places, torch.ones(places.shape, device=places.device), base), mean_square
