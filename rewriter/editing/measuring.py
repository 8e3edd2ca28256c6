"""Second moments as a job of their own: split over processes, resumable, with the same bits however it is split.

In each round every process measures one block of pictures. All processes merge the blocks in the order of the pictures,
so they agree on the sums, and the main process writes them down. A block's bits depend on its pictures and the kind of
device, not on the process that measures it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from rewriter.editing.recipe import Recipe
from rewriter.editing.statistics import Block, Sampling, Statistics, block_moments, plan
from rewriter.errors import CancelledError, InputError, OnStep, RewriterError
from rewriter.files import check_writable
from rewriter.generators.change import LowRank
from rewriter.memory.keys import SecondMoment

FEW = 10  # keys per channel below which directions still turn a good deal with more of them

T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """A layer's second moment, where it is stored, and the seconds it took (0: it was measured before)."""

    sampling: Sampling
    moment: SecondMoment
    path: Path
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The figures of the moment; `condition` is null where some direction was never seen."""
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


def gather_or_raise(work: Callable[[], T]) -> list[T]:
    """Run `work` in every process, return all results in rank order, and re-raise any error everywhere."""
    try:
        outcome: T | RewriterError = work()
    except RewriterError as error:
        outcome = error
    outcomes: list[T | RewriterError] = gather_object([outcome])
    for each in outcomes:
        if isinstance(each, RewriterError):
            raise each
    return outcomes  # type: ignore[return-value]  # no errors are left


def measure(
    statistics: Statistics,
    recipes: Mapping[str, Recipe],
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
    on_step: OnStep | None = None,
    every: float = 5.0,
) -> list[Measured]:
    """Measure the second moment of each layer by its recipe and store it where `statistics` looks for it.

    Called with the same arguments in all processes, it returns the same in all of them. After an interruption it
    resumes from a checkpoint beside the file, with any number of processes.

    Args:
        statistics: the generator and the cache.
        recipes: by layer.
        truncation: of the pictures.
        rules: those at layers before count.
        on_step: called in each process with (pictures done, of); returning False in any of them stops all.
        every: seconds between two checkpoints.

    Raises:
        InputError: the cache cannot be written, or a layer does not exist.
        ComputationError: features that are not finite.
        CancelledError: `on_step` returned False; what was measured is kept.
    """
    job = _Job(statistics, recipes, truncation, rules, every)
    try:
        job.run(on_step)
    except RewriterError:
        with contextlib.suppress(InputError):  # the first error is the one to report
            job.checkpoint()
        raise
    return job.results()


class _Job:
    """The sums so far, the same in every process; only the main process reads and writes files."""

    def __init__(
        self,
        statistics: Statistics,
        recipes: Mapping[str, Recipe],
        truncation: float,
        rules: Sequence[LowRank],
        every: float,
    ):
        self.statistics, self.truncation, self.rules, self.every = statistics, truncation, rules, every
        self.state, self.began = processes(statistics.generator.device.type), time.monotonic()
        self.wanted = {s: statistics.sampling(s, truncation, rules=rules, recipe=r) for s, r in recipes.items()}
        self.sums = gather_or_raise(self._resumed if self.state.is_main_process else dict)[0]
        self.seconds = {layer: 0.0 for layer in recipes if self._is_complete(layer)}
        self.walks = plan(recipes, done={layer: moment.count for layer, moment in self.sums.items()})
        self.of = sum(len(walk.seeds) for walk in plan(recipes))
        self.done = self.of - sum(len(walk.seeds) for walk in self.walks)

    def run(self, on_step: OnStep | None) -> None:
        """Measure what is left, one block a process at a time, and merge the blocks in their order."""
        count, saved = self.state.num_processes, self.began
        for first in range(0, len(self.walks), count):
            walks = self.walks[first : first + count]
            try:
                parts = gather_or_raise(partial(self._block, walks[self.state.process_index :][:1], on_step))
            except CancelledError:
                words = f"stopped after {self.done:,} of {self.of:,} pictures; run the same to resume"
                raise CancelledError(words) from None
            for layer, moment in (item for part in parts for item in part.items()):
                self.sums[layer].merge(moment)
            self.done += sum(len(walk.seeds) for walk in walks)
            gather_or_raise(self._keep_complete)
            if time.monotonic() - saved >= self.every:
                self.checkpoint()
                saved = time.monotonic()

    def checkpoint(self) -> None:
        """Write how far the layers are that are not complete."""
        for layer, sampling in self.wanted.items():
            if self.state.is_main_process and layer not in self.seconds and self.sums[layer].count:
                self.statistics.write(self._partial(layer), sampling, self.sums[layer])

    def results(self) -> list[Measured]:
        """All layers, complete, in the order asked for."""
        return [
            Measured(sampling, self.sums[layer], self.statistics.path(sampling), self.seconds[layer])
            for layer, sampling in self.wanted.items()
        ]

    def _block(self, walks: Sequence[Block], on_step: OnStep | None) -> dict[str, SecondMoment]:
        """This process's block of a round, if there is one for it; progress is told as if all were as far."""
        if not walks:
            return {}

        def on_block(here: int, of: int) -> object:
            return on_step is None or on_step(min(self.done + here * self.state.num_processes, self.of), self.of)

        how: dict[str, Any] = {"truncation": self.truncation, "rules": self.rules, "on_step": on_block}
        return block_moments(self.statistics.generator, walks[0], **how)

    def _keep_complete(self) -> None:
        for layer, sampling in self.wanted.items():
            if layer not in self.seconds and self._is_complete(layer):
                self.seconds[layer] = time.monotonic() - self.began
                if self.state.is_main_process:
                    self.statistics.keep(sampling, self.sums[layer])
                    self._partial(layer).unlink(missing_ok=True)

    def _is_complete(self, layer: str) -> bool:
        return self.sums[layer].count == self.wanted[layer].recipe.keys

    def _partial(self, layer: str) -> Path:
        return self.statistics.path(self.wanted[layer]).with_suffix(".partial")

    def _resumed(self) -> dict[str, SecondMoment]:
        """Each moment as far as it was measured before; InputError where its file could not be written."""
        found = {}
        for layer, sampling in self.wanted.items():
            whole = self.statistics.stored(sampling)
            if whole is None:
                check_writable(self.statistics.path(sampling))
                whole = self.statistics.read(self._partial(layer), sampling)
                recipe = sampling.recipe
                starts = [(seeds.start - recipe.first_seed) * recipe.places for seeds in recipe.blocks()]
                whole = whole if whole and whole.count in starts else None  # only whole blocks can be resumed
            else:
                self._partial(layer).unlink(missing_ok=True)
            found[layer] = whole or SecondMoment(self.statistics.generator.layer(layer).in_channels)
        return found
