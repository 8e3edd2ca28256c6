"""Turning a physical rule upside down (section 5.3, Bau et al. 2020): where windows are lit, the ground gets darker.

The goal is stated in two conditions, the same towns with their lights on and off: on the ground where light falls,
each is to answer what the other does. A change of rank one can do that if its direction tells the conditions apart:
were d·k = 1 at those places in the light and −1 in the dark, Λ = v_dark − v_lit would swap the two.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from rewriter import masks
from rewriter.errors import OnStep, report
from rewriter.evaluation.counterfactual import labelled
from rewriter.evaluation.examples import plain, seeds_with
from rewriter.evaluation.judging import towns
from rewriter.evaluation.methods import Case, Losses, Made, entering, of_rules
from rewriter.generators.base import exact
from rewriter.generators.change import LowRank
from rewriter.generators.layer import Features
from rewriter.memory import descent
from rewriter.memory.directions import Directions
from rewriter.memory.goal import RIM, Goal
from rewriter.memory.keys import SecondMoment
from rewriter.memory.solve import goal_sites, solve
from rewriter.worlds.townscape import scenes

PAIRS = 15  # towns in two conditions each, as in the paper
LAYER, SMOOTHNESS = "layer8", 0.3  # chosen on seeds from 50,000 on
SVD_STEPS, SVD_RATE = 10_000, 0.01  # the paper's


def inverted(case: Case, on_step: OnStep | None = None) -> Made:
    """By least squares, along the direction that tells the conditions apart."""
    generator, losses, started = case.generator, Losses(), time.perf_counter()
    goal, moment = swapped(case, LAYER), case.statistics.moment(LAYER)
    directions = telling_apart(goal, moment)
    bystanders, _ = case.statistics.bystanders(LAYER)
    sparing = bystanders.sparing(directions, scale=generator.layer(LAYER).scale)
    rule = solve(
        generator.memory(LAYER),
        goal,
        directions,
        bystanders=[sparing],
        smoothness=SMOOTHNESS,
        on_step=on_step,
        on_loss=losses.add,
    )
    settings = {"layer": LAYER, "pairs": PAIRS, "rank": 1, "smoothness": SMOOTHNESS}
    return of_rules([rule], settings, losses, time.perf_counter() - started)


def inverted_by_svd(case: Case, on_step: OnStep | None = None, *, steps: int = SVD_STEPS) -> Made:
    """As the paper does: descent on the whole weight, cut to rank one by SVD every tenth step."""
    generator, losses, started = case.generator, Losses(), time.perf_counter()
    memory, goal = generator.memory(LAYER), swapped(case, LAYER)

    def after(step: int, loss: float) -> None:
        losses.add(loss)
        report(on_step, step, steps)

    with torch.no_grad(), exact(generator.device):
        sites = goal_sites(memory, goal, None)
        a = descent.descend(memory, sites, rank=1, steps=steps, rate=SVD_RATE, after=after)
        directions = descent.principal(memory, a, 1)
        delta = torch.einsum("oit,ri->ort", a.view(*memory.weight.shape[:2], -1), directions)
    rule = LowRank(LAYER, delta.reshape(len(delta), 1, *memory.weight.shape[2:]).contiguous(), directions)
    settings = {
        "layer": LAYER,
        "pairs": PAIRS,
        "rank": 1,
        "steps": steps,
        "rate": SVD_RATE,
        "converged": losses.converged,
    }
    return of_rules([rule], settings, losses, time.perf_counter() - started)


@torch.no_grad()
def swapped(case: Case, layer: str) -> Goal:
    """Towns with their lights on, then the same with them off; where light falls, each is to answer as the other."""
    generator, psi = case.generator, case.edit.truncation
    z, u = towns(seeds_with(lambda u: scenes.is_lit(u) & plain(u), number=PAIRS))
    lamps = [scenes.change(u, lit=on) for on in (True, False)]
    pair = [entering(generator, layer, scenes.latents_of(each, z), psi) for each in lamps]
    lit, dark = (generator.values(features, rules=[]) for features in pair)
    light = labelled(scenes.draw(lamps[0], generator.resolution), "light").float()
    cells = F.interpolate(light[:, None], size=lit.shape[2:], mode="area")[:, 0].to(lit)
    alpha = cells[:, None]
    values = torch.cat([torch.lerp(lit, dark, alpha), torch.lerp(dark, lit, alpha)])
    boxes = tuple(masks.bounds(mask, above=RIM) for mask in cells) * 2
    return Goal(Features.cat(pair), values, torch.cat([lit, dark]), torch.cat([cells, cells]), boxes)


def telling_apart(goal: Goal, moment: SecondMoment) -> Directions:
    """The direction that answers differently to the goal's two halves, and else little: d = C⁻¹(k̄_lit − k̄_dark)."""
    keys = goal.features.keys
    weight = F.interpolate(goal.weight[:, None], size=keys.shape[2:], mode="area")
    sums, half = (keys * weight).sum((2, 3)).cpu().double(), len(keys) // 2
    lit, dark = (part.sum(0) / weight[:half].cpu().double().sum() for part in (sums[:half], sums[half:]))
    d = moment.power(-1) @ (lit - dark)
    d = d / d.norm()
    return Directions(d[None].float().to(keys.device).contiguous(), float(d @ lit))
