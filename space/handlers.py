"""What each button does: values in, values out, so that all of it is tested without a server or a browser.

Each takes the visitor first and returns the parts of the page that are to be shown anew, the visitor among them. What
takes long also takes a Tell, which gets the news and says whether to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from torch import Tensor

from rewriter import Edit, Rewriter, Rule, load_edits
from rewriter.checkpoints.client import is_name
from rewriter.cli.describe import kind_of
from rewriter.editing import history
from rewriter.editing.history import History
from rewriter.editing.provenance import default_layer, with_default_layer
from rewriter.editing.search import Found
from rewriter.errors import CancelledError, InputError
from rewriter.generators.latents import SEEDS, parse_seeds
from rewriter.hub.card import named
from rewriter.hub.draft import compare, comparisons, draft
from rewriter.worlds import townscape
from saving import Belongings, saved
from studio import BUILT_IN, Studio, Visitor
from view import (
    EVERYTHING,
    MOST,
    SLOW,
    WORK,
    Shown,
    View,
    bearable,
    bearable_edit,
    chosen,
    plain,
    proposed,
    restored,
    tiles,
)

MARKS = ("copy", "paste", "context", "keep", "erase")
SETTINGS = ("layer", "rank", "smoothness", "method", "truncation", "title")
STEPS = ("zero", "undo", "redo", "begin", "revert")
SEARCHED = range(2000)

Tell = Callable[..., bool]  # (done, of, words, parts to show already); False: stop


def silent(done: int, of: int, words: str, shown: Shown | None = None) -> bool:
    """Tell nobody, never stop."""
    return True


class Handlers:
    """The page's actions on one studio."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.view = studio, View(studio)

    # --- what there is to see ---

    def open(self, visitor: Visitor, kept: Any = None, link: Mapping[str, str] | None = None) -> Shown:
        """The page as it was left in this browser, with what a link asks for: edit, model, seed; not nonsense."""
        link, trouble = link or {}, ""
        if kept is not None:
            try:
                visitor = restored(self.studio, kept)
                if visitor.generator != kept["generator"] and kept["generator"] in self.studio.names:
                    trouble = f"{kept['generator']} is not on this machine any more: choose it again."
            except InputError as error:
                trouble = f"{error}."
        with suppress(InputError):
            seed = parse_seeds(link.get("seed", ""), most=1)[0]
            count = self.studio.page(self.studio.model(visitor.generator))
            first = min(seed - seed % count, SEEDS - count)
            visitor = replace(visitor, selected=seed, seeds=tuple(range(first, first + count)))
        wanted = link.get("model", "") or link.get("edit", "")
        known = wanted in townscape.examples() or ("model" in link and (is_name(wanted) or wanted in self.studio.names))
        if "model" in link and not known:
            trouble = f"{plain(wanted[:96])!r} is no generator: a link to a published one ends in ?model=USER/NAME."
        ruled = visitor.work is not None and visitor.work.present.rules
        did = wanted == visitor.link and (wanted in self.studio.names or ruled)
        new = known and not did  # reloading the page does not do it again
        shown = {**self.view.show(visitor, *EVERYTHING), "pending": wanted if new else ""}
        del shown["kept"]  # until there is something new to keep
        return shown if not trouble else {**shown, "next": f"{shown['next']} *{trouble}*"}

    def choose(self, visitor: Visitor, generator: str, link: str | None = None, tell: Tell = silent) -> Shown:
        """Another generator that is on this machine, perhaps by a link; the work on this one is kept."""
        model, trouble = self.studio.model(generator), ""
        visitor = replace(visitor, link=visitor.link if link is None else link)
        visitor = replace(visitor, generator=generator, seeds=tuple(range(self.studio.page(model))), matches=False)
        try:
            session = self.studio.session(visitor)
        except InputError as error:  # kept by a browser since it was another
            works = {name: work for name, work in visitor.works.items() if name != generator}
            visitor, trouble = replace(visitor, works=works), f"What was kept of your work on it is gone: {error}."
            session = self.studio.session(visitor)

        def on_step(done: int, of: int) -> None:
            if not tell(done, of, f"Drawing with {generator}"):
                raise CancelledError("nothing has changed")

        self.studio.pictures(session, visitor.seeds, [], on_step)
        shown = self.view.show(visitor, *EVERYTHING)
        return shown if not trouble else {**shown, "next": f"{shown['next']} *{trouble}*"}

    def browse(self, visitor: Visitor, text: str) -> Shown:
        """Other pictures on screen."""
        seeds = tuple(dict.fromkeys(parse_seeds(text, most=MOST)))
        most = 4 * self.studio.page(self.studio.model(visitor.generator))
        if len(seeds) > most:
            raise InputError(f"each of these pictures takes a while here: ask for at most {most}")
        return self.view.show(replace(visitor, seeds=seeds), "board")

    def more(self, visitor: Visitor) -> Shown:
        """The next page of pictures."""
        count = self.studio.page(self.studio.model(visitor.generator))
        first = max(visitor.seeds) + 1 if max(visitor.seeds) + count < SEEDS else 0
        return self.view.show(replace(visitor, seeds=tuple(range(first, first + count))), "board")

    def pick(self, visitor: Visitor, key: str) -> Shown:
        """A picture for the painter."""
        return self.view.show(replace(visitor, selected=parse_seeds(key, most=1)[0]), "board", "picture")

    def look(self, visitor: Visitor, view: str) -> Shown:
        """Pictures "Rewritten", "Original", or "Matches": with the places where the context fires."""
        matches = view == "Matches"
        if matches == visitor.matches:
            return {}
        return self.view.show(replace(visitor, matches=matches), "board")

    def find(self, visitor: Visitor, mask: Tensor | None = None, seed: int | None = None, tell: Tell = silent) -> Shown:
        """The pictures in which the painted place, or else the context, fires most."""
        session = self.studio.session(visitor)
        if mask is not None:
            session.begin()
            session.add_context(visitor.selected if seed is None else seed, mask)
        elif not (session.edit.context or session.edit.paste):
            raise InputError("paint on a picture, or mark a context: similar places are found then")
        found: list[Found] = []

        def on_found(best: list[Found]) -> None:
            found[:] = best

        how: dict[str, Any] = {"on_step": lambda done, of: tell(done, of, "Looking"), "on_found": on_found}
        with suppress(CancelledError):  # what was found until then is shown
            session.search(self.studio.page(session.generator), seeds=SEARCHED, **how)
        return self.view.show(replace(visitor, seeds=tuple(one.seed for one in found)), "board")

    # --- the edit in progress ---

    def mark(self, visitor: Visitor, what: str, mask: Tensor | None, seed: int | None = None) -> Shown:
        """Copy, paste, erase, add to the context or keep what is painted on the chosen picture."""
        if mask is None:
            raise InputError("nothing is painted yet: paint on the picture first")
        session = self.studio.session(visitor)
        before, made = session.history, session.history.present.made is not None
        if made and what in ("copy", "erase"):  # another thing: another rule
            session.begin(default_layer(session.generator))
        acts = (session.copy, session.paste, session.add_context, session.keep, session.erase)
        chosen(what, dict(zip(MARKS, acts, strict=True)))(visitor.selected if seed is None else seed, mask)
        session.history = before.then(session.history.present)  # one step back undoes it
        return {**self._after(visitor, session), "mask": None}

    def unmark(self, visitor: Visitor, what: str, key: str) -> Shown:
        """Take back a place of the context, or one that was to be kept."""
        session = self.studio.session(visitor)
        acts = {"context": session.remove_context, "keep": session.remove_keep}
        chosen(what, acts)(parse_seeds(key, most=1)[0])
        return self._after(visitor, session)

    def set(self, visitor: Visitor, name: str, value: Any) -> Shown:
        """Change a setting of the edit: layer, rank, smoothness, method, truncation or title."""
        session = self.studio.session(visitor)
        if chosen(name, {each: getattr(session.edit, each) for each in SETTINGS}) == value:
            return self._after(visitor, session)
        new = {name: round(value, 1) if name == "truncation" and isinstance(value, float) else value}
        if name == "method":
            new["steps"] = None if value == "least-squares" else SLOW
        session.set(**new)
        return self._after(visitor, session, *(("board", "picture") if name == "truncation" else ()))

    def suggest(self, visitor: Visitor, tell: Tell = silent) -> Shown:
        """The same edit at every layer, the best first, to choose from."""
        found = self.studio.session(visitor).suggest(on_step=lambda done, of: tell(done, of, "Trying every layer"))
        done = [(one.layer, one.score, one.picture) for one in found if one.picture is not None]
        failed = [one for one in found if one.picture is None]
        note = f"Not possible at {', '.join(one.layer for one in failed)}: {failed[0].why}." if failed else ""
        board = tiles([(f"{layer}: {score:.2f}", picture) for layer, score, picture in done], note, note=note)
        for tile, (layer, *_) in zip(board["tiles"], done, strict=True):
            tile["key"] = layer
        return {"suggested": board}

    # --- the rules ---

    def execute(self, visitor: Visitor, tell: Tell = silent) -> Shown:
        """Make the rule. The pictures are shown as soon as it is solved, what it did when that is measured."""
        session = self.studio.session(visitor)
        self._execute(visitor, session, tell)
        return self._after(visitor, session, "board", "picture")

    def example(self, visitor: Visitor, name: str, tell: Tell = silent) -> Shown:
        """Take up a shipped edit, or several in succession, and execute; copy, paste and context stay to look at."""
        shipped = townscape.examples()
        if name not in shipped:
            raise InputError(f"there is no edit called {name!r}: choose one of {', '.join(shipped)}")
        return self._take_up(replace(visitor, generator=BUILT_IN), load_edits(shipped[name]), tell)

    def linked(self, visitor: Visitor, name: str, tell: Tell = silent) -> Shown:
        """The shipped edit that a link asked for, if it did."""
        return {**self.example(replace(visitor, link=name), name, tell), "pending": ""} if name else {}

    def adopt(self, visitor: Visitor, base: str, rules: Sequence[Rule], link: str, tell: Tell = silent) -> Shown:
        """The rules of a published generator, in place of those on its base; one step back undoes it."""
        visitor = replace(visitor, generator=base, link=link, matches=False)
        session = self.studio.session(visitor)
        session.history = session.history.then(Rewriter(session.generator, rules=rules).history.present)
        shown = self._after(visitor, session, "about", "board", "picture")
        there = f"[{link}]({constants.ENDPOINT}/{link})"
        said = f"**{there} is open**, its rules in the place of yours; *Undo* brings those back."
        return {**shown, "next": f"{said} {shown['next']}", "pending": ""}

    def draft(self, visitor: Visitor, account: str, name: str, description: str, weights: bool) -> Shown:
        """What would be published in an account, under this name or the one proposed; less weights and pictures."""
        session = self.studio.session(visitor)
        name = name.strip().removeprefix(f"{account}/")
        if "/" in name:
            raise InputError(f"{name!r} is more than a name: it goes into your own account, {account}; leave that out")
        if not is_name(whole := f"{account}/{name or proposed(session)}"):
            raise InputError(f"{name!r} cannot be a name: use letters, digits, '-', '_' and '.', singly and within it")
        made = draft(session.generator, session.rules, whole, description=description, weights=weights, pictures=False)
        return {"draft": replace(made, later={}), "pictures": comparisons(named(session.rules))}

    def compare(self, visitor: Visitor, which: int, tell: Tell = silent) -> Shown:
        """One of a draft's pictures."""
        session = self.studio.session(visitor)

        def on_step(done: int, of: int) -> None:
            if not tell(done, of, "Drawing the pictures of its card"):
                raise CancelledError("nothing was published")

        return {"picture": compare(session.generator, named(session.rules), which, on_step)}

    def step(self, visitor: Visitor, what: str) -> Shown:
        """Undo, redo, begin the next edit, revert all, or let the layer forget the context."""
        session = self.studio.session(visitor)
        begin = partial(session.begin, default_layer(session.generator))
        acts = (session.zero, session.undo, session.redo, begin, session.revert)
        chosen(what, dict(zip(STEPS, acts, strict=True)))()
        return self._after(visitor, session, "board", "picture")

    def rule(self, visitor: Visitor, do: str, index: int, value: Any = None) -> Shown:
        """One action on the list of rules: try (a strength, without noting it), strength, switch, move or remove."""
        session = self.studio.session(visitor)
        acts: dict[str, Callable[[], None]] = {
            "strength": lambda: session.set_strength(index, value),
            "switch": lambda: session.switch(index, value),
            "move": lambda: session.move(index, value),
            "remove": lambda: session.remove(index),
        }
        chosen("strength" if do == "try" else do, acts)()
        if do == "try":
            return {"board": self.view.board(visitor, session)}
        return self._after(visitor, session, "board", "picture")

    # --- files ---

    def save(self, visitor: Visitor, what: str, index: int = 0) -> Shown:
        """A file to keep: the edits, the session, a rule, or the pictures on screen as a sheet or an animation."""
        return {"download": saved(Belongings(self.studio, visitor, index), what)}

    def load(self, visitor: Visitor, file: str, tell: Tell = silent) -> Shown:
        """An edit, several, a recording of the original implementation, a rule or a session from a file."""
        try:
            if Path(file).suffix != ".safetensors":
                return self._take_up(visitor, [bearable_edit(edit) for edit in load_edits(file)], tell)
            session = self.studio.session(visitor)
            if kind_of(Path(file)) == history.FORMAT:
                loaded = Rewriter(session.generator, history=bearable(History.load(file)))
                session.history = session.history.then(loaded.history.present)  # undo leads back to the work before
            else:
                session.add(Rule.load(file))
        except InputError as error:
            raise InputError(str(error).replace(str(file), Path(file).name)) from error
        return self._after(visitor, session, "board", "picture")

    def refresh(self, visitor: Visitor) -> Shown:
        """The board as things stand."""
        return self.view.show(visitor, "about", "board", "picture")

    # --- inside ---

    def _after(self, visitor: Visitor, session: Rewriter, *names: str) -> Shown:
        """The visitor after a step. Settings are sent if it has changed them: somebody may be typing there."""
        before = self.studio.session(visitor).edit
        changed = any(getattr(before, name) != getattr(session.edit, name) for name in SETTINGS)
        names += ("board",) if visitor.matches else ()
        work = [name for name in WORK if name != "settings" or changed]
        return self.view.show(visitor.with_work(session.history), *names, *work)

    def _execute(self, visitor: Visitor, session: Rewriter, tell: Tell) -> None:
        def on_rule(rule: Rule) -> None:
            others = [r for i, r in enumerate(session.rules) if i != session.history.present.made]
            tell(1, 1, "Measuring what it did", {"board": self.view.board(visitor, session, [*others, rule])})

        session.execute(
            on_step=lambda step, of: tell(step, of, "Solving"),
            on_statistics=lambda done, of: tell(done, of, "Getting to know this layer"),
            on_rule=on_rule,
        )

    def _take_up(self, visitor: Visitor, edits: Sequence[Edit], tell: Tell) -> Shown:
        """Edits one after the other, executed where they are complete; the last one's pictures come on screen."""
        session = self.studio.session(visitor)
        before = session.history
        marked = [place.seed for place in (edits[-1].paste, edits[-1].copy, *edits[-1].context) if place]
        if marked:
            count = self.studio.page(session.generator)
            seeds = tuple(dict.fromkeys([*marked[: count // 2], *range(count)]))[:count]
            visitor = replace(visitor, selected=marked[0], seeds=seeds)
        for edit in edits:
            session.begin()
            session.use(with_default_layer(session.generator, edit))
            if not edit.missing():
                self._execute(visitor, session, tell)
        session.history = before.then(session.history.present)  # one step back undoes it all
        return self._after(visitor, session, "about", "settings", "board", "picture")
