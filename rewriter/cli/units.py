"""The command that looks at single units: rank, show, on, off."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image, UnidentifiedImageError

from rewriter import masks, pictures, worlds
from rewriter.checks import number
from rewriter.cli import common
from rewriter.editing.effect import effect_in_words
from rewriter.editing.precompute import processes
from rewriter.editing.region import Region
from rewriter.editing.session import Rewriter
from rewriter.editing.stroke import MOST_UNITS, Stroke
from rewriter.errors import InputError
from rewriter.files import check_writable
from rewriter.generators.base import Generator
from rewriter.generators.latents import UNSEEN, parse_seeds
from rewriter.units import gallery
from rewriter.units.agreement import Agreement, Labels
from rewriter.units.dissect import SEEDS, dissect, scene_labels
from rewriter.units.found import FOUND, found_like
from rewriter.units.shipped import things
from rewriter.units.thing import MOST_MARKS, Thing, candidate_layers, choose, made_of, point

ACTIONS = ("things", "rank", "show", "off", "on")
BEST, SHOWN, ROW = 10, 5, 8  # units in a table and on a sheet; pictures in its rows
BY_WORDS = 100  # pictures that a segmenter looks at: it takes about a second for each on a CPU
EPILOGS = {
    "units": "\b\nExamples:\n"
    "  rewriter units things                             what can be painted with at once\n"
    "  rewriter units rank tree                          which units of which layer agree with trees: a minute\n"
    "  rewriter units rank hat --generator faces --mark 12:hat.png   units for what you marked\n"
    "  rewriter units show --layer layer6 --unit 43,7    the pictures in which they are strongest\n"
    "  rewriter units off tree --save-rule no-trees.safetensors\n"
    "  rewriter units off --layer layer6 --unit 43,7     off everywhere; `on` needs --level, the value that is shown\n"
    "\nOver several GPUs: accelerate launch -m rewriter units rank tree"
}


def units(
    action: Annotated[str, typer.Argument(help=f"One of {', '.join(ACTIONS)}.")],
    thing: Annotated[str, typer.Argument(help="A shipped thing, a label of the world, or words for a segmenter.")] = "",
    generator: common.GeneratorName = "townscape",
    layer: Annotated[str | None, typer.Option(help="Default: the one that suits the thing best.")] = None,
    unit: Annotated[str | None, typer.Option(help="Units by number, such as 43,7 or 0-9; needs --layer.")] = None,
    mark: Annotated[
        list[str] | None,
        typer.Option(help=f"SEED:MASK.png, where the thing is: a picture's opaque part; up to {MOST_MARKS} pictures."),
    ] = None,
    level: Annotated[float | None, typer.Option(help="With on and --unit: the value that they are set to.")] = None,
    strength: Annotated[float, typer.Option(help="With on and off: 0 to 2; 1 is the level itself.")] = 1.0,
    save_rule: Annotated[Path | None, typer.Option(help="With on and off: write the rule (safetensors).")] = None,
    out: Annotated[Path, typer.Option(help="The sheet of pictures (PNG).")] = Path("units.png"),
    device: common.Device = None,
    as_json: common.Json = False,
) -> None:
    """See inside: which units draw a thing, the pictures that a unit likes best, and units switched off or on."""
    if action not in ACTIONS:
        raise InputError(f"units cannot {action!r}: choose one of {', '.join(ACTIONS)}")
    number(0, 2)("strength", strength)
    if level is not None and (action != "on" or not unit):
        raise InputError("--level belongs to `on` with --unit: a thing knows its own levels, and `off` needs none")
    check_writable(out)
    model = common.load(generator, device, as_json)
    marks = [_mark(each) for each in mark or ()]
    if action == "things":
        _list(model, as_json)
    elif action == "rank":
        _rank(model, thing, layer, marks, out, as_json)
    elif action == "show":
        if not (unit or thing or marks):
            raise InputError("show what? Name a thing, units (--layer and --unit), or a mark: --mark SEED:MASK.png")
        chosen = _units(model, layer, unit) if unit else None
        found = _thing(model, thing, layer, marks, as_json) if chosen is None else None
        at, numbers = (layer, chosen) if found is None else (found.layer, list(found.units[:SHOWN]))
        assert at is not None and numbers is not None
        pictures.save_png(_sheet(model, at, numbers, [f"unit {each}" for each in numbers], as_json), out)
        common.say(as_json, {"layer": at, "units": numbers, "out": str(out)}, f"units of {at}: {out}")
    else:
        if unit:
            numbers = _units(model, layer, unit)
            stroke = _stroke(model, layer or "", numbers, 0.0 if action == "off" else level, thing)
        else:
            stroke = _thing(model, thing, layer, marks, as_json).stroke(remove=action == "off")
        _switch(model, stroke, strength, save_rule, out, as_json)


def _list(model: Generator, as_json: bool) -> None:
    """The shipped things."""
    found = [{"name": each.name, "layer": each.layer, "units": list(each.units)} for each in things(model)]
    words = [f"{each.name:10} {each.layer}: {', '.join(map(str, each.units))}" for each in things(model)]
    none = f"nothing is shipped for {model.name}: point at a thing with --mark SEED:MASK.png"
    common.say(as_json, {"generator": model.name, "things": found}, "\n".join(words) or none)


def _rank(model: Generator, thing: str, layer: str | None, marks: Sequence[Region], out: Path, as_json: bool) -> None:
    """The best units for a thing, of one layer or of all, as a table and a sheet."""
    names = [layer] if layer else candidate_layers(model)
    found = list[Agreement]()
    with common.progress(as_json) as job:
        for i, name in enumerate(names):
            step = job(f"{name}, {i + 1} of {len(names)}")
            found.append(point(model, marks, name) if marks else _dissected(model, name, thing, step))
    if not processes(model.device.type).is_main_process:  # the main process says for all what they found
        return
    rows = [(each, unit) for each in found for unit in each.order()[:BEST]]
    rows = sorted(rows, key=lambda row: -float(row[0].best[0, row[1]]))[:BEST]
    others = _elsewhere(model, marks, {each.layer for each, _ in rows})
    data = [
        {"layer": each.layer, "unit": unit}
        | {name: round(float(getattr(each, name)[0, unit]), 4) for name in ("iou", "best", "auc")}
        | ({"elsewhere": round(float(others[each.layer].best[0, unit]), 4)} if each.layer in others else {})
        for each, unit in rows
    ]
    best = rows[0][0].layer
    numbers = [unit for each, unit in rows if each.layer == best][:SHOWN]
    captions = [f"unit {row['unit']}, IoU {row['best']:.2f}" for row in data if row["layer"] == best][:SHOWN]
    pictures.save_png(_sheet(model, best, numbers, captions, as_json), out)
    found_too = "   IoU on places found like the marks" if others else ""
    words = [f"layer     unit   IoU at its 0.99 quantile   IoU at its best level    AUC{found_too}"]
    for r in data:
        figures = f"{r['layer']:8} {r['unit']:5}   {r['iou']:24.2f}   {r['best']:21.2f}   {r['auc']:4.2f}"
        words.append(f"{figures}   {r['elsewhere']:34.2f}" if "elsewhere" in r else figures)
    common.say(as_json, {"thing": thing, "units": data, "out": str(out)}, "\n".join([*words, f"pictures: {out}"]))


def _elsewhere(model: Generator, marks: Sequence[Region], layers: Collection[str]) -> dict[str, Agreement]:
    """How well units agree with places like the marks on other pictures, by layer; none without marks."""
    if not marks:
        return {}
    found = {layer: found_like(model, marks, layer) for layer in layers}
    return {layer: point(model, places, layer, most=FOUND) for layer, places in found.items() if places}


def _dissected(model: Generator, layer: str, thing: str, on_step: Any) -> Agreement:
    """Every unit with a label of the built-in world, or with what a segmenter sees for words."""
    if not thing:
        raise InputError("rank what? Name a thing, or mark it: --mark SEED:MASK.png")
    world = worlds.of(model)
    if world is not None:
        return dissect(model, layer, [thing], scene_labels(world, [thing]), on_step=on_step)
    return dissect(model, layer, [thing], _words(thing, model), by="clipseg", seeds=SEEDS[:BY_WORDS], on_step=on_step)


def _words(thing: str, model: Generator) -> Labels:
    """What CLIPSeg sees for words, on the pictures of any generator."""
    from rewriter.evaluation import judges  # late: an extra, and large

    segmenter = judges.clipseg(model.device)
    return lambda seeds, drawn: (segmenter(drawn, [thing]) == 0)[:, None].float()


def _thing(model: Generator, name: str, layer: str | None, marks: Sequence[Region], as_json: bool) -> Thing:
    """What units draw a thing: shipped, marked or, on the built-in worlds, labelled."""
    if marks:
        with common.progress(as_json) as job:
            return choose(model, marks, name=name, layers=[layer] if layer else None, on_step=job("layers")).thing
    known = {each.name: each for each in things(model) if layer in (None, each.layer)}
    if name in known:
        return known[name]
    if name and layer:
        with common.progress(as_json) as job:
            return made_of(model, _dissected(model, layer, name, job(layer)), BEST, name=name)
    listed = ", ".join(known) or "none"
    raise InputError(
        f"no thing {name!r} is shipped for {model.name} ({listed}): add --layer, --unit or --mark SEED:MASK.png"
    )


def _units(model: Generator, layer: str | None, text: str) -> list[int]:
    if layer is None:
        raise InputError("--unit needs --layer: units are numbered within a layer")
    numbers = list(dict.fromkeys(parse_seeds(text, most=MOST_UNITS, what="units")))
    model.layer(layer).check_units(numbers)
    return numbers


def _stroke(model: Generator, layer: str, numbers: Sequence[int], level: float | None, name: str) -> Stroke:
    """Units set to one level, as the next layer reads them."""
    if level is None:
        raise InputError(
            "on needs --level, the value that the units are set to; or name a thing, whose levels are known"
        )
    values = model.level(layer, numbers, level)
    return Stroke(layer, tuple(numbers), tuple(round(float(each), 4) for each in values), thing=name)


def _mark(text: str) -> Region:
    """SEED:MASK.png as a place on a picture."""
    seed, colon, path = text.partition(":")
    if not colon:
        raise InputError(f"a mark is SEED:MASK.png, not {text!r}")
    try:
        with Image.open(path) as image:
            bands = image.getbands()
            layer = image.getchannel("A") if "A" in bands else image.convert("L")
            mask = torch.tensor(list(layer.tobytes()), dtype=torch.float32).view(layer.height, layer.width) / 255
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the mask {path} ({error}): a PNG, white or opaque where the thing is") from error
    return Region(parse_seeds(seed, most=1)[0], masks.as_mask(mask))


def _sheet(model: Generator, layer: str, numbers: Sequence[int], captions: Sequence[str], as_json: bool) -> Image.Image:
    with common.progress(as_json) as job:
        title = f"{layer}: where each unit is on, in the pictures in which it is strongest"
        step = job("pictures")
        return gallery.sheet(model, layer, numbers, captions, pictures=ROW, title=title, on_step=step)


def _switch(
    model: Generator, stroke: Stroke, strength: float, save_rule: Path | None, out: Path, as_json: bool
) -> None:
    """Make the rule, and draw unseen pictures before and after."""
    session = Rewriter(model, stroke.layer)
    session.switch_units(replace(stroke, strength=strength))
    session.set(title=stroke.thing or f"units of {stroke.layer}")
    rule = session.execute()
    seeds = range(UNSEEN, UNSEEN + 2 * ROW)
    before, after = (model.sample(seeds, rules=rules) for rules in ([], [rule]))
    sheet = pictures.before_after(before, after, seeds, firing=len(seeds), title=f"{rule.title}: before above after")
    pictures.save_png(sheet, out)
    if save_rule is not None:
        rule.save(save_rule)
    assert rule.effect is not None  # execute measures it
    data = {"layer": stroke.layer, "units": list(stroke.units), "changes": rule.effect.side_effect, "out": str(out)}
    words = [
        effect_in_words(rule.title, rule),
        *([f"rule saved: {save_rule}"] if save_rule else []),
        f"pictures: {out}",
    ]
    common.say(as_json, data, "\n".join(words))
