"""A state dict of any known layout → a generator: architecture from names and shapes, every key accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rewriter.checkpoints.layouts import PROGGAN, STYLEGAN2, Layout, State, largest, recognise
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.generators.latents import latents
from rewriter.generators.proggan import ProgressiveGAN, ProgressiveGANConfig
from rewriter.generators.stylegan2 import SKIP, MappingNetwork, StyleGAN2, StyleGAN2Config

AVERAGED = 4096  # latents whose w are averaged where a file lacks the average
WIDEST = 8192  # features; the widest that were published have 1024
AVERAGE = "mapping.w_avg"


def convert(
    state: State, *, conv_clamp: float | None = None, clamp: bool | None = None, name: str = "model"
) -> Generator:
    """State dict of a known layout → a generator, on the CPU, in float32; float32 tensors are taken as they are.

    A StyleGAN2 whose file lacks the average of w, as a training run's does, gets it from the first 4,096 seeds.

    Args:
        state: the tensors by their published names.
        conv_clamp: StyleGAN2's clamp of features and pictures; it cannot be seen in a state dict.
        clamp: whether a Progressive GAN's pictures are cut to [-1, 1]; None: GAN Dissection's are, as in the paper,
            GenForce's are not.
        name: what to call the generator.

    Raises:
        InputError: an unknown or unsupported layout; or missing, unexpected, misshapen or non-finite tensors, each
            by the name that it has in the file.
    """
    layout = recognise(state)
    ours = layout.read(state)
    cut = layout.name == "gandissect" if clamp is None else clamp
    stylegan2 = layout.architecture == "stylegan2"
    build = _stylegan2(ours, conv_clamp, layout) if stylegan2 else _proggan(ours, cut, layout)
    generator, wanted = _empty(build)
    generator.name = name
    if isinstance(generator, StyleGAN2) and AVERAGE not in ours and layout.name == "rosinality":
        _check({**ours, AVERAGE: torch.zeros(wanted[AVERAGE])}, wanted, layout.theirs)
        ours[AVERAGE] = _average(ours, generator.config)
    _check(ours, wanted, layout.theirs)
    generator.load_state_dict({key: ours[key].float().contiguous() for key in wanted}, assign=True)
    return generator.requires_grad_(False).eval()


def rewrite_as(generator: Generator, layout: str) -> dict[str, Tensor]:
    """The weights of a generator in another implementation's layout, for other people's tools.

    Args:
        generator: with its rules folded in, if it is to have any: see `Generator.rewritten`.
        layout: "nvidia", "rosinality" or "genforce" for a StyleGAN2, "gandissect" or "genforce" for a Progressive
            GAN.

    Raises:
        InputError: a layout that this architecture does not have.
    """
    tables = STYLEGAN2 if isinstance(generator, StyleGAN2) else PROGGAN
    if layout not in tables:
        raise InputError(f"{generator.name} cannot be written as {layout!r}: choose {' or '.join(tables)}")
    if isinstance(generator, StyleGAN2):
        config = generator.config
        table = STYLEGAN2[layout](len(config.channels), config.mapping_layers)
    else:
        table = PROGGAN[layout](len(generator.layers))
    return table.write({key: value.detach().cpu() for key, value in generator.state_dict().items()})


def _stylegan2(state: State, conv_clamp: float | None, layout: Layout) -> Callable[[], Generator]:
    sides = [4 * 2**i for i in range(largest(r"synthesis\.b(\d+)\.", state, most=1024).bit_length() - 2)]
    depth = largest(r"mapping\.fc(\d+)\.", state) + 1
    channels = {side: _size(state, f"synthesis.b{side}.conv1.weight", 0, layout, rank=4) for side in sides}
    z_dim, w_dim = (_size(state, "mapping.fc0.weight", axis, layout, rank=2) for axis in (1, 0))
    config = StyleGAN2Config(channels, z_dim, w_dim, depth, conv_clamp, SKIP in state)
    return lambda: StyleGAN2(config)


def _proggan(state: State, clamp: bool, layout: Layout) -> Callable[[], Generator]:
    count = largest(r"layer(\d+)\.", state)
    if count % 2 or not 2 <= count <= 18:
        raise InputError(f"a Progressive GAN has an even number of layers up to 18, not {count}: is the file whole?")
    channels = tuple(_size(state, f"layer{i}.conv.weight", 0, layout, rank=4) for i in range(1, count + 1))
    config = ProgressiveGANConfig(channels, _size(state, "layer1.conv.weight", 1, layout, rank=4), clamp)
    return lambda: ProgressiveGAN(config)


def _size(state: State, key: str, axis: int, layout: Layout, *, rank: int) -> int:
    """One side of a weight that tells the architecture."""
    named = layout.theirs.get(key, key)
    if key not in state:
        raise InputError(f"the checkpoint does not fit its architecture: missing {named}")
    if state[key].ndim != rank or not state[key].numel():
        raise InputError(f"the checkpoint does not fit its architecture: {named} is {tuple(state[key].shape)}")
    if state[key].shape[axis] > WIDEST:
        raise InputError(f"{named} is {tuple(state[key].shape)}: more than {WIDEST:,} features are no generator's")
    return state[key].shape[axis]


def _empty(build: Callable[[], Generator]) -> tuple[Generator, dict[str, tuple[int, ...]]]:
    """A generator without memory for its weights, and the shapes that it wants."""
    with torch.device("meta"):
        generator = build()
    return generator, {key: tuple(value.shape) for key, value in generator.state_dict().items()}


def _check(state: State, wanted: Mapping[str, tuple[int, ...]], theirs: Mapping[str, str]) -> None:
    """Strict: each difference by the name that it has in the file."""
    faults = [f"missing {theirs.get(key, key)}" for key in wanted if key not in state]
    faults += [f"unexpected {key[:80]}" for key in state if key not in wanted]
    for key in wanted.keys() & state.keys():
        if tuple(state[key].shape) != wanted[key]:
            faults.append(f"{theirs.get(key, key)} is {tuple(state[key].shape)} instead of {wanted[key]}")
        elif not bool(state[key].isfinite().all()):
            faults.append(f"{theirs.get(key, key)} holds NaN or infinity")
    if faults:
        listed = "; ".join([*sorted(faults)[:20], *([f"and {len(faults) - 20} more"] if len(faults) > 20 else [])])
        raise InputError(f"the checkpoint does not fit its architecture: {listed}")


def _average(state: State, config: StyleGAN2Config) -> Tensor:
    """Mean w over the first seeds, in double precision, so that every machine rounds to the same float32."""
    with torch.device("meta"):
        mapping = MappingNetwork(config)
    names = [name for name in mapping.state_dict() if name != "w_avg"]
    weights = {name: state[f"mapping.{name}"].double() for name in names}
    mapping.load_state_dict({**weights, "w_avg": torch.zeros(config.w_dim).double()}, assign=True)
    with torch.no_grad():
        mean: Tensor = mapping(latents(range(AVERAGED), config.z_dim).double()).mean(0)
    return mean.float()
