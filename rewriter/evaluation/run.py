"""Runs an experiment: every method makes its result once, then all results are judged on the same pictures.

Several processes (accelerate, torchrun) divide the methods among them; the outcome is the same as with one process.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import rewriter
from rewriter.editing.edit import Edit
from rewriter.editing.precompute import gather_or_raise, processes
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError, OnStep, report
from rewriter.evaluation.methods import Case, Methods
from rewriter.evaluation.metrics import BATCH, FRECHET, Draw, Estimate, Judge, Metric, Rows, estimates
from rewriter.generators.base import Generator

Edits = Callable[[Generator], Sequence[Edit]]
Progress = Callable[[str], OnStep | None]  # what is being done → where to report its progress


@dataclass(frozen=True)
class Experiment:
    """An edit, the methods that carry it out, and a judge."""

    name: str
    judge: Judge
    methods: Methods
    edits: Edits  # several are carried out in succession
    shown: tuple[str, ...]  # metrics in the printed table
    axes: tuple[str, str]  # metrics in the plot: the intended effect (across) and the damage (up)
    things: tuple[str, ...] = ()  # labels of what the edit is about
    title: str = ""
    generator: str = ""  # the built-in generator that it runs on; "": the one that it is given
    sheet: Callable[[Sequence[int], Draw, Draw], Image.Image] | None = None  # pictures before and after, to look at


@dataclass(frozen=True)
class Outcome:
    """What was measured of one method, and how its result was made."""

    metrics: dict[str, Estimate]
    settings: dict[str, Any]
    seconds: float
    losses: Sequence[float]
    sheet: Image.Image | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, with about 200 of the losses and without the sheet."""
        losses = [round(loss, 6) for loss in self.losses[:: max(1, len(self.losses) // 200)]]
        metrics = {name: asdict(estimate) for name, estimate in self.metrics.items()}
        return {"metrics": metrics, "settings": self.settings, "seconds": round(self.seconds, 3), "losses": losses}


@dataclass(frozen=True)
class Outcomes:
    """What an experiment found; `request` identifies everything that it depends on."""

    experiment: Experiment
    seeds: Sequence[int]
    methods: Mapping[str, Outcome]
    machine: Mapping[str, Any]
    request: str

    @property
    def metrics(self) -> dict[str, Metric]:
        """The judge's metrics and the Fréchet distance, by name."""
        return {metric.name: metric for metric in (*self.experiment.judge.metrics, FRECHET)}

    def to_json(self) -> dict[str, Any]:
        """Plain data, with everything that is needed to repeat the experiment."""
        about = {"experiment": self.experiment.name, "title": self.experiment.title, "n": len(self.seeds)}
        about |= {"seeds": [self.seeds[0], self.seeds[-1]], "interval": "95 %, bootstrap over pictures"}
        metrics = {name: {"unit": each.unit, "better": each.better} for name, each in self.metrics.items()}
        methods = {name: outcome.to_json() for name, outcome in self.methods.items()}
        return {**about, "machine": self.machine, "request": self.request, "metrics": metrics, "methods": methods}


def run(
    experiment: Experiment, generator: Generator, seeds: Sequence[int], *, progress: Progress = lambda what: None
) -> Outcomes:
    """Run an experiment on pictures given by seed; every process returns the same; CancelledError if cancelled."""
    if not seeds:
        raise InputError("no pictures to judge: ask for at least one")
    state = processes(generator.device.type)
    own = list(experiment.methods)[state.process_index :: state.num_processes]
    parts = gather_or_raise(partial(_outcomes, experiment, generator, seeds, own, progress))
    found = {name: outcome for part in parts for name, outcome in part.items()}
    methods = {name: found[name] for name in experiment.methods}
    return Outcomes(experiment, seeds, methods, machine(generator.device), request(experiment, generator, seeds))


def _outcomes(
    experiment: Experiment, generator: Generator, seeds: Sequence[int], names: Sequence[str], progress: Progress
) -> dict[str, Outcome]:
    """The outcomes of some of the methods."""
    case = Case(generator, experiment.edits(generator)[0], Statistics(generator), experiment.things)
    results = {name: experiment.methods[name](case, progress(f"{experiment.name}: {name}")) for name in names}
    rows: dict[str, list[Rows]] = {name: [] for name in names}
    on_step = progress(f"{experiment.name}: pictures")
    for i in range(0, len(seeds), BATCH):
        for name, result in results.items():
            with torch.no_grad():
                rows[name].append(experiment.judge.rows(seeds[i : i + BATCH], case.before, result.draw))
        report(on_step, min(i + BATCH, len(seeds)), len(seeds))
    sheets = {
        name: experiment.sheet and experiment.sheet(seeds[:BATCH], case.before, results[name].draw) for name in names
    }
    return {
        name: Outcome(estimates(experiment.judge, rows[name]), made.settings, made.seconds, made.losses, sheets[name])
        for name, made in results.items()
    }


def request(experiment: Experiment, generator: Generator, seeds: Sequence[int]) -> str:
    """A digest of all that the outcomes depend on, the library's own code included."""
    root, edits = Path(rewriter.__file__).parent, [edit.to_json() for edit in experiment.edits(generator)]
    asked = [experiment.name, list(experiment.methods), edits, generator.fingerprint, seeds[0], len(seeds)]
    digest = hashlib.sha256(json.dumps(asked).encode())
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".json", ".safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def machine(device: torch.device) -> dict[str, Any]:
    """What was computed on, and with what."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {"torch": torch.__version__, "system": platform.system()}
    threads, count = torch.get_num_threads(), processes().num_processes
    return {"device": str(device), "name": name, "threads": threads, "processes": count} | versions
