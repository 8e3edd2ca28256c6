"""The second moment of a layer's keys, C = E[k kᵀ] (uncentred), streamed; and where to sample the keys."""

from __future__ import annotations

import torch
from torch import Tensor

from rewriter.errors import ComputationError, InputError

FLOOR = 1e-7  # eigenvalues of C below this share of the largest are raised to it


def random_places(seeds: list[int], count: int, places: int) -> Tensor:
    """Draw `count` of `places` places for each picture, (n, count); they depend on its seed only, not on the batch."""
    draws = [torch.randint(places, (count,), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(draws)


class SecondMoment:
    """Streamed sum of k kᵀ in float64, on the CPU; two of them merge into the moment of both."""

    def __init__(self, channels: int):
        self.total = torch.zeros(channels, channels, dtype=torch.float64)  # Σ k kᵀ
        self.count = 0  # keys seen
        self._eigen: tuple[int, Tensor, Tensor] | None = None  # of C after so many keys

    def update(self, keys: Tensor) -> None:
        """Add keys (n, c).

        Raises:
            InputError: the wrong number of channels.
            ComputationError: NaN or infinite keys; nothing is added.
        """
        if keys.ndim != 2 or keys.shape[1] != len(self.total):
            raise InputError(f"keys are (n, {len(self.total)}), not {tuple(keys.shape)}")
        if not bool(keys.isfinite().all()):
            raise ComputationError("the layer's features are not finite: the weights are damaged or overflow here")
        keys = keys.cpu().double()
        self.total += keys.T @ keys
        self.count += len(keys)

    def merge(self, other: SecondMoment) -> None:
        """Add what another moment has seen."""
        if other.total.shape != self.total.shape:
            raise InputError(f"a moment of {len(other.total)} channels does not merge into one of {len(self.total)}")
        self.total += other.total
        self.count += other.count

    def sums(self) -> dict[str, Tensor]:
        """What it holds, by name."""
        return {"total": self.total}

    def with_more(self, keys: Tensor, *, share: float = 1.0) -> SecondMoment:
        """A moment in which these keys (n, c) weigh as much as all the others, times `share`.

        Directions that are whitened with it avoid them: near misses of a context.
        """
        keys, more = keys.cpu().double(), SecondMoment(len(self.total))
        more.total = self.total + share * self.count / len(keys) * (keys.T @ keys)
        more.count = self.count
        return more

    @property
    def matrix(self) -> Tensor:
        """C = E[k kᵀ], (c, c), float64."""
        if not self.count:
            raise InputError("no keys yet: call update first")
        return self.total / self.count

    def power(self, exponent: float) -> Tensor:
        """C to a power, (c, c), float64: −1 decorrelates keys, −½ is the paper's ZCA transform (Appendix D)."""
        if self._eigen is None or self._eigen[0] != self.count:
            self._eigen = (self.count, *torch.linalg.eigh(self.matrix))
        _, values, vectors = self._eigen
        floored = values.clamp_min(float(values[-1].clamp_min(1e-30)) * FLOOR)
        return (vectors * floored**exponent) @ vectors.T
