"""(K*, V*, D) → Λ, by any of six methods with one signature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rewriter.errors import ComputationError, InputError, OnStep, report
from rewriter.generators.base import exact
from rewriter.generators.change import LowRank
from rewriter.memory import SMOOTHNESS, SOLVERS, descent, least_squares
from rewriter.memory.closed_form import closed_form
from rewriter.memory.neighbourhoods import NeighbourhoodMoment
from rewriter.memory.sites import Gate, Sites, goal_sites

if TYPE_CHECKING:
    from rewriter.generators.layer import Memory
    from rewriter.memory.directions import Directions
    from rewriter.memory.goal import Bystanders, Goal

ON_DIRECTIONS = ("least-squares", "direct")  # solve for Λ; the other methods solve for the whole weight
ON_CROP = ("projected", "direct", "unconstrained")  # the original's, on what its code cuts out
FIRST = {"projected": 1, "projected-whole": descent.EVERY}  # the first step after which they project


@torch.no_grad()
def solve(
    memory: Memory,
    goal: Goal,
    directions: Directions,
    *,
    bystanders: Sequence[Bystanders] = (),
    method: str = "least-squares",
    smoothness: float | None = None,
    neighbourhoods: NeighbourhoodMoment | None = None,
    rank: int = 1,
    more: Iterable[Goal] = (),
    steps: int | None = None,
    rate: float = descent.RATE,
    gate: Gate | None = None,
    earlier: Sequence[LowRank] = (),
    on_step: OnStep | None = None,
    on_loss: Callable[[float], object] | None = None,
) -> LowRank:
    """Find the change of one layer's weight that makes it answer V* to K* (Eq. 17 and 18).

    Args:
        memory: the layer.
        goal: K*, V* and where they count.
        directions: the row space D; "unconstrained" ignores it.
        bystanders: where nothing should change, in sets that count alike; only "least-squares" and "closed-form" use
            them.
        method: "least-squares" (all channels at once, demodulation inside; exact where the layer is linear),
            "closed-form" (for all directions and taps at once, then cut to `rank`: see `closed_form`),
            "projected" (the paper's: Adam on W, L1, projected onto D every tenth step), "direct" (Adam on Λ) or
            "unconstrained" (Adam on W). These three run as in the original, which solves for a crop around what was
            pasted: see `Goal.cropped`. "projected-whole" is the "projected" of version 0.1: on the whole map.
        smoothness: weight λ of each set's mean squared change against the goal's mean squared error; None: 10, or what
            `closed_form` says.
        neighbourhoods: second moment of neighbourhoods, `rank` of the rule, and `more` of the goal, for "closed-form".
        rank: see `neighbourhoods`.
        more: see `neighbourhoods`.
        steps: limit on iterations; None: the method's own.
        rate: learning rate of the methods by descent.
        gate: how far a memory beside W is open at keys (n, in, h, w), as (n, h, w): Λ is solved for that memory. None:
            for W itself.
        earlier: rules with memories beside W that answer already; "closed-form" and methods on a crop leave them out.
        on_step: called with (step, of).
        on_loss: called with the loss after each step.

    Raises:
        InputError: an unknown method, or a smoothness that is not a finite number ≥ 0.
        ComputationError: non-finite weights, keys, values or result.
        CancelledError: `on_step` returned False.
    """
    if method not in SOLVERS:
        raise InputError(f"unknown method {method!r}: choose one of {', '.join(SOLVERS)}")
    if smoothness is not None and not 0 <= smoothness < float("inf"):
        raise InputError(f"smoothness is a number from 0 (none) up, not {smoothness}")
    _refuse_non_finite(weight=memory.weight, keys=goal.features.keys, goal=goal.values, directions=directions.matrix)
    if method == "closed-form":
        if neighbourhoods is None:
            raise InputError("the method closed-form needs the second moment of neighbourhoods: give `neighbourhoods`")
        options: dict[str, Any] = {"rank": rank, "smoothness": smoothness, "more": more, "kept": bystanders}
        with exact(memory.weight.device):
            found = closed_form(memory, goal, directions, neighbourhoods, gate=gate, on_step=on_step, **options)
        if on_loss is not None:
            on_loss(found.loss)
        return found.change
    smoothness = SMOOTHNESS if smoothness is None else smoothness
    d = directions.matrix if method in ON_DIRECTIONS else None
    steps = steps or (least_squares.STEPS if method == "least-squares" else descent.STEPS)

    def after(step: int, loss: float) -> None:
        if on_loss is not None:
            on_loss(loss)
        report(on_step, step, steps)

    with exact(memory.weight.device):
        on_crop = method in ON_CROP
        sites = goal_sites(memory, goal.cropped() if on_crop else goal, d, gate, () if on_crop else earlier)
        if method == "least-squares":
            still = [_bystander_sites(memory, b, d, smoothness, gate, earlier) for b in bystanders if smoothness]
            a = least_squares.least_squares(memory, Sites.cat([sites, *still]), steps=steps, after=after)
        else:
            onto = directions.matrix if method in FIRST else None
            first = FIRST.get(method, descent.EVERY)
            a = descent.descend(memory, sites, directions=onto, steps=steps, rate=rate, first=first, after=after)
    return _as_low_rank(goal.features.layer, memory, a, directions.matrix, method)


def forget(layer: str, memory: Memory, directions: Directions) -> LowRank:
    """Remove the weight's component on the directions: Λ = −W Dᵀ. What singled the context out is no longer read."""
    delta = -torch.einsum("oiyx,ri->oryx", memory.weight, directions.matrix)
    if not bool(delta.isfinite().all()):
        raise ComputationError("the layer's weight holds NaN or infinity: the file is damaged")
    return LowRank(layer, delta.contiguous(), directions.matrix)


def _bystander_sites(
    memory: Memory,
    others: Bystanders,
    directions: Tensor | None,
    smoothness: float,
    gate: Gate | None,
    earlier: Sequence[LowRank],
) -> Sites:
    weight = others.weight * (smoothness / others.weight.sum().clamp_min(1e-12))
    at: dict[str, Any] = {"weight": weight, "base": others.base, "gate": gate, "earlier": earlier}
    return Sites.gather(memory, directions, others.features, others.places, **at)


def _as_low_rank(layer: str, memory: Memory, a: Tensor, directions: Tensor, method: str) -> LowRank:
    """Λ as (out, r, kh, kw). A change of the whole weight needs all directions; the context's stay the first."""
    if not bool(a.isfinite().all()):
        raise ComputationError("the solution is not finite: raise the smoothness or choose another layer")
    outputs, inputs, *kernel = memory.weight.shape
    if method == "unconstrained":
        everything = torch.cat([directions, torch.eye(inputs, device=a.device)]).cpu().double()
        others = torch.linalg.qr(everything.T)[0].T[len(directions) :].to(directions)
        directions = torch.cat([directions, others])
    if method not in ON_DIRECTIONS:
        a = torch.einsum("oit,ri->ort", a.view(outputs, inputs, -1), directions)
    return LowRank(layer, a.reshape(outputs, len(directions), *kernel).contiguous(), directions)


def _refuse_non_finite(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ComputationError(f"the {name} holds NaN or infinity: nothing can be solved with it")
