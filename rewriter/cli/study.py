"""Commands that study an edit, a generator or a machine: suggest, search, stats, benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from rewriter import pictures
from rewriter.checkpoints.device import default_device
from rewriter.cli import common
from rewriter.editing import precompute
from rewriter.editing.provenance import check_complete, with_default_layer
from rewriter.editing.recipe import Recipe
from rewriter.editing.session import Rewriter
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError, RewriterError
from rewriter.files import check_writable, write_json, write_text

EPILOGS = {
    "stats": "\b\nOver several GPUs: accelerate launch -m rewriter stats --all-layers\n"
    "Over processes of one CPU: torchrun --nproc-per-node 2 -m rewriter stats --all-layers"
}
MOST_VISITORS = 2000  # each holds a connection; for more than about 900 at once, raise `ulimit -n` first
EditFile = Annotated[str, typer.Argument(help="An edit file or a shipped edit; of several, the last is used.")]


def suggest(
    edit: EditFile,
    generator: common.EditGenerator = None,
    device: common.Device = None,
    out: Annotated[Path, typer.Option(help="The strip of pictures (PNG).")] = Path("layers.png"),
    as_json: common.Json = False,
) -> None:
    """Try an edit at every layer: a table, best first, and a strip of pictures."""
    check_writable(out)
    session = _session(edit, generator, device, as_json, complete=True)
    with common.progress(as_json) as job:
        before = session.sample([session.marked])
        found = session.suggest(on_step=job("layers"))
    drawn = torch.cat([before, *(one.picture[None] for one in found if one.picture is not None)])
    done = [(one, one.rule.effect.to_json()) for one in found if one.rule and one.rule.effect]
    captions = ["before", *(f"{one.layer}: {one.score:.2f}" for one, _ in done)]
    pictures.save_png(pictures.sheet(drawn, captions, columns=len(captions), title=edit), out)
    rows = [{"layer": one.layer, "score": one.score, **effect} for one, effect in done]
    failed = {one.layer: one.why for one in found if one.rule is None}
    words = f"{_table(rows, failed)}\npictures: {out}"
    common.say(as_json, {"edit": edit, "layers": rows, "failed": failed, "out": str(out)}, words)


def search(
    edit: EditFile,
    k: Annotated[int, typer.Option("--k", help="How many pictures.")] = 12,
    count: Annotated[int, typer.Option("--pictures", help="How many pictures to look through.")] = 2000,
    first: Annotated[int, typer.Option(help="First seed.")] = 0,
    generator: common.EditGenerator = None,
    device: common.Device = None,
    out: Annotated[Path, typer.Option(help="The sheet of pictures and matches (PNG).")] = Path("found.png"),
    as_json: common.Json = False,
) -> None:
    """Find the pictures that match an edit's context best, and show where."""
    seeds = common.seeds_from(first, count)
    check_writable(out)
    session = _session(edit, generator, device, as_json)
    with common.progress(as_json) as job:
        found = session.search(k, seeds=seeds, on_step=job("pictures"))
    best = [one.seed for one in found]
    rows = [session.sample(best), torch.stack([one.overlay for one in session.matches_on(best)])]
    captions = [f"{one.seed}: {one.score:.2f}" for one in found]
    pictures.save_png(pictures.stacked(rows, captions, columns=min(8, len(found)), title=f"{edit}: best matches"), out)
    data = [{"seed": one.seed, "score": one.score, "at": list(one.at)} for one in found]
    listed = "\n".join(f"  {one.seed:6}  {one.score:.2f} times as strong as on the contexts" for one in found)
    common.say(as_json, {"edit": edit, "found": data, "out": str(out)}, f"{listed}\npictures: {out}")


def stats(
    generator: common.GeneratorName = "townscape",
    layer: Annotated[list[str] | None, typer.Option(help="A layer to measure; may be repeated.")] = None,
    all_layers: Annotated[bool, typer.Option("--all-layers", help="Every layer, in one pass.")] = False,
    count: Annotated[int | None, typer.Option("--pictures", help="Default: what an edit uses.")] = None,
    places: Annotated[int, typer.Option(help="Random places of each picture.")] = 16,
    first_seed: Annotated[int, typer.Option(help="First picture.")] = 0,
    truncation: common.Truncation = 1.0,
    rule: Annotated[list[Path] | None, typer.Option(help="A rule that is applied; may be repeated.")] = None,
    device: common.Device = None,
    as_json: common.Json = False,
) -> None:
    """Measure the statistics of layers before they are edited; layers that are stored already are not repeated."""
    state = precompute.processes(device)
    quiet = as_json or not state.is_main_process
    try:
        common.TRUNCATION("truncation", truncation)
        if bool(layer) == all_layers:
            raise InputError("name layers with --layer, or take --all-layers")
        model = common.load(generator, device, quiet)
        rules = common.rules_for(rule, model)
        recipes = {}
        for name in layer or model.layers:
            recipe = Recipe.for_channels(model.layer(name).in_channels) if count is None else Recipe(count)
            recipes[name] = replace(recipe, places=places, first_seed=first_seed)
        with common.progress(quiet) as job:
            how: dict[str, Any] = {"truncation": truncation, "rules": rules, "on_step": job("pictures")}
            measured = precompute.measure(Statistics(model), recipes, **how)
    except RewriterError:
        if state.is_main_process:
            raise
        raise typer.Exit(2) from None  # the main process reports the error
    if state.is_main_process:
        report = {"generator": model.name, "fingerprint": model.fingerprint, "truncation": truncation}
        layers = [each.to_json() for each in measured]
        common.say(as_json, {**report, "layers": layers}, "\n".join(each.in_words() for each in measured))
    state.destroy_process_group()


def benchmark(
    what: Annotated[
        str, typer.Argument(metavar="[machine|serve]", help="The machine, or its page under a load of visitors.")
    ] = "machine",
    resolution: Annotated[int, typer.Option(help="Of the generator with config-f channels: 64 to 1024 px.")] = 256,
    device: common.Device = None,
    out: Annotated[Path | None, typer.Option(help="Write benchmark.json and .md, or serve.json and .md, here.")] = None,
    visitors: Annotated[str, typer.Option(help="serve: numbers of visitors at once.")] = "1,20,100,500",
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="serve: for each number.")] = 60.0,
    pause: Annotated[float, typer.Option(min=0, max=600, help="serve: mean seconds between a visitor's clicks.")] = 1.0,
    workers: Annotated[int, typer.Option(min=0, help="serve: processes of our own server that work.")] = 2,
    form: Annotated[str, typer.Option(help="serve: of the rules; auto: the machine chooses.")] = "weight",
    settle: Annotated[
        float, typer.Option(min=0, max=3600, help="serve: seconds after the visitors left, until memory is measured.")
    ] = 10.0,
    lookers: Annotated[int, typer.Option(min=1, help="serve: visitors who only look.")] = 500,
    url: Annotated[str, typer.Option(help="serve: a server that runs already; default: our own.")] = "",
    as_json: common.Json = False,
) -> None:
    """Time everything on this machine: edits by method, statistics, pictures, rules. Takes some minutes.

    `rewriter benchmark serve` is a load test of the page instead: visitors by script, over HTTP. It ends with status 1
    if a click was lost, or somebody got pictures that are not their own.
    """
    if what not in ("machine", "serve"):
        raise InputError(f"there is no benchmark {what!r}: choose machine or serve")
    name = "benchmark" if what == "machine" else what
    if out is not None:
        check_writable(out / f"{name}.json")
    failed = False
    if what == "serve":
        from rewriter.evaluation import serve  # late: only this command needs the evaluation

        plan = serve.Plan(_numbers(visitors), seconds, pause, workers, form, settle, url, lookers)
        report = serve.serve(plan, on_row=lambda row: typer.echo(row, err=True))
        table, failed = serve.markdown(report), bool(serve.failures(report))
    else:
        report, table = _machine(resolution, device)
    if out is not None:
        write_json(report, out / f"{name}.json")
        write_text(f"{table}\n", out / f"{name}.md")
    common.say(as_json, report, table)
    if failed:
        raise typer.Exit(1)


def _machine(resolution: int, device: str | None) -> tuple[dict[str, Any], str]:
    """The times on this machine, and the same as tables."""
    from rewriter.evaluation import benchmark as timing

    if resolution not in (64, 128, 256, 512, 1024):
        raise InputError(f"resolution {resolution}: choose 64, 128, 256, 512 or 1024")
    devices = [device] if device else list(dict.fromkeys(["cpu", default_device().type]))
    report = timing.benchmark(resolution, devices=devices, on_row=lambda row: typer.echo(row, err=True))
    return report, timing.markdown(report)


def _numbers(text: str) -> tuple[int, ...]:
    """Numbers of visitors, such as "1,20"."""
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if not all(1 <= number <= MOST_VISITORS for number in numbers):
        raise InputError(f"--visitors {text!r}: numbers from 1 to {MOST_VISITORS:,}, such as 1,20,100")
    return tuple(numbers)


def _table(rows: Sequence[Mapping[str, Any]], failed: Mapping[str, str]) -> str:
    """Layers with their figures, best first, then the layers at which the edit is not possible, with the reason."""
    lines = [f"{'layer':8} {'score':>7} {'likeness':>9} {'elsewhere':>10}"]
    for row in rows:
        spill = f"{'all marked':>10}" if row["spill"] is None else f"{row['spill']:6.2f}/255"
        lines.append(f"{row['layer']:8} {row['score']:7.2f} {row['likeness']:9.0%} {spill}")
    return "\n".join([*lines, *(f"{layer:8} cannot: {why}" for layer, why in failed.items())])


def _session(file: str, generator: str | None, device: str | None, quiet: bool, *, complete: bool = False) -> Rewriter:
    """A session in which a file's last edit is in progress and its earlier ones are executed."""
    edits = common.edits_of(file, generator)
    model = common.generator_of(edits, generator, device, quiet)
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
