"""What the method has to know of a layer before any edit: measured once, kept in memory and on disk.

A measurement belongs to the generator's fingerprint, the rules at earlier layers, the layer, the truncation and the
recipe; another value of any of these is another measurement.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rewriter.cache import Cache, default_folder
from rewriter.editing.recipe import BATCH, BLOCK, Recipe
from rewriter.errors import InputError, OnStep, report
from rewriter.files import write_tensors
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank, identity
from rewriter.generators.layer import Features
from rewriter.memory.goal import Bystanders
from rewriter.memory.neighbourhoods import Neighbourhood, NeighbourhoodMoment
from rewriter.memory.second_moment import SecondMoment, random_places
from rewriter.memory.sites import Gate, at_places

KEPT = 512 << 20  # bytes of moments and features kept in memory
SEARCHED = 256 << 20  # bytes of whitened keys kept for the next search of the same pictures
BYSTANDERS = range(5000, 5024)
BYSTANDER_PLACES = 96

NEIGHBOURHOOD_PLACES = 64  # of each picture

Moments = dict[str, SecondMoment]  # by layer
Moment = TypeVar("Moment", SecondMoment, NeighbourhoodMoment)


@dataclass(frozen=True)
class Block:
    """One walk through the generator: the seeds of one block, and how many places of each picture a layer takes."""

    seeds: range
    places: Mapping[str, int]


def plan(recipes: Mapping[str, Recipe]) -> list[Block]:
    """The walks that measure each layer by its recipe, in order; layers share those over the same pictures."""
    shared: dict[range, dict[str, int]] = {}
    for layer, recipe in recipes.items():
        for seeds in recipe.blocks():
            shared.setdefault(seeds, {})[layer] = recipe.places
    return [Block(seeds, shared[seeds]) for seeds in sorted(shared, key=lambda seeds: (seeds.start, seeds.stop))]


def block_moments(
    generator: Generator,
    block: Block,
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
    on_step: OnStep | None = None,
) -> Moments:
    """The second moments of one block, with errors as for `measure_layers`; `on_step` gets (pictures done, of)."""
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


def measure_layers(
    generator: Generator,
    recipes: Mapping[str, Recipe],
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
    on_step: OnStep | None = None,
    process: int = 0,
    processes: int = 1,
    gather: Callable[[Callable[[], Moments]], list[Moments]] = lambda work: [work()],
) -> Iterator[tuple[str, SecondMoment]]:
    """Measure layers by their recipes in one walk; yields each when it is complete.

    Each process measures one block a round. All merge the blocks in the order of the pictures, so that they get the
    same bits however many they are.

    `process` of `processes` is the number of this one, and `gather` runs a function in all of them and returns all
    results, in order. `on_step` is called with (pictures done, of), as if all processes were as far as this one.
    ComputationError if features are not finite.
    """
    moments = {layer: SecondMoment(generator.layer(layer).in_channels) for layer in recipes}
    walks = plan(recipes)
    done, of = 0, sum(len(walk.seeds) for walk in walks)

    def step(here: int, _: int) -> None:
        report(on_step, min(done + here * processes, of), of)

    measure = partial(block_moments, generator, truncation=truncation, rules=rules, on_step=step)
    for first in range(0, len(walks), processes):
        together = walks[first : first + processes]
        for part in gather(partial(measure, together[process]) if process < len(together) else dict):
            for layer, moment in part.items():
                moments[layer].merge(moment)
        done += sum(len(walk.seeds) for walk in together)
        for layer in dict.fromkeys(layer for walk in together for layer in walk.places):
            if moments[layer].count == recipes[layer].keys:
                yield layer, moments[layer]


@dataclass(frozen=True)
class Sampling:
    """Which moment of a generator is meant: a layer's, with `rules` at earlier layers (their digest), by a recipe."""

    layer: str
    truncation: float
    rules: str
    recipe: Recipe
    of: str = ""  # "neighbourhoods", or "" for keys


class Statistics:
    """Second moments and bystanders of one generator's layers, measured once and kept within a bound.

    May be shared by several sessions and threads. `seconds`: what is not used for so long is dropped by `sweep`, and
    read from disk or measured again when it is wanted; None: kept.
    """

    def __init__(self, generator: Generator, *, cache: Path | None = None, seconds: float | None = None):
        self.generator = generator
        self.cache = default_folder() if cache is None else cache
        self._known, self.searched = Cache(KEPT, seconds), Cache(SEARCHED, seconds)

    def sweep(self) -> None:
        """Drop what was not used for some time."""
        self._known.sweep()
        self.searched.sweep()

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
        measured = measure_layers(self.generator, missing, truncation=truncation, rules=rules, on_step=on_step)
        for layer, moment in measured:
            found[layer] = moment
            if wanted[layer].rules or self._passing(truncation):  # of one person: in memory only
                self._known.put(wanted[layer], moment)
                continue
            with contextlib.suppress(InputError):  # a cache that cannot be written is no reason to fail
                self.keep(wanted[layer], moment)
        return {layer: moment for layer, moment in found.items() if moment}

    def sampling(
        self, layer: str, truncation: float = 1.0, *, rules: Sequence[LowRank] = (), recipe: Recipe | None = None
    ) -> Sampling:
        """Which moment is meant; recipe None: the layer's default."""
        recipe = recipe or Recipe.for_channels(self.generator.layer(layer).in_channels)
        return Sampling(layer, truncation, identity(self.generator.rules_at(rules, layer, before=True)), recipe)

    def stored(self, sampling: Sampling) -> SecondMoment | None:
        """A moment that was measured before, or None where there is none that can be used."""
        found: SecondMoment | None = self._known.peek(sampling) or self._read(sampling)
        if found is not None:
            self._known.put(sampling, found)
        return found

    def neighbourhoods(
        self,
        layer: str,
        *,
        truncation: float = 1.0,
        rules: Sequence[LowRank] = (),
        recipe: Recipe | None = None,
        gate: Gate | None = None,
        on_step: OnStep | None = None,
    ) -> NeighbourhoodMoment:
        """The second moment of the neighbourhoods that feed a layer's values; `on_step` gets (pictures done, of).

        `gate`: of keys times this, which is measured anew each time.
        """
        info = self.generator.layer(layer)
        recipe = recipe or replace(Recipe.for_channels(info.in_channels), places=NEIGHBOURHOOD_PLACES)
        sampling = replace(self.sampling(layer, truncation, rules=rules, recipe=recipe), of="neighbourhoods")
        if gate is not None:
            return self._measure_neighbourhoods(sampling, rules, gate, on_step)
        known: NeighbourhoodMoment | None = self._known.peek(sampling)
        found = known or self._fill(sampling, self._around(layer).moment(info.in_channels))
        if found is None:
            found = self._measure_neighbourhoods(sampling, rules, gate, on_step)
            with contextlib.suppress(InputError):  # a cache that cannot be written is no reason to fail
                if not sampling.rules and not self._passing(truncation):
                    self.keep(sampling, found)
        self._known.put(sampling, found)
        return found

    def _passing(self, truncation: float) -> bool:
        """Whether a server's visitor made up this truncation: its measurement is not worth a file."""
        return self._known.seconds is not None and round(truncation, 1) != truncation

    def _around(self, layer: str) -> Neighbourhood:
        side = self.generator.layer(layer).key_resolution
        return Neighbourhood.of(self.generator.memory(layer), (side, side))

    def _measure_neighbourhoods(
        self, sampling: Sampling, rules: Sequence[LowRank], gate: Gate | None, on_step: OnStep | None
    ) -> NeighbourhoodMoment:
        layer, recipe, psi = sampling.layer, sampling.recipe, sampling.truncation
        info, around = self.generator.layer(layer), self._around(layer)
        moment = around.moment(info.in_channels)
        earlier = self.generator.rules_at(rules, layer, before=True)
        for start in range(0, recipe.pictures, BATCH):
            seeds = [recipe.first_seed + i for i in range(start, min(start + BATCH, recipe.pictures))]
            keys = self.generator.keys(seeds, layer, truncation=psi, rules=earlier).keys
            seen = keys if gate is None else keys * gate(keys)[:, None]
            places = random_places(seeds, recipe.places, info.resolution**2).to(keys.device)
            picture = torch.arange(len(seeds), device=keys.device).repeat_interleave(recipe.places)
            moment.update(around.gather(seen, picture, places.flatten()))
            report(on_step, start + len(seeds), recipe.pictures)
        return moment

    def keep(self, sampling: Sampling, moment: SecondMoment | NeighbourhoodMoment) -> None:
        """Keep a moment for the next time; InputError where it cannot be written (it stays in memory then)."""
        self._known.put(sampling, moment)
        tensors = {**moment.sums(), "count": torch.tensor(moment.count)}
        write_tensors(tensors, self.path(sampling), self._label(sampling) | {"sha256": _checksum(tensors)})

    def _read(self, sampling: Sampling) -> SecondMoment | None:
        return self._fill(sampling, SecondMoment(self.generator.layer(sampling.layer).in_channels))

    def _fill(self, sampling: Sampling, moment: Moment) -> Moment | None:
        """A moment as its file holds it, or None where there is no file whose checksum is right."""
        try:
            with safe_open(self.path(sampling), "pt") as file:
                label = file.metadata()
                totals = {name: file.get_tensor(name) for name in (*moment.sums(), "count")}
        except (OSError, SafetensorError):
            return None
        if label != self._label(sampling) | {"sha256": _checksum(totals)}:
            return None
        if totals["count"].tolist() != sampling.recipe.keys:
            return None
        for name, total in moment.sums().items():
            found = totals[name]
            if found.shape != total.shape or found.dtype != torch.float64 or not bool(found.isfinite().all()):
                return None
            total.copy_(found)
        moment.count = sampling.recipe.keys
        return moment

    def _label(self, sampling: Sampling) -> dict[str, str]:
        return {"of": f"{self.generator.fingerprint} {self.path(sampling).stem} by {BATCH} of {BLOCK}"}

    def path(self, sampling: Sampling) -> Path:
        """The file of a moment."""
        recipe = sampling.recipe
        sampled = f"{recipe.pictures}x{recipe.places}from{recipe.first_seed}"
        parts = [sampling.layer, sampling.of, f"psi{float(sampling.truncation)!r}", sampled, sampling.rules]
        name = "-".join(filter(None, parts))
        return self.cache / "moments" / self.generator.fingerprint[:16] / f"{name}.safetensors"

    def bystanders(
        self, layer: str, *, truncation: float = 1.0, rules: Sequence[LowRank] = ()
    ) -> tuple[Bystanders, Tensor]:
        """Random places of pictures that no edit is about, all of weight 1; and E[v²] (out,) of each value there."""
        same = self.generator.rules_at(rules, layer)
        earlier = self.generator.rules_at(rules, layer, before=True)
        seeds, info, before = list(BYSTANDERS), self.generator.layer(layer), identity(earlier)

        def look_up() -> Features:
            return self.generator.keys(seeds, layer, truncation=truncation, rules=earlier)

        features = self._known.get(("features", layer, truncation, before), look_up)
        places = random_places(seeds, BYSTANDER_PLACES, info.resolution**2).to(features.keys.device)

        def answers() -> tuple[Tensor, Tensor]:
            folded = [rule for rule in same if rule.beside is None]
            memory = self.generator.rewritten(folded).memory(layer)
            base = [
                at_places(memory.response(features.keys[[i]], memory.weight), places[[i]]) for i in range(len(seeds))
            ]
            values = self.generator.values(features[:4], rules=same)
            return torch.cat(base), values.square().mean((0, 2, 3))

        base, mean_square = self._known.get(("answers", layer, truncation, before, identity(same)), answers)
        return Bystanders(features, places, torch.ones(places.shape, device=places.device), base), mean_square


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values: a damaged file often holds numbers that look like any others."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.cpu().flatten().view(torch.uint8).numpy().tobytes())  # as bytes: NumPy lacks some types
    return sha.hexdigest()


def statistics_for(generator: Generator, given: Statistics | None) -> Statistics:
    """The given statistics, or new ones; InputError for those of another generator."""
    if given is not None and given.generator.fingerprint != generator.fingerprint:
        raise InputError(f"the statistics are of {given.generator.name}, not of {generator.name}")
    return given or Statistics(generator)
