"""A full dissection of a layer: every unit with everything that has a label, measured once and kept.

The built-in worlds label their own pictures exactly; pictures of other generators need a segmenter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rewriter.cache import default_folder
from rewriter.editing.precompute import processes
from rewriter.errors import OnStep
from rewriter.files import write_tensors
from rewriter.generators.base import Generator
from rewriter.units.agreement import Agreement, Counts, Labels, measure
from rewriter.worlds.base import World

SEEDS = range(50_000, 50_300)  # not used for reported results
FORMAT = "rewriter-dissection-1"


def scene_labels(world: World, things: Sequence[str], *, together: bool = False) -> Labels:
    """Where things are on pictures of a built-in world, each for itself or all together; InputError for others."""
    world.check(things)

    def labels(seeds: Sequence[int], pictures: Tensor) -> Tensor:
        scene = world.described(seeds, pictures.shape[-1])
        each = [scene.where(*things)] if together else [scene.where(thing) for thing in things]
        return torch.stack(each, 1).float()

    return labels


def dissect(
    generator: Generator,
    layer: str,
    things: Sequence[str],
    labels: Labels,
    *,
    by: str = "scenes",
    seeds: range = SEEDS,
    cache: Path | None = None,
    on_step: OnStep | None = None,
) -> Agreement:
    """The agreement of every unit with every thing; read from the cache where it was measured before.

    Several processes (`accelerate launch -m rewriter units …`) share the pictures. `by` names the labels' source in the
    cache. Arguments and errors as for `agreement.measure`.
    """
    label = f"{generator.fingerprint} {layer} {'|'.join(things)} by {by} on {seeds.start}-{seeds.stop}"
    name = f"{layer}-{hashlib.sha256(label.encode()).hexdigest()[:16]}.safetensors"
    path = (cache or default_folder()) / "dissections" / generator.fingerprint[:16] / name
    if (known := _read(path, label, layer, things)) is not None:
        return known
    state = processes(generator.device.type)

    def shared(counts: Counts) -> Counts:
        for total, *parts in zip(counts.sums(), *(each.sums() for each in gather_object([counts])), strict=True):
            total.copy_(torch.stack(parts).sum(0))
        return counts

    own = seeds[state.process_index :: state.num_processes]
    found = measure(generator, layer, things, labels, own, shared=shared, on_step=on_step)
    if state.is_main_process:
        write_tensors(found.tensors(), path, {"format": FORMAT, "of": label})
    return found


def _read(path: Path, label: str, layer: str, things: Sequence[str]) -> Agreement | None:
    """A dissection as its file holds it; None where there is none that can be used."""
    try:
        with safe_open(path, "pt") as file:
            if file.metadata() != {"format": FORMAT, "of": label}:
                return None
            return Agreement(layer, tuple(things), **{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, TypeError):
        return None
