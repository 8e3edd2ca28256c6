"""Where a context matches: the best of thousands of pictures, and the places within one picture."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from heapq import nlargest
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.cache import Cache
from rewriter.checks import whole
from rewriter.errors import OnStep, report
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank, identity
from rewriter.generators.latents import Seed
from rewriter.masks import Box, grow
from rewriter.memory.directions import Directions

BATCH = 16
KEPT = 768 << 20  # bytes of keys that are cached for the next search
NUMBER = whole(1, 400)  # the most that a sheet holds
QUANTILE = 0.999  # of the responses at all places; above it a place matches
POPULATION = range(10_000, 10_128)  # the pictures that the quantile is computed on
Picture = TypeVar("Picture", bound=Seed)
DIM, EDGE = 0.5, (1.0, 0.8, -1.0)  # overlay: brightness of places that do not match, colour around those that do


@dataclass(frozen=True)
class Found:
    """A picture that matches the context."""

    seed: int
    score: float  # its strongest response; 1 is the mean of the marked places
    at: Box  # where that is, in pixels


@dataclass(frozen=True)
class Matches:
    """Where the context matches in one picture."""

    seed: Seed
    heat: Tensor  # response of each of the layer's keys, (h, w); 1 is the mean of the marked places
    level: float  # the heat that one place in a thousand of other pictures exceeds
    fires: Tensor  # heat above level, bool (h, w)
    overlay: Tensor  # the picture with everything else dimmed, (3, H, W)


@dataclass(frozen=True)
class Places:
    """The keys of a layer within any pictures, a batch at a time, cached."""

    generator: Generator
    layer: str
    truncation: float = 1.0
    rules: Sequence[LowRank] = ()
    cache: Cache = field(default_factory=lambda: Cache(KEPT))

    def keys(self, seeds: Sequence[Picture]) -> Iterator[tuple[list[Picture], Tensor]]:
        """Batches of seeds and their keys (n, in, h, w). Those of photos are not cached: others may share the cache."""
        for i in range(0, len(seeds), BATCH):
            batch = list(seeds[i : i + BATCH])
            look_up = partial(self._look_up, batch)
            private = any(isinstance(seed, str) for seed in batch)
            yield batch, look_up() if private else self.cache.get((*self.model, *batch), look_up)

    def _look_up(self, seeds: Sequence[Seed]) -> Tensor:
        keys = self.generator.keys(seeds, self.layer, truncation=self.truncation, rules=self.rules).keys
        return self.generator.layer(self.layer).key_frame.shown(keys)

    @cached_property
    def model(self) -> tuple[Hashable, ...]:
        """Identity of everything the keys depend on besides the seeds."""
        earlier = identity(self.generator.rules_at(self.rules, self.layer, before=True))
        return self.generator.fingerprint, str(self.generator.device), self.layer, self.truncation, earlier

    def level(self, directions: Directions) -> float:
        """The response that one place in a thousand of other pictures exceeds."""
        wanted = (*self.model, "level", directions.level, directions.matrix[0].cpu().numpy().tobytes())
        return self.cache.get(wanted, lambda: self._quantile(directions))

    def _quantile(self, directions: Directions) -> float:
        responses = torch.cat([response(directions, keys).flatten().cpu() for _, keys in self.keys(POPULATION)])
        rank = min(len(responses), int(QUANTILE * len(responses)) + 1)  # torch's quantile has a limit on numbers
        return float(responses.kthvalue(rank).values)

    def box(self, cell: int, width: int) -> Box:
        """The box in pixels of a cell of the key map, given by its number, row by row."""
        side = self.generator.resolution / width
        row, column = divmod(cell, width)
        return Box(*(round(edge * side) for edge in (row, column, row + 1, column + 1)))


def response(directions: Directions, keys: Tensor) -> Tensor:
    """Response to the context, (n, h, w), of keys (n, in, h, w); 1 is the mean of the marked places."""
    return torch.einsum("i,nihw->nhw", directions.matrix[0].to(keys), keys) / directions.level


def search(
    places: Places,
    directions: Directions,
    k: int,
    *,
    seeds: Sequence[int],
    on_step: OnStep | None = None,
    on_found: Callable[[list[Found]], object] | None = None,
) -> list[Found]:
    """The k pictures with the strongest response at any place, the paper's ranking; see `Rewriter.search`."""
    NUMBER("the number of pictures to find", k)
    best: list[Found] = []
    done = 0
    for batch, keys in places.keys(seeds):
        peaks, cells = response(directions, keys).flatten(1).max(1)
        found = [
            Found(seed, peak, places.box(cell, keys.shape[3]))
            for seed, peak, cell in zip(batch, peaks.tolist(), cells.tolist(), strict=True)
        ]
        best = nlargest(k, [*best, *found], key=lambda one: (one.score, -one.seed))
        done += len(batch)
        if on_found is not None:
            on_found(best)
        report(on_step, done, len(seeds))
    return best


def matches(places: Places, directions: Directions, seeds: Sequence[Seed], pictures: Tensor) -> list[Matches]:
    """Where the context matches in each of the pictures (n, 3, H, W) of the given seeds."""
    level = places.level(directions)
    heats = [heat for _, keys in places.keys(seeds) for heat in response(directions, keys)]
    return [
        Matches(seed, heat, level, heat > level, overlay(picture, heat > level))
        for seed, heat, picture in zip(seeds, heats, pictures, strict=True)
    ]


def overlay(picture: Tensor, fires: Tensor) -> Tensor:
    """A picture (3, H, W) in which the matching cells (h, w) have a bright edge and everything else is dimmed."""
    size = picture.shape[1:]
    inside = F.interpolate(fires[None, None].float().to(picture), size=tuple(size), mode="nearest")[0, 0]
    edge = (grow(inside, 1, 1, 1, 1) - inside)[None]
    shown = torch.where(inside[None] > 0, picture, (picture + 1) * DIM - 1)
    return torch.lerp(shown, picture.new_tensor(EDGE)[:, None, None].expand_as(shown), edge)
