"""Second moments as a job of their own: split over processes, stopped and gone on with, always the same bits.

Each round every process measures one block of pictures; all of them merge the blocks in the order of the pictures, so
that they agree on where the job is, and the main process writes it down. A block's bits depend on its pictures and the
kind of device, not on who measures it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from rewriter.editing.statistics import Block, Recipe, Sampling, Statistics, block_moments, plan
from rewriter.errors import CancelledError, InputError, RewriterError
from rewriter.files import check_writable
from rewriter.generators.change import LowRank
from rewriter.memory.keys import SecondMoment

FEW = 10  # keys per channel below which directions still turn a good deal with more of them

T = TypeVar("T")
OnStep = Callable[[int, int], object]


@dataclass(frozen=True)
class Measured:
    """A layer's second moment, where it is stored, and the seconds until it was complete (0: it was there before)."""

    sampling: Sampling
    moment: SecondMoment
    path: Path
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """What there is to say of it; `condition` is null where some direction was never seen."""
        channels, recipe = len(self.moment.total), self.sampling.recipe
        condition, dimensions = spread(self.moment)
        return {
            "layer": self.sampling.layer,
            "channels": channels,
            "pictures": recipe.pictures,
            "places": recipe.places,
            "first_seed": recipe.first_seed,
            "keys": self.moment.count,
            "keys_per_channel": self.moment.count / channels,
            "condition": condition,
            "dimensions": dimensions,
            "seconds": self.seconds,
            "path": str(self.path),
        }

    def in_words(self) -> str:
        """The same for people, with a hint where there are too few keys."""
        said = self.to_json()
        condition = "without a bound" if said["condition"] is None else f"{said['condition']:.3g}"
        lines = [
            f"{said['layer']}: {said['keys']:,} keys of {said['pictures']:,} pictures, "
            f"{said['keys_per_channel']:.3g} per channel, "
            + (f"in {self.seconds:.1f} s" if self.seconds else "measured before"),
            f"  condition number {condition}; {said['dimensions']:.1f} effective dimensions of {said['channels']}",
            f"  {self.path}",
        ]
        if said["keys_per_channel"] < FEW:
            enough = -(-FEW * said["channels"] // said["places"])
            lines.append(
                f"  hint: with fewer than {FEW} keys per channel the directions of an edit still turn with each "
                f"sample: take --pictures {enough} or more"
            )
        return "\n".join(lines)


def spread(moment: SecondMoment) -> tuple[float | None, float]:
    """Condition number of C (None: singular to double precision) and its effective dimensions, (Σλ)² / Σλ²."""
    values = torch.linalg.eigvalsh(moment.matrix)
    least, most = float(values[0]), float(values[-1])
    singular = least <= most * len(values) * torch.finfo(values.dtype).eps
    squares = float(values.square().sum())
    return None if singular else most / least, float(values.sum()) ** 2 / squares if squares else 0.0


def processes(device: str | None = None) -> PartialState:
    """The processes that share the work; on CPUs accelerate finds the others only if told that there is no GPU."""
    launched = "LOCAL_RANK" in os.environ
    return PartialState(cpu=launched and (device == "cpu" or not torch.cuda.is_available()))


def measure(
    statistics: Statistics,
    recipes: Mapping[str, Recipe],
    *,
    rules: Sequence[LowRank] = (),
    on_step: OnStep | None = None,
    every: float = 5.0,
) -> list[Measured]:
    """Measure the second moment of each layer by its recipe and store it where `statistics` looks for it.

    Called with the same arguments in all processes, it returns the same in all of them. A stopped job is gone on with,
    by any number of processes, from a checkpoint beside the file to come.

    Args:
        statistics: the generator, its truncation and the cache.
        recipes: by layer.
        rules: those at layers before count.
        on_step: called in each process with (pictures done, of); returning False in any of them stops all.
        every: seconds between two checkpoints.

    Raises:
        InputError: the cache cannot be written, or a layer does not exist.
        ComputationError: features that are not finite.
        CancelledError: `on_step` returned False; what was measured is kept.
    """
    job = _Job(statistics, recipes, rules)
    try:
        for walks in job.rounds():
            job.run(walks, on_step)
            if time.monotonic() - job.saved >= every:
                job.save()
    except RewriterError:
        with contextlib.suppress(InputError):  # what stopped the job is what there is to say
            job.save()
        raise
    return job.results()


class _Job:
    """The sums so far, the same in every process; only the main one reads and writes files."""

    def __init__(self, statistics: Statistics, recipes: Mapping[str, Recipe], rules: Sequence[LowRank]):
        self.statistics, self.rules, self.state = statistics, rules, processes()
        self.wanted = {layer: statistics.sampling(layer, rules=rules, recipe=r) for layer, r in recipes.items()}
        self.sums = together(self._found if self.state.is_main_process else dict)[0]
        self.seconds = {layer: 0.0 for layer in recipes if self._complete(layer)}
        done = {layer: _ends(recipe).index(self.sums[layer].count) for layer, recipe in recipes.items()}
        self.walks = plan(recipes, done=done)
        self.of = sum(len(walk.seeds) for walk in plan(recipes))
        self.done = self.of - sum(len(walk.seeds) for walk in self.walks)
        self.begun = self.saved = time.monotonic()
        self.stopped = False

    def rounds(self) -> list[list[Block]]:
        """The walks that are left, one for each process at a time."""
        count = self.state.num_processes
        return [self.walks[i : i + count] for i in range(0, len(self.walks), count)]

    def run(self, walks: list[Block], on_step: OnStep | None) -> None:
        """Measure a round's blocks and merge them in their order."""
        pictures = sum(len(walk.seeds) for walk in walks)

        def on_block(done: int, of: int) -> object:
            """Tell how far the round is, as if all were as far as this process; its end is told when all are there."""
            return on_step is None or done == of or on_step(self.done + min(done * len(walks), pictures), self.of)

        def work() -> dict[str, SecondMoment]:
            if self.stopped:
                raise CancelledError("stopped when the last round was over")
            if self.state.process_index >= len(walks):
                return {}
            generator, psi = self.statistics.generator, self.statistics.truncation
            walk = walks[self.state.process_index]
            return block_moments(generator, walk, truncation=psi, rules=self.rules, on_step=on_block)

        try:
            parts = together(work)
        except CancelledError:
            raise CancelledError(
                f"stopped after {self.done:,} of {self.of:,} pictures; the same command goes on"
            ) from None
        for part in parts:
            for layer, moment in part.items():
                self.sums[layer].merge(moment)
        self.done += pictures
        together(self._finish)
        self.stopped = on_step is not None and on_step(self.done, self.of) is False

    def save(self) -> None:
        """Write down how far the layers are that are not complete."""
        self.saved = time.monotonic()
        for layer, sampling in self.wanted.items():
            if self.state.is_main_process and layer not in self.seconds and self.sums[layer].count:
                self.statistics.write(self._checkpoint(sampling), sampling, self.sums[layer])

    def results(self) -> list[Measured]:
        """All layers, complete, in the order asked for."""
        return [
            Measured(sampling, self.sums[layer], self.statistics.path(sampling), self.seconds[layer])
            for layer, sampling in self.wanted.items()
        ]

    def _finish(self) -> None:
        """Store the layers that have become complete."""
        for layer, sampling in self.wanted.items():
            if layer not in self.seconds and self._complete(layer):
                self.seconds[layer] = time.monotonic() - self.begun
                if self.state.is_main_process:
                    self.statistics.keep(sampling, self.sums[layer])
                    self._checkpoint(sampling).unlink(missing_ok=True)

    def _complete(self, layer: str) -> bool:
        recipe = self.wanted[layer].recipe
        return self.sums[layer].count == recipe.pictures * recipe.places

    def _found(self) -> dict[str, SecondMoment]:
        """What is stored of each layer, whole or in the making; nothing yet, and a place to write to, otherwise."""
        found = {}
        for layer, sampling in self.wanted.items():
            path, checkpoint = self.statistics.path(sampling), self._checkpoint(sampling)
            moment = self.statistics.stored(sampling)
            if moment is not None:
                checkpoint.unlink(missing_ok=True)  # overtaken by a measurement on demand
            else:
                check_writable(path)
                moment = self.statistics.read(checkpoint, sampling)
                if moment is None or moment.count not in _ends(sampling.recipe)[:-1]:
                    moment = SecondMoment(self.statistics.generator.layer(layer).in_channels)
            found[layer] = moment
        return found

    def _checkpoint(self, sampling: Sampling) -> Path:
        return self.statistics.path(sampling).with_suffix(".partial")


def _ends(recipe: Recipe) -> list[int]:
    """How many keys 0, 1, 2 … all blocks are."""
    return [0, *accumulate(len(seeds) * recipe.places for seeds in recipe.blocks())]


def together(work: Callable[[], T]) -> list[T]:
    """What each process makes of its part, in their order, for all of them; an error in one is raised in all."""
    try:
        outcome: T | RewriterError = work()
    except RewriterError as error:
        outcome = error
    outcomes: list[T | RewriterError] = gather_object([outcome])
    results = []
    for each in outcomes:
        if isinstance(each, RewriterError):
            raise each
        results.append(each)
    return results
