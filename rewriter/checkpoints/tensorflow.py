"""StyleGAN2 pickles of NVIDIA's TensorFlow code, original and ADA: read as data, without TensorFlow.

A pickle holds the networks (G, D, Gs), of which Gs is the averaged generator. Each has its arguments, its variables as
arrays, the networks inside it, and the source code that would build it, which is ignored.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from rewriter.checkpoints import CONDITIONAL
from rewriter.checkpoints.arrays import array_info, plain, read_all
from rewriter.checkpoints.pickle_types import NETWORK, Built
from rewriter.errors import InputError
from rewriter.generators.filters import TAPS
from rewriter.generators.mapping import MAPPING_RATE

AVERAGED = ("Gs", "G_ema", "G")  # names that dicts give to a generator, the averaged one first
DEPTH = 4  # how deep networks may be nested
EXPECTED = {  # arguments → the value with which pictures are drawn here
    "architecture": "skip",
    "nonlinearity": "lrelu",
    "mapping_nonlinearity": "lrelu",
    "normalize_latents": True,
}


def network_in(loaded: Any) -> Built | None:
    """The averaged generator of TensorFlow in what a pickle holds, or None if there is no network of TensorFlow."""
    if isinstance(loaded, (tuple, list)) and loaded:
        loaded = loaded[2 if len(loaded) == 3 else 0]
    if isinstance(loaded, dict):
        loaded = next((loaded[name] for name in AVERAGED if name in loaded), None)
    return loaded if isinstance(loaded, Built) and loaded.name == NETWORK else None


def read_network(network: Built, *, size: int) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The variables of a generator, by TensorFlow's names, and its settings.

    `size` is the file's. InputError for another network, one of other arguments than are drawn here, or bad arrays.
    """
    parts = dict(_parts(network, "", 0, set()))
    _check_build(parts[""])
    stated: dict[str, Any] = {}
    for prefix in sorted(parts, reverse=True):  # the outer network's arguments are those of the inner ones
        stated |= _field(parts[prefix], "static_kwargs", dict)
    _check_arguments(stated)
    described: dict[str, Any] = {}
    for prefix, state in parts.items():
        for name, value in _variables(state):
            if prefix + name in described:
                raise InputError(f"it has two variables {prefix + name[:80]!r}")
            described[prefix + name] = array_info(value, prefix + name)
    told = {"conv_clamp": stated.get("conv_clamp"), "mapping_rate": stated.get("mapping_lrmul", MAPPING_RATE)}
    return read_all(described, most=size), {name: plain(value) for name, value in told.items()}


def _parts(network: Any, prefix: str, depth: int, seen: set[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The states of a network and of those inside it, by prefix; InputError if one is in two places."""
    if type(network) is not Built or network.name != NETWORK or type(network.state) is not dict:
        raise InputError(f"it has no network {prefix[:80]!r}, or one without a state")
    if id(network) in seen or depth > DEPTH:
        raise InputError("its networks are nested too deeply, or one is in two places")
    seen.add(id(network))
    yield prefix, network.state
    for name, inner in _field(network.state, "components", dict).items():
        if type(name) is not str:
            raise InputError("it has a network without a name")
        yield from _parts(inner, f"{prefix}{name[:80]}/", depth + 1, seen)


def _field(state: Mapping[str, Any], name: str, kind: type) -> Any:
    """A field of a network's state; empty if it is missing."""
    value = state.get(name, kind())
    if type(value) is not kind:
        raise InputError(f"it has a network whose {name} are a {type(value).__name__}: expected a {kind.__name__}")
    return value


def _variables(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for pair in _field(state, "variables", list):
        if type(pair) is not tuple or len(pair) != 2 or type(pair[0]) is not str:
            raise InputError("it has a variable that is not a name and an array")
        yield pair


def _check_build(state: Mapping[str, Any]) -> None:
    """Raise InputError for a network that is not a StyleGAN2's generator, or of an old version of NVIDIA's code."""
    build, version = state.get("build_func_name"), plain(state.get("version"))
    told = {
        "G_style": "it is a StyleGAN1: its styles normalise features after the convolution, which is not supported",
        "G_paper": "it is a Progressive GAN of TensorFlow: take GAN Dissection's or GenForce's file for PyTorch",
    }
    if isinstance(build, str) and build in told:
        raise InputError(f"this generator is not supported, because {told[build]}")
    if isinstance(build, str) and build.startswith("D_"):
        raise InputError("it is a discriminator: give the pickle that holds the generator (Gs) as well")
    if type(version) is not int or version < 4:
        raise InputError(f"its networks are of version {reprlib.repr(version)[:40]}: expected StyleGAN2's, 4 or later")


def _check_arguments(stated: Mapping[str, Any]) -> None:
    """Raise InputError for arguments that tensors do not show, and with which pictures would be drawn wrongly."""
    if plain(stated.get("label_size")):
        raise InputError(f"this generator is not supported, because {CONDITIONAL}")
    for name, expected in EXPECTED.items():
        value = plain(stated.get(name, expected))
        if type(value) is not type(expected) or value != expected:
            said = f"{name} is {reprlib.repr(value)[:40]}, and pictures are drawn here with {expected!r}"
            raise InputError(f"this generator is not supported, because its {said}")
    taps = stated.get("resample_kernel", list(TAPS))
    if type(taps) not in (list, tuple) or [*map(plain, taps)] != [*TAPS]:
        raise InputError("this generator is not supported, because its resample_kernel is not 1-3-3-1")
