"""The command that runs the paper's experiments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from rewriter.checkpoints.device import default_device
from rewriter.cli.common import Device, Json, edits_of, generator_of, load, say
from rewriter.editing.measuring import processes
from rewriter.errors import InputError, RewriterError
from rewriter.evaluation import (
    dissection,
    experiments,
    judges,
    photographs,
    plots,
    realism,
    run,
    segmenter,
    tables,
    watermarks,
)
from rewriter.evaluation.experiments import Experiment
from rewriter.evaluation.judging import BATCH, JUDGED, towns
from rewriter.evaluation.realism_summary import summary
from rewriter.files import replacing
from rewriter.generators.base import Generator
from rewriter.generators.latents import SEEDS, latents
from rewriter.pictures import save_png, to_image

QUICK, USUAL, MANY, PAIRS = 100, 1000, 10_000, 50  # pictures: --quick, on a CPU, on a GPU; pairs to be judged
OURS = "least-squares"
T = TypeVar("T")
EPILOG = (
    "\b\nExperiments:\n  "
    + "\n  ".join(f"{each.name:24} {each.title}" for each in experiments.by_name().values())
    + "\n"
    "  all                      all of these; with --quick without the other hands\n"
    "  EDIT.json                any edit, of --generator: LPIPS, and pixels that --was named and --becomes names\n"
    "  dissect                  which units of layer6 agree with watermarks and bars (of --layer, with --thing)\n"
    "  judges                   how far our own judges can be trusted: the segmenter, the detectors of marks\n"
    "  realism                  which looks more real? With --page people judge blind; without, what they said\n"
    "\n\b\nOver several GPUs: accelerate launch --num_processes 2 -m rewriter evaluate all\n"
    "Over processes of one CPU: torchrun --nproc-per-node 2 -m rewriter evaluate all --device cpu\n"
    "Behind a launcher write -n for --n, which it would take for an option of its own. "
    "Several hosts share the folder --out."
)


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    out: Path
    number: int
    first: int
    generator: Generator
    main: bool
    as_json: bool


def evaluate(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="dome-to-spire, watermark, all …: see below.")],
    out: Annotated[Path, typer.Option(help="Where tables, plots, and what it takes to go on are kept.")] = Path(
        "evaluation"
    ),
    n: Annotated[
        int | None, typer.Option("--n", "-n", help=f"Pictures: {USUAL:,} on a CPU, {MANY:,} on a GPU.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"{QUICK} pictures; the longest descents cut short, and named so.")
    ] = False,
    first: Annotated[int, typer.Option(help="First seed; what is chosen is chosen from 50,000 on.")] = JUDGED,
    generator: Annotated[str | None, typer.Option(help="Of EDIT.json. Default: the one that it names.")] = None,
    was: Annotated[str, typer.Option(help="Of EDIT.json: a word for what is replaced, such as dome.")] = "",
    becomes: Annotated[str, typer.Option(help="Of EDIT.json: a word for what it becomes, such as spire.")] = "",
    layer: Annotated[str, typer.Option(help="Of dissect.")] = "layer6",
    thing: Annotated[list[str] | None, typer.Option(help="Of dissect; may be repeated.")] = None,
    of: Annotated[str, typer.Option(help="Of realism: the experiment whose methods are compared.")] = "dome-to-spire",
    page: Annotated[bool, typer.Option("--page", help="Of realism: open the page on which people judge.")] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Does it do what the paper says? Compare methods on pictures, with intervals and plots.

    Every table is written as JSON, CSV and Markdown, and plotted where matplotlib is installed (pip install
    'rewriter[eval]'). A stopped run goes on where it was; processes that share the folder divide the work. The paper's
    table of smiles needs faces, which the built-in world has not.
    """
    together = processes(device)
    main = together.is_main_process
    try:
        kind = device or default_device().type
        usual = PAIRS if name == "realism" else QUICK if quick else MANY if kind == "cuda" else USUAL
        number = usual if n is None else n
        if number < 1 or not 0 <= first <= SEEDS - number:
            raise InputError(f"{number} pictures from seed {first}: seeds go from 0 to {SEEDS - 1:,}")
        known = experiments.by_name()
        if name in known or name in ("all", "dissect", "realism", "judges"):
            model = load("townscape", device, as_json or not main)
        else:
            model = generator_of(edits_of(name), generator, device, as_json or not main)
        asked = Request(out, number, first, model, main, as_json)
        if name == "realism":
            _realism(asked, _known(of), page, quick)
        elif name in ("dissect", "judges"):
            if main:
                _dissect(asked, layer, thing or ["watermark", "bar"]) if name == "dissect" else _judges(asked)
        elif name in known or name == "all":
            chosen = list(known.values()) if name == "all" else [known[name]]
            _run(asked, [each for each in chosen if not (quick and name == "all" and each.slow)], quick)
        else:
            _run(asked, [_photographs(name, model, was, becomes, device)], quick)
    except RewriterError:
        if main:
            raise
        raise typer.Exit(2) from None  # the main process says it for all
    together.destroy_process_group()


def _known(name: str) -> Experiment:
    known = experiments.by_name()
    if name not in known:
        raise InputError(f"there is no experiment {name!r}: choose one of {', '.join(known)}, or an edit file")
    return known[name]


def _photographs(name: str, model: Generator, was: str, becomes: str, device: str | None) -> Experiment:
    """An edit file, with those judges from the Hub that can be had."""
    edit = edits_of(name)[-1]
    if not was or not becomes:
        raise InputError("say with --was and --becomes, in words, what the edit replaces and what by: dome, spire")
    found = _judge(judges.segmenter, device), _judge(judges.lpips, device)
    judge = photographs.Photographs(model.zdim, was, becomes, *found)
    return photographs.experiment(Path(name).stem, edit, judge)


def _judge(load_one: Callable[..., T], device: str | None) -> T | None:
    """A judge, or a word on why it cannot be had."""
    try:
        return load_one(device)
    except InputError as error:
        print(f"rewriter: {error}; going on without", file=sys.stderr)
        return None


def _run(asked: Request, chosen: list[Experiment], quick: bool) -> None:
    """Run experiments one after the other; write and print each as it is done."""
    reports = []
    for each in chosen:
        experiment = each.quickly() if quick else each
        seeds = range(asked.first, asked.first + asked.number)
        with _bar(asked) as on_part:
            outcome = run.run(experiment, asked.generator, seeds, asked.out / each.name, on_part=on_part)
        if asked.main:
            paths = tables.write(outcome, asked.out)
            try:
                paths += plots.write(outcome, asked.out)
            except InputError as error:  # tables are worth having without
                print(f"rewriter: {error}", file=sys.stderr)
            reports.append(outcome.to_json())
            if not asked.as_json:
                print(f"{tables.markdown(outcome)}\nwritten: {', '.join(map(str, paths))}\n", flush=True)
    if asked.main and asked.as_json:
        print(json.dumps(tables.finite({"experiments": reports}), allow_nan=False))


def _dissect(asked: Request, layer: str, things: list[str]) -> None:
    """Rank a layer's units; a sheet of the best."""
    ranking = dissection.dissect(asked.generator, layer, things)
    best = [{"unit": unit, "iou": round(float(ranking.iou[unit]), 4)} for unit in ranking.order[:20].tolist()]
    path = asked.out / f"units-{layer}.png"
    save_png(dissection.sheet(asked.generator, ranking), path)
    words = "\n".join(f"unit {each['unit']:4}: IoU {each['iou']:.3f}" for each in best)
    data = {"layer": layer, "things": things, "units": best, "out": str(path)}
    say(asked.as_json, data, f"{words}\npictures: {path}")


def _judges(asked: Request) -> None:
    """What the segmenter and the detectors of marks get wrong, on pictures whose content is known."""
    seeds = range(asked.first, asked.first + asked.number)
    pictures = asked.generator.sample(seeds, rules=[]).cpu()
    labels = segmenter.described(seeds, asked.generator.resolution).labels
    right = segmenter.accuracy(segmenter.load(), pictures, labels)
    errors = watermarks.detector_errors(seeds)
    words = [
        f"segmenter, on generated pictures: {thing}: {share:.1%} of {n:,} pixels" for thing, (share, n) in right.items()
    ]
    words += [
        f"detector, on scenes: {kind}: {miss:.1%} misses, {alarm:.1%} alarms".replace("nan%", "none shown, no")
        for kind, (miss, alarm) in errors.items()
    ]
    data = tables.finite({"n": asked.number, "segmenter": right, "detectors": errors})
    with replacing(asked.out / "judges.json") as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    say(asked.as_json, data, "\n".join(words))


def _realism(asked: Request, experiment: Experiment, page: bool, quick: bool) -> None:
    """Open a study's page, or sum up its answers; one process does."""
    folder = asked.out / f"realism-{experiment.name}"
    if OURS not in experiment.methods:
        raise InputError(f"{experiment.name} has no method {OURS!r} to compare with: choose another --of")
    if processes().num_processes > 1:
        raise InputError("one process serves the study: start it without a launcher")
    if not page:
        found = summary(realism.Study.load(folder / "study"))
        say(asked.as_json, found.to_json(), found.markdown())
        return
    experiment = experiment.quickly() if quick else experiment
    experiment = replace(experiment, methods={name: m for name, m in experiment.methods.items() if name != "ceiling"})
    psi = experiment.edits(asked.generator)[0].truncation
    with _bar(asked) as on_part:
        made = run.methods_made(experiment, asked.generator, folder / "methods", first=asked.first, on_part=on_part)
        draws = {run.slug(name): each.draw(asked.generator, truncation=psi) for name, each in made.items()}
        study = realism.Study.create(
            folder / "study",
            reference=OURS,
            others=[name for name in draws if name != OURS],
            seeds=_about(asked, experiment),
            pictures=lambda method, seed: _picture(asked.generator, draws[method], seed),
            about={"fingerprint": asked.generator.fingerprint, "code": run.code(), "quick": quick},
            on_step=partial(on_part, "pictures"),
        )
    from rewriter.evaluation.realism_page import LAUNCH
    from rewriter.evaluation.realism_page import page as study_page

    again = f"rewriter evaluate realism --of {experiment.name} --out {asked.out}"
    print(f"Answers are kept in {study.folder}. To sum them up: {again}\nGRADIO_SERVER_NAME=0.0.0.0 lets others in.")
    study_page(study).launch(**LAUNCH)


def _about(asked: Request, experiment: Experiment) -> list[int]:
    """The first seeds that the experiment's edit is about."""
    found: list[int] = []
    concerns: Any = getattr(experiment.judge, "concerns", None)
    for first in range(asked.first, SEEDS - BATCH, BATCH):
        seeds = range(first, first + BATCH)
        flags = concerns(towns(seeds)[1]).tolist() if concerns else [True] * BATCH
        found += [seed for seed, flag in zip(seeds, flags, strict=True) if flag]
        if len(found) >= asked.number:
            break
    return found[: asked.number]


def _picture(generator: Generator, draw: Any, seed: int) -> Image.Image:
    return to_image(draw(latents([seed], generator.zdim))[0])


@contextmanager
def _bar(asked: Request) -> Iterator[run.OnPart]:
    """One bar on standard error for whatever is being done."""
    quiet = asked.as_json or not asked.main or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as bars:
        task = bars.add_task("")
        yield lambda what, done, of: bars.update(task, description=what, completed=done, total=of)
