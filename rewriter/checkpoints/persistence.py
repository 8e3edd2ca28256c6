"""Pickles of NVIDIA's PyTorch code, whose objects bring their source code along: only tensors and fields are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from rewriter.checkpoints import CONDITIONAL
from rewriter.checkpoints.arrays import read_all
from rewriter.checkpoints.pickle_types import Persistent, TensorInfo
from rewriter.errors import InputError

DEPTH = 16  # how deep modules may be nested
OTHERS = {  # classes of generators that are not supported
    "TriPlaneGenerator": "it is an EG3D, which draws scenes in three dimensions: take a StyleGAN2 of the same pictures",
    "SuperresGenerator": "it is a StyleGAN-XL, which is conditional: take a StyleGAN2 of the same pictures",
}


def read_persistent(loaded: Any, *, size: int) -> tuple[dict[str, Tensor], dict[str, Persistent]]:
    """The tensors of the averaged generator in a training run's pickle, or of one alone; and its modules, by prefix.

    `size` is the file's. InputError if there is no generator of NVIDIA's in it, or one that is not supported.
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
    return read_all(described, most=size), modules


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
