"""Where a context fires: the pictures that answer it most, of thousands, and the places in one picture."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from heapq import nlargest

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.cache import Cache
from rewriter.errors import InputError, OnStep, report
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank, digest
from rewriter.masks import Box, grow
from rewriter.memory.directions import Directions

BATCH = 16
KEPT = 768 << 20  # bytes of keys that a search keeps for the next one
QUANTILE = 0.999  # of the responses at all places; above it a place matches
POPULATION = range(10_000, 10_128)  # pictures that the quantile is taken over
DIM, EDGE = 0.5, (1.0, 0.8, -1.0)  # overlay: brightness of what does not match, colour around what does


@dataclass(frozen=True)
class Found:
    """A picture, how strongly the context fires in it (1: as on its own places), and where: a box in pixels."""

    seed: int
    score: float
    at: Box


@dataclass(frozen=True)
class Matches:
    """Where the context fires in one picture.

    heat: (h, w), on the layer's keys; 1 is the contexts' own mean. level: exceeded at one place in a thousand of other
    pictures. fires: (h, w) bool, heat above level. overlay: (3, H, W), the picture with the rest dimmed.
    """

    seed: int
    heat: Tensor
    level: float
    fires: Tensor
    overlay: Tensor


@dataclass(frozen=True)
class Places:
    """The keys of a layer in any pictures, a batch at a time."""

    generator: Generator
    layer: str
    truncation: float = 1.0
    rules: Sequence[LowRank] = ()
    cache: Cache = field(default_factory=lambda: Cache(KEPT))

    def keys(self, seeds: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of seeds and their keys (n, in, h, w)."""
        for i in range(0, len(seeds), BATCH):
            batch = list(seeds[i : i + BATCH])
            yield batch, self.cache.get((*self.model, *batch), partial(self._look_up, batch))

    def _look_up(self, seeds: list[int]) -> Tensor:
        return self.generator.keys(seeds, self.layer, truncation=self.truncation, rules=self.rules).keys

    @cached_property
    def model(self) -> tuple[Hashable, ...]:
        """What the keys depend on, the pictures apart."""
        earlier = digest(self.generator.rules_at(self.rules, self.layer, before=True))
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
        """The part of the picture, in pixels, that a cell of the key map (its number, row by row) lies over."""
        side = self.generator.resolution / width
        row, column = divmod(cell, width)
        return Box(*(round(edge * side) for edge in (row, column, row + 1, column + 1)))


def response(directions: Directions, keys: Tensor) -> Tensor:
    """How strongly the context fires, (n, h, w), for keys (n, in, h, w): 1 is the contexts' own mean."""
    return torch.einsum("i,nihw->nhw", directions.matrix[0].to(keys), keys) / directions.level


def check_number(k: int) -> None:
    """Refuse to look for fewer than one picture, or for more than a sheet holds."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= 400:
        raise InputError(f"{k!r} pictures to find: ask for 1 to 400")


def search(
    places: Places,
    directions: Directions,
    k: int,
    *,
    seeds: Sequence[int],
    on_step: OnStep | None = None,
    on_found: Callable[[list[Found]], object] | None = None,
) -> list[Found]:
    """The k pictures whose strongest place answers most (the paper's ranking), the best first.

    `on_step` is called with (pictures done, of) after each batch, `on_found` with the best so far before it.
    """
    check_number(k)
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


def matches(places: Places, directions: Directions, seeds: Sequence[int], pictures: Tensor) -> list[Matches]:
    """Where the context fires in each of the pictures (n, 3, H, W) of the given seeds."""
    level = places.level(directions)
    heats = [heat for _, keys in places.keys(seeds) for heat in response(directions, keys)]
    return [
        Matches(seed, heat, level, heat > level, overlay(picture, heat > level))
        for seed, heat, picture in zip(seeds, heats, pictures, strict=True)
    ]


def overlay(picture: Tensor, fires: Tensor) -> Tensor:
    """A picture (3, H, W) with everything dimmed but the cells (h, w) that fire, which get a bright edge."""
    size = picture.shape[1:]
    inside = F.interpolate(fires[None, None].float().to(picture), size=tuple(size), mode="nearest")[0, 0]
    edge = (grow(inside, 1, 1, 1, 1) - inside)[None]
    shown = torch.where(inside[None] > 0, picture, (picture + 1) * DIM - 1)
    return torch.lerp(shown, picture.new_tensor(EDGE)[:, None, None].expand_as(shown), edge)
