"""From pictures to metrics with 95 % confidence intervals.

A metric is a ratio. For each metric a judge returns a numerator and a denominator for each picture; both are summed
over the pictures. So pictures can be judged in batches, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from rewriter.pictures import difference
from rewriter.worlds.segmenter import Segmenter

BATCH = 50
RESAMPLES, FRECHET_RESAMPLES = 1000, 100  # of the bootstrap
ENDS = (0.025, 0.975)  # quantiles at the ends of an interval
Z = 1.959964  # the 0.975 quantile of the normal distribution

Draw = Callable[[Tensor], Tensor]  # latents (n, zdim) → pictures (n, 3, H, W) in [-1, 1]
Rows = dict[str, Tensor]  # metric → numerators and denominators (n, 2); "embedding", "wanted" → vectors (n, d)


@dataclass(frozen=True)
class Metric:
    """How a ratio is shown: unit "%", "1/255", "per 1,000" (pictures) or "" (none); better: "more", "less" or ""."""

    name: str
    unit: str = "%"
    better: str = ""

    def text(self, value: float) -> str:
        """A value in the metric's unit; "–" where it is not defined."""
        if not np.isfinite(value):
            return "–"
        if self.unit == "%":
            return f"{value:.1%}"
        return f"{1000 * value:.0f}" if self.unit == "per 1,000" else f"{value:.{2 if self.unit else 3}f}"


FRECHET = Metric("fréchet", "", "less")
DAMAGE = (Metric("side effect", "1/255", "less"), Metric("perceptual", "", "less"))  # see `damage`


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; not finite where the denominator is zero."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Judge:
    """Compares pictures before and after a rule: seeds, and how to draw before and after → one row for each seed."""

    metrics: tuple[Metric, ...]
    rows: Callable[[Sequence[int], Draw, Draw], Rows]


def ratios(parts: Mapping[str, tuple[Tensor, Tensor]]) -> Rows:
    """Numerators and denominators, as maps (n, H, W) or numbers (n,), summed over each picture: (n, 2) each."""

    def total(part: Tensor) -> Tensor:
        return part.reshape(len(part), -1).double().sum(1).cpu()

    return {name: torch.stack([total(above), total(below)], 1) for name, (above, below) in parts.items()}


def estimates(judge: Judge, batches: Sequence[Rows]) -> dict[str, Estimate]:
    """Every metric of a judge by name, then the Fréchet distance if the rows have embeddings."""
    rows = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    found = {metric.name: estimate(metric, rows[metric.name]) for metric in judge.metrics}
    return found | ({FRECHET.name: frechet_estimate(rows)} if "embedding" in rows else {})


def estimate(metric: Metric, rows: Tensor) -> Estimate:
    """A metric of rows (n, 2), with the interval that holds 95 % of its bootstrap resamples."""
    pairs = rows.double().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(np.divide(*pairs.sum(0)))
        resampled = np.divide(*(_resampling(len(pairs), RESAMPLES).astype(float) @ pairs).T)
    resampled = resampled[np.isfinite(resampled)]
    low, high = np.quantile(resampled, ENDS) if len(resampled) else (np.nan, np.nan)
    counted = np.isin(pairs, (0, 1)).all()  # a share of pictures
    if counted and low == high == value:  # resamples of all or none do not vary
        low, high = wilson(*(int(count) for count in pairs.sum(0)))
    return Estimate(value, float(low), float(high))


@lru_cache(maxsize=2)
def _resampling(n: int, resamples: int) -> np.ndarray:
    """How often each of n pictures is drawn in each resample, (resamples, n); the same in every call."""
    generator = np.random.default_rng(0)
    return np.stack([generator.multinomial(n, np.full(n, 1 / n)).astype(np.uint8) for _ in range(resamples)])


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share of n ≥ 1 independent trials (Wilson 1927)."""
    share = successes / n
    centre = share + Z**2 / (2 * n)
    reach = Z * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = ((centre + sign * reach) / (1 + Z**2 / n) for sign in (-1, 1))
    return (low if successes else 0.0), (high if successes < n else 1.0)


def frechet(a: Tensor, b: Tensor, weight: Tensor | None = None) -> float:
    """Fréchet distance of features (n, d), each set taken as a normal distribution (Heusel et al. 2017, Eq. 6).

    `weight` says how often each row counts, (n,). Few rows bias the distance upwards: compare equal numbers only.
    """
    moments = []
    for x in (a.double(), b.double()):
        w = torch.ones(len(x), dtype=torch.float64) if weight is None else weight.double()
        mean = (w[:, None] * x).sum(0) / w.sum()
        centred = x - mean
        moments.append((mean, (w[:, None] * centred).T @ centred / w.sum()))
    (m, s), (n, t) = moments
    root = _square_root(s)
    return float((m - n).square().sum() + s.trace() + t.trace() - 2 * _square_root(root @ t @ root).trace())


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet_estimate(rows: Rows) -> Estimate:
    """The Fréchet distance from "embedding" to "wanted". Resamples are biased upwards, so only their spread is used."""
    drawn, wanted = rows["embedding"], rows["wanted"]
    value, counts = frechet(drawn, wanted), _resampling(len(drawn), FRECHET_RESAMPLES)
    resampled = [frechet(drawn, wanted, torch.from_numpy(count)) for count in counts]
    low, high = np.quantile(resampled, ENDS) - np.mean(resampled) + value
    return Estimate(value, max(0.0, float(low)), float(high))


def damage(before: Tensor, after: Tensor, away: Tensor, network: Segmenter) -> dict[str, tuple[Tensor, Tensor]]:
    """The maps of `DAMAGE` for pictures (n, 3, H, W): mean change inside `away`, (n, H, W) bool.

    Features of the network see a neighbourhood of each pixel, so intended change is undone before they are compared.
    """
    perceived = network.distance(before, torch.where(away[:, None], after, before))
    return {"side effect": (difference(before, after) * away, away), "perceptual": (perceived * away, away)}
