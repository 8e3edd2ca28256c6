"""What the page shows of a visitor's work, as plain values: boards of pictures, words, the settings."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from rewriter import Rewriter, Rule
from rewriter.editing.edit import Edit, Region
from rewriter.editing.effect import advice, effect_in_words
from rewriter.editing.history import History
from rewriter.editing.provenance import default_layer
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.latents import parse_seeds
from rewriter.generators.layer import LayerInfo
from rewriter.hub.card import named, slug
from rewriter.masks import resize
from rewriter.memory.solve import SMOOTHNESS
from rewriter.pictures import to_image
from studio import BUILT_IN, Studio, Visitor

T = TypeVar("T")
THUMB, FULL = 256, 1024  # pixels a side, on boards and in the painter
MOST = 48  # pictures on screen
SLOW = 500  # steps that a method of many small steps gets on the page
KEEPABLE = 1 << 20  # bytes of work that a browser is asked to keep

Shown = dict[str, Any]  # parts of the page that are to be shown anew, by name
WORK = ("trays", "next", "rules", "settings", "kept")  # parts that a step of the work may change
EVERYTHING = ("about", "board", "picture", *WORK)


def data_url(data: bytes, kind: str) -> str:
    """Bytes as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def picture_url(picture: Tensor, side: int = THUMB) -> str:
    """A picture (3, H, W) as a data URL: PNG up to 256 a side, JPEG above, where PNG weighs more than it shows."""
    image = to_image(picture)
    if image.width > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    buffer, kind = io.BytesIO(), "png" if image.width <= THUMB else "jpeg"
    image.save(buffer, kind, quality=92)
    return data_url(buffer.getvalue(), f"image/{kind}")


def tiles(pictures: Iterable[tuple[str, Tensor]], empty: str = "", *, note: str = "") -> Shown:
    """Captions and pictures as a board's value; what it says when there are none, and what it adds when there are."""
    made = [{"key": f"{i}", "caption": c, "image": picture_url(p)} for i, (c, p) in enumerate(pictures)]
    return {"tiles": made, "note": note if made else empty}


class View:
    """Turns a visitor into parts of the page."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def show(self, visitor: Visitor, *names: str) -> Shown:
        """The visitor and the named parts; see EVERYTHING."""
        session = self.studio.session(visitor)
        shown: Shown = {"visitor": visitor}
        for name in names:
            shown |= getattr(self, f"_{name}")(visitor, session)
        return shown

    def board(self, visitor: Visitor, session: Rewriter, rules: Sequence[Rule] | None = None) -> Shown:
        """The pictures on screen: with the rules, as they were, and where the context fires if that is asked for."""
        now, before = (self.studio.pictures(session, visitor.seeds, own) for own in (rules, []))
        pairs = zip(visitor.seeds, now, strict=True)
        shown = [_tile(seed, picture) for seed, picture in pairs]
        for tile, then, same in zip(shown, before, (now == before).flatten(1).all(1), strict=True):
            if not same:
                tile["other"] = picture_url(then)
        note = ""
        if visitor.matches:
            try:
                for tile, match in zip(shown, session.matches_on(visitor.seeds), strict=True):
                    tile["match"] = picture_url(match.overlay)
            except InputError as error:
                note = f"No matches to show: {error}."
        return {"tiles": shown, "chosen": str(visitor.selected), "note": note}

    def _board(self, visitor: Visitor, session: Rewriter) -> Shown:
        return {"board": self.board(visitor, session), "seeds": in_short(visitor.seeds)}

    def _picture(self, visitor: Visitor, session: Rewriter) -> Shown:
        url = picture_url(self.studio.pictures(session, [visitor.selected])[0], FULL)
        return {"picture": {"picture": url, "seed": visitor.selected}}

    def _trays(self, visitor: Visitor, session: Rewriter) -> Shown:
        edit, looks, note = session.edit, [], ""
        try:
            if edit.copy:
                copied = session.copied()
                looks += [("copied", copied.cut_out), ("alone", copied.alone)]
            if edit.paste and not edit.missing():
                wanted = session.preview()
                looks += [("before", wanted.before), ("wanted", wanted.after)]
            elif edit.paste:
                looks += [("to be pasted on", self._marked(session, edit.paste))]
        except InputError as error:  # the mark stands, with what is wrong with it
            note = f"{error}."
        context, keep = ([(f"{r.seed} ✕", self._marked(session, r)) for r in rs] for rs in (edit.context, edit.keep))
        return {
            "tray": tiles(looks, note or "What you copy and paste appears here.", note=note),
            "context": tiles(context, "None yet: the place that is pasted on or erased alone counts."),
            "keep": tiles(keep, "Nothing is kept as it is."),
        }

    def _marked(self, session: Rewriter, place: Region) -> Tensor:
        """A picture dimmed outside a place."""
        picture = self.studio.pictures(session, [place.seed], [])[0]
        mask = resize(place.mask, (picture.shape[1], picture.shape[2])).to(picture)
        return torch.lerp((picture + 1) * 0.4 - 1, picture, mask)

    def _next(self, visitor: Visitor, session: Rewriter) -> Shown:
        missing, made = session.edit.missing(), session.history.present.made is not None
        words = "**Done.** Change it and execute again, or begin the *next rule*." if made else "**Ready:** execute."
        return {"next": f"**Next:** {missing[0]}." if missing else words, "ready": not missing}

    def _rules(self, visitor: Visitor, session: Rewriter) -> Shown:
        own = {f"rule {i + 1}: {words}" for i, rule in enumerate(session.rules) for words in advice(rule)}
        rules = [
            {
                "title": rule.title,
                "strength": rule.strength,
                "on": rule.on,
                "words": [line.strip() for line in effect_in_words("", rule).split("\n")[1:]],
                "remarks": [words.replace("(`suggest` ranks them)", "(“Try every layer”)") for words in advice(rule)],
            }
            for rule in session.rules
        ]
        remarks = [words for words in session.remarks() if words not in own]
        return {"rules": {"rules": rules, "remarks": remarks}, "proposal": proposed(session)}

    def _settings(self, visitor: Visitor, session: Rewriter) -> Shown:
        edit, generator, names = session.edit, session.generator, ("rank", "method", "truncation", "title")
        choices = [(in_words(generator, info), name) for name, info in generator.layers.items()]
        return {
            "layer": {"value": edit.layer, "choices": choices},
            "smoothness": SMOOTHNESS if edit.smoothness is None else edit.smoothness,
            **{name: getattr(edit, name) for name in names},
        }

    def _about(self, visitor: Visitor, session: Rewriter) -> Shown:
        side, origin = session.generator.resolution, session.generator.origin
        licence = "licence: its authors' own"
        if origin.licence:
            licence = f"[{origin.licence.id}]({origin.licence.link})"
        if origin.attribution:
            licence += f" · {plain(origin.attribution)}"
        return {
            "generator": {"value": visitor.generator, "choices": offers(self.studio)},
            "about": f"{side} × {side} px · {licence}",
            "suggested": {},
        }

    def _kept(self, visitor: Visitor, session: Rewriter) -> Shown:
        """What the browser keeps: of each generator the whole way back if it is small, else where things stand."""
        works = {}
        for name, work in visitor.works.items():
            data = work.to_bytes()
            if len(data) > KEEPABLE:
                data = History((work.present,)).to_bytes()
            if len(data) <= KEEPABLE:
                works[name] = base64.b64encode(data).decode("ascii")
        shown = {"seeds": in_short(visitor.seeds), "selected": f"{visitor.selected}", "link": visitor.link}
        return {"kept": {"generator": visitor.generator, "works": works, **shown}}


def _tile(seed: int, picture: Tensor) -> Shown:
    return {"key": f"{seed}", "caption": f"{seed}", "title": f"Picture {seed}", "image": picture_url(picture)}


def restored(studio: Studio, kept: Any) -> Visitor:
    """The visitor whose browser kept this, with the work on generators that are on offer.

    Raises:
        InputError: it is damaged, or of another generator.
    """
    try:
        left = kept["generator"]
        visitor = Visitor(
            left if left in studio.names and not studio.absent(left) else BUILT_IN,
            seeds=tuple(parse_seeds(kept["seeds"], most=MOST)),
            selected=parse_seeds(kept["selected"], most=1)[0],
            link=f"{kept['link']}"[:96],
        )
        works = {
            name: bearable(History.from_bytes(base64.b64decode(work[: 2 * KEEPABLE], validate=True)))
            for name, work in kept["works"].items()
            if name in studio.names
        }
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"what the browser kept of your work cannot be taken up ({error})") from error
    model = studio.model(visitor.generator)
    if visitor.generator in works:  # the others are looked at when they are chosen
        Rewriter(model, history=works[visitor.generator])  # checks that it belongs there
    return replace(visitor, works=works, seeds=visitor.seeds[: 4 * studio.page(model)])


def bearable(work: History) -> History:
    """Refuse work, from a file or a browser, that would keep the lane busy for long whenever it is looked at."""
    bearable_edit(work.present.edit)
    return work


def bearable_edit(edit: Edit) -> Edit:
    """The same for one edit."""
    if edit.statistics is not None or (edit.steps or 0) > SLOW:
        raise InputError(f"it asks for statistics of its own, or more than {SLOW} steps: use `rewriter apply` for that")
    return edit


def offers(studio: Studio) -> list[tuple[str, str]]:
    """The generators to choose from: how they are called, and their names."""
    known = {name: studio.catalogue[name] for name in studio.names if name in studio.catalogue}
    titles = {name: f"{entry.title}, {entry.resolution} px" for name, entry in known.items()}
    for name in filter(studio.absent, studio.names):
        size = known[name].size if name in known else None
        titles[name] = f"{titles.get(name, name)} ↓{size / 1e6: .0f} MB" if size else f"{titles.get(name, name)} ↓"
    return [(titles.get(name, name), name) for name in studio.names]


def proposed(session: Rewriter) -> str:
    """A name on the Hub for the generator with these rules."""
    return slug("-".join([session.generator.name, *(each.title for each in named(session.rules))])) or "rewritten"


def plain(text: str) -> str:
    """Somebody's words, as Markdown that says just them."""
    return re.sub(r"([\\`*_\[\]()!<>&#|~])", lambda found: f"&#{ord(found[0])};", text)


def chosen(what: str, things: Mapping[str, T]) -> T:
    """The thing of that name; names come from the network."""
    if not isinstance(what, str) or what not in things:
        raise InputError(f"there is no {what!r}: choose one of {', '.join(things)}")
    return things[what]


def in_short(seeds: Sequence[int]) -> str:
    """Seeds as people write them: (0, 1, 2, 8) → "0-2, 8"."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def in_words(generator: Generator, layer: LayerInfo) -> str:
    """A layer, with what it is good for: that depends on where it stands beside those that are known to be good."""
    names, start = list(generator.layers), default_layer(generator)
    place, at = names.index(layer.name), names.index(start)
    fine = names.index(generator.advice.get("texture", names[min(at + 2, len(names) - 1)]))
    coarse = names.index(generator.advice.get("structure", names[max(at - 2, 0)]))
    good = (
        "start here" if place == at else "structure" if place <= coarse else "texture" if place >= fine else "objects"
    )
    return f"{layer.name}: {layer.key_resolution} × {layer.key_resolution}, {good}"
