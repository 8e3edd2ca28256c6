"""Running an experiment: methods are made once, every picture is judged once, by one process or many.

Everything is kept in the experiment's folder, file by file: what methods made in `made/`, the columns of fifty seeds in
`rows/`. A stopped run goes on there, with any number of processes that share the folder; they divide methods and
batches of seeds among them, and the outcome does not depend on how.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor

import rewriter
from rewriter.editing.measuring import gather_or_raise, processes
from rewriter.editing.statistics import Statistics
from rewriter.errors import CancelledError, InputError
from rewriter.evaluation.experiments import Experiment
from rewriter.evaluation.judging import BATCH, Draw, Estimate, Rows, figures, frechet_estimate
from rewriter.evaluation.methods import Case, Made
from rewriter.files import check_writable, read_json, replacing
from rewriter.generators.base import Generator

KEPT = 256 << 20  # bytes of pictures remembered, so that all methods are compared with the same ones

UNITS = {"%": "share", "per 1,000": "share of the pictures", "1/255": "1/255", "": "ratio"}  # in files
T = TypeVar("T")
OnPart = Callable[[str, int, int], object]  # (what is being done, done, of); returning False stops


@dataclass(frozen=True)
class Outcome:
    """What an experiment found: for each method the figures with their intervals, and how it was made."""

    experiment: Experiment
    seeds: Sequence[int]
    made: Mapping[str, Made]
    figures: Mapping[str, Mapping[str, Estimate]]
    device: str

    def to_json(self) -> dict[str, Any]:
        """Plain data, with everything needed to do it again."""
        units = {
            figure.name: {"unit": figure.unit, "better": figure.better} for figure in self.experiment.judge.figures
        }
        return {
            "experiment": self.experiment.name,
            "title": self.experiment.title,
            "n": len(self.seeds),
            "seeds": [self.seeds[0], self.seeds[-1]],
            "quick": self.experiment.quick,
            "interval": "95 %, bootstrap over pictures",
            "machine": machine(self.device),
            "figures": units | {"fréchet": {"unit": "", "better": "less"}},
            "methods": {
                name: {
                    "settings": made.settings,
                    "seconds": round(made.seconds, 3),
                    "figures": {key: asdict(value) for key, value in self.figures[name].items()},
                    "losses": [round(loss, 6) for loss in made.losses[:: max(1, len(made.losses) // 200)]],
                }
                for name, made in self.made.items()
            },
        }


def run(
    experiment: Experiment, generator: Generator, seeds: Sequence[int], folder: Path, *, on_part: OnPart | None = None
) -> Outcome:
    """Make what is not made yet, judge what is not judged yet, and sum up; the same in every process.

    Args:
        experiment: what to compare.
        generator: the one that its edits were made on.
        seeds: which pictures.
        folder: where its files lie, and where it goes on; of the experiment's own.
        on_part: progress of this process.

    Raises:
        InputError: no seeds, another run lies in the folder, or it cannot be written.
        CancelledError: `on_part` returned False; what was done is kept.
    """
    job = _Job(experiment, generator, list(seeds), folder, processes(generator.device.type), on_part)
    made = job.all_made()
    gather_or_raise(partial(job.judge, made))
    rows = job.rows()
    estimates = {name: _figures(experiment, rows[name]) for name in experiment.methods}
    return Outcome(experiment, seeds, made, estimates, str(generator.device))


def methods_made(
    experiment: Experiment, generator: Generator, folder: Path, *, first: int, on_part: OnPart | None = None
) -> dict[str, Made]:
    """What the methods make, made where it is missing; arguments and errors as for `run`."""
    return _Job(experiment, generator, [first], folder, processes(generator.device.type), on_part).all_made()


def _figures(experiment: Experiment, rows: Rows) -> dict[str, Estimate]:
    own = figures(experiment.judge, rows)
    return own | ({"fréchet": frechet_estimate(rows)} if "embedding" in rows else {})


class _Job:
    """The part of one process."""

    def __init__(
        self,
        experiment: Experiment,
        generator: Generator,
        seeds: list[int],
        folder: Path,
        state: PartialState,
        on_part: OnPart | None,
    ):
        if not seeds:
            raise InputError("no pictures to judge: ask for at least one")
        self.experiment, self.generator, self.seeds, self.folder = experiment, generator, seeds, folder
        self.state, self.on_part = state, on_part
        self.blocks = [seeds[i : i + BATCH] for i in range(0, len(seeds), BATCH)]

    def all_made(self) -> dict[str, Made]:
        """What every method makes, made together by all processes where it is missing."""
        gather_or_raise(self.check_folder)
        gather_or_raise(self.make)  # nobody reads before all have written
        return {name: Made.load(self.made(name)) for name in self.experiment.methods}

    def check_folder(self) -> None:
        """Write down what is run here, or make sure that it is the same as before."""
        plan = {
            "code": code(),
            "experiment": self.experiment.name,
            "title": self.experiment.title,
            "fingerprint": self.generator.fingerprint,
            "first": self.seeds[0],
            "quick": self.experiment.quick,
            "methods": list(self.experiment.methods),
            "edits": [edit.to_json() for edit in self.experiment.edits(self.generator)],
        }
        path = self.folder / "plan.json"
        if not self.state.is_main_process:
            return
        if path.exists():
            if read_json(path) != json.loads(json.dumps(plan)):
                raise InputError(
                    f"{self.folder} holds another run of {self.experiment.name}, with other settings or another "
                    "version of rewriter: choose an empty --out"
                )
            return
        check_writable(path)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(plan), encoding="utf-8")

    def made(self, name: str) -> Path:
        """The file of what a method made."""
        return self.folder / "made" / f"{slug(name)}.safetensors"

    def make(self) -> None:
        """Make this process's share of what is missing; the edit's statistics are kept from method to method."""
        edit, statistics = self.experiment.edits(self.generator)[0], Statistics(self.generator)
        case = Case(self.generator, edit, statistics, self.experiment.things)
        for name in self._own([name for name in self.experiment.methods if not self.made(name).exists()]):
            self._tell(name, 0, 1)
            self.experiment.methods[name](case, partial(self._step, name)).save(self.made(name))

    def judge(self, made: Mapping[str, Made]) -> None:
        """Judge this process's share of what is missing."""
        psi = self.experiment.edits(self.generator)[0].truncation
        before = _Remembering(Made("model").draw(self.generator, truncation=psi))
        own = self._own([block for block in self.blocks if not self._rows(block).exists()])
        for i, block in enumerate(own):
            self._tell("pictures", i * BATCH, len(own) * BATCH)
            columns: dict[str, Tensor] = {}
            for name, each in made.items():
                after = before if each.kind == "model" else each.draw(self.generator, truncation=psi)
                with torch.no_grad():
                    rows = self.experiment.judge(block, before, after)
                columns |= {f"{name}/{column}": value.cpu().clone() for column, value in rows.items()}  # shared ones
            with replacing(self._rows(block)) as temporary:
                save_file(columns, temporary)

    def rows(self) -> dict[str, Rows]:
        """All columns of every method, in the order of the seeds."""
        parts = [load_file(self._rows(block)) for block in self.blocks]
        found: dict[str, Rows] = {name: {} for name in self.experiment.methods}
        for key in parts[0]:
            method, _, column = key.rpartition("/")
            found[method][column] = torch.cat([part[key] for part in parts])
        return found

    def _rows(self, block: Sequence[int]) -> Path:
        return self.folder / "rows" / f"{block[0]:06d}-{block[-1]:06d}.safetensors"

    def _own(self, missing: list[T]) -> list[T]:
        """This process's share of what the main one found missing: others may have looked later."""
        wanted: list[T] = gather_or_raise(lambda: missing)[0]
        return wanted[self.state.process_index :: self.state.num_processes]

    def _step(self, name: str, step: int, of: int) -> object:
        return self._going(name, step, of)

    def _tell(self, what: str, done: int, of: int) -> None:
        if self._going(what, done, of) is False:
            raise CancelledError(f"stopped at {what}; the same command goes on")

    def _going(self, what: str, done: int, of: int) -> object:
        return self.on_part is None or self.on_part(f"{self.experiment.name}: {what}", done, of)


class _Remembering:
    """Draws each batch of latents once; the last few are remembered."""

    def __init__(self, draw: Draw):
        self.draw, self.kept = draw, dict[bytes, Tensor]()

    def __call__(self, z: Tensor) -> Tensor:
        key = z.numpy().tobytes()
        if key not in self.kept:
            drawn = self.draw(z)
            while self.kept and (len(self.kept) + 1) * drawn.nbytes > KEPT:
                self.kept.pop(next(iter(self.kept)))
            self.kept[key] = drawn
        return self.kept[key]


def machine(device: str) -> dict[str, Any]:
    """What was computed on."""
    named = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine()
    )
    threads, processed = torch.get_num_threads(), processes().num_processes
    versions = {"torch": torch.__version__, "system": platform.system()}
    return {"device": device, "name": named, "threads": threads, "processes": processed} | versions


def code() -> str:
    """A digest of the library's own files: what another version found is not gone on with."""
    digest, root = hashlib.sha256(), Path(rewriter.__file__).parent
    for folder in ("", "evaluation", "generators", "memory", "townscape", "townscape/examples"):
        for path in sorted(
            path for path in (root / folder).iterdir() if path.suffix in (".py", ".json", ".safetensors")
        ):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def slug(name: str) -> str:
    """A method's name as that of a file."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")
