"""What a built-in world says about itself: enough to train a generator on it, to judge one, and to make edits.

A world is a function of latents: z → factors u, uniform in [0, 1] → a picture with a label for every pixel, also
without one of its things. `townscape` and `portraits` are such worlds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rewriter.errors import InputError
from rewriter.generators.latents import latents


class Scene(NamedTuple):
    """Drawn scenes: `picture` (n, 3, size, size) in [-1, 1], and `labels` (n, size, size) into their `names`."""

    picture: Tensor
    labels: Tensor
    names: tuple[str, ...]

    def where(self, *things: str) -> Tensor:
        """Where any of these things is labelled, (n, size, size) bool."""
        return torch.isin(self.labels, torch.tensor([self.names.index(t) for t in things], device=self.labels.device))


class Draw(Protocol):
    """Draws factors; what is behind the thing `without` shows instead of it."""

    def __call__(self, u: Tensor, size: int = ..., *, without: str | None = None) -> Scene:
        """Factors (n, factors) → scenes of `size` pixels a side, on the device of the factors."""


@dataclass(frozen=True, eq=False)
class World:
    """One world: its names, how it is drawn, and what its generator is trained with."""

    name: str  # of its folder
    side: int  # of its pictures in px, unless another is asked for
    zdim: int  # length of a latent
    labels: tuple[str, ...]  # of pixels; the first is the background
    things: tuple[str, ...]  # the labels that a generator is judged by
    factor: type[IntEnum]  # names of factors, each with its column in u
    draw: Draw
    change: Callable[..., Tensor]  # factors (n, k), and things by name → factors of the counterfactual
    meaning: Callable[[Tensor], Tensor]  # factors (n, k) → what the mapping network learns first, (n, m) in [-1, 1]
    pixel_weights: Mapping[str, float]  # of each label in the loss
    frequent: Callable[[Tensor], Tensor]  # random latents (n, zdim) → with rare things more often, to train on
    switches: tuple[int, ...]  # factors with which things change suddenly: the mapping network gives them more units
    channels: tuple[int, ...]  # of its generator at 4, 8, 16 … px
    w_dim: int = 128  # width of its mapping network
    mapping_layers: int = 4
    oversample: int = 64  # below this side, scenes to learn from are drawn at twice the size and averaged

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return Path(__file__).parent / self.name

    def factors(self, z: Tensor) -> Tensor:
        """Latents (n, zdim), else InputError → independent factors (n, k), uniform in [0, 1] for normal latents."""
        if z.ndim != 2 or z.shape[1] != self.zdim:
            raise InputError(f"latents are {tuple(z.shape)} instead of (n, {self.zdim}): use Generator.latents(seeds)")
        z = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)  # as StyleGAN2 normalises them
        return 0.5 * (1 + torch.erf(z[:, : len(self.factor)] / math.sqrt(2)))

    def latents_of(self, u: Tensor, rest: Tensor) -> Tensor:
        """Latents (n, zdim) that describe factors (n, k); their other numbers are those of the latents `rest`.

        The inverse of `factors`: the generator can draw the counterfactual itself. Exact, except that extreme factors
        may exceed the norm that all latents have; then they become a little less extreme.
        """
        meant = math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-1 + 1e-6, 1 - 1e-6))
        free = rest[:, len(self.factor) :]
        left = (self.zdim - meant.square().sum(1, keepdim=True)).clamp_min(1e-2)
        return torch.cat([meant, free * (left / free.square().sum(1, keepdim=True).clamp_min(1e-8)).sqrt()], 1)

    def read(self, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Latents (n, zdim) of seeds, and the factors (n, k) that they describe."""
        z = latents(list(seeds), self.zdim)
        return z, self.factors(z)

    def described(self, seeds: Sequence[int], size: int | None = None) -> Scene:
        """The scenes that seeds describe."""
        return self.draw(self.read(seeds)[1], size or self.side)

    def seeds_with(self, predicate: Callable[[Tensor], Tensor], number: int) -> list[int]:
        """The first seeds whose factors fulfil a predicate, (n, k) → (n,) bool."""
        return list(islice((seed for seed in count() if bool(predicate(self.read([seed])[1])[0])), number))

    def check(self, things: Sequence[str]) -> None:
        """InputError for a thing that is not labelled in this world."""
        if unknown := [thing for thing in things if thing not in self.labels]:
            raise InputError(f"the world of {self.name} has no {unknown[0]!r}: choose from {', '.join(self.labels)}")
