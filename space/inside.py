"""The second tab, *Inside*: painting with units, pointing at things, looking at units and switching them.

Its steps are added to those of `handlers`; values in, values out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

import things
import view
from handlers import Handlers, Notify, _on_step, silent
from received import read_painted
from rewriter import Rewriter
from rewriter.checks import flag, list_of, number, whole
from rewriter.editing.region import Region
from rewriter.editing.stroke import MOST, REMOVED, Stroke
from rewriter.errors import InputError
from rewriter.masks import resize
from rewriter.pictures import difference
from rewriter.units import gallery
from rewriter.units.found import FOUND, found_like
from rewriter.units.survival import VISIBLE, survival
from rewriter.units.thing import MOST_MARKS, Thing, choose, marked, point
from state import Visitor
from view import Shown

SHOWN, PICTURES, TRIED = 6, 4, 3  # units of a thing that are shown, pictures of each; layers that are tried
LEVELS = ("off", "on", "as made")  # what a unit can be switched to


class Inside(Handlers):
    """All of the page's actions on the shared generators."""

    # --- painting ---

    def stroke(
        self, visitor: Visitor, name: str, painted: str | None, remove: bool = False, strength: float = 1.0
    ) -> Shown:
        """Draw a thing where it was painted, or remove it; one step to undo."""
        mask, seed = read_painted(painted)
        visitor = visitor if seed is None or seed == visitor.selected else replace(visitor, selected=seed)
        session = self.shared.session(visitor)
        thing = things.named(visitor, session.generator, name)
        place = things.painted_place(visitor.selected, mask)
        stroke = thing.stroke(place, remove=flag("remove", remove), strength=number(0, 1)("strength", strength))
        before = session.history
        if session.history.present.made is not None:  # another thing: another rule
            session.begin(thing.layer)
        if session.edit.kind == "paint" and len(session.edit.strokes) >= MOST:
            raise InputError(f"an edit holds at most {MOST} strokes: make it a rule, or undo some")
        session.paint(stroke)
        session.history = before.then(session.history.present)
        return self._after(visitor, session, "canvas", "film")

    def why(self, visitor: Visitor) -> Shown:
        """How much of the last stroke is left after each layer: whether what was drawn appears, and if not, why."""
        session = self.shared.session(visitor)
        last = view.last_stroke(session)
        if last is None or last.place is None:
            return {}
        if last.removes:
            return {"why": {"key": view.stroke_key(last), **self._removed(session, last), "bars": []}}
        thing = things.named(visitor, session.generator, last.thing)
        rules = [rule for rule in session.rules if rule.active]
        found = survival(session.generator, thing, last, truncation=session.edit.truncation, rules=rules)
        bars = [{"layer": each.layer, "side": each.resolution, "share": round(each.share, 3)} for each in found.left]
        words, key = found.in_words(thing.name), view.stroke_key(last)
        return {"why": {"key": key, "words": words[:1].upper() + words[1:], "bars": bars, "appears": found.appears}}

    def _removed(self, session: Rewriter, last: Stroke) -> Shown:
        """Whether a stroke that removes a thing found anything to remove."""
        assert last.place is not None
        seed, name = last.place.seed, last.thing.removeprefix(REMOVED)
        changes = [[*session.rules, *session.strokes_on(seed)[:count]] for count in (-1, None)]
        before, after = session.generator.sample([seed] * 2, truncation=session.edit.truncation, rules=changes)
        inside = resize(last.place.mask, (before.shape[1], before.shape[2])) > 0.5
        changed = float(difference(before[None], after[None])[0][inside].mean()) if inside.any() else 0.0
        gone = changed >= VISIBLE
        words = "painted away." if gone else "hardly anything changed: there was none of it here."
        return {"words": f"{name[:1].upper()}{name[1:]}: {words}", "appears": gone}

    # --- things ---

    def things(self, visitor: Visitor) -> Shown:
        """What can be painted with, for scripts."""
        session = self.shared.session(visitor)
        found = things.palette(visitor, session.generator)
        return {"things": [{"name": it.name, "layer": it.layer, "units": list(it.units)} for it in found]}

    def point(self, visitor: Visitor, name: str, places: Any, notify: Notify = silent) -> Shown:
        """Find the units that draw what was painted on one to five pictures, and add the thing to the palette."""
        session = self.shared.session(visitor)
        name = name.strip() if isinstance(name, str) else name
        things.check_new(visitor, session.generator, name)
        marks = list_of(lambda _, each: self._pointed(visitor, each), 2 * MOST_MARKS)("places", places)
        if not 1 <= len(marked(marks)[0]) <= MOST_MARKS:
            raise InputError(f"point at the thing on one to {MOST_MARKS} pictures: paint over it, then add the place")
        tried = choose(
            session.generator,
            marks,
            name=name,
            likeliest=TRIED,
            truncation=session.edit.truncation,
            rules=[rule for rule in session.rules if rule.active],
            on_step=_on_step(notify, "Trying units on other pictures"),
        )
        visitor = things.with_thing(visitor, session.generator, tried.thing)
        return {**self.view.show(visitor, session, "inside"), "pointed": {"name": name}}

    def _pointed(self, visitor: Visitor, painted: Any) -> Region:
        mask, seed = read_painted(painted)
        return things.painted_place(visitor.selected if seed is None else seed, mask)

    def forget(self, visitor: Visitor, name: str) -> Shown:
        """Remove one of the visitor's own things; what was painted with it stays."""
        session = self.shared.session(visitor)
        visitor = things.without_thing(visitor, session.generator, name)
        return self.view.show(visitor, session, "inside")

    # --- units ---

    def units(self, visitor: Visitor, name: str, notify: Notify = silent) -> Shown:
        """The first units of a thing: how well each singles it out, and the pictures in which it is strongest."""
        session = self.shared.session(visitor)
        generator, psi = session.generator, session.edit.truncation
        thing = things.named(visitor, generator, name)
        shown = thing.units[:SHOWN]
        of = (generator.fingerprint, psi, thing.layer, shown)

        def measured() -> list[dict[str, float]]:
            notify(0, 1, "Comparing its units with the thing")
            found = point(generator, thing.marks, thing.layer, truncation=psi)
            alike = found_like(generator, thing.marks, thing.layer, truncation=psi)
            others = point(generator, alike, thing.layer, truncation=psi, most=FOUND) if alike else found
            figures = {"iou": found.iou, "auc": found.auc, "others": others.iou}
            return [{name: round(float(each[0, unit]), 3) for name, each in figures.items()} for unit in shown]

        def drawn() -> Sequence[Tensor]:
            on_step = _on_step(notify, "Looking for the pictures in which they are strongest")
            options: dict[str, Any] = {"pictures": PICTURES, "truncation": psi, "on_step": on_step}
            best = gallery.strongest(generator, thing.layer, shown, **options)
            pairs = [(unit, seed) for unit, seeds in zip(shown, best, strict=True) for seed in seeds]
            return [*gallery.lit(generator, thing.layer, pairs, truncation=psi)]

        marks = tuple((mark.seed, mark.digest) for mark in thing.marks)
        private = any(isinstance(mark.seed, str) for mark in thing.marks)  # on a photo
        made = self.shared.session(visitor).private if private else self.shared.made
        fits = made.get(("units", *of, marks), measured) if marks else []
        urls = self.shared.crops(visitor, f"units {of!r}", PICTURES * len(shown), drawn, side=view.CROP)
        rows = [
            {"unit": unit, "pictures": urls[PICTURES * i : PICTURES * (i + 1)]} | (fits[i] if fits else {})
            for i, unit in enumerate(shown)
        ]
        return {"units": {"thing": name, "layer": thing.layer, "rows": rows, "all": list(thing.units)}}

    def switch(self, visitor: Visitor, name: str, level: str, units: Any = None, notify: Notify = silent) -> Shown:
        """Switch units of a thing off or on everywhere, or leave them as they were made.

        If none are named: all of them, or as few as suffice to remove the thing.
        This makes a rule at once. A layer has one such rule, which changes as more of its units are switched.
        """
        session = self.shared.session(visitor)
        thing = things.named(visitor, session.generator, name)
        if level not in LEVELS:
            raise InputError(f"units can be switched {', '.join(LEVELS)}, not {str(level)[:20]!r}")
        usual = thing.units[: thing.few] if level == "off" else thing.units
        chosen = usual if units is None else list_of(whole(0, 1 << 16), len(thing.units))("units", units)
        if others := {*chosen} - {*thing.units}:
            raise InputError(f"unit {min(others)} is none of those that draw {thing.name!r}: {_listed(thing.units)}")
        self._switch(visitor, session, thing, chosen, level, notify)
        return self._judged(visitor, session, notify)

    def _switch(
        self, visitor: Visitor, session: Rewriter, thing: Thing, chosen: Sequence[int], level: str, notify: Notify
    ) -> None:
        """Switch units, as one step to undo."""
        before, at = session.history, view.switch_at(session, thing.layer)
        old = None if at is None else session.rules[at].edit
        levels = dict(zip(old.strokes[0].units, old.strokes[0].levels, strict=True)) if old else {}
        wanted = dict(zip(thing.units, thing.off if level == "off" else thing.on, strict=True))
        for unit in chosen:
            levels.pop(unit, None)
            if level != "as made":
                levels[unit] = wanted[unit]
        if at is not None and old is not None:
            session.history = session.history.then(replace(session.history.present, edit=old, made=at))
        else:
            session.begin(thing.layer)
        if levels:
            named = REMOVED + thing.name if level == "off" else thing.name
            names = [*(old.strokes[0].thing.split(", ") if old else ()), *([named] if level != "as made" else [])]
            what = ", ".join(dict.fromkeys(names))[:60]
            session.switch_units(Stroke(thing.layer, (*levels,), (*levels.values(),), thing=what))
            session.set(title=f"{what}: {len(levels)} unit{'s' if len(levels) > 1 else ''}")
            session.execute()
        elif at is not None:
            session.remove(at)
            session.begin(thing.layer)
        else:
            raise InputError("none of these units is switched: they are as they were made")
        session.history = before.then(session.history.present)


def _listed(units: Sequence[int]) -> str:
    return ", ".join(map(str, units[:12])) + (" …" if len(units) > 12 else "")
