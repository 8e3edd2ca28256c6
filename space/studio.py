"""What all visitors share: generators, loaded once each, with what is known of them; and the pictures on screen.

A visitor's own state is a `Visitor`: kilobytes, picklable. A `Studio` turns it into a session for the length of a call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rewriter import Rewriter, Rule
from rewriter.cache import Cache
from rewriter.checkpoints.catalogue import BUILT_IN, catalogue
from rewriter.editing.history import History
from rewriter.editing.search import KEPT
from rewriter.editing.statistics import Statistics
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.layer import Features
from rewriter.generators.origin import Origin
from rewriter.hub.resolve import resolve
from rewriter.hub.sources import Source

PAGE = 12
MODELS = 4 << 30  # bytes of generators in memory
KNOWN = 6  # generators at some truncation whose statistics are: each at most half a gigabyte
SLOW = 10e9  # operations of a picture that takes a CPU a noticeable time


@dataclass(frozen=True)
class Visitor:
    """One person's work: the generator's name, the work on each, the pictures on screen and in the painter.

    matches: whether the pictures on screen show where the context fires. link: the shipped edit, or the published
    generator, that an address opened.
    """

    generator: str = BUILT_IN
    works: Mapping[str, History] = field(default_factory=dict)
    seeds: tuple[int, ...] = tuple(range(PAGE))
    selected: int = 0
    matches: bool = False
    link: str = ""

    @property
    def work(self) -> History | None:
        """The work on the chosen generator, if there is any."""
        return self.works.get(self.generator)

    def with_work(self, work: History, **changes: object) -> Visitor:
        """The visitor after a step."""
        return replace(self, works={**self.works, self.generator: work}, **changes)  # type: ignore[arg-type]


class Studio:
    """Generators and caches of one process, shared by all visitors, who choose among the names given."""

    def __init__(self, names: Sequence[str] = (BUILT_IN,), *, device: torch.device | str | None = None) -> None:
        self.names, self.device, self.catalogue = tuple(names), device, catalogue()
        self.models, self.keys, self.screens = Cache(MODELS), Cache(KEPT), Cache(KEPT // 2)
        self.sources = {name: resolve(name) for name in self.names}  # downloaded ones are pinned to their revision
        self.known: OrderedDict[tuple[str, float], Statistics] = OrderedDict()

    def source(self, name: str) -> Source:
        """Where a generator comes from; InputError for a name that is not on offer."""
        if name not in self.names:
            raise InputError(f"there is no generator {name!r} here: choose one of {', '.join(self.names)}")
        return self.sources[name]

    def absent(self, name: str) -> bool:
        """Whether a generator has to be downloaded first; InputError for a name that is not on offer."""
        return not self.source(name).is_local

    def origin(self, name: str) -> Origin:
        """Where a generator on offer comes from, as far as that is known without loading it."""
        origin: Origin = (self.models.peek(name) or self.source(name)).origin
        return origin

    def model(self, name: str) -> Generator:
        """A generator that is here, loaded when first asked for.

        Raises:
            InputError: a name that is not on offer, a file that cannot be read, or one that is still to be downloaded.
        """
        if loaded := self.models.peek(name):
            return loaded  # type: ignore[no-any-return]
        if self.absent(name):
            raise InputError(f"{name} is not on this machine any more: choose it again, and it will be downloaded")
        return self.models.get(name, lambda: self.source(name).load(device=self.device))

    def page(self, generator: Generator) -> int:
        """How many pictures one looks at: fewer where each takes seconds."""
        return PAGE if generator.device.type != "cpu" or generator.operations < SLOW else PAGE // 3

    def session(self, visitor: Visitor) -> Rewriter:
        """The visitor's session."""
        generator, work = self.model(visitor.generator), visitor.work
        statistics = self.known.pop(generator.fingerprint, None) or Statistics(generator)
        self.known[generator.fingerprint] = statistics
        while len(self.known) > KNOWN:
            self.known.popitem(last=False)
        return Rewriter(generator, history=work, statistics=statistics, keys=self.keys)

    @torch.no_grad()
    def pictures(
        self,
        session: Rewriter,
        seeds: Sequence[int],
        rules: Sequence[Rule] | None = None,
        on_step: Callable[[int, int], object] = lambda done, of: None,
    ) -> Tensor:
        """Pictures (n, 3, H, W) with the session's rules or others; computed anew only from the first rule's layer."""
        generator, psi = session.generator, session.edit.truncation
        on = [rule for rule in (session.rules if rules is None else rules) if rule.active]
        ruled = {rule.layer for rule in on}
        layer = next((name for name in generator.layers if name in ruled), None)
        key = generator.fingerprint, psi, layer, *seeds
        if layer is None:
            return self.screens.get(key, lambda: torch.cat([*self._drawn(generator, seeds, psi, on_step)]))

        def look_up() -> Features:
            return generator.keys(seeds, layer, truncation=psi, rules=[])

        return generator.picture(self.screens.get(key, look_up), rules=on)

    def _drawn(
        self, generator: Generator, seeds: Sequence[int], psi: float, on_step: Callable[[int, int], object]
    ) -> Iterator[Tensor]:
        """Pictures as they were, all at once, or one by one where each takes seconds."""
        size = 1 if self.page(generator) < PAGE else len(seeds)
        for first in range(0, len(seeds), size):
            on_step(first, len(seeds))
            yield generator.sample(seeds[first : first + size], truncation=psi, rules=[])
