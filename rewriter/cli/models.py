"""Commands about generators: `generators` lists them, `convert` writes one in another form."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rewriter.checkpoints import SUFFIXES, store
from rewriter.checkpoints.catalogue import Entry, built_ins, catalogue
from rewriter.checkpoints.client import quiet
from rewriter.checkpoints.config import CONFIG
from rewriter.checkpoints.download import cached, hash_of
from rewriter.checkpoints.layouts import NAMES, remarks, suffixes_of
from rewriter.cli.common import Json, doubted, load, rules_for, say
from rewriter.editing.twin import approximation
from rewriter.errors import InputError
from rewriter.files import check_writable
from rewriter.generators.base import Generator
from rewriter.generators.origin import FoldedRule
from rewriter.hub.browse import listed

CLAMP = "Clamp of the features, if the file does not store it: 256 for StyleGAN2-ADA."
RATE = "Relative learning rate of the mapping network, if the file does not store it and it was not 0.01."


def generators(
    published: Annotated[bool, typer.Option("--published", help="List those that people published.")] = False,
    check: Annotated[Path | None, typer.Option(help="Say what this checkpoint file is, and how sure that is.")] = None,
    conv_clamp: Annotated[float | None, typer.Option(help=f"With --check. {CLAMP}")] = None,
    mapping_rate: Annotated[float | None, typer.Option(help=f"With --check. {RATE}")] = None,
    as_json: Json = False,
) -> None:
    """List the generators that --generator takes by name: size, licence, and whether they are downloaded.

    A catalogue of your own, in the form of checkpoints.json, adds to them: --catalogue FILE, or REWRITER_CATALOGUE.
    """
    if check is not None:
        from rewriter.cli.check import check as page  # late: a list of names need not wait for it

        say(as_json, *page(check, as_json, conv_clamp=conv_clamp, mapping_rate=mapping_rate))
        return
    if conv_clamp is not None or mapping_rate is not None:
        raise InputError("--conv-clamp and --mapping-rate belong to --check FILE")
    if published:
        _published(as_json)
        return
    rows = [_row(entry) for entry in catalogue().values()]
    columns = ("id", "title", "resolution", "size", "here", "licence")
    head, *lines = _table(columns, [[_cell(name, row[name]) for name in columns] for row in rows])
    notes = [f"  {row['id']}: {row['note']}" for row in rows if row["note"] and row["here"] != "yourself"]
    own = "“yourself”: not on the Hub; get the file from its authors and give its path"
    hint = "Draw with one:  rewriter sample --generator church   (downloads it once)"
    say(as_json, {"generators": rows}, "\n".join([head, *lines, "", *notes, f"  {own}", "", hint]))


def _published(as_json: bool) -> None:
    quiet()
    found = [vars(each) for each in listed()]
    columns = ("repo_id", "base", "modified", "likes")
    seen = [{**row, "likes": f"{row['likes']}{' · private' if row['private'] else ''}"} for row in found]
    lines = _table(columns, [[str(row[name]) for name in columns] for row in seen])
    hint = "Draw with one:  rewriter sample --generator USER/NAME"
    none = "No public one yet. Be the first: rewriter publish --help"
    say(as_json, {"published": found}, "\n".join([*lines, "", hint]) if found else none)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as wide as their columns."""
    widths = [max(len(line[i]) for line in [columns, *rows]) for i in range(len(columns))]
    lines = ([f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)] for line in [columns, *rows])
    return ["  ".join(cells).rstrip() for cells in lines]


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A checkpoint, a folder, or a catalogue name.")],
    out: Annotated[Path, typer.Argument(help="A folder; or a file: .safetensors, or .pt or .pkl with --layout.")],
    layout: Annotated[str | None, typer.Option(help=f"Others' tools: {', '.join(NAMES)}.")] = None,
    rule: Annotated[list[Path] | None, typer.Option(help="A rule file to fold into the weights; repeatable.")] = None,
    conv_clamp: Annotated[float | None, typer.Option(help=CLAMP)] = None,
    mapping_rate: Annotated[float | None, typer.Option(help=RATE)] = None,
    as_json: Json = False,
) -> None:
    """Write a generator as a folder (config.json, model.safetensors), or as a file for other people's tools.

    The folder loads faster than most published files, and --generator takes its path. It is the same generator: its
    fingerprint does not change, and edits and rules made on one work on the other.
    """
    _check_form(out, layout)
    if out.exists() and os.path.exists(source) and os.path.samefile(source, out):
        raise InputError(f"{out} is what is to be converted: give the new one another name")
    check_writable(out if layout or _is_file(out) else out / CONFIG)
    model = load(source, "cpu", as_json, conv_clamp=conv_clamp, mapping_rate=mapping_rate)
    if Path(source).is_file() and model.origin.sha256 is None:
        model.origin = replace(model.origin, sha256=hash_of(Path(source)))
    rules = rules_for(rule, model)
    made = model.rewritten(rules) if rules else model
    if rules:  # licences ask that a derivative says what was changed
        own = [FoldedRule(r.edit.title if r.edit else "", r.layer, r.rank, r.strength) for r in rules]
        made.origin = replace(model.origin, rules=(*model.origin.rules, *own))
    differs = approximation(model, rules)
    remarks = [
        *_write(made, out, layout),
        *([differs] if differs else []),
        *doubted(model, source, mapping_rate=mapping_rate),
    ]
    data = {"out": str(out), "generator": model.name, "fingerprint": made.fingerprint, "remarks": remarks}
    folded = f" with {len(rules)} rule{'s' * (len(rules) > 1)} folded in" if rules else ""
    words = f"{model.name}{folded} is in {out}, fingerprint {made.fingerprint[:12]}"
    say(as_json, data, "\n".join([words, *remarks]))


def _is_file(out: Path) -> bool:
    """Whether this is the name of a file and not of a folder, which may have a dot in its name."""
    return out.suffix in SUFFIXES and not out.is_dir()


def _check_form(out: Path, layout: str | None) -> None:
    """Raise InputError, before any download, for a file name that does not fit the layout."""
    if layout is not None and layout not in NAMES:
        raise InputError(f"{layout!r} is no layout: choose {', '.join(NAMES)}")
    if layout is None and _is_file(out) and out.suffix != ".safetensors":
        raise InputError(f"{out} is a file for other people's tools: choose one with --layout, or name a folder")
    if layout is not None and out.suffix not in suffixes_of(layout):
        wanted = f"its name must end in {suffixes_of(layout)[0]}"
        raise InputError(f"{out} with --layout {layout} is a file for other people's tools: {wanted}")


def _write(model: Generator, out: Path, layout: str | None) -> list[str]:
    """Write the generator; returns remarks on what the form cannot store."""
    if layout is None:
        (store.write_weights if _is_file(out) else store.save)(model, out)
        return []
    store.export(model, out, layout)
    return remarks(model, layout)


def _row(entry: Entry) -> dict[str, Any]:
    path = cached(entry) if entry.id not in built_ins() else Path()
    here = "built in" if entry.id in built_ins() else "yes" if path else "no" if entry.remote else "yourself"
    size = path.stat().st_size if path and entry.size is None else entry.size
    return {**asdict(entry.origin), "size": size, "here": here, "licence": entry.licence.id}


def _cell(name: str, value: Any) -> str:
    if name == "size":
        return "–" if value is None else f"{value / 1e6:.1f} MB"
    return f"{value} px" if name == "resolution" else str(value)
