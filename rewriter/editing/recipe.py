"""Recipe: how a layer's second moment is sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rewriter.checks import object_of, whole
from rewriter.errors import InputError
from rewriter.generators.latents import SEEDS

KEYS_PER_CHANNEL = 64
BATCH = 16
BLOCK = 4 * BATCH  # pictures summed on their own, so that the total has the same bits however the work is split


@dataclass(frozen=True)
class Recipe:
    """Sample `places` random places of each of `pictures` pictures, from `first_seed` on.

    Many pictures and few places each, because the pixels of one picture are correlated.
    """

    pictures: int
    places: int = 16
    first_seed: int = 0

    def __post_init__(self) -> None:
        if not (1 <= self.pictures <= 50_000 and 1 <= self.places <= 4096 and 0 <= self.first_seed <= 50_000):
            raise InputError(
                f"statistics of {self.pictures} pictures × {self.places} places from seed {self.first_seed}: out of "
                "range (pictures 1 to 50,000, places 1 to 4,096, first seed 0 to 50,000)"
            )

    @property
    def keys(self) -> int:
        """How many keys that makes."""
        return self.pictures * self.places

    @staticmethod
    def for_channels(channels: int) -> Recipe:
        """About 64 keys for each of the key's channels: more keys would hardly change the directions."""
        return Recipe(pictures=max(128, KEYS_PER_CHANNEL * channels // 16))

    def blocks(self) -> list[range]:
        """The seeds in blocks of 64, in order; the last may be shorter."""
        stop = self.first_seed + self.pictures
        return [range(first, min(first + BLOCK, stop)) for first in range(self.first_seed, stop, BLOCK)]


def recipe(name: str, value: Any) -> Recipe | None:
    """Check a recipe given as a Recipe, as JSON, or as None."""
    if value is None or isinstance(value, Recipe):
        return value
    return Recipe(**object_of(dict.fromkeys(Recipe.__dataclass_fields__, whole(0, SEEDS)))(name, value))
