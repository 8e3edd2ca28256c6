"""The original's solvers: Adam on the L1 distance of the values, over the whole weight or over Λ alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewriter.memory.sites import Sites

if TYPE_CHECKING:
    from rewriter.generators.layer import Memory

STEPS = 2001
RATE = 0.05
EVERY = 10  # steps between two projections


def descend(
    memory: Memory,
    sites: Sites,
    *,
    directions: Tensor | None = None,
    rank: int | None = None,
    steps: int = STEPS,
    rate: float = RATE,
    first: int = EVERY,
    after: Callable[[int, float], object],
) -> Tensor:
    """Adam on the numbers a (O, Q) that `sites` was gathered for; returns them.

    Gathered with D, a is Λ ("direct"). Gathered with the identity, a is the change of the whole weight
    ("unconstrained"); `directions` (r, in) then projects it onto their row space after step `first`, every tenth from
    there, and the last ("projected", the paper's: W ← W0 + P(W − W0)); `rank` instead cuts it to that rank by SVD
    (section 5.3 there). The original's code projects after steps 1, 11, 21 …, and cuts after steps 10, 20, 30 ….
    Gradients are written out by hand, because our methods are timed against this one and it should be fast.
    """
    a = sites.basis.new_zeros(sites.base.shape[1], sites.basis.shape[1])
    adam = torch.optim.Adam([a], lr=rate, fused=True)
    scale = sites.weight[:, None] / (sites.weight.sum() * len(a))
    for step in range(1, steps + 1):
        loss, a.grad = _l1(memory, sites, scale, a)
        adam.step()
        if step % EVERY == first % EVERY or step == steps:
            if rank is not None:
                directions = principal(memory, a, rank)
            if directions is not None:
                change = a.view(len(a), directions.shape[1], -1)
                a.copy_(torch.einsum("oit,ri,rj->ojt", change, directions, directions).flatten(1))
                loss, _ = _l1(memory, sites, scale, a)  # after the projection
        after(step, float(loss))
    return a.detach()


def principal(memory: Memory, a: Tensor, rank: int) -> Tensor:
    """The row space (rank, in) nearest to a change of the whole weight, as (O, in · taps), by its SVD."""
    change = a.view(*memory.weight.shape[:2], -1).transpose(0, 1).flatten(1)  # (in, O · taps), as the original has it
    return torch.linalg.svd(change, full_matrices=False)[0][:, :rank].T.contiguous()


def _l1(memory: Memory, sites: Sites, scale: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean L1 distance of the values, and its gradient (O, Q)."""
    linear, sigma, at = sites.forward(a)
    error = memory.activate(at) - sites.wanted
    pull = scale * error.sign() * memory.slope(at)
    loss = (scale * error.abs()).sum()
    if sigma is None or sites.demodulation is None:
        return loss, pull.T @ sites.basis
    gradient = (pull * sigma[sites.picture]).T @ sites.basis
    return loss, gradient + sites.demodulation.pull_back(a, sites.per_picture(pull * linear) * -(sigma**3))
