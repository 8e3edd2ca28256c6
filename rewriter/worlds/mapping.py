"""The mapping network of a world: it learns what latents mean before anything is drawn, and is asked for it later."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from itertools import chain, cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from rewriter.generators.latents import latents
from rewriter.generators.mapping import MAPPING_RATE, MappingNetwork
from rewriter.generators.stylegan2 import StyleGAN2
from rewriter.worlds.base import World

KNOWN = 4096  # latents of which it is known how far what they mean varies


@torch.no_grad()
def _bend(world: World, mapping: MappingNetwork) -> None:
    """Let each unit of the first layer look at one factor, from some place on: switches and palettes are made of such.

    Every factor gets two units, in opposite directions, and those that switch things get the others. From the usual
    random weights, switches of portraits were learned to 68 % of their variance in 45 s; so to 95 %.
    """
    first: Any = mapping.get_submodule("fc0")
    every = range(world.factors(torch.zeros(1, world.zdim, device=first.weight.device)).shape[1])
    slots = list(islice(chain(every, every, cycle(world.switches)), len(first.bias)))
    number, met = Counter(slots), Counter[int]()
    weight, bias = torch.zeros(first.weight.shape), torch.zeros(first.bias.shape)
    for unit, factor in enumerate(slots):
        sign = 1 - 2 * (met[factor] % 2)
        share = torch.tensor((met[factor] + 0.5) / number[factor])
        weight[unit, factor] = sign * math.sqrt(world.zdim) / MAPPING_RATE
        bias[unit] = -sign * math.sqrt(2) * torch.erfinv(2 * share - 1) / MAPPING_RATE
        met[factor] += 1
    first.weight.copy_(weight)
    first.bias.copy_(bias)


@torch.no_grad()
def telling(world: World, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Latents (n, zdim) → what they mean (n, m): what is rare or varies little counts as much as the rest."""
    known = world.meaning(world.factors(latents(range(KNOWN), world.zdim).to(device)))
    mean, deviation = known.mean(0), known.std(0).clamp_min(0.01)
    return lambda z: (world.meaning(world.factors(z)) - mean) / deviation


@torch.no_grad()
def fit_reader(world: World, generator: StyleGAN2) -> nn.Linear:
    """Reads from w what latents mean, by least squares."""
    z = latents(range(KNOWN), world.zdim)
    w = generator.mapping(z.to(generator.device)).cpu().double()
    centred = w - w.mean(0)
    second = centred.T @ centred + torch.eye(w.shape[1]).double()
    reader = nn.Linear(w.shape[1], len(told := telling(world, z.device)(z).double().T))
    reader.weight.copy_(torch.linalg.solve(second, centred.T @ told.T).T)
    reader.bias.copy_(-reader.weight @ w.mean(0).float())
    return reader.to(generator.device)


def train_mapping(world: World, generator: StyleGAN2, seconds: float) -> None:
    """Train only the mapping network to encode what a latent means, then scale its output to unit variance.

    This mattered most of all. Without scaling, w had a standard deviation of 8 and the training diverged.
    """
    _bend(world, generator.mapping)
    tell = telling(world, generator.device)
    outputs = tell(torch.randn(2, world.zdim, device=generator.device)).shape[1]
    head = nn.Linear(generator.config.w_dim, outputs).to(generator.device)
    mapping = {"params": list(generator.mapping.parameters()), "scale": 1 / MAPPING_RATE}
    optimizer = torch.optim.Adam([mapping, {"params": list(head.parameters()), "scale": 1.0}])
    start = time.perf_counter()
    while (done := (time.perf_counter() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = (4e-3 * (1 - done) + 1e-5) * group["scale"]
        z = torch.randn(1024, world.zdim, device=generator.device)
        error = (head(generator.mapping(z)) - tell(z)).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    _normalise(generator)


@torch.no_grad()
def _normalise(generator: StyleGAN2) -> None:
    """Scale the last mapping layer until w has unit variance: its leaky ReLU is homogeneous."""
    deviation = generator.mapping(torch.randn(4096, generator.zdim, device=generator.device)).std()
    last = generator.mapping.get_submodule(f"fc{generator.config.mapping_layers - 1}")
    for parameter in last.parameters():
        parameter.div_(deviation)
