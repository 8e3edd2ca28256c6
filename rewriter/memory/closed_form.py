"""The change of a whole layer in closed form: all taps and all keys at once, then a rule of chosen rank.

ΔW = Rᵀ Φ (ΦᵀΦ + λC)⁻¹, with Φ the neighbourhoods that feed the goal's values, R what those values lack before the
non-linearity, and C the second moment of neighbourhoods in random pictures. This minimises the goal's mean squared
error plus λ times the mean squared change in random pictures: Eq. 5 of Bau et al. 2020, exactly, where the layer is
linear. One factorisation serves all output channels.

Demodulation is taken as it is while solving. What the change does to it is made up for afterwards, by a scale for each
output channel. Solving again with the new demodulation instead does not converge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewriter.errors import ComputationError, OnStep, report
from rewriter.generators.change import LowRank
from rewriter.memory.neighbourhoods import Neighbourhood, NeighbourhoodMoment, of_keys, through
from rewriter.memory.sites import Gate, LowRankDemodulation, Sites, goal_sites

if TYPE_CHECKING:
    from rewriter.generators.layer import Memory
    from rewriter.memory.directions import Directions
    from rewriter.memory.goal import Bystanders, Goal

LINEAR, DEMODULATED = 1.0, 30.0  # default λ; the scale that follows demodulation undoes part of a larger λ
BATCH = 16  # pictures whose neighbourhoods are looked up together
SCALED = 64  # pictures at most on which the scales of demodulated channels are fitted
SCALES, LARGEST = 61, 3.0  # how many scales are tried, from 0 to the largest
TINY = 1e-9  # share of the mean of a diagonal that is added to it, so that λ = 0 can be solved as well
FLOOR = 1e-9  # eigenvalues of a metric below this share of the largest are raised to it


@dataclass(frozen=True)
class ClosedForm:
    """A change of a layer, and what its rank costs."""

    change: LowRank
    loss: float  # share of what the change of full rank gains, for goal and protection, that this rank misses, 0 … 1


@torch.no_grad()
def closed_form(
    memory: Memory,
    goal: Goal,
    directions: Directions,
    moment: NeighbourhoodMoment,
    *,
    rank: int,
    smoothness: float | None = None,
    more: Iterable[Goal] = (),
    kept: Sequence[Bystanders] = (),
    gate: Gate | None = None,
    on_step: OnStep | None = None,
) -> ClosedForm:
    """Solve for the change of a layer's weight, and cut it to a rank.

    Args:
        memory: the layer.
        goal: K*, V* and where they count.
        directions: the context's; the first becomes the rule's first, because that one says where a rule matches.
        moment: of neighbourhoods in random pictures; where there is a gate, of gated keys.
        rank: of the rule; as many as the keys have channels, or more, miss nothing.
        smoothness: weight λ of the change in random pictures, and of that at each set of kept places; None: 1 where
            the layer is linear, 30 where it demodulates.
        more: the same goal on further pictures, a batch at a time. All pictures count alike.
        kept: places where nothing should change.
        gate: how far a memory beside W is open at keys (n, in, h, w), as (n, h, w); None: the change is one of W.
        on_step: called after each batch of pictures with (batches so far, one more).

    Raises:
        ComputationError: the solution is not finite.
        CancelledError: `on_step` returned False.
    """
    if smoothness is None:
        smoothness = LINEAR if goal.features.style is None or gate is not None else DEMODULATED
    equations, step = _Equations(memory, goal, moment, gate), 0
    for step, batch in enumerate(chain([goal], more), start=1):  # noqa: B007
        for i in range(0, len(batch.weight), BATCH):
            equations.add(batch[i : i + BATCH])
            report(on_step, step, step + 1)
    for places in kept:
        equations.keep(places, smoothness)
    full, gain = equations.solve(smoothness)
    d = _row_space(full, equations.metric(smoothness), directions.matrix[0].cpu().double(), rank)
    solution, left = equations.solve(smoothness, d)
    a, rows = (tensor.float().to(memory.weight).contiguous() for tensor in (solution.flatten(1), d))
    if not bool(a.isfinite().all()):
        raise ComputationError("the solution is not finite: raise the smoothness or choose another layer")
    a = _rescaled(memory, goal_sites(memory, goal[:SCALED], rows, gate), a)
    report(on_step, step + 1, step + 1)
    change = LowRank(goal.features.layer, a.view(len(a), len(d), *memory.weight.shape[2:]), rows)
    return ClosedForm(change, min(1.0, max(0.0, 1 - left / max(gain, 1e-30))))


class _Group:
    """Weighted neighbourhoods Φ (P, in, taps) of one group of taps, and what their values lack, R (P, out).

    They are kept as they are while they are few, which is faster then, and as ΦᵀΦ and ΦᵀR otherwise.
    """

    def __init__(self, moment: NeighbourhoodMoment, number: int):
        self.moment, self.number = moment, number
        self.phi: list[Tensor] = []
        self.lacking: list[Tensor] = []
        self.gram: Tensor | None = None
        self.right = torch.zeros(())

    def add(self, phi: Tensor, lacking: Tensor) -> None:
        """Add rows."""
        self.phi.append(phi.cpu())
        self.lacking.append(lacking.cpu())
        if 2 * sum(map(len, self.phi)) > phi.shape[1] * phi.shape[2]:
            self._fold()

    def finish(self) -> None:
        """Call it after the last rows."""
        if self.gram is not None and self.phi:
            self._fold()

    def _fold(self) -> None:
        phi, lacking = torch.cat(self.phi).flatten(1), torch.cat(self.lacking)
        self.gram = (phi.T @ phi).double().add_(0 if self.gram is None else self.gram)
        self.right = self.right + (phi.T @ lacking).double()
        self.phi, self.lacking = [], []

    def solve(self, strength: float) -> tuple[Tensor, float]:
        """The change (in · taps, out), and what it gains."""
        if self.gram is not None:
            change = _solved(self.gram + strength * self.moment.matrix(self.number), self.right)
            return change, float((change * self.right).sum())
        phi, lacking = torch.cat(self.phi).flatten(1), torch.cat(self.lacking)
        towards = self.moment.inverse(self.number) @ phi.T  # C⁻¹Φᵀ, (in · taps, P): the same solution, P × P
        gram = phi.double() @ towards.double()
        gram = (gram + gram.T) / 2
        gram.diagonal().add_(strength)
        part = _solved(gram, lacking.double())
        gain = float(((lacking.double() - strength * part) * lacking.double()).sum())
        return (towards @ part.float()).double(), gain

    def solve_in(self, strength: float, directions: Tensor) -> tuple[Tensor, float]:
        """The best change in the row space of D (r, in), as Λᵀ (r · taps, out), and what it gains."""
        if self.gram is None:
            phi = torch.einsum("pit,ri->prt", torch.cat(self.phi).double(), directions).flatten(1)
            gram, right = phi.T @ phi, phi.T @ torch.cat(self.lacking).double()
        else:
            right = torch.einsum(
                "ri,ito->rto", directions, self.right.view(directions.shape[1], -1, self.right.shape[1])
            )
            gram, right = through(self.gram, directions), right.flatten(0, 1)
        change = _solved(gram + strength * self.moment.through(self.number, directions), right)
        return change, float((change * right).sum())

    def metric(self, strength: float) -> Tensor:
        """ΦᵀΦ + λC of single keys, summed over the taps, (in, in)."""
        total = strength * self.moment.of_keys(self.number)
        if self.gram is not None:
            return total + of_keys(self.gram, len(total))
        phi = torch.cat(self.phi).transpose(1, 2).flatten(0, 1)
        return total + (phi.T @ phi).double()


class _Equations:
    """The equations of all groups of taps, gathered picture by picture; each picture has the same total weight."""

    def __init__(self, memory: Memory, like: Goal, moment: NeighbourhoodMoment, gate: Gate | None):
        self.memory, self.gate, self.pictures = memory, gate, 0
        size = like.features.keys.shape[2], like.features.keys.shape[3]
        self.neighbourhood = Neighbourhood.of(memory, size)
        self.groups = [_Group(moment, number) for number in range(len(self.neighbourhood.groups))]

    def add(self, goal: Goal) -> None:
        """Add the places of some pictures."""
        picture, place = goal.weight.flatten(1).nonzero().T
        weight = goal.weight.flatten(1)[picture, place] / goal.weight.sum((1, 2))[picture]
        wanted, before = (values.flatten(2)[picture, :, place] for values in (goal.values, goal.before))
        lacking = self.memory.inverse(wanted) - self.memory.inverse(before)
        if goal.features.style is not None:
            lacking = lacking / self.memory.scale(goal.features.style, self.memory.energy())[picture]
        self.pictures += len(goal.weight)
        self._add(goal.features.keys, picture, place, weight, lacking)

    def keep(self, others: Bystanders, smoothness: float) -> None:
        """Add places at which nothing is lacking; call it after all `add`."""
        count, each = others.places.shape
        picture = torch.arange(count, device=others.places.device).repeat_interleave(each)
        weight = others.weight.flatten() * (self.pictures * smoothness / others.weight.sum().clamp_min(1e-12))
        nothing = others.features.keys.new_zeros(len(weight), len(self.memory.weight))
        self._add(others.features.keys, picture, others.places.flatten(), weight, nothing)

    def _add(self, keys: Tensor, picture: Tensor, place: Tensor, weight: Tensor, lacking: Tensor) -> None:
        seen = keys if self.gate is None else keys * self.gate(keys)[:, None]
        for group, rows in zip(self.groups, self.neighbourhood.gather(seen, picture, place), strict=True):
            root = weight[rows.which].sqrt()
            group.add(rows.phi * root[:, None, None], lacking[rows.which] * root[:, None])

    def solve(self, smoothness: float, directions: Tensor | None = None) -> tuple[Tensor, float]:
        """The change (out, in, taps), or Λ (out, r, taps) for directions D (r, in); and what it gains."""
        outputs, inputs, *kernel = self.memory.weight.shape
        change = torch.zeros(outputs, inputs if directions is None else len(directions), kernel[0] * kernel[1]).double()
        total, strength = 0.0, smoothness * self.pictures
        for group, taps in zip(self.groups, self.neighbourhood.groups, strict=True):
            group.finish()
            found, gain = group.solve(strength) if directions is None else group.solve_in(strength, directions)
            change[:, :, taps.cpu()] = found.T.reshape(outputs, -1, len(taps))
            total += gain
        return change, total

    def metric(self, smoothness: float) -> Tensor:
        """ΦᵀΦ + λC of single keys, summed over the taps, (in, in)."""
        return sum((group.metric(smoothness * self.pictures) for group in self.groups), torch.zeros(()))


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution of a system with a positive matrix, which is changed."""
    matrix.diagonal().add_(TINY * float(matrix.diagonal().mean()) + 1e-30)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.linalg.solve(matrix, right) if failed else torch.cholesky_solve(right, factor)


def _row_space(change: Tensor, metric: Tensor, first: Tensor, rank: int) -> Tensor:
    """Orthonormal D (r, in) that begins with `first` and else keeps most of a change (out, in, taps).

    The metric is that of the equations, not of random keys: a rule has to act where its context is, and random keys
    hardly show that. Rows of a smaller rank span a part of the same space.
    """
    if rank == 1:
        return (first / first.norm())[None]
    values, vectors = torch.linalg.eigh(metric)
    root = values.clamp_min(float(values[-1]) * FLOOR).sqrt()
    whitened = change.transpose(1, 2).flatten(0, 1) @ vectors * root  # (out · taps, in)
    gram, towards = whitened.T @ whitened, root * (first @ vectors)
    towards = towards / towards.norm()
    rest = gram - torch.outer(towards, towards @ gram)
    rest = rest - torch.outer(rest @ towards, towards)
    rest = (rest + rest.T) / 2 - torch.outer(towards, towards) * gram.trace()  # last of all directions
    others = torch.linalg.eigh(rest)[1].flip(1)[:, : min(rank, len(first)) - 1]
    columns = torch.cat([towards[:, None], others], 1) / root[:, None]
    q, r = torch.linalg.qr(vectors @ columns)
    return (q * r.diagonal().sign()).T


def _rescaled(memory: Memory, sites: Sites, a: Tensor) -> Tensor:
    """Λ (O, Q) with each channel times the scale that comes nearest to the goal under the true demodulation."""
    demodulation = sites.demodulation
    if not isinstance(demodulation, LowRankDemodulation):
        return a
    once, twice = 2 * (demodulation.cross * a).sum(2), ((demodulation.bend(a) - demodulation.cross) * a).sum(2)
    linear, scales, costs = sites.basis @ a.T, torch.linspace(0, LARGEST, SCALES), []
    for scale in scales.tolist():
        sigma = torch.rsqrt((demodulation.norm + scale * once + scale**2 * twice).clamp_min(1e-8))
        values = memory.activate(sites.offset + (sites.base + scale * linear) * sigma[sites.picture])
        costs.append(sites.weight @ (values - sites.wanted).square())
    return a * scales.to(a)[torch.stack(costs).argmin(0)][:, None]
