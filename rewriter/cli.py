"""The command line: sample, apply, inspect, stats. The only printer of the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from rewriter import collection, describe, pictures, townscape
from rewriter import stats as statistics_job
from rewriter.checkpoints.read import write_checkpoint
from rewriter.edit import Edit
from rewriter.effect import firing
from rewriter.errors import InputError, RewriterError
from rewriter.files import check_writable
from rewriter.generators.base import Generator
from rewriter.hub import BUILT_IN, load_generator
from rewriter.memory.statistics import Recipe, Statistics
from rewriter.rule import Rule
from rewriter.session import check, replay

app = typer.Typer(
    help="Rewrite the rules of a pretrained image generator.\n\n"
    "An edit says what to copy, where to paste it and in which context; applying it changes the model, "
    "not a picture.\n\n\b\nStart with:\n  rewriter apply dome-to-spire --out town.png",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of words.")]
GeneratorName = Annotated[str, typer.Option(help="townscape, or the path of a checkpoint.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; default: what accelerate finds.")]
Truncation = Annotated[float, typer.Option(help="1: as trained; towards 0: closer to the average picture.")]
SHEET = 24


@app.command()
def sample(
    generator: GeneratorName = "townscape",
    seeds: Annotated[str | None, typer.Option(help="Pictures for a sheet, e.g. 0-23,40; 0-23 if not given.")] = None,
    rule: Annotated[list[Path] | None, typer.Option(help="A rule file to apply; may be repeated.")] = None,
    count: Annotated[int | None, typer.Option(help="Write so many numbered pictures into the folder --out.")] = None,
    first: Annotated[int, typer.Option(help="First seed of such a collection.")] = 0,
    pairs: Annotated[bool, typer.Option("--pairs", help="With --rule: each picture before and after.")] = False,
    truncation: Truncation = 1.0,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="The sheet (sample.png), or the folder for --count.")] = None,
    as_json: Json = False,
) -> None:
    """Draw a sheet of seeds, or a whole collection: numbered files and a manifest; a stopped one goes on."""
    _check_truncation(truncation)
    if count is not None and (seeds is not None or out is None):
        raise InputError("a collection takes --count N --out FOLDER, and --first instead of --seeds")
    if count is None and pairs:
        raise InputError("--pairs belongs to a collection: add --count N --out FOLDER and a --rule")
    target = out or Path("sample.png")
    wanted = parse_seeds(seeds or "0-23")
    check_writable(target / collection.MANIFEST if count is not None else target)
    model = load_generator(generator, device=device)
    model.rules = tuple(_load_rule(path, model) for path in rule or [])
    if count is not None:
        with _progress(as_json) as progress:
            plan = collection.Collection(target, first, count, truncation=truncation, pairs=pairs)
            drawn = collection.draw(model, plan, on_step=progress("pictures"))
        report = {"out": str(target), "pictures": count, "drawn": drawn}
        _say(as_json, report, f"{count} pictures in {target}, {drawn} new")
        return
    image = pictures.sheet(model.sample(wanted, truncation=truncation), [str(seed) for seed in wanted])
    pictures.save_png(image, target)
    _say(as_json, {"out": str(target), "seeds": wanted}, f"{len(wanted)} pictures of {model.name} in {target}")


@app.command()
def apply(
    edits: Annotated[list[str], typer.Argument(help="Edit files or shipped names, one after the other.")],
    generator: Annotated[str | None, typer.Option(help="Default: the one that the first edit names.")] = None,
    strength: Annotated[float | None, typer.Option(help="-1 to 2; 0 is the base and 1 the rule.")] = None,
    rank: Annotated[int | None, typer.Option(help="Number of directions that may change.")] = None,
    smoothness: Annotated[float | None, typer.Option(help="Higher protects the rest of the picture more.")] = None,
    method: Annotated[str | None, typer.Option(help="least-squares, projected, direct or unconstrained.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer to rewrite instead of the edit's own.")] = None,
    device: Device = None,
    out: Annotated[Path, typer.Option(help="The before/after sheet (PNG).")] = Path("rewritten.png"),
    save_rule: Annotated[Path | None, typer.Option(help="Write the rule (safetensors); numbered if several.")] = None,
    save_model: Annotated[Path | None, typer.Option(help="Write the rewritten generator's plain weights.")] = None,
    as_json: Json = False,
) -> None:
    """Apply edits to a generator, say what they did, and draw unseen pictures before and after.

    Shipped edits: dome-to-spire, remove-watermark.
    """
    options = {"strength": strength, "rank": rank, "smoothness": smoothness, "method": method, "layer": layer}
    given = {name: value for name, value in options.items() if value is not None}
    requests = [_load_edit(name).with_(**given) for name in edits]
    rule_files = _numbered(save_rule, len(requests))
    for path in (out, *rule_files, *filter(None, [save_model])):
        if path is not out and path.suffix != ".safetensors":
            raise InputError(f"{path} should end in .safetensors: that is what rules and models are written as")
        check_writable(path)
    model = _generator_of(requests[0], generator, device)
    for edit in requests:
        check(model, edit)
    rules: list[Rule] = []
    with _progress(as_json) as progress:
        statistics = Statistics(model, truncation=requests[0].truncation)
        for i, (name, edit) in enumerate(zip(edits, requests, strict=True)):
            solving, measuring = progress(f"{name}: solving"), progress(f"{name}: statistics of {edit.layer}")
            on_step = _forget_loss(solving)
            rules.append(
                replay(model, edit, rules=rules, statistics=statistics, on_step=on_step, on_statistics=measuring)
            )
            if rule_files:
                rules[-1].save(rule_files[i])
        if save_model is not None:
            write_checkpoint(model.rewritten(rules), save_model)
        title, looking = " + ".join(edits), progress("unseen pictures")
        shown = _sheet(model, rules, requests[0].truncation, title, out, looking)
    results = [_result(name, model, rule, out) for name, rule in zip(edits, rules, strict=True)]
    report: dict[str, Any] = {**results[-1], **({"edits": results} if len(results) > 1 else {})}
    words = [describe.effect_in_words(name, rule) for name, rule in zip(edits, rules, strict=True)]
    _say(as_json, report, "\n".join([*words, f"{shown} pictures before and after: {out}"]))


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="A rule or edit file, a shipped edit, or a generator.")],
    seeds: Annotated[int, typer.Option(help="Pictures to judge the built-in generator by.")] = 1000,
    as_json: Json = False,
) -> None:
    """Say what a rule, an edit or a generator is; for townscape also how well it draws each thing."""
    data, words = describe.describe(file, _load_edit)
    if file == "townscape":
        first = townscape.gate.UNSEEN.start
        if not 1 <= seeds <= 10_000:
            raise InputError(f"the generator is judged by 1 to 10,000 pictures, not {seeds}")
        with _progress(as_json) as progress:
            judged = range(first, first + seeds)
            shares = townscape.gate.things_drawn(load_generator(file), judged, on_step=progress("pictures"))
        data["things"] = {thing: share.share if share.pixels else None for thing, share in shares.items()}
        words += "\n\n" + townscape.gate.table(shares)
    _say(as_json, data, words)


@app.command(
    epilog="\b\nOver several GPUs: accelerate launch -m rewriter stats --all-layers\n"
    "Over processes of one CPU: torchrun --nproc-per-node 2 -m rewriter stats --all-layers"
)
def stats(
    generator: GeneratorName = "townscape",
    layer: Annotated[list[str] | None, typer.Option(help="A layer to measure; may be repeated.")] = None,
    all_layers: Annotated[bool, typer.Option("--all-layers", help="Every layer, in one pass.")] = False,
    count: Annotated[int | None, typer.Option("--pictures", help="Default: what an edit uses.")] = None,
    places: Annotated[int, typer.Option(help="Random places of each picture.")] = 16,
    first_seed: Annotated[int, typer.Option(help="First picture.")] = 0,
    truncation: Truncation = 1.0,
    rule: Annotated[list[Path] | None, typer.Option(help="A rule that is in force; may be repeated.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure the statistics of layers before they are edited; a stopped job goes on where it was."""
    together = statistics_job.processes(device)
    try:
        _check_truncation(truncation)
        if bool(layer) == all_layers:
            raise InputError("name layers with --layer, or take --all-layers")
        model = load_generator(generator, device=device)
        rules = [_load_rule(path, model) for path in rule or []]
        recipes = {
            name: replace(
                Recipe.for_layer(model.layer(name)) if count is None else Recipe(count),
                places=places,
                first_seed=first_seed,
            )
            for name in layer or model.layers
        }
        with _progress(as_json or not together.is_main_process) as progress:
            own = Statistics(model, truncation=truncation)
            measured = statistics_job.measure(own, recipes, rules=rules, on_step=progress("pictures"))
    except RewriterError:
        if together.is_main_process:
            raise
        raise typer.Exit(2) from None  # the main process says it for all
    if together.is_main_process:
        report = {"generator": model.name, "fingerprint": model.fingerprint, "truncation": truncation}
        layers = [each.to_json() for each in measured]
        _say(as_json, {**report, "layers": layers}, "\n".join(each.in_words() for each in measured))
    together.destroy_process_group()


def parse_seeds(text: str) -> list[int]:
    """Seeds as people write them: "0-3, 8" → [0, 1, 2, 3, 8].

    Raises:
        InputError: anything else, or more than 400 seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if not (low.isdecimal() and (high or low).isdecimal() and len(low) < 7 and len(high) < 7):
            raise InputError(f"seeds {text!r} are not like 0-23,40")
        if int(high or low) < int(low):
            raise InputError(f"seeds {part.strip()!r} run backwards: write the smaller one first")
        seeds += range(int(low), int(high or low) + 1)
        if len(seeds) > 400:
            raise InputError(f"seeds {text!r} are more than 400 for one sheet: use --count N --out FOLDER")
    return seeds


def _check_truncation(truncation: float) -> None:
    if not 0 <= truncation <= 2:
        raise InputError(f"truncation is a number from 0 to 2, not {truncation}")


def _load_edit(name: str) -> Edit:
    shipped = townscape.examples()
    return Edit.load(shipped.get(name, Path(name)))


def _generator_of(edit: Edit, name: str | None, device: str | None) -> Generator:
    """The generator asked for, or the one that the edit names."""
    if name is None and edit.generator not in BUILT_IN and not Path(edit.generator).exists():
        made_on = f"the edit was made on {edit.generator!r} (fingerprint {edit.fingerprint[:12] or 'unknown'})"
        raise InputError(f"{made_on}: name its file with --generator")
    return load_generator(name or edit.generator, device=device)


def _numbered(path: Path | None, count: int) -> list[Path]:
    """The path itself for one, path-1, path-2 … for several; none for None."""
    if path is None:
        return []
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{i + 1}") for i in range(count)]


def _load_rule(path: Path, model: Generator) -> Rule:
    rule = Rule.load(path).to(model.device)
    rule.check(model)
    return rule


def _sheet(
    model: Generator,
    rules: Sequence[Rule],
    truncation: float,
    title: str,
    out: Path,
    on_step: Callable[[int, int], None],
) -> int:
    """Before and after: the first 16 unseen seeds on which the context fires and the first 8 on which it does not."""
    hits, misses = firing(model, rules, hits=SHEET * 2 // 3, misses=SHEET // 3, truncation=truncation, on_step=on_step)
    seeds = [*hits, *misses]
    before, after = (model.sample(seeds, truncation=truncation, rules=own) for own in ([], rules))
    image = pictures.before_after(before, after, seeds, firing=len(hits), title=f"{title}: before above after")
    pictures.save_png(image, out)
    return len(seeds)


def _result(name: str, model: Generator, rule: Rule, out: Path) -> dict[str, Any]:
    assert rule.effect is not None  # replay measures it
    effect = rule.effect.to_json()
    return {
        "edit": name,
        "generator": model.name,
        "layer": rule.layer,
        "rank": rule.rank,
        "method": rule.edit["method"],
        **{key: effect[key] for key in ("seconds", "goal_error_removed", "reach", "side_effect", "left_out")},
        "out": str(out),
    }


def _say(as_json: bool, data: dict[str, Any], words: str) -> None:
    print(json.dumps(data, allow_nan=False) if as_json else words)


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Bars on standard error, one for each named job that starts."""
    with Progress(console=Console(stderr=True), transient=True, disable=quiet or not sys.stderr.isatty()) as bars:

        def job(name: str) -> Callable[[int, int], None]:
            task = bars.add_task(name, total=None, visible=False)

            def on_step(done: int, of: int) -> None:
                bars.update(task, completed=done, total=of, visible=done < of)

            return on_step

        yield job


def _forget_loss(on_step: Callable[[int, int], None]) -> Callable[[int, int, float], None]:
    return lambda step, of, loss: on_step(step, of)


def main() -> None:
    """Run the command line: errors are one clear line and exit status 2."""
    try:
        app()
    except RewriterError as error:
        print(f"rewriter: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
