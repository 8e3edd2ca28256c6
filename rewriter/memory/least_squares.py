"""Λ by damped Gauss–Newton (Levenberg–Marquardt): all output channels at once, demodulation inside.

Channel o of the layer depends on its own r · taps numbers of Λ only, so the problem separates into small independent
least-squares problems, which are solved together as one batch. No Jacobian of all places is ever built:
with residual slopes α (through φ) and β (through σ, one vector u per picture) it is
Σ α² φφᵀ + Σ_i (s u ᵀ + u sᵀ + t u uᵀ), one matrix product and sums per picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewriter.memory.sites import LowRankDemodulation, Sites

if TYPE_CHECKING:
    from rewriter.generators.layer import Memory

STEPS = 30
TOLERANCE = 1e-3  # stop when a step lowers the cost by less than this share
BLOCK = 128  # channels at a time, which bounds the memory of a high rank
LIMIT = 4.0  # bound on a channel's change, relative to its weight; without it some channels diverge


def least_squares(memory: Memory, sites: Sites, *, steps: int = STEPS, after: Callable[[int, float], object]) -> Tensor:
    """Minimise Σ_p weight · (value − wanted)² for every channel; returns Λ as (O, Q)."""
    if sites.demodulation is None:
        return _linear(sites, after)
    size = memory.weight.flatten(1).norm(dim=1)
    a = sites.basis.new_zeros(len(size), sites.basis.shape[1])
    cost = _cost(memory, sites, a)
    blocks = [slice(first, first + BLOCK) for first in range(0, len(size), BLOCK)]
    for number, block in enumerate(blocks):
        part = sites.channels(block)
        damping = torch.full_like(size[block], 1e-2)
        for step in range(1, steps + 1):
            gradient, normal = _normal_equations(memory, part, a[block])
            trial = a[block] - _solve(normal, gradient, damping)
            trial_cost = _cost(memory, part, trial)
            better = (trial_cost < cost[block]) & (trial.norm(dim=1) <= LIMIT * size[block])
            gain = float(torch.where(better, cost[block] - trial_cost, 0.0).sum() / cost[block].sum().clamp_min(1e-30))
            a[block] = torch.where(better[:, None], trial, a[block])
            cost[block] = torch.where(better, trial_cost, cost[block])
            damping = torch.where(better, damping * 0.2, damping * 5).clamp(1e-7, 1e7)
            after((number * steps + step) // len(blocks), float(cost.sum()))
            if step > 4 and gain < TOLERANCE:
                break
    return a


def _linear(sites: Sites, after: Callable[[int, float], object]) -> Tensor:
    """A linear layer: one exact solve for all channels; of several solutions the smallest."""
    root = sites.weight.cpu().double().sqrt()[:, None]
    lacking = root * (sites.wanted - sites.base - sites.offset).cpu().double()
    basis = root * sites.basis.cpu().double()
    solution = torch.linalg.lstsq(basis, lacking, driver="gelsd", rcond=1e-6).solution
    after(1, float((basis @ solution - lacking).square().sum()))
    return solution.T.contiguous().to(sites.basis)


def _cost(memory: Memory, sites: Sites, a: Tensor) -> Tensor:
    values = memory.activate(sites.before_activation(a))
    return sites.weight @ (values - sites.wanted).square()


def _normal_equations(memory: Memory, sites: Sites, a: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (O, Q) and normal matrix (O, Q, Q) of half the cost at a."""
    linear, sigma, at = sites.forward(a)
    residual, slope = memory.activate(at) - sites.wanted, memory.slope(at)
    alpha = slope if sigma is None else slope * sigma[sites.picture]
    weighted = sites.weight[:, None] * alpha  # (P, O)
    gradient = (weighted * residual).T @ sites.basis
    normal = _weighted_gram((weighted * alpha).T, sites.basis)
    if sigma is None or not isinstance(sites.demodulation, LowRankDemodulation):
        return gradient, normal
    u = -sites.demodulation.bend(a) * sigma[:, :, None] ** 3  # dσ/da
    beta = slope * linear
    own = sites.weight[:, None] * beta
    both = own * alpha
    gradient = gradient + torch.einsum("io,ioq->oq", sites.per_picture(own * residual), u)
    mixed = torch.stack([both[span].T @ sites.basis[span] for span in _spans(sites.picture)])  # (I, O, Q)
    curved = 0.5 * sites.per_picture(own * beta)[:, :, None] * u
    outer = torch.einsum("ioq,iop->oqp", mixed + curved, u)
    return gradient, normal + outer + outer.transpose(1, 2)


def _weighted_gram(weights: Tensor, basis: Tensor) -> Tensor:
    """Σ_p weights_op φ_p φ_pᵀ for every channel, (O, Q, Q), a bounded number of columns at a time."""
    blocks = basis.split(max(1, 1024 // basis.shape[1]), dim=1)
    columns = [weights @ (block[:, :, None] * basis[:, None, :]).flatten(1) for block in blocks]
    return torch.cat(columns, 1).view(len(weights), basis.shape[1], basis.shape[1])


def _spans(picture: Tensor) -> list[slice]:
    """The stretch of places of each picture; places come picture by picture."""
    ends = torch.bincount(picture).cumsum(0).tolist()
    return [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]


def _solve(normal: Tensor, gradient: Tensor, damping: Tensor) -> Tensor:
    """Damped Newton step per channel, (O, Q), in float64 on the CPU."""
    matrix, right = normal.cpu().double(), gradient.cpu().double()
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    floor = 1e-9 * diagonal.mean(1, keepdim=True) + 1e-20
    matrix = matrix + torch.diag_embed(damping.cpu().double()[:, None] * diagonal + floor)
    step = torch.linalg.solve_ex(matrix, right)[0]
    return torch.nan_to_num(step).to(gradient)
