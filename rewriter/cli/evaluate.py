"""The command that runs the paper's experiments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from rewriter import worlds
from rewriter.checkpoints.catalogue import BUILT_IN
from rewriter.cli.common import Device, Json, edits_of, generator_of, load, progress, say, seeds_from
from rewriter.editing.precompute import gather_or_raise, processes
from rewriter.errors import InputError, OnStep, RewriterError
from rewriter.evaluation import FACES, FIRST_FACE, FIRST_SEED, PHOTOS, TITLES, judges, plots, run, tables
from rewriter.evaluation.metrics import BATCH
from rewriter.evaluation.run import Experiment, Outcomes
from rewriter.files import check_writable, write_json
from rewriter.generators.base import Generator
from rewriter.pictures import save_png
from rewriter.worlds import segmenter
from rewriter.worlds.townscape import marks
from rewriter.worlds.townscape.world import WORLD as TOWNS

QUICK, CPU, GPU = 100, 1000, 10_000  # pictures: with --quick, on a CPU, on a GPU
ALONE = ("units", "photo", "judges", "verdicts")  # no experiments with methods; by one process
T = TypeVar("T")
EPILOG = (
    "\b\nExperiments:\n  " + "\n  ".join(f"{name:24} {title}" for name, title in TITLES.items()) + "\n"
    "  all                      all of these; with --quick all but hands-…\n"
    "  faces                    edits of the face generator by several methods, with sheets of pictures\n"
    "  EDIT.json                any edit, on --generator: LPIPS, and CLIPSeg's labels --was and --becomes\n"
    "  units                    which units draw what, painting and switching with them, on towns and faces\n"
    "  photo                    photos in generators, and rules on them; with IMAGES a sheet of these\n"
    "  judges                   the errors of our own judges: the segmenter, the detectors of marks\n"
    "  verdicts                 do verdicts agree with the exact counterfactual, over many edits?\n"
    "\n\b\nOver several GPUs: accelerate launch --num_processes 2 -m rewriter evaluate all\n"
    "Over processes of one CPU: torchrun --nproc-per-node 2 -m rewriter evaluate all --device cpu\n"
    "Launchers take --n for an option of their own: write -n."
)
EPILOGS = {"evaluate": EPILOG}
FIRSTS = f"Default: {FIRST_SEED:,}; {FIRST_FACE:,} for faces."


@dataclass(frozen=True)
class Request:
    """What was asked for; `main`: whether this process prints and writes."""

    out: Path
    seeds: range
    generator: Generator
    main: bool
    as_json: bool


def evaluate(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="dome-to-spire, watermark, all …: see below.")],
    images: Annotated[list[Path] | None, typer.Argument(help="For photo: square photos, to be looked at.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and plots.")] = Path("evaluation"),
    n: Annotated[int | None, typer.Option("--n", "-n", help=f"Pictures. Default: {CPU:,}; {GPU:,} on a GPU.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK} pictures, and shorter descents.")] = False,
    first: Annotated[
        int | None, typer.Option(help=f"First seed; settings were chosen on seeds from 50,000 on. {FIRSTS}")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="One of an experiment's methods, or of photo's parts; may be repeated.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="For EDIT.json, judges and photo. Default: the one it names; townscape; faces.")
    ] = None,
    was: Annotated[str, typer.Option(help="For EDIT.json: a word for what is replaced, such as dome.")] = "",
    becomes: Annotated[str, typer.Option(help="For EDIT.json: a word for what it becomes, such as spire.")] = "",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare this package with the paper's methods: tables with confidence intervals, and plots.

    Each experiment is written as JSON, CSV, Markdown and plots (pip install 'rewriter[eval]'). Experiments that are
    complete in the folder are not repeated, so an interrupted run continues with the next one.
    """
    together = processes(device)
    try:
        builtin = name in TITLES or name in ("all", *ALONE)
        silent = as_json or not together.is_main_process
        known = _builtin(name) if builtin else "faces" if name == "faces" else None
        if images:
            known = _of_images(name, generator)
        elif generator and builtin:
            known = _of_judges(name, generator)
        model = load(known, device, silent) if known else generator_of(edits_of(name), generator, device, silent)
        usual = PHOTOS if name == "photo" else QUICK if quick else FACES if name == "faces" else _many(model)
        start = first if first is not None else FIRST_FACE if name == "faces" else FIRST_SEED
        asked = Request(out, seeds_from(start, usual if n is None else n), model, together.is_main_process, as_json)
        alone: dict[str, Callable[[], None]] = {
            "units": partial(_units, asked),
            "photo": partial(_photos, asked, images or [], only),
            "judges": partial(_judges, asked),
            "verdicts": partial(_verdicts, asked, quick),
        }
        if name not in alone:
            from rewriter.evaluation.experiments import quicker  # late: it is at the end of a long chain of imports

            if name == "faces":
                chosen = _faces(model)
            else:
                chosen = _chosen(name, quick) if builtin else [_photographs(asked, name, was, becomes, device)]
            _run(asked, [_only(quicker(each) if quick else each, only) for each in chosen], device)
        elif asked.main:
            alone[name]()
    except RewriterError:
        if together.is_main_process:
            raise
        raise typer.Exit(2) from None  # the main process prints the error for all
    together.destroy_process_group()


def _of_images(name: str, generator: str | None) -> str:
    """The generator for images."""
    if name != "photo":
        raise InputError(f"{name} takes no images: only photo does")
    return generator or "faces"


def _of_judges(name: str, generator: str) -> str:
    """The generator that was asked for; InputError unless judges are: everything else of ours has its own."""
    if name != "judges":
        raise InputError(f"{name} has a generator of its own: leave --generator out")
    return generator


def _builtin(name: str) -> str:
    """The generator of one of our experiments; for what has several, the usual one."""
    if name not in TITLES:
        return BUILT_IN
    (experiment,) = _chosen(name, quick=False)
    return experiment.generator


def _many(model: Generator) -> int:
    return GPU if model.device.type == "cuda" else CPU


def _chosen(name: str, quick: bool) -> list[Experiment]:
    from rewriter.evaluation.experiments import by_name

    known = by_name()
    if name != "all":
        return [known[name]]
    return [each for each in known.values() if not (quick and each.name.startswith("hands-"))]


def _faces(generator: Generator) -> list[Experiment]:
    from rewriter.evaluation.face_experiments import experiments

    return experiments(generator)


def _only(experiment: Experiment, names: list[str] | None) -> Experiment:
    """The experiment with those of its methods that were asked for."""
    unknown = set(names or ()) - set(experiment.methods)
    if unknown:
        raise InputError(f"{experiment.name} has no method {min(unknown)!r}: {', '.join(experiment.methods)}")
    methods = {name: experiment.methods[name] for name in names or experiment.methods}
    return replace(experiment, methods=methods)


def _photographs(asked: Request, name: str, was: str, becomes: str, device: str | None) -> Experiment:
    """The experiment of an edit file, with those judges from the Hub that can be loaded."""
    from rewriter.evaluation import by_words  # late, like the experiments

    if not was or not becomes:
        raise InputError("name with --was and --becomes what the edit replaces and what by, such as dome and spire")
    clipseg = _loaded(asked, "CLIPSeg", lambda on_step: judges.clipseg(device, on_step))
    lpips = _loaded(asked, "LPIPS", lambda on_step: judges.lpips(device, on_step))
    judge = by_words.Photographs(asked.generator.zdim, was, becomes, clipseg, lpips)
    return by_words.experiment(Path(name).stem, edits_of(name)[-1], judge)


def _loaded(asked: Request, name: str, load_one: Callable[[OnStep], T]) -> T | None:
    """A judge, or None with a warning."""
    try:
        with progress(asked.as_json or not asked.main) as job:
            return load_one(job(f"{name}: downloading"))
    except InputError as error:
        print(f"rewriter: {error}; continuing without {name}", file=sys.stderr)
        return None


def _run(asked: Request, chosen: list[Experiment], device: str | None) -> None:
    """Run experiments one after the other; write and print each when it is done."""
    reports, quiet = [], asked.as_json or not asked.main
    models = {asked.generator.name: asked.generator}
    for experiment in chosen:
        name = experiment.generator or asked.generator.name
        if name not in models:
            models[name] = load(name, device, quiet)
        asked = replace(asked, generator=models[name])
        report = gather_or_raise(partial(_stored, asked, experiment))[0]
        if report is None:
            with progress(quiet) as job:
                outcomes = run.run(experiment, asked.generator, asked.seeds, progress=job)
            report = tables.finite(outcomes.to_json())
            _write(asked, outcomes)
        reports.append(report)
        if not quiet:
            table = (asked.out / f"{experiment.name}.md").read_text(encoding="utf-8")
            print(f"{table}\nfiles: {asked.out / experiment.name}.*\n", flush=True)
    if not quiet and len(reports) > 1 and chosen[0].sheet:
        print(tables.overview(reports))
    if asked.main and asked.as_json:
        print(json.dumps({"experiments": reports}, allow_nan=False))


def _stored(asked: Request, experiment: Experiment) -> dict[str, Any] | None:
    """The report of an experiment that is complete in the folder; InputError if the folder cannot be written to."""
    if asked.main:
        check_writable(asked.out / f"{experiment.name}.json")
    return tables.stored(asked.out, experiment.name, run.request(experiment, asked.generator, asked.seeds))


def _write(asked: Request, outcomes: Outcomes) -> None:
    """Write plots where matplotlib is installed, then tables."""
    if asked.main:
        try:
            plots.write(outcomes, asked.out)
        except InputError as error:  # tables are worth having without plots
            print(f"rewriter: {error}", file=sys.stderr)
        for method, made in outcomes.methods.items():
            if made.sheet:
                save_png(
                    made.sheet,
                    asked.out / f"{outcomes.experiment.name}-{method.replace(', ', '-').replace(' ', '-')}.png",
                )
        tables.write(outcomes, asked.out)


def _units(asked: Request) -> None:
    """Tables of what units do, and sheets of the pictures that were judged."""
    from rewriter.evaluation import units  # late, like the experiments

    count = min(len(asked.seeds), units.MOST)
    with progress(asked.as_json) as job:
        tables_ = units.towns(asked.generator, count, on_step=job("towns"))
        faces, sheet = units.faces(load("faces", asked.generator.device.type, asked.as_json))
    found = {**tables_, "faces": faces}
    save_png(sheet, asked.out / "glasses-off.png")
    write_json(tables.finite(found), asked.out / "units.json")
    words = "\n\n".join(f"{title}\n{units.table(rows)}" for title, rows in found.items())
    say(asked.as_json, tables.finite(found), f"{words}\n\nwritten: {asked.out}")


def _photos(asked: Request, images: list[Path], only: list[str] | None) -> None:
    """Tables of photos, each written when it is done; or those of some images, and a sheet."""
    from rewriter.evaluation import photos, units  # late, like the experiments

    unknown = set(only or ()) - set(photos.PARTS)
    if unknown:
        raise InputError(f"photo has no part {min(unknown)!r}: {', '.join(photos.PARTS)}")
    found: dict[str, Any] = {}
    check_writable(asked.out / "photo-images.json")
    with progress(asked.as_json) as job:
        if images:
            found["images"], sheet = photos.real(asked.generator, images, job("photos"))
            save_png(sheet, asked.out / "photo-images.png")
        for part in [] if images else only or photos.PARTS:
            work, share = photos.PARTS[part]
            models = [asked.generator]
            if part == "own":
                models.append(load("faces", asked.generator.device.type, asked.as_json))
            count = max(1, round(share * len(asked.seeds)))
            found[part] = [row for model in models for row in work(model, count, job(part))]
            write_json(tables.finite(found[part]), asked.out / f"photo-{part}.json")
    if images:
        write_json(tables.finite(found["images"]), asked.out / "photo-images.json")
    words = "\n\n".join(f"{title}\n{units.table(rows)}" for title, rows in found.items())
    say(asked.as_json, tables.finite(found), f"{words}\n\nwritten: {asked.out}")


def _judges(asked: Request) -> None:
    """The errors of the segmenter and, of towns, the detectors of marks, on pictures whose content is known."""
    generator, seeds = asked.generator, asked.seeds
    if (world := worlds.of(generator)) is None:
        raise InputError(f"{generator.name} draws no built-in world: its pictures' content is not known")
    side = generator.resolution
    parts = [seeds[i : i + BATCH] for i in range(0, len(seeds), BATCH)]
    known = ((generator.sample(each, rules=[]).cpu(), world.described(each, side).labels) for each in parts)
    right = segmenter.accuracy(segmenter.of(generator), known, world.labels)
    errors = marks.detector_errors(seeds, side) if world is TOWNS else {}
    labelled = "segmenter, on generated pictures: {}: {:.1%} of {:,} pixels"
    detected = "detector, on scenes: {}: {:.1%} misses, {:.1%} alarms"
    words = [labelled.format(thing, *found) for thing, found in right.items()]
    words += [detected.format(kind, *found) for kind, found in errors.items()]
    data = tables.finite({"n": len(asked.seeds), "segmenter": right, "detectors": errors})
    write_json(data, asked.out / "judges.json")
    say(asked.as_json, data, "\n".join(words))


def _verdicts(asked: Request, quick: bool) -> None:
    """How often the verdicts on many edits agree with the exact counterfactual."""
    from rewriter.evaluation import verdicts  # late, like the experiments

    number, seeds = verdicts.QUICK_EDITS if quick else verdicts.EDITS, asked.seeds[: verdicts.PICTURES]
    with progress(asked.as_json or not asked.main) as job:
        made = verdicts.examples(asked.generator, seeds, number=number, on_step=job("verdicts"))
    found = verdicts.agreement(made)
    write_json({**found, "examples": [each._asdict() for each in made]}, asked.out / "verdicts.json")
    pairs = "\n".join(f"{pair:32} {count}" for pair, count in sorted(found["pairs"].items()))
    say(asked.as_json, found, f"{found['edits']} edits: {found['same']:.0%} the same; truth → verdict:\n{pairs}")
