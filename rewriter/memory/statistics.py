"""What the method has to know of a layer before any edit: measured once, kept in memory and on disk.

Everything is keyed by the model's fingerprint, the rules at earlier layers, the layer, the truncation and the recipe.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rewriter.errors import InputError
from rewriter.files import replacing
from rewriter.generators.base import Generator
from rewriter.generators.layer import LayerInfo, LowRank
from rewriter.memory.keys import SecondMoment, random_places
from rewriter.memory.sites import at_places
from rewriter.memory.solve import Bystanders

KEYS_PER_CHANNEL = 64
BATCH = 16
BYSTANDERS = range(5000, 5024)
BYSTANDER_PLACES = 96


@dataclass(frozen=True)
class Recipe:
    """How the second moment is sampled: `places` random places of each of `pictures` pictures from `first_seed` on.

    Many pictures and few places each, because the pixels of one picture are correlated.
    """

    pictures: int
    places: int = 16
    first_seed: int = 0

    def __post_init__(self) -> None:
        if not (1 <= self.pictures <= 50_000 and 1 <= self.places <= 4096 and 0 <= self.first_seed <= 50_000):
            raise InputError(f"statistics of {self.pictures} pictures × {self.places} places: out of range")

    @staticmethod
    def for_layer(info: LayerInfo) -> Recipe:
        """About 64 keys per channel: enough for directions that more keys would hardly turn."""
        return Recipe(pictures=max(128, KEYS_PER_CHANNEL * info.in_channels // 16))


def digest(rules: Sequence[LowRank]) -> str:
    """Identity of a list of changes, "" for none."""
    sha = hashlib.sha256()
    for rule in rules:
        sha.update(rule.layer.encode())
        for tensor in (rule.scaled_delta(), rule.directions):
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16] if rules else ""


def default_cache() -> Path:
    """Folder for statistics: $REWRITER_CACHE, or rewriter/ in the user's cache folder."""
    if own := os.environ.get("REWRITER_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rewriter"


class Statistics:
    """Second moments and bystanders of one generator's layers at one truncation, each measured at most once."""

    def __init__(self, generator: Generator, *, truncation: float = 1.0, cache: Path | None = None):
        self.generator, self.truncation = generator, truncation
        self.cache = default_cache() if cache is None else cache
        self._moments: dict[tuple[str, str, Recipe], SecondMoment] = {}
        self._bystanders: dict[tuple[str, str], tuple[Bystanders, Tensor]] = {}

    def moment(
        self,
        layer: str,
        *,
        rules: Sequence[LowRank] = (),
        recipe: Recipe | None = None,
        on_step: Callable[[int, int], object] | None = None,
    ) -> SecondMoment:
        """The second moment of the keys entering a layer; `on_step` gets (pictures done, of)."""
        recipe = recipe or Recipe.for_layer(self.generator.layer(layer))
        earlier = self.generator.rules_at(rules, layer, before=True)
        key = (layer, digest(earlier), recipe)
        if key not in self._moments:
            path = self._path(*key)
            moment = _read(path, self.generator.layer(layer).in_channels)
            if moment is None:
                moment = self._measure(layer, earlier, recipe, on_step)
                _write(path, moment)
            self._moments[key] = moment
        return self._moments[key]

    def _measure(
        self, layer: str, rules: Sequence[LowRank], recipe: Recipe, on_step: Callable[[int, int], object] | None
    ) -> SecondMoment:
        moment = SecondMoment(self.generator.layer(layer).in_channels)
        stop = recipe.first_seed + recipe.pictures
        for first in range(recipe.first_seed, stop, BATCH):
            seeds = list(range(first, min(first + BATCH, stop)))
            keys = self.generator.keys(seeds, layer, truncation=self.truncation, rules=rules).keys
            places = random_places(seeds, recipe.places, keys.shape[2] * keys.shape[3]).to(keys.device)
            moment.update(at_places(keys, places))
            if on_step is not None:
                on_step(seeds[-1] + 1 - recipe.first_seed, recipe.pictures)
        return moment

    def bystanders(self, layer: str, *, rules: Sequence[LowRank] = ()) -> tuple[Bystanders, Tensor]:
        """Random places of pictures that no edit is about, all of weight 1; and E[v²] (out,) of each value there."""
        same = self.generator.rules_at(rules, layer)
        earlier = self.generator.rules_at(rules, layer, before=True)
        key = (layer, digest([*earlier, *same]))
        if key not in self._bystanders:
            info, memory = self.generator.layer(layer), self.generator.rewritten(same).memory(layer)
            features = self.generator.keys(list(BYSTANDERS), layer, truncation=self.truncation, rules=earlier)
            places = random_places(list(BYSTANDERS), BYSTANDER_PLACES, info.resolution**2).to(features.keys.device)
            base = torch.cat(
                [at_places(memory.response(features.keys[[i]], memory.weight), places[[i]]) for i in range(len(places))]
            )
            values = self.generator.values(features[:4], rules=same)
            others = Bystanders(features, places, torch.ones(places.shape, device=places.device), base)
            self._bystanders[key] = (others, values.square().mean((0, 2, 3)))
        return self._bystanders[key]

    def _path(self, layer: str, rules: str, recipe: Recipe) -> Path:
        sampled = f"{recipe.pictures}x{recipe.places}from{recipe.first_seed}"
        name = "-".join(filter(None, [layer, f"psi{self.truncation:g}", sampled, rules]))
        return self.cache / "moments" / self.generator.fingerprint[:16] / f"{name}.safetensors"


def _read(path: Path, channels: int) -> SecondMoment | None:
    """A cached moment, or None where there is none that can be used."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError):
        return None
    total, count = tensors.get("total"), tensors.get("count")
    if total is None or count is None or total.shape != (channels, channels) or not bool(total.isfinite().all()):
        return None
    moment = SecondMoment(channels)
    moment.total, moment.count = total, int(count)
    return moment


def _write(path: Path, moment: SecondMoment) -> None:
    """Keep a moment for the next time; a cache that cannot be written is no reason to fail."""
    with contextlib.suppress(InputError), replacing(path) as temporary:
        save_file({"total": moment.total, "count": torch.tensor(moment.count)}, temporary)
