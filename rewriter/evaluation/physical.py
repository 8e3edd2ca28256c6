"""Inverts a physical rule (section 5.3, Bau et al. 2020): where windows are lit, the ground becomes darker.

The goal has two conditions, the same towns with their lights on and off: where light falls on the ground, each
condition should give the other's values. A rank-one change can do this if its direction d separates the conditions: if
d·k were 1 at those places in the light and −1 in the dark, Λ = v_dark − v_lit would swap the two.
"""

from __future__ import annotations

import time
from functools import partial

import torch
import torch.nn.functional as F

from rewriter.errors import OnStep, report
from rewriter.evaluation.methods import Case, Result, entering, has_converged, of_rule
from rewriter.generators.base import exact
from rewriter.generators.change import LowRank
from rewriter.memory import descent
from rewriter.memory.directions import separating
from rewriter.memory.goal import Goal, swap
from rewriter.memory.sites import goal_sites
from rewriter.memory.solve import solve
from rewriter.worlds.townscape import factors, scenes
from rewriter.worlds.townscape.scenes import plain
from rewriter.worlds.townscape.world import WORLD

PAIRS = 15  # towns in two conditions each, as in the paper
LAYER, SMOOTHNESS = "layer8", 0.3  # chosen on seeds from 50,000 on
SVD_STEPS, SVD_RATE = 10_000, 0.01  # the paper's
SETTINGS = {"layer": LAYER, "pairs": PAIRS, "rank": 1}


def inverted(case: Case, on_step: OnStep | None = None) -> Result:
    """By least squares, along the direction that separates the conditions."""
    losses, started, memory = list[float](), time.perf_counter(), case.generator.memory(LAYER)
    goal, moment = swapped(case, LAYER), case.statistics.moment(LAYER)
    directions, (bystanders, _) = separating(goal, moment), case.statistics.bystanders(LAYER)
    others = [bystanders.sparing(directions, scale=case.generator.layer(LAYER).scale)]
    noted = partial(solve, on_step=on_step, on_loss=losses.append)
    rule = noted(memory, goal, directions, bystanders=others, smoothness=SMOOTHNESS)
    return of_rule(case, rule, SETTINGS | {"smoothness": SMOOTHNESS}, losses, started)


def inverted_by_svd(case: Case, on_step: OnStep | None = None, *, steps: int = SVD_STEPS) -> Result:
    """As in the paper: gradient descent on the whole weight, reduced to rank one by SVD every tenth step."""
    losses, started = list[float](), time.perf_counter()
    memory, goal = case.generator.memory(LAYER), swapped(case, LAYER)

    def after(step: int, loss: float) -> None:
        losses.append(loss)
        report(on_step, step, steps)

    with torch.no_grad(), exact(case.generator.device):
        a = descent.descend(memory, goal_sites(memory, goal, None), rank=1, steps=steps, rate=SVD_RATE, after=after)
        directions = descent.principal(memory, a, 1)
        delta = torch.einsum("oit,ri->ort", a.view(*memory.weight.shape[:2], -1), directions)
    rule = LowRank(LAYER, delta.reshape(len(delta), 1, *memory.weight.shape[2:]).contiguous(), directions)
    settings = SETTINGS | {"steps": steps, "rate": SVD_RATE, "converged": has_converged(losses)}
    return of_rule(case, rule, settings, losses, started)


@torch.no_grad()
def swapped(case: Case, layer: str) -> Goal:
    """Lit towns, then the same towns unlit; where light falls on the ground, each is given the other's values."""
    generator = case.generator
    z, u = WORLD.read(WORLD.seeds_with(lambda u: factors.is_lit(u) & plain(u), number=PAIRS))
    lamps = [factors.change(u, lit=on) for on in (True, False)]
    first, second = (entering(generator, layer, WORLD.latents_of(each, z), case.edit.truncation) for each in lamps)
    lit, dark = (generator.values(features, rules=[]) for features in (first, second))
    light = scenes.draw(lamps[0], generator.resolution).where("light").float()
    alpha = F.interpolate(light[:, None], size=lit.shape[2:], mode="area").to(lit)
    return swap(first, second, (lit, dark), alpha[:, 0])
