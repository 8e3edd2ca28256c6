"""What each button does: values in, values out, so that all of it is tested without a server or a browser."""

from __future__ import annotations

import base64
import io
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rewriter import Rewriter, load_edits, townscape
from rewriter.describe import effect_in_words
from rewriter.edit import Region
from rewriter.effect import advice
from rewriter.errors import InputError, RewriterError
from rewriter.generators.latents import SEEDS, parse_seeds
from rewriter.masks import resize
from rewriter.pictures import to_image
from studio import PAGE, Studio, Visitor

THUMB, FULL = 256, 1024  # pixels a side, on boards and in the painter
MOST = 48  # pictures on screen
MARKS = ("copy", "paste", "context", "keep", "erase")
STEPS = ("undo", "redo", "begin", "revert", "zero")
News = tuple[float, str]  # share done, and of what


def picture_url(picture: Tensor, side: int = THUMB) -> str:
    """A picture (3, H, W) as a data URL: PNG up to 256 a side, JPEG above, where PNG weighs more than it shows."""
    image = to_image(picture)
    if image.width > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    buffer, kind = io.BytesIO(), "png" if image.width <= THUMB else "jpeg"
    image.save(buffer, kind, quality=92)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


class Handlers:
    """The page's actions. Those that change something return the visitor as he or she is afterwards."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    # --- what there is to see ---

    def board(self, visitor: Visitor) -> dict[str, Any]:
        """The pictures on screen, with the rules and as they were."""
        session = self.studio.session(visitor)
        now, before = (self.studio.pictures(session, visitor.seeds, original=original) for original in (False, True))
        tiles = [
            {
                "key": f"{s}",
                "caption": f"{s}",
                "title": f"picture {s}",
                "image": picture_url(a),
                "other": picture_url(b),
            }
            for s, a, b in zip(visitor.seeds, now, before, strict=True)
        ]
        return {"tiles": tiles, "chosen": str(visitor.selected)}

    def picture(self, visitor: Visitor) -> str:
        """The chosen picture for the painter, with the rules that are on."""
        session = self.studio.session(visitor)
        return picture_url(self.studio.pictures(session, [visitor.selected])[0], FULL)

    def trays(self, visitor: Visitor) -> dict[str, dict[str, Any]]:
        """What is copied, pasted, marked and kept, as boards."""
        session = self.studio.session(visitor)
        edit, copied, pasted = session.edit, [], []
        if edit.copy:
            shown = session.copied()
            copied = [("cut out", shown.cut_out), ("its value alone", shown.alone)]
        if edit.paste and not edit.missing():
            wanted = session.preview()
            pasted = [("before", wanted.before), ("wanted", wanted.after)]
        context, keep = ([(f"{r.seed} ✕", self._marked(session, r)) for r in rs] for rs in (edit.context, edit.keep))
        return {
            "copied": _tiles(copied, "Nothing is copied yet."),
            "pasted": _tiles(pasted, "Nothing is pasted yet."),
            "context": _tiles(context, "No context yet: the pasted place alone is it."),
            "keep": _tiles(keep, "Nothing is kept as it is."),
        }

    def missing(self, visitor: Visitor) -> list[str]:
        """What the edit still needs, as next steps."""
        return self.studio.session(visitor).edit.missing()

    def rules(self, visitor: Visitor) -> list[dict[str, Any]]:
        """The rules made so far, with what each did, in words."""
        return [
            {
                "title": rule.edit.get("title") or f"{rule.edit.get('kind', 'rule')} at {rule.layer}",
                "strength": rule.strength,
                "on": rule.on,
                "words": [line.strip() for line in effect_in_words("", rule).split("\n")[1:]],
                "remarks": advice(rule),
            }
            for rule in self.studio.session(visitor).rules
        ]

    def _marked(self, session: Rewriter, place: Region) -> Tensor:
        """A picture dimmed outside a place."""
        picture = self.studio.pictures(session, [place.seed], original=True)[0]
        mask = resize(place.mask, (picture.shape[1], picture.shape[2])).to(picture)
        return torch.lerp((picture + 1) * 0.4 - 1, picture, mask)

    # --- what can be done ---

    def browse(self, visitor: Visitor, text: str) -> Visitor:
        """Other pictures on screen."""
        return replace(visitor, seeds=tuple(dict.fromkeys(parse_seeds(text, most=MOST))))

    def more(self, visitor: Visitor) -> Visitor:
        """The next page of pictures."""
        first = max(visitor.seeds) + 1 if max(visitor.seeds) + PAGE < SEEDS else 0
        return replace(visitor, seeds=tuple(range(first, first + PAGE)))

    def pick(self, visitor: Visitor, key: str) -> Visitor:
        """A picture for the painter."""
        return replace(visitor, selected=parse_seeds(key, most=1)[0])

    def mark(self, visitor: Visitor, what: str, mask: Tensor | None) -> Visitor:
        """Copy, paste, erase, add to the context or keep what is painted on the chosen picture."""
        if mask is None:
            raise InputError("nothing is painted yet: paint on the picture first")
        session = self.studio.session(visitor)
        acts = (session.copy, session.paste, session.add_context, session.keep, session.erase)
        dict(zip(MARKS, acts, strict=True))[what](visitor.selected, mask)
        return replace(visitor, history=session.history)

    def unmark(self, visitor: Visitor, what: str, key: str) -> Visitor:
        """Take back a place of the context, or one that was to be kept."""
        session = self.studio.session(visitor)
        {"context": session.remove_context, "keep": session.remove_keep}[what](parse_seeds(key, most=1)[0])
        return replace(visitor, history=session.history)

    def step(self, visitor: Visitor, what: str) -> Visitor:
        """Undo, redo, begin the next edit, revert all, or let the layer forget the context."""
        session = self.studio.session(visitor)
        acts = (session.undo, session.redo, session.begin, session.revert, session.zero)
        dict(zip(STEPS, acts, strict=True))[what]()
        return replace(visitor, history=session.history)

    def rule(self, visitor: Visitor, do: str, index: int, value: Any = None) -> Visitor:
        """One action on the list of rules: strength, switch, move or remove."""
        session = self.studio.session(visitor)
        acts: dict[str, Callable[[], None]] = {
            "strength": lambda: session.strength(index, value),
            "switch": lambda: session.switch(index, value),
            "move": lambda: session.move(index, value),
            "remove": lambda: session.remove(index),
        }
        if do not in acts:
            raise InputError(f"rules can be changed by {', '.join(acts)}, not by {do!r}")
        acts[do]()
        return replace(visitor, history=session.history)

    def execute(self, visitor: Visitor) -> Iterator[News | Visitor]:
        """Make the rule: news on the way, the visitor at the end. Closing it cancels."""
        session = self.studio.session(visitor)
        yield from self._watched(visitor, session, lambda told: _execute(session, told))

    def example(self, visitor: Visitor, name: str) -> Iterator[News | Visitor]:
        """Take up a shipped edit, or several in succession, and execute; copy, paste and context stay to look at."""
        session, shipped = self.studio.session(visitor), townscape.examples()
        if name not in shipped:
            raise InputError(f"there is no edit called {name!r}: choose one of {', '.join(shipped)}")

        def work(told: Told) -> None:
            for edit in load_edits(shipped[name]):
                session.begin()
                session.use(edit)
                _execute(session, told)

        yield from self._watched(visitor, session, work)

    def _watched(self, visitor: Visitor, session: Rewriter, work: Callable[[Told], None]) -> Iterator[News | Visitor]:
        """Run work on the session in a thread and pass on what it tells."""
        told: queue.SimpleQueue[News | Visitor | RewriterError] = queue.SimpleQueue()
        stop = threading.Event()

        def tell(done: int, of: int, words: str) -> bool:
            told.put((done / of, words))
            return not stop.is_set()

        def run() -> None:
            try:
                work(tell)
                told.put(replace(visitor, history=session.history))
            except RewriterError as error:
                told.put(error)

        threading.Thread(target=run, daemon=True).start()
        try:
            while True:
                news = told.get()
                if isinstance(news, RewriterError):
                    raise news
                yield news
                if isinstance(news, Visitor):
                    return
        finally:
            stop.set()


Told = Callable[[int, int, str], bool]  # (done, of, words); False: stop


def _execute(session: Rewriter, told: Told) -> None:
    session.execute(
        on_step=lambda step, of, loss: told(step, of, "Solving"),
        on_statistics=lambda done, of: told(done, of, "Getting to know this layer"),
    )


def _tiles(pictures: list[tuple[str, Tensor]], empty: str) -> dict[str, Any]:
    """Captions and pictures as a board's value; what it says when there are none."""
    tiles = [{"key": f"{i}", "caption": c, "image": picture_url(p)} for i, (c, p) in enumerate(pictures)]
    return {"tiles": tiles, "empty": empty}
