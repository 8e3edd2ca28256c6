"""Context keys → D, the row space of a rule: the directions of keys that its change responds to (Eq. 16–19)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.errors import ComputationError, InputError
from rewriter.memory import DIRECTIONS
from rewriter.memory.second_moment import SecondMoment

if TYPE_CHECKING:
    from rewriter.memory.goal import Goal

MATCH = 0.5  # a place matches from this share of the context's mean response on
TINY = 1e-6  # singular values below this share of the largest are rounding errors


@dataclass(frozen=True)
class Directions:
    """Row space of a rule."""

    matrix: Tensor  # D (r, in), orthonormal rows, float32
    level: float  # the context keys' mean response to the first row

    def match(self, keys: Tensor) -> Tensor:
        """Which places (n, h, w) match: their keys (n, in, h, w) respond at least half as strongly as the context's."""
        return torch.einsum("i,nihw->nhw", self.matrix[0], keys) >= MATCH * self.level


def key_directions(
    keys: Tensor, moment: SecondMoment, *, weights: Tensor | None = None, rank: int = 1, method: str = "zca"
) -> Directions:
    """Directions that single out the context's keys from all others.

    Args:
        keys: context keys (n, c).
        moment: second moment of the layer's keys.
        weights: how much each key counts, (n,), positive; None: all alike.
        rank: number of directions.
        method: "zca" (the paper's: principal directions of the whitened keys, whitened again; one key gives C⁻¹k);
            "mean" (C⁻¹ of the mean key, rank 1); "svd" (principal directions of C⁻¹k); "units" (single channels that
            are unusually strong in the context, as in GAN Dissection).

    Raises:
        InputError: an unknown method, no keys, or a rank above what the context's keys give.
        ComputationError: keys that are not finite.
    """
    if method not in DIRECTIONS:
        raise InputError(f"unknown direction method {method!r}: choose one of {', '.join(DIRECTIONS)}")
    if keys.ndim != 2 or not len(keys):
        raise InputError("no context keys: mark a context that covers at least one cell of the layer")
    if not bool(keys.isfinite().all()):
        raise ComputationError("the context's keys are not finite: the weights are damaged")
    k = keys.cpu().double()
    w = torch.ones(len(k), dtype=torch.float64) if weights is None else weights.cpu().double()
    mean = (w[:, None] * k).sum(0) / w.sum()
    rows = _rows(k, w, mean, moment, rank, method)
    rows = rows * torch.where(rows @ mean < 0, -1.0, 1.0)[:, None]
    matrix = rows.float().to(keys.device).contiguous()
    return Directions(matrix, float(rows[0] @ mean))


def separating(goal: Goal, moment: SecondMoment) -> Directions:
    """The direction that tells the two conditions of a paired goal apart: d = C⁻¹(k̄₁ − k̄₂), the mean keys where it is.

    If d·k were 1 there in one condition and −1 in the other, Λ = v₂ − v₁ would swap the two exactly. It points towards
    the condition that responds more strongly, whose places are those that match.
    """
    keys = goal.features.keys
    weight = F.interpolate(goal.weight[:, None], size=keys.shape[2:], mode="area")
    sums, half = (keys * weight).sum((2, 3)).cpu().double(), len(keys) // 2
    first, second = (part.sum(0) / weight[:half].cpu().double().sum() for part in (sums[:half], sums[half:]))
    d = moment.power(-1) @ (first - second)
    d = d / d.norm().clamp_min(1e-30)
    if d @ (first + second) < 0:
        d, first = -d, second
    return Directions(d[None].float().to(keys.device).contiguous(), float(d @ first))


def _rows(k: Tensor, w: Tensor, mean: Tensor, moment: SecondMoment, rank: int, method: str) -> Tensor:
    """Orthonormal rows (rank, c) by one of the methods."""
    if method == "units":
        score = (w[:, None] * k.square()).sum(0) / moment.matrix.diagonal().clamp_min(1e-30)
        _check_rank(rank, int((score > 0).sum()), "units that fire in the context")
        return torch.eye(k.shape[1], dtype=torch.float64)[score.argsort(descending=True)[:rank]]
    if method == "mean":
        _check_rank(rank, 1, "direction (method mean)")
        row = moment.power(-1) @ mean
        _check_rank(rank, int(row.norm() > 0), "context keys other than zero")
        return (row / row.norm())[None]
    transform = moment.power(-0.5 if method == "zca" else -1)
    _, strengths, principal = torch.linalg.svd(w[:, None] * k @ transform, full_matrices=False)
    _check_rank(rank, int((strengths > TINY * strengths[0]).sum()), "independent context keys")
    rows = principal[:rank] @ transform if method == "zca" else principal[:rank]
    return torch.linalg.qr(rows.T)[0].T


def _check_rank(rank: int, available: int, what: str) -> None:
    if not 1 <= rank <= available:
        raise InputError(f"rank {rank} asked for, but there are {available} {what}: lower it or mark more context")
