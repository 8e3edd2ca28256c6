"""Commands that look into an edit or a machine: suggest, search, benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from rewriter import describe, pictures
from rewriter.cli.common import Device, EditGenerator, Json, edits_of, generator_of, progress, say
from rewriter.errors import InputError
from rewriter.evaluation import benchmark as timing
from rewriter.execute import check
from rewriter.files import check_writable, replacing
from rewriter.generators.latents import SEEDS
from rewriter.hub import default_device
from rewriter.session import Rewriter

EditFile = Annotated[str, typer.Argument(help="An edit file or a shipped edit; of several, the last.")]


def suggest(
    edit: EditFile,
    generator: EditGenerator = None,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="The strip of pictures (PNG).")] = Path("layers.png"),
    as_json: Json = False,
) -> None:
    """Try an edit at every layer: a table, best first, and a strip of pictures."""
    check_writable(out)
    session = _session(edit, generator, device, complete=True)
    with progress(as_json) as job:
        before = session.sample([session.marked])
        found = session.suggest(on_step=job("layers"))
    done = [one for one in found if one.picture is not None]
    drawn = torch.cat([before, *(one.picture[None] for one in done if one.picture is not None)])
    captions = ["before", *(f"{one.layer}: {one.score:.2f}" for one in done)]
    pictures.save_png(pictures.sheet(drawn, captions, columns=len(captions), title=edit), out)
    rows = [
        {"layer": one.layer, "score": one.score, "effect": one.effect, "side_effect": one.side_effect} for one in done
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
    """Find the pictures in which an edit's context fires most, and show where."""
    if count < 1 or not 0 <= first <= SEEDS - count:
        raise InputError(f"{count} pictures from seed {first}: seeds go from 0 to {SEEDS - 1:,}")
    check_writable(out)
    session = _session(edit, generator, device)
    with progress(as_json) as job:
        step = job("pictures")
        found = session.search(k, seeds=range(first, first + count), on_step=lambda done, of, best: step(done, of))
        matches = session.matches_on([one.seed for one in found])
    rows = [session.sample([one.seed for one in found]), torch.stack([one.overlay for one in matches])]
    captions = [f"{one.seed}: {one.score:.2f}" for one in found]
    pictures.save_png(pictures.stacked(rows, captions, columns=min(8, len(found)), title=f"{edit}: best matches"), out)
    data: list[dict[str, Any]] = [{"seed": one.seed, "score": one.score, "at": list(one.at)} for one in found]
    listed = "\n".join(f"  {one.seed:6}  {one.score:.2f} times as strong as on the contexts" for one in found)
    say(as_json, {"edit": edit, "found": data, "out": str(out)}, f"{listed}\npictures: {out}")


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
    with progress(as_json) as job:
        report = timing.benchmark(resolution, device=device or default_device(), on_step=lambda name: job(name)(0, 1))
    table = timing.markdown(report)
    for name, text in (("benchmark.json", json.dumps(report, indent=1)), ("benchmark.md", table)):
        if out is not None:
            with replacing(out / name) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
    say(as_json, report, table)


def _session(file: str, generator: str | None, device: str | None, *, complete: bool = False) -> Rewriter:
    """A session with the last of a file's edits in progress, made after the others."""
    *earlier, last = edits_of(file)
    model = generator_of([*earlier, last], generator, device)
    session = Rewriter(model, last.layer if last.layer in model.layers else None, truncation=last.truncation)
    for edit in earlier:
        session.use(edit)
        session.execute()
        session.begin()
    if complete:
        check(model, last)
    session.use(last)
    return session
