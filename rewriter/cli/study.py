"""Commands that study an edit, a generator or a machine: suggest, search, stats, benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from rewriter import pictures
from rewriter.checkpoints.device import default_device
from rewriter.cli import describe
from rewriter.cli.common import (
    Device,
    EditGenerator,
    GeneratorName,
    Json,
    Truncation,
    check_truncation,
    edits_of,
    generator_of,
    load,
    progress,
    rules_for,
    say,
)
from rewriter.editing import measuring
from rewriter.editing.provenance import check_complete, with_default_layer
from rewriter.editing.recipe import Recipe
from rewriter.editing.session import Rewriter
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError, RewriterError
from rewriter.evaluation.benchmark import benchmark as benchmark_all
from rewriter.evaluation.benchmark import markdown
from rewriter.files import check_writable, write_json, write_text
from rewriter.generators.latents import SEEDS

EPILOGS = {
    "stats": "\b\nOver several GPUs: accelerate launch -m rewriter stats --all-layers\n"
    "Over processes of one CPU: torchrun --nproc-per-node 2 -m rewriter stats --all-layers"
}
EditFile = Annotated[str, typer.Argument(help="An edit file or a shipped edit; of several, the last is used.")]


def suggest(
    edit: EditFile,
    generator: EditGenerator = None,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="The strip of pictures (PNG).")] = Path("layers.png"),
    as_json: Json = False,
) -> None:
    """Try an edit at every layer: a table, best first, and a strip of pictures."""
    check_writable(out)
    session = _session(edit, generator, device, as_json, complete=True)
    with progress(as_json) as job:
        before = session.sample([session.marked])
        found = session.suggest(on_step=job("layers"))
    done = [one for one in found if one.picture is not None]
    drawn = torch.cat([before, *(one.picture[None] for one in done if one.picture is not None)])
    captions = ["before", *(f"{one.layer}: {one.score:.2f}" for one in done)]
    pictures.save_png(pictures.sheet(drawn, captions, columns=len(captions), title=edit), out)
    rows = [
        {"layer": one.layer, "score": one.score, **one.rule.effect.to_json()}
        for one in found
        if one.rule and one.rule.effect
    ]
    failed = {one.layer: one.why for one in found if one.picture is None}
    words = describe.table(rows, failed)
    say(as_json, {"edit": edit, "layers": rows, "failed": failed, "out": str(out)}, f"{words}\npictures: {out}")


def search(
    edit: EditFile,
    k: Annotated[int, typer.Option("--k", help="How many pictures.")] = 12,
    count: Annotated[int, typer.Option("--pictures", help="How many pictures to look through.")] = 2000,
    first: Annotated[int, typer.Option(help="First seed.")] = 0,
    generator: EditGenerator = None,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="The sheet of pictures and matches (PNG).")] = Path("found.png"),
    as_json: Json = False,
) -> None:
    """Find the pictures that match an edit's context best, and show where."""
    if count < 1 or not 0 <= first <= SEEDS - count:
        raise InputError(f"{count} pictures from seed {first}: seeds go from 0 to {SEEDS - 1:,}")
    check_writable(out)
    session = _session(edit, generator, device, as_json)
    with progress(as_json) as job:
        step = job("pictures")
        found = session.search(k, seeds=range(first, first + count), on_step=step)
        matches = session.matches_on([one.seed for one in found])
    rows = [session.sample([one.seed for one in found]), torch.stack([one.overlay for one in matches])]
    captions = [f"{one.seed}: {one.score:.2f}" for one in found]
    pictures.save_png(pictures.stacked(rows, captions, columns=min(8, len(found)), title=f"{edit}: best matches"), out)
    data: list[dict[str, Any]] = [{"seed": one.seed, "score": one.score, "at": list(one.at)} for one in found]
    listed = "\n".join(f"  {one.seed:6}  {one.score:.2f} times as strong as on the contexts" for one in found)
    say(as_json, {"edit": edit, "found": data, "out": str(out)}, f"{listed}\npictures: {out}")


def stats(
    generator: GeneratorName = "townscape",
    layer: Annotated[list[str] | None, typer.Option(help="A layer to measure; may be repeated.")] = None,
    all_layers: Annotated[bool, typer.Option("--all-layers", help="Every layer, in one pass.")] = False,
    count: Annotated[int | None, typer.Option("--pictures", help="Default: what an edit uses.")] = None,
    places: Annotated[int, typer.Option(help="Random places of each picture.")] = 16,
    first_seed: Annotated[int, typer.Option(help="First picture.")] = 0,
    truncation: Truncation = 1.0,
    rule: Annotated[list[Path] | None, typer.Option(help="A rule that is applied; may be repeated.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure the statistics of layers before they are edited; an interrupted run resumes."""
    state = measuring.processes(device)
    try:
        check_truncation(truncation)
        if bool(layer) == all_layers:
            raise InputError("name layers with --layer, or take --all-layers")
        model = load(generator, device, as_json or not state.is_main_process)
        rules = rules_for(rule, model)
        recipes = {}
        for name in layer or model.layers:
            recipe = Recipe.for_channels(model.layer(name).in_channels) if count is None else Recipe(count)
            recipes[name] = replace(recipe, places=places, first_seed=first_seed)
        with progress(as_json or not state.is_main_process) as job:
            own, step = Statistics(model), job("pictures")
            measured = measuring.measure(own, recipes, truncation=truncation, rules=rules, on_step=step)
    except RewriterError:
        if state.is_main_process:
            raise
        raise typer.Exit(2) from None  # the main process reports the error
    if state.is_main_process:
        report = {"generator": model.name, "fingerprint": model.fingerprint, "truncation": truncation}
        layers = [each.to_json() for each in measured]
        say(as_json, {**report, "layers": layers}, "\n".join(each.in_words() for each in measured))
    state.destroy_process_group()


def benchmark(
    resolution: Annotated[int, typer.Option(help="Of the generator with config-f channels: 64 to 1024 px.")] = 256,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="Write benchmark.json and benchmark.md into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Time everything on this machine: edits by method, statistics, pictures, rules. Takes some minutes."""
    if resolution not in (64, 128, 256, 512, 1024):
        raise InputError(f"resolution {resolution}: choose 64, 128, 256, 512 or 1024")
    if out is not None:
        check_writable(out / "benchmark.json")
    devices = [device] if device else list(dict.fromkeys(["cpu", default_device().type]))
    report = benchmark_all(resolution, devices=devices, on_row=lambda row: typer.echo(row, err=True))
    table = markdown(report)
    if out is not None:
        write_json(report, out / "benchmark.json")
        write_text(f"{table}\n", out / "benchmark.md")
    say(as_json, report, table)


def _session(file: str, generator: str | None, device: str | None, quiet: bool, *, complete: bool = False) -> Rewriter:
    """A session in which a file's last edit is in progress and its earlier ones are executed."""
    edits = edits_of(file)
    model = generator_of(edits, generator, device, quiet)
    *earlier, last = (with_default_layer(model, edit) for edit in edits)
    for edit in (*earlier, last) if complete else earlier:
        check_complete(model, edit)
    session = Rewriter(model, last.layer, truncation=last.truncation)
    for edit in earlier:
        session.use(edit)
        session.execute()
        session.begin()
    session.use(last)
    return session
