"""What each button does: values in, values out, so that it is tested without a server or a browser.

A handler gets the visitor first and returns the parts of the page to update, the new visitor among them. It makes one
editing session. A handler that takes long also gets `notify`, which reports its progress and can cancel it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import things
import view
import wall
from received import read_painted, read_picture
from rewriter import Edit, Rewriter, Rule, load_edits
from rewriter.checkpoints.client import is_name
from rewriter.cli.describe import kind_of
from rewriter.editing import history
from rewriter.editing import link as links
from rewriter.editing.edit import AUTO
from rewriter.editing.effect import suggestion
from rewriter.editing.history import History
from rewriter.editing.provenance import default_layer, with_default_layer
from rewriter.editing.region import place
from rewriter.editing.search import Found
from rewriter.errors import CancelledError, ComputationError, InputError, OnStep
from rewriter.files import write_bytes
from rewriter.generators.latents import SEEDS, parse_seeds
from rewriter.hub.card import named
from rewriter.hub.draft import compare, comparisons, draft
from rewriter.pictures import difference
from saving import Export
from state import MOST_PICTURES, MOST_STEPS, Shared, Visitor, check_affordable
from view import Shown

MARKS = ("copy", "paste", "context", "keep", "erase")
# what the page asks for
QUICK = tuple(
    "mark unmark pick browse more look step rule accept reject set save link open refresh stroke why forget".split()
) + ("square", "sides", "forget_photo")
LONG = tuple("execute find mend suggest zero prepare load point units switch photo photo_file".split())
SETTINGS = ("layer", "form", "budget", "rank", "smoothness", "method", "truncation", "title")
STEPS = ("zero", "undo", "redo", "begin", "revert")
SEARCHED = range(2000)  # the pictures that "Search" compares
LOOKED_THROUGH, FOUND = range(256), 6  # pictures in which more places are looked for, and how many are shown
ASKED = {"edit", "seed", "model", "work"}  # what an address can ask for
LINK = "#edit="  # what comes before the text in an address

Notify = Callable[..., bool]  # called with (done, of, message, parts to update already); returning False cancels


def silent(done: int, of: int, message: str, shown: Shown | None = None) -> bool:
    """Report nothing, never cancel."""
    return True


class Handlers:
    """The page's actions on the shared generators."""

    def __init__(self, shared: Shared) -> None:
        self.shared, self.view = shared, view.View(shared)

    # --- choosing what to see ---

    def first(self, visitor: Visitor, notify: Notify = silent) -> Shown:
        """The page as it arrives, the same for everybody."""
        return self.view.show(visitor, self.shared.session(visitor), *view.EVERYTHING)

    def wall(self, visitor: Visitor, notify: Notify = silent) -> Shown:
        """The wall of pictures and the cards, the same for everybody."""
        return {"wall": wall.wall(self.shared), "cards": view.cards(self.shared)}

    def open(self, visitor: Visitor, asked: Any = None, trouble: str = "") -> Shown:
        """The page with the work that this tab kept and what its address asks for: edit, model or seed."""
        asked = asked if isinstance(asked, dict) else {}
        link = asked["link"] if isinstance(asked.get("link"), dict) else {}
        if f"{asked.get('hash')}".startswith(LINK):
            link = {"work": asked["hash"]}
        visitor, session, lost = self._restored(visitor)
        trouble = trouble or lost
        if "seed" in link:
            try:
                seed = parse_seeds(f"{link['seed']}", most=1)[0]
                count = self.shared.page_size(session.generator)
                first = min(seed - seed % count, SEEDS - count)
                visitor = replace(visitor, selected=seed, seeds=tuple(range(first, first + count)))
            except InputError:
                trouble = f"There is no picture {str(link['seed'])[:20]!r}: their numbers go from 0 to {SEEDS - 1:,}."
        if visitor.again and not (ASKED & {*link}):
            link = {"work": f"{LINK}{visitor.again}"}
        wanted = f"{link.get('work', '') or link.get('model', '') or link.get('edit', '')}"
        try:
            self.check_link(link, wanted)
        except InputError as error:
            wanted, trouble = "", f"The link cannot be opened: {error}."
        opened = wanted == visitor.link and (wanted in self.shared.names or session.rules)  # before a reload
        pending = {"wanted": "" if opened else wanted}
        shown = self.view.show(visitor, session, *view.EVERYTHING)
        return {**shown, "pending": pending, "trouble": {"message": trouble}}

    def _restored(self, visitor: Visitor) -> tuple[Visitor, Rewriter, str]:
        """A visitor and their session after a reload, and what of it is lost, in words."""
        trouble, chosen = "", visitor.generator
        if chosen not in self.shared.names or self.shared.absent(chosen):
            visitor = replace(visitor, generator=self.shared.names[0])
            trouble = f"{chosen} is not on this machine any more: choose it again."
        try:
            session = self.shared.session(visitor)
        except InputError as error:
            trouble = f"The work that your browser kept cannot be restored: {error}."
            kept = {name: work for name, work in visitor.works.items() if name != visitor.generator}
            visitor = replace(visitor, works=kept)
            session = self.shared.session(visitor)
        visitor, lost = things.readable(visitor, session.generator)
        trouble = trouble or lost or view.lacking_photo(session, visitor.selected)
        return replace(visitor, seeds=visitor.seeds[: 4 * self.shared.page_size(session.generator)]), session, trouble

    def check_link(self, link: Mapping[str, str], wanted: str) -> None:
        """Raise InputError for a link to something that is not there."""
        if link.get("work"):
            links.decode(wanted.removeprefix(LINK))
        elif link.get("edit"):
            self.shared.example(wanted)
        elif link.get("model") and not (is_name(wanted) or wanted in self.shared.names):
            raise InputError(f"{wanted[:96]!r} is no published generator: such a link ends in ?model=USER/NAME")

    def choose(self, visitor: Visitor, generator: str, link: str | None = None, notify: Notify = silent) -> Shown:
        """Switch to another generator on this machine, perhaps by a link; the work on this one is kept."""
        seeds, trouble = tuple(range(self.shared.page_size(self.shared.model(generator)))), ""
        link = visitor.link if link is None else link
        selected = visitor.selected if isinstance(visitor.selected, str) or visitor.selected in seeds else seeds[0]
        visitor = replace(visitor, generator=generator, seeds=seeds, matches=False, link=link, selected=selected)
        try:
            session = self.shared.session(visitor)
        except InputError as error:  # a browser kept the work on another generator of this name
            works = {name: work for name, work in visitor.works.items() if name != generator}
            visitor, trouble = replace(visitor, works=works), f"Your earlier work on it is lost: {error}."
            session = self.shared.session(visitor)
        self.shared.pictures(session, seeds, [], _on_step(notify, f"Drawing with {generator}"))
        return {**self.view.show(visitor, session, *view.EVERYTHING), "trouble": {"message": trouble}}

    def browse(self, visitor: Visitor, text: str) -> Shown:
        """Show the pictures with these seeds."""
        session = self.shared.session(visitor)
        return self.view.show(replace(visitor, seeds=self._seeds(session, text)), session, "film")

    def _seeds(self, session: Rewriter, text: str) -> tuple[int, ...]:
        seeds = tuple(dict.fromkeys(parse_seeds(text, most=MOST_PICTURES)))
        most = 4 * self.shared.page_size(session.generator)
        if len(seeds) > most:
            raise InputError(f"this generator draws slowly here: ask for at most {most} pictures")
        return seeds

    def drawn(self, visitor: Visitor, text: str, which: str) -> Shown:
        """Pictures for scripts, pixel by pixel: now, original, or with the matches marked."""
        session = self.shared.session(visitor)
        seeds = self._seeds(session, text)
        if which == "matches":
            pictures = [match.overlay for match in session.matches_on(seeds)]
        else:
            now = self.shared.painted(session, seeds) if which == "now" else self.shared.pictures(session, seeds, [])
            pictures = [*now]
        return {"pictures": {f"{seed}": view.png_url(one) for seed, one in zip(seeds, pictures, strict=True)}}

    def preview(self, visitor: Visitor) -> Shown:
        """The picture that is pasted on or erased, for scripts."""
        pasted = self.shared.session(visitor).preview()
        return {"pictures": {"before": view.png_url(pasted.before), "wanted": view.png_url(pasted.after)}}

    def more(self, visitor: Visitor) -> Shown:
        """Show the next page of pictures."""
        session = self.shared.session(visitor)
        count = self.shared.page_size(session.generator)
        first = max(visitor.seeds) + 1 if max(visitor.seeds) + count < SEEDS else 0
        return self.view.show(replace(visitor, seeds=tuple(range(first, first + count))), session, "film")

    def pick(self, visitor: Visitor, key: Any) -> Shown:
        """Choose the picture to paint on."""
        visitor = replace(visitor, selected=read_picture(key))
        session = self.shared.session(visitor)
        session.generator.photo(visitor.selected)  # it may not be here any more
        return self.view.show(visitor, session, "canvas")

    def look(self, visitor: Visitor, matches: bool) -> Shown:
        """Mark where the context matches in the pictures, or stop doing so."""
        visitor = replace(visitor, matches=bool(matches))
        return self.view.show(visitor, self.shared.session(visitor), "film", "canvas")

    def find(self, visitor: Visitor, painted: str | None = None, notify: Notify = silent) -> Shown:
        """Show the pictures that match the painted place best, or the context if nothing is painted."""
        session = self.shared.session(visitor)
        before = session.history
        found: list[list[Found]] = [[]]  # the best so far, after each batch
        if painted:
            mask, seed = read_painted(painted)
            session.begin()
            session.add_context(visitor.selected if seed is None else seed, mask)
        elif not (session.edit.context or session.edit.paste):
            raise InputError("nothing to look for yet: paint on a picture, or mark a context")
        options: dict[str, Any] = {"seeds": SEARCHED, "on_found": found.append}
        with suppress(CancelledError):  # out of time: show what was found until then
            session.search(self.shared.page_size(session.generator), on_step=_on_step(notify, "Searching"), **options)
        session.history = before
        seeds = tuple(one.seed for one in found[-1])
        return self.view.show(replace(visitor, seeds=seeds, selected=seeds[0]), session, "film", "canvas")

    # --- the edit in progress ---

    def mark(self, visitor: Visitor, what: str, painted: str | None) -> Shown:
        """Copy, paste, erase, protect or add to the context what is painted."""
        mask, seed = read_painted(painted)
        session = self.shared.session(visitor)
        before, made = session.history, session.history.present.made is not None
        if made and (what in ("copy", "erase") or session.edit.kind == "switch"):  # another thing: another rule
            session.begin(default_layer(session.generator))
        actions = (session.copy, session.paste, session.add_context, session.keep, session.erase)
        view.look_up(what, dict(zip(MARKS, actions, strict=True)))(visitor.selected if seed is None else seed, mask)
        session.history = before.then(session.history.present)  # one step to undo
        aside = bool(before.present.edit.strokes) and not session.edit.strokes  # what was painted shows no more
        return self._after(visitor, session, *(("canvas", "film") if aside else ()))

    def unmark(self, visitor: Visitor, what: str, index: int) -> Shown:
        """Remove a place from the context, or from the protected places."""
        session = self.shared.session(visitor)
        actions = {"context": session.remove_context, "keep": session.remove_keep}
        view.look_up(what, actions)(index)
        return self._after(visitor, session)

    def set(self, visitor: Visitor, name: str, value: Any) -> Shown:
        """Change one of the SETTINGS of the edit; rank, smoothness or method by hand makes a change of the weights."""
        session = self.shared.session(visitor)
        value = None if name == "budget" and value == 0 else value
        if view.look_up(name, {each: getattr(session.edit, each) for each in SETTINGS}) == value:
            return self._after(visitor, session)
        new = {name: round(value, 1) if name == "truncation" and isinstance(value, float) else value}
        if name == "method":
            new["steps"] = None if value == "least-squares" else MOST_STEPS
        session.set(**new)
        return self._after(visitor, session, *(("film", "canvas") if name == "truncation" else ()))

    def accept(self, visitor: Visitor, found: Any) -> Shown:
        """Take a found place for context: "this too"."""
        session = self.shared.session(visitor)
        session.accept(place("place", found))
        return self._after(visitor, session)

    def reject(self, visitor: Visitor, found: Any) -> Shown:
        """Say that a found place is not meant."""
        session = self.shared.session(visitor)
        session.reject(place("place", found))
        return self._after(visitor, session)

    def prepare(self, visitor: Visitor, notify: Notify = silent) -> Shown:
        """Look for more places, and let the machine choose, so that executing takes no time; nothing is changed."""
        session = self.shared.session(visitor)
        if session.edit.missing() or session.edit.kind == "zero":
            return {}
        key, on_step = session.edit.digest, _on_step(notify, "The machine chooses a form and a layer")
        if session.edit.copy or session.edit.kind == "paint":
            notify(0, 1, "Looking for more places", {"found": self._found(session, notify)})
        try:
            rule = session.execute(on_step=on_step, on_statistics=_on_step(notify, "Measuring this layer (once)"))
        except (InputError, ComputationError) as error:
            return {"chosen": {"key": key, "words": f"This edit does not work yet: {view.in_words(error)}."}}
        for part in ("film", "canvas", "bar"):  # so that executing only has to show them
            if not notify(1, 1, "Drawing with this rule"):
                return {}
            self.view.show(visitor, session, part)
        return {"chosen": {"key": key, "words": view.chosen_words(rule)}}

    def _found(self, session: Rewriter, notify: Notify) -> Shown:
        """Places like the marked ones, to accept or reject."""
        marked = {region.seed for region in session.edit.regions}
        with suppress(InputError):
            on_step = _on_step(notify, "Looking for more places")
            found = session.find(FOUND + len(marked), seeds=LOOKED_THROUGH, on_step=on_step)
            tiles = [view.found_tile(session, place) for place, _ in found if place.seed not in marked][:FOUND]
            places = [{"seed": tile["seed"], "image": tile["image"], "place": tile["found"]} for tile in tiles]
            return {"key": view.found_key(session), "places": places}
        return {}

    def suggest(self, visitor: Visitor, notify: Notify = silent) -> Shown:
        """Try the edit at every layer; the best one comes first, to choose from."""
        found = self.shared.session(visitor).suggest(on_step=_on_step(notify, "Trying every layer"))
        done = [
            {
                "layer": one.layer,
                "words": f"{one.layer}: {one.score:.0%}",
                "image": view.picture_url(one.picture, view.CROP),
            }
            for one in found
            if one.picture is not None
        ]
        failed = [one for one in found if one.picture is None]
        note = f"Not possible at {', '.join(one.layer for one in failed)}: {failed[0].why}." if failed else ""
        return {"suggested": {"layers": done}, "trouble": {"message": note}}

    # --- the rules ---

    def execute(self, visitor: Visitor, notify: Notify = silent) -> Shown:
        """Turn the edit into a rule. Pictures are shown as soon as it is solved, its effect once that is measured."""
        session = self.shared.session(visitor)
        self._execute(visitor, session, notify)
        return self._judged(visitor, session, notify)

    def mend(self, visitor: Visitor, notify: Notify = silent) -> Shown:
        """Do the one thing that the verdict suggests: find more places, or change an option and execute again."""
        session = self.shared.session(visitor)
        made = session.history.present.made
        step = None if made is None else suggestion(session.rules[made])
        if step is None:
            raise InputError("there is nothing to mend: execute an edit first")
        if step.action == "find":
            return {"found": self._found(session, notify)}
        before = session.history
        session.set(**step.change)
        self._execute(visitor, session, notify)
        session.history = before.then(session.history.present)  # one step to undo
        return self._judged(visitor, session, notify)

    def zero(self, visitor: Visitor, notify: Notify = silent) -> Shown:
        """Make the layer forget what singles the context out, at once."""
        return self.execute(self.step(visitor, "zero")["visitor"], notify)

    def example(
        self, visitor: Visitor, name: str, linked: bool = False, on_top: bool = False, notify: Notify = silent
    ) -> Shown:
        """Load an example's edits and execute them; `linked`: by a link. It replaces the rules, unless `on_top`."""
        generator, path = self.shared.example(name)
        visitor = replace(visitor, generator=generator, link=name if linked else visitor.link)
        return self._load_edits(visitor, self.shared.session(visitor), load_edits(path), notify, on_top=on_top)

    def work(self, visitor: Visitor, generator: str, text: str, notify: Notify = silent) -> Shown:
        """Open the edits that a link holds; they replace the rules."""
        edits = [check_affordable(edit) for edit in links.decode(text.removeprefix(LINK))]
        visitor = replace(visitor, generator=generator, link=text[:96])
        return self._load_edits(visitor, self.shared.session(visitor), edits, notify)

    def adopt(self, visitor: Visitor, base: str, rules: Sequence[Rule], link: str, notify: Notify = silent) -> Shown:
        """Replace the rules by those of a published generator with this base; one step to undo."""
        visitor = replace(visitor, generator=base, link=link, matches=False)
        session = self.shared.session(visitor)
        session.history = session.history.then(Rewriter(session.generator, rules=rules).history.present)
        shown = self._after(visitor, session, "about", "film", "canvas")
        words = f"{link} is open: its rules replaced yours. Undo restores them."
        return {**shown, "bar": {**shown["bar"], "next": words}, "pending": {}}

    def draft(self, visitor: Visitor, account: str, name: str, description: str, weights: bool) -> Shown:
        """What would be published in an account, under this name or the suggested one, without weights and pictures."""
        session = self.shared.session(visitor)
        name = name.strip().removeprefix(f"{account}/")
        if "/" in name:
            raise InputError(f"{name!r} contains an account: write only the name; it goes to your account ({account})")
        if not is_name(whole := f"{account}/{name or view.suggested_name(session)}"):
            raise InputError(f"{name!r} cannot be a name: use letters and digits, with single '-', '_' or '.' between")
        made = draft(session.generator, session.rules, whole, description=description, weights=weights, pictures=False)
        return {"draft": replace(made, later={}), "pictures": comparisons(named(session.rules))}

    def compare(self, visitor: Visitor, which: int, notify: Notify = silent) -> Shown:
        """One of a draft's pictures."""
        session, on_step = self.shared.session(visitor), _on_step(notify, "Drawing the pictures of its card")
        return {"picture": compare(session.generator, named(session.rules), which, on_step)}

    def step(self, visitor: Visitor, what: str) -> Shown:
        """Undo, redo, begin a new rule, start again without rules, or set the edit to forget the context."""
        session = self.shared.session(visitor)
        before = session.history
        begin = partial(session.begin, default_layer(session.generator))
        actions: tuple[Callable[[], None], ...] = (session.zero, session.undo, session.redo, begin, session.revert)
        view.look_up(what, dict(zip(STEPS, actions, strict=True)))()
        if what == "revert":
            begin()
            session.history = before.then(session.history.present)  # one step to undo
        return self._after(visitor, session, "film", "canvas")

    def rule(self, visitor: Visitor, do: str, index: int, value: Any = None) -> Shown:
        """Change the list of rules: strength, switch, move or remove. "try" shows a strength without setting it."""
        session = self.shared.session(visitor)
        if do == "remove":
            session.remove(index)
        else:
            change = {"strength": session.set_strength, "switch": session.switch, "move": session.move}
            view.look_up(do, {**change, "try": session.set_strength})(index, value)
        if do == "try":
            return {"film": self.view.film(visitor, session), "canvas": self.view.canvas(visitor, session)}
        return self._after(visitor, session, "film", "canvas")

    # --- files ---

    def save(self, visitor: Visitor, what: str, index: int = 0) -> Shown:
        """A file for the visitor: edit, session, rule (number `index`), sheet or animation."""
        return {"download": Export(self.shared, visitor, self.shared.session(visitor), index).file(what)}

    def link(self, visitor: Visitor) -> Shown:
        """The work as a link, if that is short enough; else as a file."""
        session = self.shared.session(visitor)
        text = links.encode(view.edits_of(session))
        if len(text) > links.MOST:
            words = f"This work is too long for a link ({len(text):,} characters): here it is as a file."
            return {"link": {"words": words}, **self.save(visitor, "edit")}
        return {"link": {"text": text, "words": f"{len(text):,} characters hold the whole edit."}}

    def load(self, visitor: Visitor, name: str, data: str, notify: Notify = silent) -> Shown:
        """Load a file of this name with this content, in base64; see `load_file`."""
        try:
            content = base64.b64decode(data, validate=True)
        except (ValueError, TypeError) as error:
            raise InputError(f"{str(name)[:60]!r} did not arrive as a whole ({error}): load it again") from error
        with TemporaryDirectory() as folder:
            path = Path(folder) / re.sub(r"[^A-Za-z0-9._-]+", "-", f"{name}")[-80:].lstrip(".")
            write_bytes(content, path)
            return self.load_file(visitor, str(path), notify)

    def load_file(self, visitor: Visitor, file: str, notify: Notify = silent) -> Shown:
        """Load a file: edits, a recording of the original implementation, a rule or a session; the path is our own."""
        try:
            session = self.shared.session(visitor)
            if Path(file).suffix != ".safetensors":
                edits = [check_affordable(edit) for edit in load_edits(file)]
                return self._load_edits(visitor, session, edits, notify, on_top=True)
            if kind_of(Path(file)) == history.FORMAT:
                loaded = Rewriter(session.generator, history=History.load(file))
                check_affordable(loaded.edit)
                session.history = session.history.then(loaded.history.present)  # one step to undo
            else:
                session.add(Rule.load(file))
        except InputError as error:
            raise InputError(str(error).replace(str(file), Path(file).name)) from error
        lacking = view.lacking_photo(session)
        return {
            **self._after(visitor, session, "film", "canvas"),
            **({"trouble": {"message": lacking}} if lacking else {}),
        }

    def refresh(self, visitor: Visitor) -> Shown:
        """The pictures with the present rules, after work that failed or was cancelled."""
        return self.view.show(visitor, self.shared.session(visitor), "about", "film", "canvas")

    # --- inside ---

    def _after(self, visitor: Visitor, session: Rewriter, *names: str) -> Shown:
        """The page after an editing step. Settings only if the step changed them: somebody may be typing there."""
        before = visitor.history.present.edit if visitor.history else session.history.states[0].edit
        changed = any(getattr(before, name) != getattr(session.edit, name) for name in SETTINGS)
        names += ("film",) if visitor.matches else ()
        work = [name for name in view.WORK if name != "settings" or changed]
        return self.view.show(visitor.with_history(session.history), session, *names, *work)

    def _judged(self, visitor: Visitor, session: Rewriter, notify: Notify) -> Shown:
        """The page after a rule was made: its pictures at once, then the verdict with its crops."""
        drawn = self.view.show(visitor.with_history(session.history), session, "canvas", "film")
        notify(1, 1, "Looking at other pictures", {name: drawn[name] for name in ("film", "canvas")})
        return {**drawn, **self._after(visitor, session)}

    def _execute(self, visitor: Visitor, session: Rewriter, notify: Notify) -> None:
        def on_rule(rule: Rule) -> None:
            others = [r for i, r in enumerate(session.rules) if i != session.history.present.made]
            shown = {name: getattr(self.view, name)(visitor, session, [*others, rule]) for name in ("film", "canvas")}
            notify(1, 1, "Looking at other pictures", shown)

        session.execute(
            on_step=_on_step(notify, "Trying forms and layers" if session.edit.form == AUTO else "Solving"),
            on_statistics=_on_step(notify, "Measuring this layer (once)"),
            on_rule=None if session.prepared else on_rule,
        )

    def _load_edits(
        self, visitor: Visitor, session: Rewriter, edits: Sequence[Edit], notify: Notify, *, on_top: bool = False
    ) -> Shown:
        """Load edits in order and execute those that are complete, in place of the rules or on top of them."""
        own = visitor.selected in session.generator.photos  # a photo stays on the canvas, to see what it becomes
        before, places = session.history, (edits[-1].paste, edits[-1].copy, *edits[-1].context)
        if marked := [place.seed for place in places if place]:
            count = self.shared.page_size(session.generator)
            numbers = [seed for seed in marked if isinstance(seed, int)]
            seeds = tuple(dict.fromkeys([*numbers[: count // 2], *range(count)]))[:count]
            visitor = replace(visitor, selected=visitor.selected if own else marked[0], seeds=seeds)
        if not on_top:
            session.revert()
        for edit in edits:
            session.begin()
            session.use(with_default_layer(session.generator, edit))
            painting = edit.kind == "paint" and edit.form == AUTO  # nobody made it a rule yet
            if not edit.missing() and not painting:
                self._execute(visitor, session, notify)
        session.history = before.then(session.history.present)  # one step to undo
        if session.rules:  # the picture that shows them best: bright, and changed much
            now, first = (self.shared.pictures(session, visitor.seeds, rules) for rules in (session.rules, ()))
            shows = difference(now, first).flatten(1).mean(1) * (2 + first.flatten(1).mean(1))
            if not own:
                visitor = replace(visitor, selected=visitor.seeds[int(shows.argmax())])
        return self._after(visitor, session, "about", "settings", "film", "canvas", "hints", "inside")


def _on_step(notify: Notify, message: str) -> OnStep:
    """The library's kind of progress callback."""
    return lambda done, of: notify(done, of, message)
