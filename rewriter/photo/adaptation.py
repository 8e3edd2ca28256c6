"""Adaptation: what a generator lacks to draw a photo, as changes of low rank on a few layers, for this photo only.

D of each change are the principal directions of the photo's own whitened keys, so that other pictures hardly respond
to them; Λ is found by descent. What it changes elsewhere is known in closed form: with G = D C Dᵀ, the mean squared
change of other pictures' values is tr(Λ G Λᵀ) for each tap, and that is held down.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rewriter.editing.rule import Rule
from rewriter.editing.statistics import Statistics, statistics_for
from rewriter.errors import InputError, OnStep, report
from rewriter.generators.base import Generator, exact
from rewriter.generators.change import LowRank
from rewriter.generators.layer import Features
from rewriter.memory.directions import key_directions
from rewriter.photo.inversion import BETAS, SHOWN, STEADY, OnPicture, distance

RANK, STEPS, RATE = 16, 80, 0.01
COARSEST = 16  # px of the maps that are changed; coarser ones hold what the latents have found
HELD = 3.0  # weight of other pictures at faithfulness ½; ten times as much at 0, a tenth of it at 1
NEAR = 0.2  # weight of `distance` beside the squared error


def layers_to_adapt(generator: Generator) -> list[str]:
    """The layers with maps of 16 px and more; where there are none, the last one."""
    fine = [name for name, info in generator.layers.items() if info.resolution >= COARSEST]
    return fine or [list(generator.layers)[-1]]


def adapt(
    generator: Generator,
    photo: Tensor,
    latent: Tensor,
    *,
    faithful: float = 0.5,
    effort: float = 1.0,
    layers: Sequence[str] | None = None,
    rank: int = RANK,
    statistics: Statistics | None = None,
    on_step: OnStep | None = None,
    on_picture: OnPicture | None = None,
) -> tuple[Rule, ...]:
    """Changes with which a generator draws a photo (3, H, W) in [-1, 1] more exactly than from its latents alone.

    They are rules like any other: they can be saved and published, and other pictures change by little under them.
    `latent` is what `Inversion` found; for the other arguments see there. `layers`, `rank`: which are changed, and in
    how many directions each. `on_step` gets (steps done, of).
    """
    if not 0 <= faithful <= 1:
        raise InputError(f"faithful is {faithful}, expected a number from 0 to 1")
    statistics = statistics_for(generator, statistics)
    layers = layers_to_adapt(generator) if layers is None else sorted(layers, key=list(generator.layers).index)
    photo, entering = photo.to(generator.device).float()[None], _entering(generator, latent, layers)
    changes, overlap = list[LowRank](), list[Tensor]()
    for layer in layers:
        keys = entering[layer].keys[0].flatten(1).T
        moment = statistics.moment(layer)
        directions = key_directions(keys, moment, rank=_rank(keys, rank)).matrix
        weight = generator.memory(layer).weight
        delta = weight.new_zeros(len(weight), len(directions), *weight.shape[2:]).requires_grad_()
        changes.append(LowRank(layer, delta, directions))
        d = directions.cpu().double()
        overlap.append((d @ moment.matrix @ d.T).to(weight))
    adam = torch.optim.Adam([change.delta for change in changes], betas=BETAS)
    held, steps = HELD * 10 ** (1 - 2 * faithful), max(1, round(STEPS * effort))
    for step in range(steps):
        adam.param_groups[0]["lr"] = RATE * min(1.0, (1 - step / steps) / STEADY)
        with torch.enable_grad(), exact(generator.device):
            picture = generator.picture(entering[layers[0]], rules=changes)
            loss = 100 * (picture - photo).square().mean() + NEAR * distance(picture, photo).sum()
            loss = loss + held * sum(_elsewhere(change.delta, g) for change, g in zip(changes, overlap, strict=True))
            adam.zero_grad()
            loss.backward()
        adam.step()
        if on_picture is not None and (step % SHOWN == 0 or step == steps - 1):
            on_picture(picture.detach()[0])
        report(on_step, step + 1, steps)
    return tuple(
        Rule(each.layer, each.delta.detach(), each.directions, fingerprint=generator.fingerprint) for each in changes
    )


def _rank(keys: Tensor, most: int) -> int:
    """How many directions the keys (n, in) have, at most so many."""
    return max(1, min(most, int(torch.linalg.matrix_rank(keys.cpu().double()))))


def _elsewhere(delta: Tensor, overlap: Tensor) -> Tensor:
    """The mean squared change of other pictures' values, a unit's on average: Λ (out, r, kh, kw), G (r, r)."""
    return torch.einsum("oryx,rs,osyx->", delta, overlap, delta) / len(delta)


@torch.no_grad()
def _entering(generator: Generator, latent: Tensor, layers: Sequence[str]) -> dict[str, Features]:
    """The features that enter the layers."""
    with exact(generator.device):
        following: Features | Tensor = generator.enter(latent[None].to(generator.device))
        found: dict[str, Features] = {}
        while isinstance(following, Features) and len(found) < len(layers):
            if following.layer in layers:
                found[following.layer] = following
            following = generator.follow(following, generator.values(following, rules=[]))
    return found
