"""What several commands share: options, progress, and how they find edits, rules and generators."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from rewriter import worlds
from rewriter.checkpoints.catalogue import catalogue
from rewriter.checks import number
from rewriter.editing.edit import Edit, load_edits
from rewriter.editing.rule import Rule, carried_rules
from rewriter.errors import InputError, OnStep, did_you_mean
from rewriter.generators.base import Generator
from rewriter.generators.latents import SEEDS
from rewriter.generators.threads import choose_threads

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")]
GeneratorName = Annotated[
    str, typer.Option(help="A name that `rewriter generators` lists, USER/NAME on the Hub, or a checkpoint's path.")
]
EditGenerator = Annotated[str | None, typer.Option("--generator", help="Default: the one that the edit names.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps. Default: the best of this machine.")]
Truncation = Annotated[float, typer.Option(help="1: as trained; towards 0: closer to the average picture.")]
TRUNCATION = number(0, 2)
MANY = 1000  # files of a folder that are compared with a name
Job = Callable[[str], OnStep]  # name → the progress callback of a bar


def say(as_json: bool, data: dict[str, Any], words: str) -> None:
    """Print the outcome, as JSON or in words."""
    print(json.dumps(data, allow_nan=False) if as_json else words)


@contextmanager
def progress(quiet: bool) -> Iterator[Job]:
    """Progress bars on standard error, one for each named job."""
    with Progress(console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty()) as bars:

        def job(name: str) -> OnStep:
            task = bars.add_task(name, total=None, visible=False)

            def on_step(done: int, of: int) -> None:
                bars.update(task, completed=done, total=of, visible=done < of)

            return on_step

        yield job


def edits_of(name: str, generator: str | None = None) -> tuple[Edit, ...]:
    """The edits in a file, or those shipped under this name, for a generator if it has some of its own."""
    shipped = {**worlds.examples(), **worlds.examples(generator or "")}
    if name not in shipped and not Path(name).exists():
        listed = f"Shipped edits are {', '.join(shipped)}; or name a file"
        raise InputError(f"there is no edit {name!r}: {_meant(name, shipped)}{listed}")
    return load_edits(shipped.get(name, Path(name)))


def _meant(name: str, known: Iterable[str]) -> str:
    """A question after what was meant, of known names and files that lie there; "" if nothing is similar."""
    path = Path(name)
    folder = path.parent if path.parent.is_dir() else Path()
    beside = [str(file) for file in islice(folder.iterdir(), MANY) if file.suffix == path.suffix and file.is_file()]
    return did_you_mean(name, [*known, *beside])


def generator_of(edits: Sequence[Edit], name: str | None, device: str | None, quiet: bool) -> Generator:
    """The generator asked for, or the one that the edits name."""
    named = next((edit for edit in edits if edit.generator), edits[0])
    if name is None and not named.generator:
        raise InputError("the edit does not say which generator it was made on: name one with --generator")
    if name is None and named.generator not in catalogue() and not Path(named.generator).exists():
        made_on = f"the edit was made on {named.generator!r} (fingerprint {named.fingerprint[:12] or 'unknown'})"
        raise InputError(f"{made_on}: name its file with --generator")
    return load(name or named.generator, device, quiet)


def load(name: str, device: str | None, quiet: bool, **given: float | None) -> Generator:
    """A generator, with a bar while it is downloaded."""
    from rewriter.hub.resolve import resolve  # late: commands without a generator need not wait for it

    try:
        source = resolve(name)
    except InputError as error:
        raise InputError(f"{_meant(name, catalogue())}{error}") from error
    new = source.origin.id and source.origin.sha256 is None and not source.is_local
    with progress(quiet) as job:
        model = source.load(device=device, on_step=job(f"{name}: downloading"), **given)
    choose_threads(model)
    if new and not quiet:
        print(f"{name}: later downloads must have the same SHA-256, {model.origin.sha256}", file=sys.stderr)
    return model


def doubted(
    model: Generator, name: str, pictures: Tensor | None = None, *, mapping_rate: float | None = None
) -> list[str]:
    """Why a file that nobody vouches for may have been read wrongly; empty for generators of a known origin."""
    from rewriter.checkpoints.doubts import doubts

    foreign = not model.origin.id and Path(name).is_file()
    found = doubts(model, pictures, mapping_rate=mapping_rate) if foreign else []
    return [f"careful: {doubt}" for doubt in found]


def rules_for(paths: Sequence[Path] | None, model: Generator) -> list[Rule]:
    """The rules that the generator brings along, then those of files, checked against it."""
    rules = [Rule.load(path).to(model.device) for path in paths or ()]
    for rule in rules:
        model.check(rule)
    check_new(rules, carried_rules(model))
    return [*carried_rules(model), *rules]


def check_new(rules: Sequence[Rule], there: Sequence[Rule]) -> None:
    """Raise InputError for a rule that is given twice, or that the generator brings along: it would act twice."""
    for i, rule in enumerate(rules):
        if any(torch.equal(rule.delta.cpu(), other.delta.cpu()) for other in [*there, *rules[:i]]):
            raise InputError(f"{rule.title!r} is given twice, or the generator brings it along: leave it out")


def seeds_from(first: int, count: int) -> range:
    """The seeds first … first + count - 1; InputError unless there are such seeds."""
    if count < 1 or not 0 <= first <= SEEDS - count:
        raise InputError(f"{count} pictures from seed {first}: seeds go from 0 to {SEEDS - 1:,}")
    return range(first, first + count)
