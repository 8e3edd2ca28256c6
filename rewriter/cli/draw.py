"""Commands that draw: sample, apply, inspect."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from rewriter import pictures, worlds
from rewriter.checkpoints.catalogue import built_ins
from rewriter.checkpoints.store import write_weights
from rewriter.cli import collection, common, describe
from rewriter.editing.choose import execute
from rewriter.editing.edit import AUTO, Edit
from rewriter.editing.effect import effect_in_words, firing
from rewriter.editing.provenance import check_complete, with_default_layer
from rewriter.editing.rule import Rule, carried_rules
from rewriter.editing.session import Rewriter, by_hand
from rewriter.editing.statistics import Statistics
from rewriter.editing.stroke import MOST_UNITS, with_units
from rewriter.editing.twin import approximation
from rewriter.errors import InputError, OnStep
from rewriter.files import check_writable
from rewriter.generators.base import Generator
from rewriter.generators.latents import parse_seeds
from rewriter.memory import FORMS, SOLVERS
from rewriter.worlds import gate

SHEET = 24
FORM = (
    f"What to make: {', '.join(FORMS)} or {AUTO}. weight: a change of W, as in the paper. gated: one that acts only "
    "where the context is. template: copied values, recalled at places that look like the marked ones. auto: try them "
    "at several layers and keep the best. Default: the edit's own."
)
UNITS = "numbers from 0 as in 3,17,40-42"
BUDGET = "Most that may change elsewhere, on average in 1/255: the rule is made gentler until that holds."
Requests = Sequence[tuple[str, Edit]]  # edits, each with a name to report it by


def sample(
    generator: common.GeneratorName = "townscape",
    seeds: Annotated[str | None, typer.Option(help="Pictures for a sheet, e.g. 0-23,40; 0-23 if not given.")] = None,
    rule: Annotated[list[Path] | None, typer.Option(help="A rule file to apply; may be repeated.")] = None,
    count: Annotated[int | None, typer.Option(help="Write this many numbered pictures into the folder --out.")] = None,
    first: Annotated[int, typer.Option(help="First seed of such a collection.")] = 0,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="With --count and --rule: each picture before and after.")
    ] = False,
    truncation: common.Truncation = 1.0,
    device: common.Device = None,
    out: Annotated[Path | None, typer.Option(help="The sheet (sample.png), or the folder for --count.")] = None,
    as_json: common.Json = False,
) -> None:
    """Draw pictures: a sheet of some seeds, or a collection of numbered files, which resumes if interrupted."""
    common.TRUNCATION("truncation", truncation)
    if count is not None and (seeds is not None or out is None):
        raise InputError("a collection takes --count N --out FOLDER, and --first instead of --seeds")
    if count is None and pairs:
        raise InputError("--pairs belongs to a collection: add --count N --out FOLDER and a --rule")
    target = out or Path("sample.png")
    wanted = parse_seeds(seeds or "0-23", most=400)
    check_writable(target / collection.MANIFEST if count is not None else target)
    model = common.load(generator, device, as_json)
    model.rules = tuple(common.rules_for(rule, model))
    if count is not None:
        with common.progress(as_json) as job:
            plan = collection.Collection(target, first, count, truncation=truncation, pairs=pairs)
            new = collection.draw(model, plan, on_step=job("pictures"))
        report = {"out": str(target), "pictures": count, "drawn": new}
        common.say(as_json, report, f"{count} pictures in {target}, {new} new")
        return
    drawn = model.sample(wanted, truncation=truncation)
    pictures.save_png(pictures.sheet(drawn, [str(seed) for seed in wanted]), target)
    remarks = common.doubted(model, generator, drawn if truncation == 1 and len(wanted) > 1 else None)
    report = {"out": str(target), "seeds": wanted, "remarks": remarks}
    common.say(as_json, report, "\n".join([f"{len(wanted)} pictures of {model.name} in {target}", *remarks]))


def apply(
    edits: Annotated[list[str], typer.Argument(help="Edit files or shipped names, one after the other.")],
    generator: common.EditGenerator = None,
    strength: Annotated[float | None, typer.Option(help="-1 to 2; 0 is the base and 1 the rule.")] = None,
    rank: Annotated[int | None, typer.Option(help="Number of directions that may change.")] = None,
    smoothness: Annotated[float | None, typer.Option(help="Higher protects the rest of the picture more.")] = None,
    method: Annotated[str | None, typer.Option(help=f"One of: {', '.join(SOLVERS)}.")] = None,
    form: Annotated[str | None, typer.Option(help=FORM)] = None,
    budget: Annotated[float | None, typer.Option(help=BUDGET)] = None,
    layer: Annotated[str | None, typer.Option(help="Layer to rewrite, or with --form auto to start from.")] = None,
    truncation: Annotated[float | None, typer.Option(help="Truncation instead of the edit's own.")] = None,
    units: Annotated[str | None, typer.Option(help=f"Units of a recording that names none: {UNITS}.")] = None,
    units_layer: Annotated[str | None, typer.Option(help="Their layer; the edit's own if not given.")] = None,
    erase: Annotated[bool, typer.Option("--erase", help="Erase what is at the pasted place.")] = False,
    photo: Annotated[list[Path] | None, typer.Option(help="A photo that an edit points at, or what was found.")] = None,
    device: common.Device = None,
    out: Annotated[Path, typer.Option(help="The before/after sheet (PNG).")] = Path("rewritten.png"),
    save_rule: Annotated[Path | None, typer.Option(help="Write the rule (safetensors); numbered if several.")] = None,
    save_model: Annotated[Path | None, typer.Option(help="Write the rewritten generator's plain weights.")] = None,
    save_session: Annotated[Path | None, typer.Option(help="Write all rules as a session, to continue later.")] = None,
    as_json: common.Json = False,
) -> None:
    """Apply edits to a generator: report what they did, and draw unseen pictures before and after.

    An edit file was written by this package, or recorded by the original implementation (add --generator and --layer;
    for recorded unit interventions, --units and perhaps --units-layer too).
    Shipped edits of portraits: frown-to-smile, add-glasses, hats-for-all, bushy-brows, remove-earrings,
    no-shadow-under-hats, remove-stamp. Of towns: dome-to-spire, dome-to-tree, add-tree, no-light-on-ground,
    door-in-the-sky, remove-watermark, watermark-units-off, and grand-tour, three in succession. Of faces: glasses,
    hat, smile.
    """
    options: dict[str, Any] = {"strength": strength, "rank": rank, "smoothness": smoothness, "method": method}
    options |= {"layer": layer, "truncation": truncation, "form": form, "budget": budget}
    given = {name: value for name, value in options.items() if value is not None}
    given |= {"kind": "erase", "copy": None} if erase else {}
    requests = _requests(edits, given, generator)
    rule_files = _numbered(save_rule, len(requests))
    _check_outputs(out, [*rule_files, *filter(None, [save_model, save_session])])
    model = common.generator_of([edit for _, edit in requests], generator, device, as_json)
    if photo:
        from rewriter.cli.photo import with_photos  # late: few need it

        model = with_photos(model, photo, as_json)
    if layer is None:
        requests = [(name, with_default_layer(model, edit)) for name, edit in requests]
    requests = _with_units(model, requests, units, units_layer)
    for _, edit in requests:
        check_complete(model, edit)
    earlier, psi = carried_rules(model), requests[0][1].truncation
    with common.progress(as_json) as job:
        made = _replay(model, requests, earlier, rule_files, job)
        session = Rewriter(model, truncation=psi, rules=[*earlier, *made])
        folded = ""
        if save_model is not None:
            write_weights(model.rewritten([*earlier, *made]), save_model)
            folded = approximation(model, [*earlier, *made])
        if save_session is not None:
            session.save(save_session)
        shown = _sheet(model, [*earlier, *made], psi, " + ".join(edits), out, job("unseen pictures"))
    named = [(name, rule) for (name, _), rule in zip(requests, made, strict=True)]
    results = [_result(name, model, rule, out) for name, rule in named]
    remarks = session.remarks() + ([f"{save_model}: {folded}"] if folded else [])
    remarks += common.doubted(model, generator or "")
    report = {**results[-1], "remarks": remarks, **({"edits": results} if len(results) > 1 else {})}
    words = [*(effect_in_words(name, rule) for name, rule in named), *remarks]
    saved = [*(("rule", path) for path in rule_files), ("weights", save_model), ("session", save_session)]
    words += [f"{what} saved: {path}" for what, path in saved if path]
    common.say(as_json, report, "\n".join([*words, f"{shown} pictures before and after saved: {out}"]))


def inspect(
    file: Annotated[str, typer.Argument(help="A rule or edit file, a shipped edit, or a generator.")],
    seeds: Annotated[int, typer.Option(help="Pictures to judge the built-in generator by.")] = 1000,
    as_json: common.Json = False,
) -> None:
    """Describe a rule, an edit or a generator; for a built-in one also how well it draws each thing."""
    load = cache(lambda name: common.load(name, None, as_json))
    data, words = describe.describe(file, common.edits_of, load)
    if file in built_ins() and (world := worlds.of(load(file))):
        first = gate.UNSEEN.start
        if not 1 <= seeds <= 10_000:
            raise InputError(f"the generator is judged by 1 to 10,000 pictures, not {seeds}")
        with common.progress(as_json) as job:
            shares = gate.things_drawn(world, load(file), range(first, first + seeds), on_step=job("pictures"))
        data["things"] = {thing: share.share if share.pixels else None for thing, share in shares.items()}
        words += "\n\n" + gate.table(shares)
    common.say(as_json, data, words)


def _requests(files: Sequence[str], given: dict[str, Any], generator: str | None) -> list[tuple[str, Edit]]:
    """The edits of the files with the options given, each with a name to report it by."""
    requests: list[tuple[str, Edit]] = []
    for file in files:
        found = [edit.with_(**by_hand(edit, given)) for edit in common.edits_of(file, generator)]
        several = [f"{file}, {i}: {edit.title or edit.kind}" for i, edit in enumerate(found, start=1)]
        requests += zip(several if len(found) > 1 else [file], found, strict=True)
    if given:  # later edits name the earlier rules that they were made after, and the options change those
        requests = [(name, edit.with_(after=()) if i else edit) for i, (name, edit) in enumerate(requests)]
    return requests


def _with_units(model: Generator, requests: Requests, units: str | None, layer: str | None) -> list[tuple[str, Edit]]:
    """The edits, with the units given in those that lack some; InputError if none does."""
    if units is None:
        if layer is not None:
            raise InputError(f"--units-layer {layer} belongs to --units: add --units 3,17,42")
        return list(requests)
    if not any(_lacks_units(edit) for _, edit in requests):
        raise InputError("--units belongs to a recording of unit interventions that names none: leave it out")
    chosen = parse_seeds(units, most=MOST_UNITS, what="units")
    return [
        (name, edit.with_(strokes=with_units(model, edit.strokes, chosen, layer)) if _lacks_units(edit) else edit)
        for name, edit in requests
    ]


def _lacks_units(edit: Edit) -> bool:
    return any(not each.units for each in edit.strokes)


def _check_outputs(sheet: Path, others: Sequence[Path]) -> None:
    """Raise InputError, before any work, for outputs that cannot be written or would overwrite each other."""
    outputs = [sheet, *others]
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise InputError(f"two outputs have the same name ({', '.join(map(str, outputs))}): give each its own")
    for path in others:
        if path.suffix != ".safetensors":
            raise InputError(f"{path} should end in .safetensors, the format of rules, models and sessions")
    for path in outputs:
        check_writable(path)


def _replay(
    model: Generator, requests: Requests, earlier: Sequence[Rule], files: Sequence[Path], job: common.Job
) -> list[Rule]:
    """The edits one after the other, on top of earlier rules; each rule is written as soon as it is made."""
    made: list[Rule] = []
    statistics = Statistics(model)
    for i, (name, edit) in enumerate(requests):
        doing = "trying forms and layers" if edit.form == AUTO else "solving"
        before, solving, measuring = [*earlier, *made], job(f"{name}: {doing}"), job(f"{name}: measuring {edit.layer}")
        made.append(execute(model, edit, rules=before, statistics=statistics, on_step=solving, on_statistics=measuring))
        if files:
            made[-1].save(files[i])
    return made


def _numbered(path: Path | None, count: int) -> list[Path]:
    """The path itself for one, path-1, path-2 … for several; none for None."""
    if path is None:
        return []
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{i + 1}") for i in range(count)]


def _sheet(model: Generator, rules: Sequence[Rule], truncation: float, title: str, out: Path, on_step: OnStep) -> int:
    """Before and after: the first 16 unseen seeds in which the context matches and the first 8 in which it does not."""
    hits, misses = firing(model, rules, hits=SHEET * 2 // 3, misses=SHEET // 3, truncation=truncation, on_step=on_step)
    seeds = [*hits, *misses]
    before, after = (model.sample(seeds, truncation=truncation, rules=own) for own in ([], rules))
    image = pictures.before_after(before, after, seeds, firing=len(hits), title=f"{title}: before above after")
    pictures.save_png(image, out)
    return len(seeds)


def _result(name: str, model: Generator, rule: Rule, out: Path) -> dict[str, Any]:
    assert rule.effect is not None and rule.edit is not None  # replay sets both
    figures = {key: value for key, value in rule.effect.to_json().items() if key not in ("pictures", "places")}
    about = {"edit": name, "generator": model.name, "layer": rule.layer, "form": rule.edit.form, "rank": rule.rank}
    return {**about, "method": rule.edit.method, **figures, "out": str(out)}
