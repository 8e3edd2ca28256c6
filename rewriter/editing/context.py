"""Painted masks → cells of a layer → keys of the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rewriter.editing.region import Region
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.frame import Frame
from rewriter.generators.latents import Seed
from rewriter.generators.layer import Features, LayerInfo
from rewriter.memory.goal import RIM

INSIDE = 0.5  # cells at least this much inside a mask give context keys; rims would leak background into D


def cells_of(region: Region, frame: Frame, what: str, generator: Generator, layer: str) -> Tensor:
    """A region's mask on a map of a layer, (side, side); InputError if it covers less than one cell."""
    cells, side = frame.lay(region.mask), frame.across
    if cells.sum() < 1 or cells.max() <= RIM:
        finer = [n for n, i in generator.layers.items() if i.key_frame.across > side]
        advice = f"paint more, or choose a finer layer ({finer[0]} or later)" if finer else "paint more"
        raise InputError(
            f"the {what} on picture {region.seed} covers {float(cells.sum()):.2f} of a cell of {layer} "
            f"({side} × {side}): {advice}"
        )
    return cells.to(generator.device)


def context_keys(
    generator: Generator, info: LayerInfo, context: Sequence[Region], features: Mapping[Seed, Features]
) -> tuple[Tensor, Tensor]:
    """Keys (n, in) of the cells inside the context's masks, and how far each cell is inside, (n,).

    `features`: of each picture by its seed.
    """
    keys, weights = [], []
    for region in context:
        cells = cells_of(region, info.key_frame, "context", generator, info.name)
        inside = cells >= min(INSIDE, float(cells.max()))
        keys.append(features[region.seed].keys[0][:, inside].T)
        weights.append(cells[inside])
    return torch.cat(keys), torch.cat(weights)
