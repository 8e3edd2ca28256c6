"""Pickles of modules, of which only tensors and fields are used.

NVIDIA's PyTorch code saves objects that bring their source code along; code after it, such as that of Projected GAN,
saves objects that only name their classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from rewriter.checkpoints import CONDITIONAL
from rewriter.checkpoints.arrays import plain, read_all
from rewriter.checkpoints.pickle_types import Built, Persistent, TensorInfo
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
    generator = _as_module(loaded.get("G_ema") if isinstance(loaded, dict) else loaded)
    if generator and generator.name in OTHERS:
        raise InputError(f"this generator is not supported, because {OTHERS[generator.name]}")
    if not generator or generator.name != "Generator":
        found = f"a {generator.name[:40]!r}" if generator else "none"
        raise InputError(f"it holds no generator (found: {found}): expected a dict with G_ema, or the generator itself")
    modules = dict(_modules(generator, "", 0, set()))
    if plain(generator.fields.get("c_dim")):
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
    if id(module.fields) in seen or depth > DEPTH:
        raise InputError("its modules are nested too deeply, or one is in two places")
    seen.add(id(module.fields))
    yield prefix, module
    for name, value in _fields(module, "_modules").items():
        inner = _as_module(value)
        if inner is None:
            raise InputError(f"it has a {type(value).__name__} where the module {f'{prefix}{name}'[:80]!r} belongs")
        yield from _modules(inner, f"{prefix}{name}.", depth + 1, seen)


def _as_module(value: Any) -> Persistent | None:
    """A module of either kind of code; None for anything else."""
    if isinstance(value, Built) and isinstance(value.state, dict) and "_modules" in value.state:
        return Persistent(value.name.rpartition(".")[2], value.state)
    return value if isinstance(value, Persistent) else None


def _fields(module: Persistent, group: str) -> Mapping[str, Any]:
    fields = module.fields.get(group)
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise InputError(f"its {module.name[:80]!r} has no {group}")
    return fields
