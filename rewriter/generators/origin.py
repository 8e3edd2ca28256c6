"""Origin: where a generator came from, whose it is and what was changed in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Licence:
    """A licence's id, as the Hub writes it, and the address of its text."""

    id: str
    link: str


@dataclass(frozen=True)
class FoldedRule:
    """A rule that was folded into the weights, and is no longer a rule of its own."""

    title: str
    layer: str
    rank: int
    strength: float


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a generator came from: the fields of its catalogue entry and more. What is not known is None, or empty."""

    id: str | None = None
    title: str = ""
    repository: str | None = None
    revision: str | None = None
    package: str | None = None  # NAME==VERSION, on the index of Python packages
    file: str | None = None  # in the repository or package, or the name of a local file
    size: int | None = None
    sha256: str | None = None
    architecture: str | None = None
    layout: str | None = None
    resolution: int | None = None
    clamp: float | None = None
    licence: Licence | None = None
    attribution: str = ""
    stated: bool = False  # whether whoever published it stated the licence, which the catalogue does not know
    note: str = ""
    published: str | None = None  # "USER/NAME@COMMIT" of a rewritten generator on the Hub
    rules: tuple[FoldedRule, ...] = ()  # those folded into its weights, in order

    def to_json(self) -> dict[str, Any]:
        """The fields that are known, as plain data."""
        plain: Mapping[str, Any] = asdict(self) | {"rules": [asdict(rule) for rule in self.rules]}
        return {name: value for name, value in plain.items() if value not in (None, "", False, [], ())}
