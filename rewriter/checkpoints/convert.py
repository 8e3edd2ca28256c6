"""A state dict of any known layout → a generator, with every tensor accounted for."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, MutableMapping

import numpy as np
import torch
from torch import Tensor

from rewriter.checkpoints.layouts import NAMES, PUBLISHED, UNSUPPORTED, layout_for
from rewriter.checkpoints.layouts.table import Layout, State
from rewriter.checkpoints.spectral import folded
from rewriter.checkpoints.stated import RATE
from rewriter.errors import InputError
from rewriter.generators.architectures import ARCHITECTURES
from rewriter.generators.base import Generator
from rewriter.generators.mapping import MAPPING_RATE
from rewriter.generators.shapes import Shapes

PARALLEL, AVERAGED, MAPPING = "module.", "GE.", "mapping.fc"


def convert(
    state: MutableMapping[str, Tensor],
    *,
    name: str = "model",
    keep: bool = True,
    mapping_rate: float | None = None,
    **settings: float | bool | None,
) -> Generator:
    """Build a generator on the CPU, in float32; float32 tensors are used as they are, without a copy.

    `mapping_rate`: the relative learning rate that the mapping network was trained at, which multiplies its weights
    where it runs; None: 0.01. Another one is folded into the weights. `settings` are what else the tensors cannot say:
    `conv_clamp`, at which StyleGAN2-ADA clamps features and pictures; `clamp`, whether a Progressive GAN's pictures are
    clamped to [-1, 1]. None: as the code has it that the layout comes from. Those that the architecture does not have
    are ignored. InputError for an unknown or unsupported layout, a rate without a mapping network, or for tensors that
    are missing, unexpected, misshapen or not finite, each by the name that it has in the file.

    Without `keep` the state dict is emptied on the way, so that no tensor that has to be turned or converted is in
    memory twice.
    """
    theirs = folded(_unwrapped(state), keep=keep)
    if not keep:
        state.clear()
    architecture, layout = recognise(theirs)
    ours = layout.read(theirs)
    if mapping_rate is not None:
        ours = _at_rate(ours, RATE("mapping_rate", mapping_rate))
    given = {**layout.settings, **{key: value for key, value in settings.items() if value is not None}}
    checked = {key: check(key, given[key]) for key, check in architecture.SETTINGS.items() if key in given}
    with torch.device("meta"):  # takes no memory for weights
        generator = architecture.from_shapes(Shapes(ours, layout.names), **checked)
    generator.name = name
    wanted = {key: tuple(value.shape) for key, value in generator.state_dict().items()}
    lacking = sorted((layout.optional & wanted.keys()) - ours.keys())
    _check(ours, {key: shape for key, shape in wanted.items() if key not in lacking}, layout.names)
    ours |= {key: generator.derive(key, ours) for key in lacking}
    generator.load_state_dict({key: _dense(ours.pop(key)) for key in wanted}, assign=True)
    return generator.requires_grad_(False).eval()


def _at_rate(state: State, rate: float) -> dict[str, Tensor]:
    """Weights that give at the usual rate what the mapping network's give at this one."""
    if not any(key.startswith(MAPPING) for key in state):
        raise InputError("this generator has no mapping network: leave mapping_rate out")
    factor = rate / MAPPING_RATE
    if math.isclose(factor, 1, rel_tol=1e-6):
        return dict(state)
    return {key: value.float() * factor if key.startswith(MAPPING) else value for key, value in state.items()}


def _unwrapped(state: State) -> dict[str, Tensor]:
    """A copy of the dict without the `module.` that DataParallel puts in front of names.

    Of a Lightweight GAN with all its networks, only the averaged generator is used.
    """
    names = {key.removeprefix(PARALLEL): key for key in state}
    if len(names) != len(state):
        raise InputError(f"it holds tensors both with {PARALLEL!r} in front of their names and without")
    if any(name.startswith(f"{AVERAGED}initial_conv.") for name in names):
        names = {name.removeprefix(AVERAGED): key for name, key in names.items() if name.startswith(AVERAGED)}
    return {ours: state[theirs] for ours, theirs in names.items()}


def recognise(state: State) -> tuple[type[Generator], Layout]:
    """The architecture and the layout of a state dict, by its names; InputError if it is unknown or unsupported."""
    for pattern, reason in UNSUPPORTED.items():
        if found := next((key for key in state if re.match(pattern, key)), None):
            raise InputError(f"this generator is not supported, because {reason} (it holds {found})")
    for row in PUBLISHED:
        architecture = ARCHITECTURES[row.architecture]
        if any(re.match(row.marker or architecture.pattern, key) for key in state):
            return architecture, row.table(*(row.sizes or architecture.sizes)(state))
    for name, architecture in ARCHITECTURES.items():
        if any(re.match(architecture.pattern, key) for key in state):
            return architecture, Layout(name, ())
    shown = ", ".join(key[:80] for key in list(state)[:4]) or "nothing"
    known = ", ".join((*NAMES, *ARCHITECTURES))
    raise InputError(f"unknown checkpoint layout (it begins with {shown}); known: {known}")


def rewrite_as(generator: Generator, layout: str) -> dict[str, Tensor]:
    """The weights, without rules, by the names of another implementation; InputError if it cannot hold them."""
    table = layout_for(generator, layout)
    return table.write({key: value.detach().cpu() for key, value in generator.state_dict().items()})


def _finite(value: Tensor) -> bool:
    """Whether all numbers are finite: both bounds are, since either is NaN if any number is. Takes no memory."""
    as_it_lies = value.permute(sorted(range(value.ndim), key=value.stride, reverse=True))  # which is fast to read
    return not value.numel() or all(bool(bound.isfinite()) for bound in torch.aminmax(as_it_lies))


def _dense(value: Tensor) -> Tensor:
    """The numbers in float32 and in order; NumPy moves axes in half the time that PyTorch takes."""
    value = value.float()
    return value if value.is_contiguous() else torch.from_numpy(np.ascontiguousarray(value.numpy()))


def _check(state: State, wanted: Mapping[str, tuple[int, ...]], names: Mapping[str, str]) -> None:
    """Raise InputError that lists every difference by the name that it has in the file."""
    faults = [f"missing {names.get(key, key)}" for key in wanted if key not in state]
    faults += [f"unexpected {key[:80]}" for key in state if key not in wanted]
    for key in wanted.keys() & state.keys():
        if tuple(state[key].shape) != wanted[key]:
            faults.append(f"{names.get(key, key)} is {tuple(state[key].shape)} instead of {wanted[key]}")
        elif not _finite(state[key]):
            faults.append(f"{names.get(key, key)} holds NaN or infinity")
    if faults:
        listed = "; ".join([*sorted(faults)[:20], *([f"and {len(faults) - 20} more"] if len(faults) > 20 else [])])
        raise InputError(f"the checkpoint does not fit its architecture: {listed}")
