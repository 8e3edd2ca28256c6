"""Rewriter: the session of one person with one generator: point, execute, look, undo."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from rewriter import masks
from rewriter.cache import Cache
from rewriter.editing import preview, search, verdict
from rewriter.editing.choose import execute
from rewriter.editing.edit import AUTO, BY_HAND, Edit
from rewriter.editing.effect import advice
from rewriter.editing.execute import prepare
from rewriter.editing.forms import Finder
from rewriter.editing.history import FINEST, History, State
from rewriter.editing.job import Job
from rewriter.editing.preview import Copied, Pasted
from rewriter.editing.provenance import check_generator, default_layer, requests
from rewriter.editing.region import Place, Region, covered, region
from rewriter.editing.rule import RULES, Rule, assemble, carried_rules
from rewriter.editing.search import KEPT, Found, Matches, Places
from rewriter.editing.statistics import Statistics, statistics_for
from rewriter.editing.stroke import Stroke, with_units
from rewriter.editing.stroke import stroke as check_stroke
from rewriter.editing.suggest_layer import Suggestion, suggest
from rewriter.errors import InputError, OnStep, report
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank, identity
from rewriter.generators.inverted import Inverted
from rewriter.generators.latents import Seed
from rewriter.memory.directions import Directions

T = TypeVar("T")

MADE = 256 << 20  # bytes of rules that are remembered
FIRST = range(1000)  # pictures to find places on
SEARCHED_AGAIN = 256  # pictures; the keys of so few are kept for the next search
OVERLAP = 45.0  # degrees; below it places that match one rule match the other at half strength or more
OPTIONS = tuple(
    "layer truncation form budget gate rank smoothness method steps directions spread units title statistics".split()
)


class Rewriter:
    """One generator, which never changes, the edit in progress and the rules made so far.

    Places are given by seed and mask: bool or [0, 1] arrays (H, W) at any resolution. `execute` turns the edit into a
    rule; executing the changed edit again replaces that rule; `begin` starts the next edit on top of the rules. Every
    step can be undone.

    Args:
        generator: the generator to rewrite.
        layer: where to start; None: the generator's default layer.
        truncation: of the pictures.
        rules: rules to start with; None: those that a published generator brings along.
        statistics, keys: of the generator; one of each may be shared by the sessions of many people.
        made: rules that were made before; executing the same request again takes the same rule. May be shared too.
        private: the same for edits on photos, for this person alone.
        history: the state of an earlier session, which replaces layer, truncation and rules. The attribute of this
            name is the session's whole state, without the generator: a few kilobytes, picklable.
    """

    def __init__(
        self,
        generator: Generator,
        layer: str | None = None,
        *,
        truncation: float = 1.0,
        rules: Sequence[Rule] | None = None,
        statistics: Statistics | None = None,
        keys: Cache | None = None,
        made: Cache | None = None,
        private: Cache | None = None,
        history: History | None = None,
    ):
        self.generator = generator
        self.statistics = statistics_for(generator, statistics)
        self._keys = keys or Cache(KEPT)
        self._made, self.private = made or Cache(MADE), private or Cache(MADE)  # edits on photos are not shared
        if history is None:
            edit = Edit(generator.name, layer or default_layer(generator), generator.fingerprint, form=AUTO)
            given = carried_rules(generator) if rules is None else rules
            _check_room(len(given))
            own = tuple(_own(generator, rule) for rule in given)
            history = History((State(edit.with_(truncation=truncation), own),))
        for state in history.states:
            check_generator(generator, state.edit)
            for rule in state.rules:
                generator.check(rule)
        self.history = history

    # --- what there is ---

    @property
    def edit(self) -> Edit:
        """The edit in progress; its `after` names the rules that it is made on top of."""
        return self.history.present.edit

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules made so far, in order, on and off."""
        return self.history.present.rules

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits behind the rules that are on, with their strengths; `save_edits` writes them for a replay.

        Raises:
            InputError: a rule was solved on top of different rules than those enabled now; save the session instead.
        """
        rules = [rule for rule in self.rules if rule.active and rule.edit]
        edits = tuple(rule.edit.with_(strength=rule.strength) for rule in rules if rule.edit)
        for i, edit in enumerate(edits):
            if edit.after != requests(rules[:i]):
                number = self.rules.index(rules[i]) + 1
                raise InputError(
                    f"rule {number} was solved on top of different rules than those enabled now: save the session, or "
                    f"execute rule {number} again"
                )
        return edits

    @property
    def prepared(self) -> Rule | None:
        """The rule that is remembered for the edit in progress, which `execute` would take; None if there is none."""
        found: Rule | None = self._remembered(self.edit).peek(self._request(self.edit))
        return found

    @property
    def marked(self) -> Seed:
        """Seed of the picture that was pasted on, or of the first context; InputError if there is none."""
        return self._job().target.seed

    def sample(self, seeds: Sequence[Seed], *, original: bool = False) -> Tensor:
        """Pictures (n, 3, H, W) with the rules that are on; `original`: without any."""
        rules = () if original else self.rules
        return self.generator.sample(seeds, truncation=self.edit.truncation, rules=rules)

    def before_after(self, seeds: Sequence[Seed]) -> tuple[Tensor, Tensor]:
        """The same pictures without and with the rules."""
        return self.sample(seeds, original=True), self.sample(seeds)

    def remarks(self) -> list[str]:
        """Remarks on the rules that are on: edits with too little effect and what to try next, rules that overlap."""
        named = [(f"rule {i + 1}", rule) for i, rule in enumerate(self.rules) if rule.active]
        words = [f"{name}: {remark}" for name, rule in named for remark in advice(rule)]
        for (one, a), (other, b) in combinations(named, 2):
            if (angle := a.angle(b)) < OVERLAP:
                words.append(
                    f"{one} and {other} match much the same places at {a.layer} ({angle:.0f}° between their "
                    "directions): their changes add up there; switch one off or mark its context more narrowly"
                )
        return words

    def open(self, photo: Inverted) -> str:
        """Make a found photo a picture of this session, see `photo.opening.open_photo`; returns its name.

        The name serves as a seed: the photo can be copied from, pasted on, marked and painted on. The session's file,
        its edits and its rules name the photo and do not contain it; who loads them opens it again.
        """
        self.generator = self.generator.with_photos([photo])
        return photo.name

    # --- the edit in progress ---

    def copy(self, seed: Seed, mask: ArrayLike | Tensor) -> None:
        """Copy the thing under the mask from picture `seed`."""
        self._edit(kind="replace", copy=_region(seed, mask), units=None, **self._unpainted())

    def paste(self, seed: Seed, mask: ArrayLike | Tensor) -> None:
        """Paste the copied thing onto picture `seed`, centred on the mask."""
        self._edit(kind="replace", units=None, **{**self._unpainted(), "paste": _region(seed, mask)})

    def erase(self, seed: Seed, mask: ArrayLike | Tensor, *, units: int | None = None) -> None:
        """Erase what is under the mask on picture `seed`; nothing has to be copied.

        The place is filled with what similar pictures without the context have there. With `units`, that many of the
        units that stand out there are silenced instead, as in the paper.
        """
        self._edit(kind="erase", copy=None, units=units, **{**self._unpainted(), "paste": _region(seed, mask)})

    def paint(self, stroke: Stroke) -> None:
        """Paint with units on a picture; strokes are undone one by one. `units.thing.Thing.stroke` makes them.

        The edit in progress now asks for what was painted, at the stroke's layer, in place of what was copied, pasted
        or erased: `execute` makes it hold wherever the context is. `painted` draws pictures with their strokes.

        Raises:
            InputError: the stroke has no place, or the generator has no such units.
        """
        if not isinstance(stroke, Stroke) or stroke.place is None:
            raise InputError("paint with a stroke that has a place, such as Thing.stroke(Region(seed, mask)) makes")
        stroke = check_stroke("stroke", replace(stroke, place=_reduced(stroke.place)), region)
        stroke.change(self.generator.layer(stroke.layer))
        drawn = (*(self.edit.strokes if self.edit.kind == "paint" else ()), stroke)
        first, *others = covered([each.place for each in drawn if each.place])
        marks = {region.seed for region in others}
        painted = {stroke.place.seed for stroke in drawn if stroke.place}
        marked = () if self.edit.kind == "swap" else self.edit.context
        own = [region for region in marked if region.seed not in painted]
        context = (*own, first, *others) if own or marks else ()
        self._edit(
            **{"kind": "paint", "copy": None, "units": None, "layer": stroke.layer, "strokes": drawn},
            **{"paste": first, "context": context, "form": AUTO if self.edit.form == "units" else self.edit.form},
        )

    def switch_units(self, stroke: Stroke) -> None:
        """Set units to levels on all pictures, or only inside the stroke's place on each; `execute` makes it a rule.

        It replaces the edit in progress. Levels are in the layer's values; see `Generator.level`. InputError if the
        generator has no such units.
        """
        if not isinstance(stroke, Stroke):
            raise InputError("switch units with a stroke, such as Thing.stroke() makes")
        stroke = check_stroke("stroke", replace(stroke, place=_reduced(stroke.place)), region)
        stroke.change(self.generator.layer(stroke.layer))
        fresh: dict[str, Any] = {"strength": stroke.strength, "strokes": (replace(stroke, strength=1.0),)}
        fresh |= {"copy": None, "paste": None, "context": (), "found": (), "unlike": ()}
        self._edit(kind="switch", form="units", layer=stroke.layer, **fresh)

    def choose_units(self, units: Sequence[int], layer: str | None = None) -> None:
        """Choose the units of a recorded edit that names none, at the layer that it names or another one.

        Raises:
            InputError: no units are left to choose, or the generator has no such layer or units.
        """
        self._edit(strokes=with_units(self.generator, self.edit.strokes, units, layer))

    def painted(self, seeds: Sequence[Seed]) -> Tensor:
        """Pictures (n, 3, H, W) with the rules that are on and what is painted on them."""
        changes = [[*self.rules, *self.strokes_on(seed)] for seed in seeds]
        return self.generator.sample(seeds, truncation=self.edit.truncation, rules=changes)

    def strokes_on(self, seed: Seed) -> list[LowRank]:
        """What is painted on a picture and no rule yet, as changes to draw it with."""
        if self.edit.kind != "paint" or self.history.present.made is not None:
            return []
        own = [stroke for stroke in self.edit.strokes if stroke.place and stroke.place.seed == seed]
        return [stroke.change(self.generator.layer(stroke.layer)).to(self.generator.device) for stroke in own]

    def zero(self) -> None:
        """Make the layer forget what singles the context out; only a context is needed."""
        self._edit(kind="zero", copy=None, units=None, **{**self._unpainted(), "paste": None})

    def add_context(self, seed: Seed, mask: ArrayLike | Tensor) -> None:
        """Mark another place that the rule should apply to."""
        self._edit(context=(*self.edit.context, _region(seed, mask)))

    def remove_context(self, index: int) -> None:
        """Remove one of the places in `edit.context`."""
        self._edit(context=_without(self.edit.context, index, "place in the context"))

    def keep(self, seed: Seed, mask: ArrayLike | Tensor) -> None:
        """Protect a place: its values should stay as they are."""
        self._edit(keep=(*self.edit.keep, _region(seed, mask)))

    def remove_keep(self, index: int) -> None:
        """Remove one of the places in `edit.keep`."""
        self._edit(keep=_without(self.edit.keep, index, "place among those to keep"))

    def set(self, **options: Any) -> None:
        """Change options of the edit, such as layer, rank and method; InputError if one is unknown or out of range.

        While the form is "auto", the machine chooses them. Setting one of them by hand makes a change of W, unless a
        form is given as well.
        """
        if unknown := set(options) - set(OPTIONS):
            raise InputError(f"no option {', '.join(sorted(unknown))}: there are {', '.join(OPTIONS)}")
        self._edit(**by_hand(self.edit, options))

    def use(self, edit: Edit) -> None:
        """Replace the edit in progress with a recorded one, complete or not; InputError if it belongs elsewhere."""
        check_generator(self.generator, edit)
        edit = replace(edit, **{name: _reduced(getattr(edit, name)) for name in ("copy", "paste", "context", "keep")})
        edit = replace(edit, strokes=tuple(replace(each, place=_reduced(each.place)) for each in edit.strokes))
        named = {"generator": self.generator.name, "fingerprint": self.generator.fingerprint}
        recorded = Edit.from_json(edit.to_json())  # masks in the steps that a file has, so that a replay is exact
        self._then(edit=recorded.with_(**named))

    def begin(self, layer: str | None = None) -> None:
        """Start the next edit; it sees the generator with the rules made so far."""
        edit = self.edit
        kept = {"truncation": edit.truncation, "budget": edit.budget}
        fresh = Edit(edit.generator, layer or edit.layer, edit.fingerprint, form=AUTO).with_(**kept)
        check_generator(self.generator, fresh)
        self._then(edit=fresh, made=None)

    # --- looking before executing ---

    def copied(self) -> Copied:
        """Pictures of the copied thing; InputError if nothing is copied yet."""
        return preview.copied(self._job())

    def preview(self, *, on_statistics: OnStep | None = None) -> Pasted:
        """The picture pasted on or erased, with the wanted values rendered; InputError says what is missing."""
        return preview.pasted(self._job(), on_statistics=on_statistics)

    def direction(self, *, on_statistics: OnStep | None = None) -> Directions:
        """What singles out the context, or the pasted place if there is none; InputError without either."""
        job = self._job()
        if not job.context:
            raise InputError("no context yet: mark a place on a picture")
        job.measure(on_statistics)
        job.look_up(job.context)
        return job.directions

    def search(
        self,
        k: int = 12,
        *,
        seeds: Sequence[int] = range(2000),
        on_step: OnStep | None = None,
        on_found: Callable[[list[Found]], object] | None = None,
    ) -> list[Found]:
        """The k pictures with the strongest response to the context, best first.

        `on_step` is called with (pictures done, of), `on_found` with the best so far, after each batch.
        """
        return search.search(self._places(), self.direction(), k, seeds=seeds, on_step=on_step, on_found=on_found)

    def find(
        self, k: int = 12, *, seeds: Sequence[int] = FIRST, on_step: OnStep | None = None
    ) -> list[tuple[Place, float]]:
        """The k places most like all the marks, to accept or reject: the best of each picture, best first, and scores.

        Unlike `search`, this compares whole patches, so that places are exact. `on_step` gets (pictures done, of).
        """
        job = self._job()
        if not job.context:
            raise InputError("no context yet: mark a place on a picture")
        job.measure()
        finder = Finder(job)
        known = {(place.seed, place.by) for place in (*self.edit.found, *self.edit.unlike)}
        found, _ = finder.search(seeds, again=len(seeds) <= SEARCHED_AGAIN, on_step=on_step)
        new = [one for one in found if (one.seed, "person") not in known]
        return [(finder.place(one), one.score) for one in new[:k]]

    def crop(self, place: Place) -> Tensor:
        """The square (3, h, h) around a place that `find` found, as large as the marks and a margin."""
        return verdict.crop(self._job(), place)

    def accept(self, place: Place) -> None:
        """Take a place for context: "this too". It counts like a mark, and the edit records that a person took it."""
        kept = tuple(one for one in self.edit.unlike if one.seed != place.seed)
        self._edit(found=(*self.edit.found, replace(place, by="person")), unlike=kept)

    def reject(self, place: Place) -> None:
        """Say that a place is not meant, however much it looks like the marks: "not this".

        What a search found before, and the thresholds that followed from it, is found anew.
        """
        kept = tuple(one for one in self.edit.found if one.seed != place.seed and one.by == "person")
        searched = any(one.by == "machine" for one in self.edit.found)
        gate = None if searched else self.edit.gate
        self._edit(found=kept, gate=gate, unlike=(*self.edit.unlike, replace(place, by="person")))

    def matches(self, seed: Seed) -> Matches:
        """Where the context matches in a picture."""
        return self.matches_on([seed])[0]

    def matches_on(self, seeds: Sequence[Seed]) -> list[Matches]:
        """Where the context matches in each of several pictures."""
        return search.matches(self._places(), self.direction(), seeds, self.sample(seeds))

    def suggest(self, layers: Sequence[str] | None = None, *, on_step: OnStep | None = None) -> list[Suggestion]:
        """The same edit at every layer, best first; see `layers.suggest`."""
        before = self.history.present.before
        return suggest(self.generator, self.edit, layers, rules=before, statistics=self.statistics, on_step=on_step)

    # --- the rules ---

    def execute(
        self,
        *,
        rank: int | None = None,
        smoothness: float | None = None,
        method: str | None = None,
        spread: bool | None = None,
        form: str | None = None,
        budget: float | None = None,
        on_step: OnStep | None = None,
        on_statistics: OnStep | None = None,
        on_rule: Callable[[Rule], object] | None = None,
    ) -> Rule:
        """Turn the edit into a rule, which replaces the rule of an earlier execution of the same edit.

        Options left at None are the edit's own. Without any, the machine tries layers, forms and ranks on pictures that
        the edit does not point at, and takes the best; the rule's edit names what it chose. For the others and the
        errors see `choose.execute`; after an error nothing has changed. A request that was executed before, here or in
        a session that shares `made`, is not solved again.
        """
        state = self.history.present
        given = {"rank": rank, "smoothness": smoothness, "method": method, "spread": spread}
        given |= {"form": form, "budget": budget}
        chosen = {name: value for name, value in given.items() if value is not None}
        edit = self.edit.with_(**by_hand(self.edit, chosen))
        made = len(state.rules) if state.made is None else state.made
        _check_room(made + 1)
        steps: dict[str, Any] = {"on_step": on_step, "on_statistics": on_statistics, "on_rule": on_rule}
        rule = self._rule(edit, **steps)
        if state.made is not None and rule.strength != state.rules[made].strength:
            rule = rule.at(state.rules[made].strength)  # its effect stays that of the strength asked for
        self._then(edit=edit, rules=(*state.rules[:made], rule, *state.rules[made + 1 :]), made=made)
        return rule

    def crops(self, index: int = -1, number: int = verdict.CROPS) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What a rule did: a few places like the marked ones before, as asked for, and now; see `verdict.crops`.

        `index`: which rule, −1 for the last. InputError if there is none, or it does not know what was asked for.
        """
        at = _at(range(len(self.rules)), len(self.rules) - 1 if index == -1 else index)
        rule, before = self.rules[at], [rule for rule in self.rules[:at] if rule.active]
        if rule.edit is None or rule.edit.kind == "switch" or not 1 <= number <= verdict.JUDGED:
            raise InputError(f"no {number} crops of {rule.title!r}: it needs an edit, and 1 to {verdict.JUDGED} crops")
        generator, edit = self.generator, rule.edit.with_(after=())
        wanted = ("crops", *self._model(before), identity([rule]), edit.digest, number)

        def cut() -> list[tuple[Tensor, Tensor, Tensor]]:
            job = prepare(generator, edit, rules=before, statistics=self.statistics)
            return verdict.crops(job, replace(rule, on=True), number=number)

        return self._remembered(edit).get(wanted, cut)

    def add(self, rule: Rule) -> None:
        """Add a rule made elsewhere on top of the others; InputError if it is damaged or of another generator."""
        _check_room(len(self.rules) + 1)
        self._then(rules=(*self.rules, _own(self.generator, rule)))

    def set_strength(self, index: int, strength: float) -> None:
        """Set a rule's strength, −1…2: 0 is the base, 1 the rule as solved."""
        self._replace(index, _at(self.rules, index).at(strength))

    def switch(self, index: int, on: bool) -> None:
        """Switch a rule off or on; it keeps its strength."""
        self._replace(index, replace(_at(self.rules, index), on=bool(on)))

    def move(self, index: int, to: int) -> None:
        """Change the order of the rules."""
        order = list(range(len(self.rules)))
        _at(order, index), _at(order, to)
        order.insert(to, order.pop(index))
        self._reorder(order)

    def remove(self, index: int) -> None:
        """Remove a rule."""
        _at(self.rules, index)
        self._reorder([i for i in range(len(self.rules)) if i != index])

    def revert(self) -> None:
        """Remove every rule. The edit in progress stays."""
        self._reorder([])

    # --- undo, redo, files ---

    def undo(self) -> None:
        """Undo the last step; InputError if there is none."""
        self.history = self.history.back()

    def redo(self) -> None:
        """Redo the step that was undone last; InputError if there is none."""
        self.history = self.history.forward()

    def save(self, path: str | Path) -> None:
        """Write the session with its rules and its undo steps to a file; see `load`."""
        self.history.save(path)

    @staticmethod
    def load(
        generator: Generator,
        path: str | Path,
        *,
        statistics: Statistics | None = None,
        keys: Cache | None = None,
        made: Cache | None = None,
    ) -> Rewriter:
        """Continue a saved session; InputError if the file is damaged, or belongs to another generator."""
        return Rewriter(generator, history=History.load(path), statistics=statistics, keys=keys, made=made)

    # --- inside ---

    def _unpainted(self) -> dict[str, Any]:
        """What an edit that was painted, or switches units, loses when it becomes another."""
        if not self.edit.strokes:
            return {}
        own = {stroke.place.seed for stroke in self.edit.strokes if stroke.place}
        form = {"form": AUTO} if self.edit.form == "units" else {}
        context = tuple(region for region in self.edit.context if region.seed not in own)
        return {"strokes": (), "paste": None, "context": context, **form}

    def _job(self) -> Job:
        return Job(self.generator, self.edit, self.history.present.before, self.statistics)

    def _places(self) -> Places:
        edit = self.edit
        return Places(self.generator, edit.layer, edit.truncation, self.history.present.before, self._keys)

    def _rule(self, edit: Edit, **steps: Any) -> Rule:
        """The rule of an edit, remembered or made; only a whole one is remembered."""
        wanted, made = self._request(edit), self._remembered(edit)
        found: Rule | None = made.peek(wanted)
        if found is None:
            before = self.history.present.before
            found = execute(self.generator, edit, rules=before, statistics=self.statistics, **steps).to("cpu")
            made.put(wanted, found)
            return found
        report(steps["on_step"], 1, 1)
        if steps["on_rule"] is not None:
            steps["on_rule"](found)
        return found

    def _request(self, edit: Edit) -> Hashable:
        """Identity of everything that an edit's rule depends on: the request, the generator, the rules before it."""
        photos = self.generator.photos

        def named(place: Region) -> dict[str, Any]:
            photo = photos.get(f"{place.seed}")
            return {"seed": photo.identity if photo else place.seed, "mask": place.digest}

        asked = json.dumps(edit.plain(named))
        return "rule", *self._model(self.history.present.before), asked

    def _remembered(self, edit: Edit) -> Cache:
        """Where the rules of an edit are remembered: with this session if it points at photos."""
        return self.private if edit.photos else self._made

    def _model(self, rules: Sequence[Rule]) -> tuple[Hashable, ...]:
        """Identity of the generator with some rules."""
        active = [rule for rule in rules if rule.active]
        return self.generator.fingerprint, str(self.generator.device), identity(active)

    def _then(self, **changes: Any) -> None:
        self.history = self.history.then(replace(self.history.present, **changes))

    def _edit(self, **changes: Any) -> None:
        edit = self.history.present.edit.with_(**changes)
        self.generator.layer(edit.layer)
        self._then(edit=edit)

    def _replace(self, index: int, rule: Rule) -> None:
        self._then(rules=(*self.rules[:index], rule, *self.rules[index + 1 :]))

    def _reorder(self, order: list[int]) -> None:
        """Keep the rules at these positions, in this order; the edit in progress stays with its rule."""
        made = self.history.present.made
        self._then(rules=tuple(self.rules[i] for i in order), made=order.index(made) if made in order else None)


def by_hand(edit: Edit, options: dict[str, Any]) -> dict[str, Any]:
    """The options, and the form that they mean: whoever sets a solver's options leaves no choice to the machine."""
    chosen = edit.form == AUTO and "form" not in options and not BY_HAND.isdisjoint(options)
    return {**options, "form": "weight"} if chosen else options


def _check_room(rules: int) -> None:
    if rules > RULES:
        raise InputError(f"a session holds at most {RULES} rules: remove one first")


def _own(generator: Generator, rule: Rule) -> Rule:
    """A rule made elsewhere, validated like a rule in a session's file, so that the session can be saved."""
    generator.check(rule)
    rule = rule.to("cpu")
    edit = rule.edit and rule.edit.validated()
    assemble(rule.about(), rule.tensors(), edit)
    return rule


def _region(seed: Seed, mask: ArrayLike | Tensor) -> Region:
    number: Any = seed
    return _reduced(Region(int(number) if isinstance(number, np.integer) else number, masks.as_mask(mask)))


def _reduced(places: Any) -> Any:
    """A place, several, or None, with masks of at most 256 a side: finer ones add nothing but size."""
    if isinstance(places, tuple):
        return tuple(map(_reduced, places))
    if places is None or max(places.mask.shape) <= FINEST:
        return places
    height, width = (min(side, FINEST) for side in places.mask.shape)
    return Region(places.seed, masks.as_mask(masks.resize(places.mask, (height, width))))


def _at(items: Sequence[T], index: int, what: str = "rule") -> T:
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(items):
        raise InputError(f"there is no {what} {index!r}: there are {len(items)}, numbered from 0")
    return items[index]


def _without(regions: tuple[Region, ...], index: int, what: str) -> tuple[Region, ...]:
    _at(regions, index, what)
    return regions[:index] + regions[index + 1 :]
