"""What the page shows of a visitor's work, as plain values: pictures, crops of marks, words, settings."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

import things
from received import OWN, to_record
from rewriter import Rewriter, Rule, load_edits, worlds
from rewriter.editing.edit import Edit
from rewriter.editing.effect import advice, effect_in_words, suggestion, verdict_in_words
from rewriter.editing.link import encode
from rewriter.editing.provenance import default_layer
from rewriter.editing.region import Place, Region
from rewriter.editing.stroke import REMOVED, Stroke
from rewriter.editing.verdict import CROPS, square
from rewriter.errors import AbsentPhotoError, InputError
from rewriter.generators.base import Generator
from rewriter.generators.beside import form_of
from rewriter.generators.change import identity
from rewriter.generators.latents import Seed, format_seeds
from rewriter.generators.layer import LayerInfo
from rewriter.hub.card import named, slug
from rewriter.masks import bounds, resize
from rewriter.memory import SMOOTHNESS, SOLVERS
from rewriter.photo.exactness import SEEN
from rewriter.pictures import data_url, jpeg, to_image, webp
from rewriter.units.thing import Thing
from state import PAGE_SIZE, Drawn, Shared, Visitor, striking_first

T = TypeVar("T")
THUMBNAIL, FULL, LARGEST, CROP = 128, 256, 1024, 96  # pixels a side: in the filmstrip, on the canvas, of crops
REMARKS = {  # on examples that do less well than others, to compare them with
    "door-in-the-sky": " (the generator refuses)",
    "watermark-units-off": " (compare: the rule does less harm)",
}
FORM_LABELS = {
    "auto": "Automatic",
    "weight": "Change of the weights",
    "gated": "Gated by the context",
    "template": "Template of the marks",
}
UNITS = "Units set to levels"
READY = {
    "": "Ready: press Execute.",
    "paint": "Painted. Press Make it a rule, and it holds on every picture like this; or paint on.",
}
ABSENT_PHOTO = "this points at a photo that is not here any more: drop the same photo again, with the same square"
PLACES = 4  # cells a side, below which a layer's keys know no places
MUCH = 8.0  # a mean change in 1/255 that harms more than the thing that units draw
KEPT_BYTES = 1 << 20  # of work that a browser is asked to keep for one generator

Shown = dict[str, Any]  # parts of the page to update, by name
WORK = ("slots", "strokes", "bar", "rules", "settings", "kept")  # parts that an editing step may change
EVERYTHING = ("about", "film", "canvas", "hints", "inside", *WORK)


def picture_url(picture: Tensor, side: int = FULL) -> str:
    """A picture (3, H, W) as a data URL with sides of `side` pixels."""
    return data_url(jpeg(picture, side), "image/jpeg")


def png_url(picture: Tensor) -> str:
    """A picture (3, H, W) as the data URL of a PNG, pixel by pixel."""
    buffer = io.BytesIO()
    to_image(picture).save(buffer, "PNG")
    return data_url(buffer.getvalue(), "image/png")


class View:
    """Turns a visitor and their session into parts of the page."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def show(self, visitor: Visitor, session: Rewriter, *names: str) -> Shown:
        """The visitor and the named parts; see EVERYTHING."""
        if absent(session, visitor.selected):
            visitor = replace(visitor, selected=visitor.seeds[0])
        shown: Shown = {"visitor": visitor}
        for name in names:
            shown |= getattr(self, f"_{name}")(visitor, session)
        return shown

    def film(self, visitor: Visitor, session: Rewriter, rules: Sequence[Rule] | None = None) -> Shown:
        """The pictures with the rules and what is painted, without them if they change it, and with matches if on.

        The visitor's own photos come first.
        """
        photos = [*session.generator.photos]
        seeds: list[Seed] = [*photos, *visitor.seeds]
        now = self._images(visitor, session, seeds, rules, THUMBNAIL)
        before = self.shared.images(visitor, session, seeds, [], side=THUMBNAIL)
        tiles: list[Shown] = [{"seed": seed, "image": one.url} for seed, one in zip(seeds, now, strict=True)]
        for i, tile in enumerate(tiles[: len(photos)]):
            tile["label"] = "Your photo" if len(photos) == 1 else f"Your photo {i + 1}"
        for tile, one, original in zip(tiles, now, before, strict=True):
            if one.change > 0:
                tile |= {"other": original.url, "changed": one.change > SEEN}
            else:
                tile["image"] = original.url
        note = ""
        if visitor.matches:
            note = "Places that match the context have a bright edge."
            try:
                found = [match for own in (photos, visitor.seeds) if own for match in session.matches_on(own)]
                for tile, match in zip(tiles, found, strict=True):
                    tile["match"] = picture_url(match.overlay, THUMBNAIL)
            except InputError as error:
                note = f"No matches to show: {in_words(error)}."
        return {"tiles": tiles, "note": note, "seeds": format_seeds(visitor.seeds)}

    def canvas(self, visitor: Visitor, session: Rewriter, rules: Sequence[Rule] | None = None) -> Shown:
        """The picture to paint on, and without the rules if they change it; if it is painted on, without the paint."""
        side = max(FULL, min(session.generator.resolution, LARGEST))
        if absent(session, visitor.selected):
            return self.canvas(replace(visitor, selected=visitor.seeds[0]), session, rules)
        (now,) = self._images(visitor, session, [visitor.selected], rules, side)
        plain: Sequence[Rule] | None = rules if rules is None and session.strokes_on(visitor.selected) else []
        (before,) = self.shared.images(visitor, session, [visitor.selected], plain, side=side)
        shown: Shown = {"seed": visitor.selected, "now": now.url if now.change > 0 else before.url}
        if now.change > 0:
            shown["then"] = before.url
        if visitor.matches:
            with suppress(InputError):
                shown["match"] = picture_url(session.matches(visitor.selected).overlay, side)
        return shown

    def _images(
        self, visitor: Visitor, session: Rewriter, seeds: Sequence[Seed], rules: Sequence[Rule] | None, side: int
    ) -> list[Drawn]:
        """Pictures with the rules; while no rule is being shown, with what is painted on each too."""
        strokes = {seed: session.strokes_on(seed) if rules is None else [] for seed in dict.fromkeys(seeds)}
        plain = [seed for seed in seeds if not strokes[seed]]
        drawn = dict(zip(plain, self.shared.images(visitor, session, plain, rules, side=side), strict=True))
        for seed, own in strokes.items():
            if own:
                (drawn[seed],) = self.shared.images(visitor, session, [seed], [*session.rules, *own], side=side)
        return [drawn[seed] for seed in seeds]

    def _film(self, visitor: Visitor, session: Rewriter) -> Shown:
        return {"film": self.film(visitor, session)}

    def _canvas(self, visitor: Visitor, session: Rewriter) -> Shown:
        return {"canvas": self.canvas(visitor, session)}

    def _slots(self, visitor: Visitor, session: Rewriter) -> Shown:
        """What is marked: a crop of each place, its outline, and what to do next."""
        edit, done = session.edit, executed(session)
        shown: Shown = {"kind": edit.kind, "step": next_step(session)}
        named = [("copy", edit.copy), ("paste", edit.paste)]
        named += [("context", place) for place in edit.context] + [("keep", place) for place in edit.keep]
        places = [(what, place) for what, place in named if place]
        shown["marks"] = [{"kind": what, "seed": it.seed, "mask": it.png} for what, it in places]
        for what, place in places:
            made = {"seed": place.seed, "image": self._marked(visitor, session, place, what == "paste")}
            shown[what] = [*shown.get(what, []), made] if what in ("context", "keep") else made
        accepted = [place for place in edit.found if place.by == "person"]
        shown["context"] = shown.get("context", []) + [found_tile(session, place) for place in accepted]
        complete = not edit.missing() and edit.kind != "zero"
        quick = self.shared.background and self.shared.page_size(session.generator) == PAGE_SIZE
        shown["background"] = complete and not done and quick
        prepared = session.prepared if complete and not done else None
        shown["key"] = edit.digest if complete and not done else ""
        shown["chosen"] = chosen_words(prepared) if prepared else ""
        shown["found_key"] = found_key(session)
        return {"slots": shown}

    def _marked(self, visitor: Visitor, session: Rewriter, place: Region, pasted: bool) -> str:
        """A crop around a marked place; of the one pasted on or erased, with what is wanted there.

        "" for a place on a photo that is not here.
        """
        edit, wanted = session.edit, ""
        if absent(session, place.seed):
            return ""
        if pasted and edit.kind == "paint":
            return self._painted(visitor, session, place)
        if pasted and edit.kind != "zero":
            ends = [f"{it.seed} {it.digest}" for it in (edit.copy, edit.paste) if it]
            asked = f"{edit.layer} {' '.join(ends)}" if edit.kind == "replace" else edit.digest
            wanted = f"{asked} {identity([rule for rule in session.history.present.before if rule.active])}"

        def make() -> list[Tensor]:
            picture = None
            if wanted:
                with suppress(InputError):  # the mark stays; executing says what is wrong with it
                    picture = session.preview().after
            if picture is None:
                picture = self.shared.pictures(session, [place.seed], [])[0]
            return [cut(picture, place.mask)]

        recipe = f"mark {edit.fingerprint} {edit.truncation!r} {place.seed} {place.digest} {wanted}"
        on = [it for it in (place, edit.copy, edit.paste) if it and (wanted or it is place)]
        return self.shared.crops(visitor, recipe, 1, make, side=CROP, session=session, places=on)[0]

    def _painted(self, visitor: Visitor, session: Rewriter, place: Region) -> str:
        """A crop around a painted place, as it was painted."""
        before = [rule for rule in session.history.present.before if rule.active]
        own = [each for each in session.edit.strokes if each.place and each.place.seed == place.seed]
        changes = [*before, *(each.change(session.generator.layer(each.layer)) for each in own)]

        def make() -> list[Tensor]:
            return [cut(self.shared.pictures(session, [place.seed], changes)[0], place.mask)]

        recipe = f"painted {session.edit.fingerprint} {session.edit.truncation!r} {place.seed} {place.digest}"
        recipe = f"{recipe} {identity(changes)}"
        return self.shared.crops(visitor, recipe, 1, make, side=CROP, session=session, places=[place])[0]

    def _inside(self, visitor: Visitor, session: Rewriter) -> Shown:
        """What can be painted with: each thing with a picture of it."""
        own = {thing.name for thing in things.own(visitor, session.generator)}
        shown = [
            {
                "name": thing.name,
                "layer": thing.layer,
                "count": len(thing.units),
                "few": thing.few or len(thing.units),
                "own": thing.name in own,
                "image": self._thing(visitor, session, thing),
                "mark": thing.marks[0].png if thing.marks else "",
            }
            for thing in things.palette(visitor, session.generator)
        ]
        return {"inside": {"things": shown, "room": OWN - len(visitor.things)}}

    def _thing(self, visitor: Visitor, session: Rewriter, thing: Thing) -> str:
        """A crop of the first place that somebody pointed at; "" if there is none, or it is on a photo not here."""
        if not thing.marks or absent(session, thing.marks[0].seed):
            return ""
        mark = thing.marks[0]

        def make() -> list[Tensor]:
            picture = self.shared.pictures(session, [mark.seed], [])[0]
            shown = resize(mark.mask, (picture.shape[1], picture.shape[2])).to(picture)
            return [cut(torch.lerp(picture * 0.6 - 0.25, picture, shown), widest_part(mark.mask))]

        recipe = f"palette 2 {session.generator.fingerprint} {session.edit.truncation!r} {mark.seed} {mark.digest}"
        return self.shared.crops(visitor, recipe, 1, make, side=CROP, session=session, places=[mark])[0]

    def _strokes(self, visitor: Visitor, session: Rewriter) -> Shown:
        """What is painted and no rule yet, and which units are switched."""
        last, edit = last_stroke(session), session.edit
        painting = edit.kind == "paint" and session.history.present.made is None
        shown: Shown = {"count": len(edit.strokes) if painting else 0, "key": stroke_key(last) if last else ""}
        switched: dict[str, dict[str, float]] = {}
        for rule in session.rules:
            if rule.edit is not None and rule.edit.kind == "switch":
                stroke = rule.edit.strokes[0]
                levels = {f"{unit}": level for unit, level in zip(stroke.units, stroke.levels, strict=True)}
                switched[rule.layer] = {**switched.get(rule.layer, {}), **levels}
        return {"strokes": {**shown, "switched": switched}}

    def _bar(self, visitor: Visitor, session: Rewriter) -> Shown:
        """What comes next, or the verdict on the rule just made, with its proof and the one thing to try."""
        missing, made = session.edit.missing(), session.history.present.made
        kind = session.edit.kind
        shown: Shown = {"next": "", "can_execute": not missing, "kind": kind}
        layers = {stroke.layer for stroke in session.edit.strokes}
        if missing:
            shown["next"] = f"Next: {missing[0]}."
        elif made is None or not executed(session):
            again = "The edit has changed: execute it again." if made is not None else READY.get(kind, READY[""])
            if words := why_no_rule(session, layers):
                again, shown["can_execute"] = words, False
            shown["next"] = again
        else:
            shown |= self._verdict(visitor, session, made)
        return {"bar": shown}

    def _verdict(self, visitor: Visitor, session: Rewriter, made: int) -> Shown:
        rule = session.rules[made]
        if rule.edit is not None and rule.edit.kind == "switch":
            return {"next": switch_words(rule), "can_execute": False}
        if rule.effect is None or not rule.effect.verdict:
            return {"next": f"{rule.title}: its effect was not measured."}
        crops: list[list[str]] = []
        if self.shared.page_size(session.generator) == PAGE_SIZE and rule.edit is not None:
            before = identity([each for each in session.rules[:made] if each.active])
            recipe = f"verdict {rule.fingerprint} {before} {identity([replace(rule, on=True)])} {rule.edit.digest}"
            with suppress(InputError):
                urls = self.shared.crops(
                    visitor,
                    recipe,
                    3 * CROPS,
                    lambda: [part for each in session.crops(made) for part in each],
                    side=CROP,
                    session=session,
                    places=rule.edit.masks,
                )
                crops = [urls[first : first + 3] for first in range(0, len(urls), 3)]
        step = suggestion(rule)
        words = verdict_in_words(rule.effect, rule.edit.kind if rule.edit else "")
        return {
            "next": f"{words[:1].upper()}{words[1:]}.",
            "verdict": rule.effect.verdict,
            "made": made,
            "crops": crops,
            "kind": rule.edit.kind if rule.edit else "",
            "mend": {"words": step.words[:1].upper() + step.words[1:], "action": step.action} if step else None,
            "details": [line.strip() for line in effect_in_words(rule.title, rule).split("\n")],
        }

    def _rules(self, visitor: Visitor, session: Rewriter) -> Shown:
        own = {f"rule {i + 1}: {remark}" for i, rule in enumerate(session.rules) for remark in advice(rule)}
        rules = [
            {"title": rule.title, "strength": rule.strength, "on": rule.on, "verdict": verdict(rule)}
            for rule in session.rules
        ]
        remarks = [f"{remark[:1].upper()}{remark[1:]}." for remark in session.remarks() if remark not in own]
        name = {"placeholder": suggested_name(session)}
        return {"rules": {"rules": rules, "remarks": remarks}, "suggested_name": name}

    def _settings(self, visitor: Visitor, session: Rewriter) -> Shown:
        edit, generator = session.edit, session.generator
        names = ("form", "rank", "method", "truncation", "title")
        choices = [(layer_label(generator, info), name) for name, info in generator.layers.items()]
        settings = {
            "layer": {"value": edit.layer, "choices": choices},
            "budget": edit.budget or 0,
            "smoothness": SMOOTHNESS if edit.smoothness is None else edit.smoothness,
            **{name: getattr(edit, name) for name in names},
            "forms": [(label, form) for form, label in FORM_LABELS.items()]
            + ([(UNITS, "units")] if edit.form == "units" else []),
            "methods": SOLVERS,
        }
        return {"settings": settings}

    def _about(self, visitor: Visitor, session: Rewriter) -> Shown:
        side, origin = session.generator.resolution, session.generator.origin
        words = [f"{side} × {side} px", origin.licence.id if origin.licence else "licence unknown"]
        words += [origin.attribution] if origin.attribution else []
        return {
            "about": {
                "generators": generator_choices(self.shared),
                "value": visitor.generator,
                "licence": " · ".join(words),
            },
            "suggested": {},
        }

    def _hints(self, visitor: Visitor, session: Rewriter) -> Shown:
        """For a first edit: where a shipped edit of this generator copies and pastes."""
        examples = striking_first(worlds.examples(visitor.generator))
        edits = (load_edits(path)[0] for path in examples.values())
        edit = next((edit for edit in edits if edit.copy and edit.paste), None)
        steps = {"copy": edit.copy, "paste": edit.paste} if edit else {}
        return {"hints": {"hints": [{"step": k, "seed": v.seed, "mask": v.png} for k, v in steps.items() if v]}}

    def _kept(self, visitor: Visitor, session: Rewriter) -> Shown:
        """What the browser keeps if the whole record is too much for it: edits, from which rules are made again."""
        if sum(map(len, visitor.works.values())) <= KEPT_BYTES:
            return {}
        again, works = "", {name: work for name, work in visitor.works.items() if name != visitor.generator}
        with suppress(InputError):  # rules that depend on others: only a saved session holds them
            again = encode(edits_of(session))
        while works and sum(map(len, works.values())) > KEPT_BYTES:
            works.popitem()
        return {"kept": to_record(replace(visitor, works=works, again=again))}


def edits_of(session: Rewriter) -> list[Edit]:
    """The edits behind the rules, and the one in progress if it is not one of them."""
    edit, edits = session.edit, list(session.edits)
    started = session.history.present.made is None and (edit.copy or edit.paste or edit.context or edit.strokes)
    return [*edits, *([edit] if started or not edits else [])]


def executed(session: Rewriter) -> bool:
    """Whether the edit in progress is what its rule was made from."""
    state = session.history.present
    own = None if state.made is None else state.rules[state.made].edit
    if own is None or _asked(own) != _asked(state.edit):
        return False
    prepared = session.prepared  # None after a restart: then the marks decide
    return prepared is None or prepared.edit is None or prepared.edit.digest == own.digest


def _asked(edit: Edit) -> Any:
    """What a person asked for with marks, and by hand."""
    places = [[(it.seed, it.digest) for it in each] for each in (edit.context, edit.keep)]
    ends = [it and (it.seed, it.digest) for it in (edit.copy, edit.paste)]
    strokes = [(it.layer, it.units, it.levels, it.strength, it.place and it.place.digest) for it in edit.strokes]
    return edit.kind, ends, places, strokes, [place for place in edit.found if place.by == "person"]


def in_words(error: Exception) -> str:
    """An error for people who look at the page."""
    return ABSENT_PHOTO if isinstance(error, AbsentPhotoError) else f"{error}"


def lacking_photo(session: Rewriter, selected: Seed = 0) -> str:
    """That a photo is not here which was looked at, or which the edit points at; "" if all are here."""
    lacking = any(absent(session, seed) for seed in (selected, *session.edit.photos))
    return "Your photo is not here any more: drop it again to go on with it." if lacking else ""


def absent(session: Rewriter, seed: Seed) -> bool:
    """Whether this is a photo that is not open in the session."""
    return isinstance(seed, str) and seed not in session.generator.photos


def last_stroke(session: Rewriter) -> Stroke | None:
    """The stroke that was painted last, if it is no rule yet."""
    edit = session.edit
    if edit.kind != "paint" or session.history.present.made is not None or not edit.strokes:
        return None
    return edit.strokes[-1]


def stroke_key(stroke: Stroke) -> str:
    """Names a stroke; what is said about it stays on the page while it is the last one."""
    return f"{stroke.layer} {stroke.thing} {stroke.strength} {stroke.place.digest[:16] if stroke.place else ''}"


def switch_at(session: Rewriter, layer: str) -> int | None:
    """Which rule switches units of a layer everywhere, if one does."""
    for i, rule in enumerate(session.rules):
        if rule.edit and rule.edit.kind == "switch" and rule.layer == layer and not rule.edit.strokes[0].place:
            return i
    return None


def switch_words(rule: Rule) -> str:
    """What switched units change, in a sentence."""
    stroke = rule.edit.strokes[0] if rule.edit else None
    count, off = (len(stroke.units), stroke.removes) if stroke else (0, False)
    are = f"{'is' if count == 1 else 'are'} {'off' if off else 'set to other levels'}"
    units = f"{count} unit{'' if count == 1 else 's'} of {rule.layer} {are} on every picture"
    if rule.effect is None:
        return f"{units}."
    much = ". That is much: switch fewer, or lower the strength" if rule.effect.side_effect > MUCH else ""
    return f"{units}: unseen pictures change by {rule.effect.side_effect:.1f}/255 on average{much}."


def why_no_rule(session: Rewriter, layers: Collection[str]) -> str:
    """Why what is painted cannot be made a rule; "" if it can."""
    strokes = session.edit.strokes
    if len(layers) > 1:
        things = " and ".join(dict.fromkeys(stroke.thing.removeprefix(REMOVED) for stroke in strokes))
        return (
            f"Painted. Each thing needs a rule of its own ({things} are drawn by different layers): undo one of them."
        )
    if session.edit.kind == "paint" and session.generator.layer(session.edit.layer).key_resolution < PLACES:
        return f"Painted. It cannot be a rule: {session.edit.layer} draws whole pictures, not places in them."
    return ""


def next_step(session: Rewriter) -> str:
    """The mark that comes next: copy, paste or context; done when the edit was executed."""
    edit = session.edit
    if executed(session):
        return "done"
    if edit.kind == "replace" and not edit.copy:
        return "copy"
    return "context" if edit.paste or edit.context else "paste"


def found_key(session: Rewriter) -> str:
    """Names what places are looked for; found places stay on the page while it is the same."""
    edit = session.edit
    return f"{edit.fingerprint[:8]}{edit.paste.digest[:16]}" if edit.paste else ""


def found_tile(session: Rewriter, place: Place) -> Shown:
    """A found place with its crop."""
    return {"seed": place.seed, "image": picture_url(session.crop(place), CROP), "found": place.to_json()}


def cut(picture: Tensor, mask: Tensor) -> Tensor:
    """The square around a mask with a margin, out of a picture (3, H, H)."""
    mask = resize(mask, (picture.shape[1], picture.shape[2]))
    box = bounds(mask, above=float(mask.max()) / 4)
    return square(picture, box.centre, max(box.size) / picture.shape[-1])


def widest_part(mask: Tensor) -> Tensor:
    """A mask (H, W) without all but the widest of its parts that stand side by side: one tree of several."""
    columns = (mask.amax(0) > mask.max() / 2).tolist()
    ends = [i for i, (a, b) in enumerate(zip([False, *columns], [*columns, False], strict=True)) if a != b]
    first, last = max(zip(ends[::2], ends[1::2], strict=True), key=lambda run: run[1] - run[0])
    part = torch.zeros_like(mask)
    part[:, first:last] = mask[:, first:last]
    return part


def cards(shared: Shared) -> Shown:
    """The examples to start from."""
    return {"cards": [card(name, path) for name, path in shared.cards().items()]}


def card(name: str, path: Path) -> dict[str, str]:
    """An example as a card: its name, and a picture before and after."""
    with Image.open(path.with_suffix(".png")) as picture:
        image = data_url(webp(picture.convert("RGB"), 80))
    words = name.replace("-", " ").capitalize()
    return {"key": name, "caption": words + REMARKS.get(name, ""), "title": f"Rewrite: {words}", "image": image}


def generator_choices(shared: Shared) -> list[tuple[str, str]]:
    """The generators to choose from, as (label, name); an arrow marks those that have to be downloaded."""
    choices = []
    for name in shared.names:
        entry = shared.catalogue.get(name)
        title = f"{entry.title}, {entry.resolution} px" if entry else name
        size = f"{entry.size / 1e6: .0f} MB" if entry and entry.size else ""
        choices.append((f"{title} ↓{size}" if shared.absent(name) else title, name))
    return choices


def verdict(rule: Rule) -> str:
    """Whether a rule took, as far as that is known, and what the machine chose: its form and layer."""
    if rule.edit is not None and rule.edit.kind == "switch":
        return switch_words(rule)
    form = form_words(rule)
    return f"{rule.effect.verdict.capitalize()} · {form}" if rule.effect and rule.effect.verdict else form


def chosen_words(rule: Rule) -> str:
    """That the machine has chosen, and what."""
    button = "Make it a rule" if rule.edit and rule.edit.kind == "paint" else "Execute"
    return f"Ready: press {button}. The machine chose: {form_words(rule)}."


def form_words(rule: Rule) -> str:
    """What a rule is, as the machine or a person chose it."""
    return f"{ {**FORM_LABELS, 'units': UNITS}[form_of(rule.beside)] } at {rule.layer}"


def suggested_name(session: Rewriter) -> str:
    """A repository name for the generator with these rules."""
    return slug("-".join([session.generator.name, *(each.title for each in named(session.rules))])) or "rewritten"


def escape_markdown(text: str) -> str:
    """Text from strangers as Markdown that shows exactly this text."""
    return re.sub(r"([\\`*_\[\]()!<>&#|~])", lambda found: f"&#{ord(found[0])};", text)


def look_up(name: str, things: Mapping[str, T]) -> T:
    """The thing of this name; InputError if there is none, because names come from the network."""
    if not isinstance(name, str) or name not in things:
        raise InputError(f"there is no {name!r}: choose one of {', '.join(things)}")
    return things[name]


def layer_label(generator: Generator, layer: LayerInfo) -> str:
    """A layer's name and size, and what it is good for, judged by its distance from the default layer."""
    names, start = list(generator.layers), default_layer(generator)
    place, at = names.index(layer.name), names.index(start)
    fine = names.index(generator.advice.get("texture", names[min(at + 2, len(names) - 1)]))
    coarse = names.index(generator.advice.get("structure", names[max(at - 2, 0)]))
    use = "start here" if place == at else "structure" if place <= coarse else "texture" if place >= fine else "objects"
    side = layer.key_frame.across  # without the margin that some maps have
    return f"{layer.name}: {side} × {side}, {use}"
