"""How rewriting is judged: sums for every picture, and figures with intervals made of them afterwards.

A judge looks at pictures before and after and returns columns, one number for each picture. A figure is a ratio of
sums of two columns. So pictures can be judged in any order, by any number of processes, and counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from rewriter.evaluation.intervals import wilson
from rewriter.generators.latents import latents
from rewriter.worlds.townscape import scenes

JUDGED = 20_000  # the first seed of all reported figures; what is chosen is chosen on seeds from 50,000 on
BATCH = 50
RESAMPLES = 1000
INTERVAL = 0.95

Draw = Callable[[Tensor], Tensor]  # latents (n, zdim) → pictures (n, 3, H, W) in [-1, 1]
Rows = dict[str, Tensor]  # column → one number, or one vector, for each picture


@dataclass(frozen=True)
class Figure:
    """A ratio of two columns' sums.

    unit: "%" (a share), "1/255", "per 1,000" (pictures) or "" (a plain ratio). better: "more", "less" or "" (neither).
    less_than_one: whether to report what the ratio lacks to 1.
    """

    name: str
    above: str
    below: str
    unit: str = "%"
    better: str = ""
    less_than_one: bool = False

    def words(self, value: float) -> str:
        """A value in its unit."""
        if not np.isfinite(value):
            return "–"
        if self.unit == "%":
            return f"{value:.1%}"
        return f"{1000 * value:.0f}" if self.unit == "per 1,000" else f"{value:.{2 if self.unit else 3}f}"


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its interval; not finite where nothing was counted."""

    value: float
    low: float
    high: float


class Judge(Protocol):
    """Says what to count of pictures, and which figures it makes."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures that its columns make."""

    def __call__(self, seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
        """One row for each seed."""


def unchanged(before: Tensor, after: Tensor, away: Tensor) -> Tensor:
    """The pictures after (n, 3, H, W), but before where change is meant: networks would see that from afar."""
    return torch.where(away[:, None], after, before)


def towns(seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Latents (n, 32) of seeds and the factors (n, 24) that they describe."""
    z = latents(list(seeds), scenes.LATENT_DIM)
    return z, scenes.factors(z)


@torch.no_grad()
def judged(judge: Judge, seeds: Sequence[int], before: Draw, after: Draw) -> Rows:
    """All rows, batch by batch."""
    parts = [judge(seeds[i : i + BATCH], before, after) for i in range(0, len(seeds), BATCH)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def figures(judge: Judge, rows: Mapping[str, Tensor]) -> dict[str, Estimate]:
    """Every figure of a judge by name."""
    return {figure.name: estimate(figure, rows) for figure in judge.figures}


def estimate(figure: Figure, rows: Mapping[str, Tensor], *, resamples: int = RESAMPLES) -> Estimate:
    """A figure and its interval: the middle 95 % of what pictures drawn again, with replacement, would give."""
    pair = np.stack([rows[figure.above].double().numpy(), rows[figure.below].double().numpy()], 1)
    value = _ratio(pair.sum(0)[None], figure)[0]
    counts = drawn_again(len(pair), resamples)
    sums = np.concatenate([counts[i : i + 100].astype(np.float64) @ pair for i in range(0, resamples, 100)])
    again = _ratio(sums, figure)
    again = again[np.isfinite(again)]
    if not len(again):
        return Estimate(float(value), float("nan"), float("nan"))
    low, high = np.quantile(again, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    if figure.unit == "per 1,000" and low == high == value:  # none, or all: resampling cannot tell how surely
        low, high = wilson(round(value * len(pair)), len(pair))
    return Estimate(float(value), float(low), float(high))


@lru_cache(maxsize=2)
def drawn_again(n: int, resamples: int) -> np.ndarray:
    """How often each of n pictures is drawn in each resample, (resamples, n); the same every time."""
    generator = np.random.default_rng(0)
    rows = [generator.multinomial(n, np.full(n, 1 / n)).astype(np.uint8) for _ in range(resamples)]
    return np.stack(rows)


def _ratio(sums: np.ndarray, figure: Figure) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: np.ndarray = sums[:, 0] / sums[:, 1]
    return 1 - ratio if figure.less_than_one else ratio


def frechet(a: Tensor, b: Tensor, weight: Tensor | None = None) -> float:
    """Fréchet distance of two sets of features (n, d) taken as normal distributions (Heusel et al. 2017, Eq. 6).

    weight: how often each counts, (n,). It grows as n falls below some times d: compare equal numbers only.
    """
    moments = []
    for x in (a.double(), b.double()):
        w = torch.ones(len(x), dtype=torch.float64) if weight is None else weight.double()
        mean = (w[:, None] * x).sum(0) / w.sum()
        off = x - mean
        moments.append((mean, (w[:, None] * off).T @ off / w.sum()))
    (m, s), (n, t) = moments
    root = _root(s)
    return float((m - n).square().sum() + s.trace() + t.trace() - 2 * _root(root @ t @ root).trace())


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet_estimate(rows: Mapping[str, Tensor], *, resamples: int = 100) -> Estimate:
    """The distance of what was drawn to what was wanted; drawing again lengthens it, so only its spread is used."""
    drawn, wanted = rows["embedding"], rows["wanted"]
    value = frechet(drawn, wanted)
    again = [frechet(drawn, wanted, torch.from_numpy(row)) for row in drawn_again(len(drawn), resamples)]
    low, high = np.quantile(again, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]) - np.mean(again) + value
    return Estimate(value, max(0.0, float(low)), float(high))
