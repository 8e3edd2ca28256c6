"""Pickles of NVIDIA's PyTorch code, whose objects bring their source code along: only tensors and settings are used."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from rewriter.checkpoints import CONDITIONAL
from rewriter.checkpoints.arrays import plain, read_all
from rewriter.checkpoints.pickle_types import Persistent, TensorInfo
from rewriter.errors import InputError

DEPTH = 16  # how deep modules may be nested
OTHERS = {  # classes of generators that are not supported
    "TriPlaneGenerator": "it is an EG3D, which draws scenes in three dimensions: take a StyleGAN2 of the same pictures",
    "SuperresGenerator": "it is a StyleGAN-XL, which is conditional: take a StyleGAN2 of the same pictures",
}


def read_persistent(loaded: Any, *, size: int) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The averaged generator in a training run's pickle, or a generator alone; and what its layers say of themselves.

    `size` is the file's. InputError if there is no generator of NVIDIA's in it, or it would be drawn wrongly.
    """
    generator = loaded.get("G_ema") if isinstance(loaded, dict) else loaded
    if isinstance(generator, Persistent) and generator.name in OTHERS:
        raise InputError(f"this generator is not supported, because {OTHERS[generator.name]}")
    if not isinstance(generator, Persistent) or generator.name != "Generator":
        found = f"a {generator.name[:40]!r}" if isinstance(generator, Persistent) else "none"
        raise InputError(f"it holds no generator of NVIDIA's code but {found}: expected a dict with G_ema, or itself")
    modules = dict(_modules(generator, "", 0, set()))
    if generator.fields.get("c_dim"):
        raise InputError(f"this generator is not supported, because {CONDITIONAL}")
    described = {
        f"{prefix}{name}": value
        for prefix, module in modules.items()
        for group in ("_parameters", "_buffers")
        for name, value in _fields(module, group).items()
        if value is not None
    }
    if odd := next((name for name, value in described.items() if not isinstance(value, TensorInfo)), None):
        raise InputError(f"it has a {type(described[odd]).__name__} where the tensor {odd[:80]!r} belongs")
    return read_all(described, most=size), _stated(modules)


def _modules(module: Persistent, prefix: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Persistent]]:
    """A module and those inside it, by their prefixes; InputError if one is in two places."""
    if id(module) in seen or depth > DEPTH:
        raise InputError("its modules are nested too deeply, or one is in two places")
    seen.add(id(module))
    yield prefix, module
    for name, inner in _fields(module, "_modules").items():
        if not isinstance(inner, Persistent):
            raise InputError(f"it has a module {f'{prefix}{name}'[:80]!r} that NVIDIA's code did not save")
        yield from _modules(inner, f"{prefix}{name}.", depth + 1, seen)


def _fields(module: Persistent, group: str) -> Mapping[str, Any]:
    fields = module.fields.get(group)
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise InputError(f"its {module.name[:80]!r} has no {group}")
    return fields


def _stated(modules: Mapping[str, Persistent]) -> Mapping[str, Any]:
    """The clamp that the layers state; InputError for layers that would be drawn wrongly."""
    clamps = [plain(module.fields["conv_clamp"]) for module in modules.values() if "conv_clamp" in module.fields]
    for prefix, module in modules.items():
        activation, architecture = module.fields.get("activation", "lrelu"), module.fields.get("architecture", "skip")
        if module.name == "SynthesisLayer" and activation != "lrelu" or architecture != "skip":
            said = f"{reprlib.repr(activation)[:40]}, {reprlib.repr(architecture)[:40]}"
            raise InputError(f"this generator is not supported, because of {prefix[:80]!r}: {said}")
    if any(type(clamp) not in (type(None), int, float) or clamp != clamps[0] for clamp in clamps):
        raise InputError("its layers are clamped differently")
    return {"conv_clamp": clamps[0] if clamps else None}
