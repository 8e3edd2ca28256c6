"""What the page shows of a visitor's work, as plain values: boards of pictures, text, settings."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count, groupby
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from rewriter import Rewriter, Rule
from rewriter.checkpoints.catalogue import BUILT_IN
from rewriter.editing.edit import Edit, Region
from rewriter.editing.effect import advice, effect_in_words
from rewriter.editing.history import History
from rewriter.editing.provenance import default_layer
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.beside import form_of
from rewriter.generators.latents import parse_seeds
from rewriter.generators.layer import LayerInfo
from rewriter.hub.card import named, slug
from rewriter.masks import resize
from rewriter.memory.solve import SMOOTHNESS
from rewriter.pictures import to_image
from state import Shared, Visitor

T = TypeVar("T")
THUMBNAIL, FULL = 256, 1024  # pixels a side, on boards and in the painter
MOST_PICTURES = 48  # on the board
MOST_STEPS = 500  # of an iterative method
FORM_LABELS = {"auto": "Automatic", "weight": "Change of the weights", "gated": "Gated", "template": "Template"}
KEPT_BYTES = 1 << 20  # of work that a browser is asked to keep for one generator

Shown = dict[str, Any]  # parts of the page to update, by name
WORK = ("trays", "next", "rules", "settings", "kept")  # parts that an editing step may change
EVERYTHING = ("about", "board", "picture", *WORK)


def data_url(data: bytes, kind: str) -> str:
    """Bytes as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def picture_url(picture: Tensor, side: int = THUMBNAIL) -> str:
    """A picture (3, H, W) as a data URL: PNG up to 256 pixels a side, else JPEG, which is smaller."""
    image = to_image(picture)
    if image.width > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    buffer, kind = io.BytesIO(), "png" if image.width <= THUMBNAIL else "jpeg"
    image.save(buffer, kind, quality=92)
    return data_url(buffer.getvalue(), f"image/{kind}")


def tiles(pictures: Iterable[tuple[str, Tensor]], empty: str = "", note: str = "", keys: Sequence[str] = ()) -> Shown:
    """The value of a board: captioned pictures with a note, or the text `empty` if there are none."""
    named = zip(keys or map(str, count()), pictures, strict=False)
    made = [{"key": key, "caption": caption, "image": picture_url(picture)} for key, (caption, picture) in named]
    return {"tiles": made, "note": note if made else empty}


class View:
    """Turns a visitor and their session into parts of the page."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared

    def show(self, visitor: Visitor, session: Rewriter, *names: str) -> Shown:
        """The visitor and the named parts; see EVERYTHING."""
        shown: Shown = {"visitor": visitor}
        for name in names:
            shown |= getattr(self, f"_{name}")(visitor, session)
        return shown

    def board(self, visitor: Visitor, session: Rewriter, rules: Sequence[Rule] | None = None) -> Shown:
        """The board: each picture with the rules, without them if they change it, and with matches if they are on."""
        now, before = (self.shared.pictures(session, visitor.seeds, each) for each in (rules, []))
        board = [
            {"key": f"{seed}", "caption": f"{seed}", "title": f"Picture {seed}", "image": picture_url(picture)}
            for seed, picture in zip(visitor.seeds, now, strict=True)
        ]
        for tile, original, same in zip(board, before, (now == before).flatten(1).all(1), strict=True):
            if not same:
                tile["other"] = picture_url(original)
        note = ""
        if visitor.matches:
            note = "Places that match the context have a bright edge."
            try:
                for tile, match in zip(board, session.matches_on(visitor.seeds), strict=True):
                    tile["match"] = picture_url(match.overlay)
            except InputError as error:
                note = f"No matches to show: {error}."
        return {"tiles": board, "chosen": f"{visitor.selected}", "note": note}

    def _board(self, visitor: Visitor, session: Rewriter) -> Shown:
        return {"board": self.board(visitor, session), "seeds": format_seeds(visitor.seeds)}

    def _picture(self, visitor: Visitor, session: Rewriter) -> Shown:
        url = picture_url(self.shared.pictures(session, [visitor.selected])[0], FULL)
        return {"painter": {"picture": url, "seed": visitor.selected}}

    def _trays(self, visitor: Visitor, session: Rewriter) -> Shown:
        edit, pictures, note = session.edit, [], ""
        try:
            if edit.copy:
                copied = session.copied()
                pictures += [("copied", copied.cut_out), ("copied features", copied.alone)]
            if edit.paste and not edit.missing():
                pasted = session.preview()
                pictures += [("before", pasted.before), ("wanted result", pasted.after)]
            elif edit.paste:
                pictures += [("paste here", self._marked(session, edit.paste))]
        except InputError as error:  # the mark stays, with what is wrong with it
            note = f"{error}."
        context, keep = ([(f"{r.seed} ✕", self._marked(session, r)) for r in rs] for rs in (edit.context, edit.keep))
        return {
            "tray": tiles(pictures, note or "What you copy and paste appears here.", note=note),
            "context": tiles(context, "None yet: the rule is solved for the pasted or erased place alone."),
            "keep": tiles(keep, "No protected places."),
        }

    def _marked(self, session: Rewriter, place: Region) -> Tensor:
        """A picture, dimmed outside of a place."""
        picture = self.shared.pictures(session, [place.seed], [])[0]
        mask = resize(place.mask, (picture.shape[1], picture.shape[2])).to(picture)
        return torch.lerp((picture + 1) * 0.4 - 1, picture, mask)

    def _next(self, visitor: Visitor, session: Rewriter) -> Shown:
        missing, made = session.edit.missing(), session.history.present.made is not None
        done = "**Done.** Change the edit and execute it again, or press *New rule*."
        text = f"**Next:** {missing[0]}." if missing else done if made else "**Ready:** press *Execute*."
        return {"next": text, "execute": {"interactive": not missing}}

    def _rules(self, visitor: Visitor, session: Rewriter) -> Shown:
        own = {f"rule {i + 1}: {remark}" for i, rule in enumerate(session.rules) for remark in advice(rule)}
        rules = [
            {
                "title": rule.title,
                "strength": rule.strength,
                "on": rule.on,
                "verdict": verdict(rule),
                "words": [line.strip() for line in effect_in_words("", rule).split("\n")[1:]],
                "remarks": [each.replace("(`suggest` ranks them)", "(“Try every layer”)") for each in advice(rule)],
            }
            for rule in session.rules
        ]
        remarks = [remark for remark in session.remarks() if remark not in own]
        name = {"placeholder": suggested_name(session)}
        return {"rules": {"rules": rules, "remarks": remarks}, "suggested_name": name}

    def _settings(self, visitor: Visitor, session: Rewriter) -> Shown:
        edit, generator = session.edit, session.generator
        names = ("form", "rank", "method", "truncation", "title")
        choices = [(layer_label(generator, info), name) for name, info in generator.layers.items()]
        return {
            "layer": {"value": edit.layer, "choices": choices},
            "budget": edit.budget or 0,
            "smoothness": SMOOTHNESS if edit.smoothness is None else edit.smoothness,
            **{name: getattr(edit, name) for name in names},
        }

    def _about(self, visitor: Visitor, session: Rewriter) -> Shown:
        side, origin = session.generator.resolution, session.generator.origin
        licence = f"[{origin.licence.id}]({origin.licence.link})" if origin.licence else "licence: its authors' own"
        if origin.attribution:
            licence += f" · {escape_markdown(origin.attribution)}"
        return {
            "generator": {"value": visitor.generator, "choices": generator_choices(self.shared)},
            "about": f"{side} × {side} px · {licence}",
            "suggested": {},
        }

    def _kept(self, visitor: Visitor, session: Rewriter) -> Shown:
        """What the browser keeps: each history with its undo steps if it is small, else its present state alone."""
        works = {}
        for name, history in visitor.histories.items():
            data = history.to_bytes()
            if len(data) > KEPT_BYTES:
                data = History((history.present,)).to_bytes()
            if len(data) <= KEPT_BYTES:
                works[name] = base64.b64encode(data).decode("ascii")
        shown = {"seeds": format_seeds(visitor.seeds), "selected": f"{visitor.selected}", "link": visitor.link}
        return {"kept": {"generator": visitor.generator, "works": works, **shown}}


def restore(shared: Shared, kept: Any) -> Visitor:
    """The visitor whose browser kept this, with the histories for generators that are offered here.

    Raises:
        InputError: it is damaged, or asks for too much.
    """
    try:
        chosen = kept["generator"]
        visitor = Visitor(
            chosen if chosen in shared.names and not shared.absent(chosen) else BUILT_IN,
            seeds=tuple(parse_seeds(kept["seeds"], most=MOST_PICTURES)),
            selected=parse_seeds(kept["selected"], most=1)[0],
            link=f"{kept['link']}"[:96],
        )
        histories = {
            name: History.from_bytes(base64.b64decode(work[: 2 * KEPT_BYTES], validate=True))
            for name, work in kept["works"].items()
            if name in shared.names
        }
        for history in histories.values():
            check_affordable(history.present.edit)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"the work that your browser kept cannot be restored ({error})") from error
    most = 4 * shared.page_size(shared.model(visitor.generator))
    return replace(visitor, histories=histories, seeds=visitor.seeds[:most])


def check_affordable(edit: Edit) -> Edit:
    """The edit; InputError if it would block the shared queue whenever it is shown or executed."""
    if edit.statistics is not None or (edit.steps or 0) > MOST_STEPS:
        reason = f"the edit asks for its own statistics, or for more than {MOST_STEPS} steps"
        raise InputError(f"{reason}, which takes too long on a shared page: use `rewriter apply`")
    return edit


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
    form = f"{FORM_LABELS[form_of(rule.beside)].lower()} at {rule.layer}"
    return f"{rule.effect.verdict} · {form}" if rule.effect and rule.effect.verdict else form


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


def format_seeds(seeds: Sequence[int]) -> str:
    """Seeds as `parse_seeds` reads them: (0, 1, 2, 8) → "0-2, 8"."""
    runs = [[seed for _, seed in run] for _, run in groupby(enumerate(seeds), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def layer_label(generator: Generator, layer: LayerInfo) -> str:
    """A layer's name and size, and what it is good for, judged by its distance from the default layer."""
    names, start = list(generator.layers), default_layer(generator)
    place, at = names.index(layer.name), names.index(start)
    fine = names.index(generator.advice.get("texture", names[min(at + 2, len(names) - 1)]))
    coarse = names.index(generator.advice.get("structure", names[max(at - 2, 0)]))
    use = "start here" if place == at else "structure" if place <= coarse else "texture" if place >= fine else "objects"
    return f"{layer.name}: {layer.key_resolution} × {layer.key_resolution}, {use}"
