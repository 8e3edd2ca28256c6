"""Second moments measured ahead of any edit, by one process or several, with the same bits.

A block's bits depend on its pictures and the kind of device, not on the process that measures it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from rewriter.editing.recipe import Recipe
from rewriter.editing.statistics import Sampling, Statistics, measure_layers
from rewriter.errors import OnStep, RewriterError, report
from rewriter.files import check_writable
from rewriter.generators.change import LowRank
from rewriter.memory.second_moment import SecondMoment

FEW = 10  # keys per channel below which directions still change noticeably with more of them

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
        channels, (condition, dimensions) = len(self.moment.total), spread(self.moment)
        sampled = {"layer": self.sampling.layer, "channels": channels, **asdict(self.sampling.recipe)}
        sampled |= {"keys": self.moment.count, "keys_per_channel": self.moment.count / channels}
        found = {"condition": condition, "dimensions": dimensions}
        return {**sampled, **found, "seconds": self.seconds, "path": str(self.path)}

    def in_words(self) -> str:
        """The same for people, with a hint where there are too few keys."""
        said = self.to_json()
        condition = "without a bound" if said["condition"] is None else f"{said['condition']:.3g}"
        seconds = f"in {self.seconds:.1f} s" if self.seconds else "measured before"
        words = (
            f"{said['layer']}: {said['keys']:,} keys of {said['pictures']:,} pictures, "
            f"{said['keys_per_channel']:.3g} per channel, {seconds}\n  condition number {condition}; "
            f"{said['dimensions']:.1f} effective dimensions of {said['channels']}\n  {self.path}"
        )
        if said["keys_per_channel"] >= FEW:
            return words
        enough = -(-FEW * said["channels"] // said["places"])
        return (
            f"{words}\n  hint: with fewer than {FEW} keys per channel the directions of an edit still change with each "
            f"sample: take --pictures {enough} or more"
        )


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
    if errors := [each for each in outcomes if isinstance(each, RewriterError)]:
        raise errors[0]
    return outcomes  # type: ignore[return-value]  # no errors are left


def measure(
    statistics: Statistics,
    recipes: Mapping[str, Recipe],
    *,
    truncation: float = 1.0,
    rules: Sequence[LowRank] = (),
    on_step: OnStep | None = None,
) -> list[Measured]:
    """Measure the second moment of each layer by its recipe and store it where `statistics` looks for it.

    Called with the same arguments in all processes, it returns the same in all of them; the main process reads and
    writes the files. A layer is stored when it is complete, so an interrupted or cancelled job continues with the
    missing layers. InputError if the cache cannot be written or a layer does not exist, ComputationError if features
    are not finite.
    """
    state, began = processes(statistics.generator.device.type), time.monotonic()
    wanted = {s: statistics.sampling(s, truncation, rules=rules, recipe=r) for s, r in recipes.items()}

    def stored() -> dict[str, SecondMoment | None]:
        found = {layer: statistics.stored(sampling) for layer, sampling in wanted.items()}
        for layer in (layer for layer, moment in found.items() if moment is None):
            check_writable(statistics.path(wanted[layer]))
        return found

    def progress(done: int, of: int) -> None:
        words = f"stopped after {done:,} of {of:,} pictures; complete layers are stored, run the same for the others"
        report(on_step, done, of, cancelled=words)

    def measured(layer: str, moment: SecondMoment, seconds: float) -> Measured:
        return Measured(wanted[layer], moment, statistics.path(wanted[layer]), seconds)

    known = gather_or_raise(stored if state.is_main_process else dict)[0]
    results = {layer: measured(layer, moment, 0.0) for layer, moment in known.items() if moment}
    missing = {layer: recipe for layer, recipe in recipes.items() if layer not in results}
    shared = {"process": state.process_index, "processes": state.num_processes, "gather": gather_or_raise}
    how: dict[str, Any] = {"truncation": truncation, "rules": rules, "on_step": progress, **shared}
    for layer, moment in measure_layers(statistics.generator, missing, **how):
        results[layer] = measured(layer, moment, time.monotonic() - began)
        gather_or_raise(partial(statistics.keep, wanted[layer], moment) if state.is_main_process else lambda: None)
    return [results[layer] for layer in recipes]
