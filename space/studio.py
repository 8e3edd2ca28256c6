"""What all visitors share: generators, loaded once each, with what is known of them; and the pictures on screen.

A visitor's own state is a `Visitor`: kilobytes, picklable. A `Studio` turns it into a session for the length of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from rewriter import Rewriter, load_generator
from rewriter.generators.base import Generator
from rewriter.generators.layer import Features
from rewriter.history import History
from rewriter.memory.cache import Cache
from rewriter.memory.statistics import Statistics
from rewriter.search import KEPT

PAGE = 12


@dataclass(frozen=True)
class Visitor:
    """One person's work: the generator's name, the session's history, the pictures on screen and in the painter."""

    generator: str = "townscape"
    history: History | None = None
    seeds: tuple[int, ...] = tuple(range(PAGE))
    selected: int = 0


class Studio:
    """Generators and caches of one process, shared by all visitors."""

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.device = device
        self._models: dict[str, tuple[Generator, Statistics]] = {}
        self._lock = Lock()
        self.keys, self.screens = Cache(KEPT), Cache(KEPT // 2)

    def model(self, name: str) -> tuple[Generator, Statistics]:
        """A generator and its statistics, loaded at the first call."""
        with self._lock:
            if name not in self._models:
                generator = load_generator(name, device=self.device)
                self._models[name] = generator, Statistics(generator)
            return self._models[name]

    def session(self, visitor: Visitor) -> Rewriter:
        """The visitor's session."""
        generator, statistics = self.model(visitor.generator)
        return Rewriter(generator, history=visitor.history, statistics=statistics, keys=self.keys)

    @torch.no_grad()
    def pictures(self, session: Rewriter, seeds: Sequence[int], *, original: bool = False) -> Tensor:
        """Pictures (n, 3, H, W); only the layers from the first rule on are computed anew."""
        generator, psi = session.generator, session.edit.truncation
        rules = [] if original else [rule for rule in session.rules if rule.active]
        ruled = {rule.layer for rule in rules}
        layer = next((name for name in generator.layers if name in ruled), None)
        key = generator.fingerprint, psi, layer, *seeds
        if layer is None:
            return self.screens.get(key, lambda: generator.sample(seeds, truncation=psi, rules=[]))

        def look_up() -> Features:
            return generator.keys(seeds, layer, truncation=psi, rules=[])

        return generator.picture(self.screens.get(key, look_up), rules=rules)
