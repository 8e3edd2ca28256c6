"""What a built-in world says about itself: enough to train a generator on it and to judge one.

A world is a function of latents: z → factors u, uniform in [0, 1] → a picture with a label for every pixel, also
without one of its things. `townscape` and `portraits` are such worlds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Scene(Protocol):
    """A drawn scene: `picture` (n, 3, size, size) in [-1, 1], `labels` (n, size, size) into the world's labels."""

    @property
    def picture(self) -> Tensor:
        """(n, 3, size, size) in [-1, 1]."""

    @property
    def labels(self) -> Tensor:
        """(n, size, size), indices of labels."""

    def where(self, *things: str) -> Tensor:
        """Where any of these things is labelled, (n, size, size) bool."""


class Draw(Protocol):
    """Draws factors; what is behind the thing `without` shows instead of it."""

    def __call__(self, u: Tensor, size: int, *, without: str | None = None) -> Scene:
        """Factors (n, factors) → scenes of `size` pixels a side, on the device of the factors."""


@dataclass(frozen=True, eq=False)
class World:
    """One world: its names, how it is drawn, and what its generator is trained with."""

    name: str
    zdim: int  # length of a latent
    labels: tuple[str, ...]  # of pixels; the first is the background
    things: tuple[str, ...]  # the labels that a generator is judged by
    factors: Callable[[Tensor], Tensor]  # latents (n, zdim) → factors (n, k) in [0, 1]
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
