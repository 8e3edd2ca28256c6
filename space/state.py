"""What one visitor has (`Visitor`), and what all visitors share (`Shared`): generators, statistics and pictures.

Each click turns a visitor into one editing session: `Shared.session`.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewriter import Rewriter, Rule, worlds
from rewriter.cache import Cache, default_folder
from rewriter.checkpoints.catalogue import BUILT_IN, catalogue
from rewriter.editing.edit import Edit
from rewriter.editing.history import History
from rewriter.editing.region import Region
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError, OnStep, did_you_mean, report
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank, identity
from rewriter.generators.inverted import Inverted
from rewriter.generators.latents import Seed
from rewriter.generators.layer import Features
from rewriter.generators.origin import Origin
from rewriter.generators.threads import choose_threads
from rewriter.hub.resolve import resolve
from rewriter.hub.sources import Source
from rewriter.photo import portable
from rewriter.pictures import data_url, difference, jpeg
from rewriter.serving.records import VARIABLE
from rewriter.serving.shelf import Shelf

PAGE_SIZE = 12  # pictures in the filmstrip
MOST_PICTURES = 48  # in the filmstrip
MOST_STEPS, MOST_RULES = 500, 16  # of an iterative method; on a page
WORK_BYTES, CELLS = 8 << 20, 4 << 20  # bytes of one visitor's work, and cells of its masks on one generator
AGE = 120.0  # seconds after which a process drops what nobody uses
STRIKING = (
    *"frown-to-smile hats-for-all add-glasses bushy-brows no-shadow-under-hats remove-earrings remove-stamp".split(),
    *"dome-to-spire glasses dome-to-tree hat no-light-on-ground smile".split(),
    *"remove-watermark watermark-units-off add-tree".split(),
)
FIRST_SEEN = {"portraits": 6}  # the picture that a newcomer finds on the canvas, if it is not picture 0
MODEL_BYTES, KEYS = 4 << 30, 128 << 20  # of generators that stay in memory, and of features and rules
PRIVATE, OPENED = 64 << 20, 16  # bytes of what is remembered of one visitor's photos, and of how many visitors
STATISTICS = 6  # generators whose statistics stay in memory, at most half a gigabyte each
SHELF = "served/pictures-2.sqlite"  # in the cache folder; another number for pictures that are made otherwise
NOTED = 0.5  # a change of a photo, in 1/255, below which none can be seen
ABSENT = -1.0  # the note of a picture that there is not
PICTURES = "rewriter/pictures/"  # before the name of a picture, relative to the page
SLOW = 10e9  # operations per picture from which a CPU takes a noticeable time


@dataclass(frozen=True)
class Visitor:
    """The work of one browser tab: a few kilobytes, which the browser keeps and sends along with each click.

    Attributes:
        generator: name of the chosen generator.
        works: the editing history for each generator that was worked on, as its file; read when it is looked at.
        seeds: the pictures in the filmstrip.
        selected: the picture on the canvas: its seed, or the name of a photo.
        matches: whether the matches are marked in the pictures.
        link: the example or the published generator that the page's address has opened.
        things: what this visitor pointed at, to paint with; each a text that `things` reads.
        again: edits as a link, to be made again because their rules are too large for a browser to keep.
        inline: whether pictures are sent as data URLs instead of names. Not part of a record.
        photos: the photos that the tab has found, by name, as files of `rewriter.photo.portable`. Never in a record.
    """

    generator: str = BUILT_IN
    works: Mapping[str, bytes] = field(default_factory=dict)
    seeds: tuple[int, ...] = tuple(range(PAGE_SIZE))
    selected: Seed = 0
    matches: bool = False
    link: str = ""
    again: str = ""
    things: tuple[str, ...] = ()
    inline: bool = False
    photos: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @cached_property
    def history(self) -> History | None:
        """The history for the chosen generator, if there is one; InputError if it is damaged, or asks for too much."""
        if self.generator not in self.works:
            return None
        history = History.from_bytes(self.works[self.generator], cells=CELLS, limit=WORK_BYTES)
        check_affordable(history.present.edit)
        check_room(history)
        return history

    @property
    def can_execute(self) -> bool:
        """Whether the edit in progress is complete."""
        return self.history is not None and not self.history.present.edit.missing()

    def with_history(self, history: History) -> Visitor:
        """The visitor with a new history for the chosen generator, its oldest states dropped if it is too large.

        Raises:
            InputError: its present state alone is too large.
        """
        check_room(history)
        data = history.to_bytes()
        while (len(data) > WORK_BYTES or history.cells > CELLS) and history.at:
            history = replace(history, states=history.states[(history.at + 1) // 2 :], at=history.at // 2)
            data = history.to_bytes()
        works = {**self.works, self.generator: data}
        if sum(map(len, works.values())) > WORK_BYTES:
            works = {self.generator: data}
        if history.cells > CELLS:
            raise InputError(f"the masks have more than the {CELLS >> 20} million cells that a page keeps: use fewer")
        if len(data) > WORK_BYTES:
            raise InputError(f"these rules have more than the {WORK_BYTES >> 20} MB that a page keeps: remove some")
        visitor = replace(self, works=works, again="")
        vars(visitor)["history"] = history  # need not be read again
        return visitor

    def __getstate__(self) -> dict[str, Any]:
        """All but what can be read again."""
        return {name: value for name, value in vars(self).items() if name != "history"}


def name_of(recipe: str) -> str:
    """The name of the picture that is made by a recipe."""
    return f"{hashlib.sha256(recipe.encode()).hexdigest()[:40]}.jpg"


def check_room(history: History) -> None:
    """Raise InputError for more rules than a page draws with."""
    if max(len(state.rules) for state in history.states) > MOST_RULES:
        raise InputError(f"a page keeps at most {MOST_RULES} rules: remove one, or use `rewriter apply`")


def check_affordable(edit: Edit) -> Edit:
    """The edit; InputError if it would block the shared queue whenever it is shown or executed."""
    if edit.statistics is not None or (edit.steps or 0) > MOST_STEPS:
        reason = f"the edit asks for its own statistics, or for more than {MOST_STEPS} steps"
        raise InputError(f"{reason}, which takes too long on a shared page: use `rewriter apply`")
    return edit


@dataclass(frozen=True)
class Drawn:
    """A picture for a browser: its URL, and how much some pixel differs from the original, in 1/255."""

    url: str
    change: float


class Shared:
    """Generators and caches of one process, shared by all visitors, who choose among the given names."""

    def __init__(
        self,
        names: Iterable[str] = (BUILT_IN,),
        *,
        device: torch.device | str | None = None,
        shelf: str | Path | None = None,
    ) -> None:
        self.names, self.device, self.catalogue = tuple(names), device, catalogue()
        self.shelf = Shelf(default_folder() / SHELF if shelf is None else shelf)
        self.background = True  # whether the machine may choose while a person paints
        self.inline = bool(os.environ.get(VARIABLE))  # several hosts: another one does not have our pictures
        self.share: int | None = None  # cores that this process may count on; None: all
        self.on_cpu: frozenset[str] = frozenset()  # generators that are drawn on the CPU whatever there is
        self.models = Cache(MODEL_BYTES)
        self.keys, self.pages, self.made = (Cache(limit, AGE) for limit in (KEYS, KEYS // 2, KEYS))
        self.sources = {name: resolve(name) for name in self.names}  # downloads pin theirs to a revision
        self._statistics: OrderedDict[str, Statistics] = OrderedDict()
        self._private: OrderedDict[tuple[tuple[str, bytes], ...], Cache] = OrderedDict()  # see `_private_of`

    def newcomer(self) -> Visitor:
        """What somebody who has just come has: the first generator, without any work."""
        return Visitor(self.names[0], selected=FIRST_SEEN.get(self.names[0], 0))

    def source(self, name: str) -> Source:
        """What a generator is loaded from; InputError if the name is not offered here."""
        if name not in self.names:
            raise InputError(f"there is no generator {name!r} here: choose one of {', '.join(self.names)}")
        return self.sources[name]

    def cards(self) -> dict[str, Path]:
        """The shipped edits of all generators that are offered here, the most striking first."""
        found: dict[str, Path] = {}
        for offered in self.names:
            found = {**worlds.examples(offered), **found}
        return striking_first(found)

    def example(self, name: str) -> tuple[str, Path]:
        """The generator of a shipped edit, and its file; InputError names what there is."""
        for offered in self.names:
            if name in (found := worlds.examples(offered)):
                return offered, found[name]
        raise InputError(unknown("example", name, self.cards()))

    def absent(self, name: str) -> bool:
        """Whether a generator has to be downloaded first; InputError if the name is not offered here."""
        return not self.source(name).is_local

    def origin(self, name: str) -> Origin:
        """Where a generator comes from, as far as that is known without loading it."""
        return (self.models.peek(name) or self.source(name)).origin

    def model(self, name: str) -> Generator:
        """A generator on this machine; it is loaded at the first call.

        Raises:
            InputError: the name is not offered, the file cannot be read, or it has to be downloaded first.
        """
        if self.models.peek(name) is None and self.absent(name):
            raise InputError(f"{name} is not on this machine any more: choose it again to download it")
        device = "cpu" if name in self.on_cpu else self.device
        generator = self.models.get(name, lambda: self.source(name).load(device=device))
        choose_threads(generator, share=self.share)
        return generator

    def sweep(self) -> None:
        """Drop what was not used for some time."""
        for cache in (self.keys, self.pages, self.made):
            cache.sweep()
        for statistics in [*self._statistics.values()]:
            statistics.sweep()
        for private in [*self._private.values()]:
            private.sweep()

    def page_size(self, generator: Generator) -> int:
        """How many pictures the filmstrip shows: fewer if each takes seconds to draw."""
        return PAGE_SIZE if generator.device.type != "cpu" or generator.operations < SLOW else PAGE_SIZE // 3

    def session(self, visitor: Visitor) -> Rewriter:
        """The visitor's editing session, in which their photos of its generator are open.

        InputError if the history belongs to another generator of that name.
        """
        generator = self.model(visitor.generator)
        statistics = self._statistics.pop(generator.fingerprint, None) or Statistics(generator, seconds=AGE)
        self._statistics[generator.fingerprint] = statistics
        while len(self._statistics) > STATISTICS:
            self._statistics.popitem(last=False)
        shared: dict[str, Any] = {"statistics": statistics, "keys": self.keys, "made": self.made}
        private = self._private_of(visitor)
        session = Rewriter(generator, history=visitor.history, private=private, **shared)
        for name, data in visitor.photos.items():
            photo = self._opened(generator, name, data, private)
            if photo is not None and photo.name == name:
                session.open(photo)
        return session

    def _private_of(self, visitor: Visitor) -> Cache:
        """What is remembered of a visitor's photos: for those alone who have the same ones, to the bit.

        Names do not suffice: they are in published rules, and a browser can send anything under them.
        """
        for each in [*self._private.values()]:  # a worker that is never idle has no other time for it
            each.sweep()
        key = tuple((name, hashlib.sha256(data).digest()) for name, data in visitor.photos.items())
        private = self._private.pop(key, None) or Cache(PRIVATE, AGE)
        if key:
            self._private[key] = private
        while len(self._private) > OPENED:
            self._private.popitem(last=False)
        return private

    def _opened(self, generator: Generator, name: str, data: bytes, private: Cache) -> Inverted | None:
        """A photo, as a browser sent it; None if it is damaged, or was found in another generator."""
        if portable.found_in(data) != generator.fingerprint:
            return None
        with suppress(InputError):
            key = "opened", str(generator.device), name
            return private.get(key, lambda: portable.from_bytes(data, generator))
        return None

    def forget(self, names: Iterable[str]) -> None:
        """Forget all that is remembered of these photos."""
        gone = {*names}
        for key in [*self._private]:  # a copy: others add to it meanwhile
            if any(name in gone for name, _ in key):
                self._private.pop(key, None)

    @torch.no_grad()
    def images(
        self,
        visitor: Visitor,
        session: Rewriter,
        seeds: Sequence[Seed],
        rules: Sequence[LowRank] | None = None,
        *,
        side: int,
    ) -> list[Drawn]:
        """Pictures with the session's rules or the given ones, for a browser; drawn once for all who want them.

        Those of photos are drawn for their visitor alone, and are nowhere but in the answer.
        """
        drawn = dict(self._photos(session, [seed for seed in seeds if isinstance(seed, str)], rules, side))
        numbers = [seed for seed in seeds if isinstance(seed, int)]
        drawn |= zip(numbers, self._numbers(visitor, session, numbers, rules, side), strict=True)
        return [drawn[seed] for seed in seeds]

    def _photos(
        self, session: Rewriter, names: Sequence[str], rules: Sequence[LowRank] | None, side: int
    ) -> Iterator[tuple[Seed, Drawn]]:
        for name in names:
            (now,), (before,) = (self.pictures(session, [name], on) for on in (rules, []))
            change = float(difference(now[None], before[None]).max())
            yield name, Drawn(data_url(jpeg(now, side), "image/jpeg"), change if change >= NOTED else 0.0)

    def _numbers(
        self, visitor: Visitor, session: Rewriter, seeds: Sequence[int], rules: Sequence[LowRank] | None, side: int
    ) -> list[Drawn]:
        on = [rule for rule in (session.rules if rules is None else rules) if rule.active]
        if seeds and _photos_of(on):  # what was copied from a photo is seen on other pictures too: they go to no disk
            now, before = (self.pictures(session, seeds, each) for each in (on, []))
            changed = difference(now, before).flatten(1).max(1).values.tolist()
            alone = (data_url(jpeg(one, side), "image/jpeg") for one in now)
            return [Drawn(url, change) for url, change in zip(alone, changed, strict=True)]
        recipe = f"{session.generator.fingerprint} {session.edit.truncation!r} {identity(on)} {side}"
        names = {seed: name_of(f"{recipe} {seed}") for seed in seeds}
        changes = self.shelf.notes([*names.values()])
        made: dict[str, tuple[bytes, float]] = {}
        if missing := [seed for seed in names if names[seed] not in changes]:
            now = self.pictures(session, missing, on)
            before = self.pictures(session, missing, []) if on else now
            each = difference(now, before).flatten(1).max(1).values.tolist()
            made = {names[s]: (jpeg(one, side), change) for s, one, change in zip(missing, now, each, strict=True)}
            changes |= {name: change for name, (_, change) in made.items()}
        urls = self._urls(visitor, [names[seed] for seed in seeds], made)
        return [Drawn(url, changes[names[seed]]) for seed, url in zip(seeds, urls, strict=True)]

    def crops(
        self,
        visitor: Visitor,
        recipe: str,
        count: int,
        make: Callable[[], Sequence[Tensor]],
        *,
        side: int,
        session: Rewriter | None = None,
        places: Iterable[Region | None] = (),
    ) -> list[str]:
        """URLs of the pictures that `make` makes, at most `count`, unless they were made before by this recipe.

        `places`: what may be seen on them. If one is on a photo, or a rule of the `session` was made on one, the
        pictures are nowhere but in the answer and in what the session remembers.
        """
        shown = {place.seed for place in places if place and isinstance(place.seed, str)}
        shown |= _photos_of(session.rules) if session else set()
        if session is not None and shown:
            here = session.generator.photos
            key = "crops", recipe, side, *(here[name].identity for name in sorted(shown) if name in here)
            return session.private.get(key, lambda: [data_url(jpeg(one, side), "image/jpeg") for one in make()])[:count]
        names, made = [name_of(f"{recipe} {side} {i}") for i in range(count)], dict[str, tuple[bytes, float]]()
        notes = self.shelf.notes(names)
        if len(notes) < count:
            pictures = (jpeg(picture, side) for picture in make())
            made = {name: (data or b"", 0.0 if data else ABSENT) for name, data in zip_longest(names, pictures)}
            notes = {name: note for name, (_, note) in made.items()}
        return self._urls(visitor, [name for name in names if notes[name] != ABSENT], made)

    def _urls(self, visitor: Visitor, names: Sequence[str], made: Mapping[str, tuple[bytes, float]]) -> list[str]:
        """URLs of pictures, after those just `made` are kept; data URLs where a browser could not fetch them."""
        kept = not made or self.shelf.put(made)
        if kept and not (visitor.inline or self.inline):
            return [PICTURES + name for name in names]
        contents = (made[name][0] if name in made else self.shelf.get(name) or b"" for name in names)
        return [data_url(content, "image/jpeg") for content in contents]

    @torch.no_grad()
    def pictures(
        self,
        session: Rewriter,
        seeds: Sequence[Seed],
        rules: Sequence[LowRank] | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Pictures (n, 3, H, W) with the session's rules or the given ones; only what is new is computed.

        Raises:
            CancelledError: `on_step`, called with (pictures drawn, of), returned False.
        """
        generator, truncation = session.generator, session.edit.truncation
        on = [rule for rule in (session.rules if rules is None else rules) if rule.active]
        if any(isinstance(seed, str) for seed in seeds):
            return torch.stack([self._picture(session, seed, on) for seed in seeds])
        ruled = {rule.layer for rule in on}
        layer = next((name for name in generator.layers if name in ruled), None)
        key: tuple[Any, ...] = (generator.fingerprint, truncation, layer, *seeds)
        if layer is None:
            return self.pages.get(key, lambda: torch.cat([*self._drawn(session, seeds, on_step)]))

        def features() -> Features:
            return generator.keys(seeds, layer, truncation=truncation, rules=[])

        def drawn() -> Tensor:
            return generator.picture(self.pages.get(key, features), rules=on)

        return self.pages.get((*key, identity(on)), drawn)

    def _picture(self, session: Rewriter, seed: Seed, on: Sequence[LowRank]) -> Tensor:
        """A photo (3, H, W) with rules, or another picture."""
        photo = session.generator.photo(seed)
        if photo is None:
            return self.pictures(session, [seed], on)[0]
        if not on:
            return photo.original

        def drawn() -> Tensor:
            return session.generator.sample([seed], truncation=session.edit.truncation, rules=on)[0]

        return session.private.get(("drawn", photo.identity, identity(on)), drawn)

    def painted(self, session: Rewriter, seeds: Sequence[Seed]) -> Tensor:
        """Pictures (n, 3, H, W) with the session's rules and what is painted on each."""
        drawn = self.pictures(session, seeds)
        strokes = {i: own for i, seed in enumerate(seeds) if (own := session.strokes_on(seed))}
        changed = {i: self.pictures(session, [seeds[i]], [*session.rules, *own])[0] for i, own in strokes.items()}
        return torch.stack([changed.get(i, picture) for i, picture in enumerate(drawn)])

    def _drawn(self, session: Rewriter, seeds: Sequence[Seed], on_step: OnStep | None) -> Iterator[Tensor]:
        """Pictures without rules: all at once, or one by one if each takes seconds."""
        size = 1 if self.page_size(session.generator) < PAGE_SIZE else len(seeds)
        for first in range(0, len(seeds), size):
            report(on_step, first, len(seeds))
            yield session.sample(seeds[first : first + size], original=True)


def striking_first(examples: Mapping[str, Path]) -> dict[str, Path]:
    """Shipped edits by name, with the most striking ones first."""
    return {name: examples[name] for name in dict.fromkeys([*STRIKING, *examples]) if name in examples}


def _photos_of(rules: Sequence[LowRank]) -> set[str]:
    """The photos that rules were made on."""
    edits = (rule.edit for rule in rules if isinstance(rule, Rule) and rule.edit)
    return {name for edit in edits for name in edit.photos}


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """There is no such thing: what there is, and what may have been meant."""
    names = list(known)
    meant = did_you_mean(str(name)[:60], names)
    return f"there is no {what} {str(name)[:60]!r}: {meant}{'There' if meant else 'there'} are {', '.join(names)}"
