"""Built-in worlds, which this package draws and judges exactly; and the shipped edits of all generators.

A world is a folder: `world.py` holds it, beside lie the weights of generators that draw it, which the catalogue lists,
and in `examples` their shipped edits.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rewriter.checkpoints.catalogue import BUILT_IN, built_ins
from rewriter.errors import InputError

if TYPE_CHECKING:
    from rewriter.generators.base import Generator
    from rewriter.generators.stylegan2 import StyleGAN2
    from rewriter.worlds.base import World

HERE = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The worlds, by name."""
    return tuple(sorted(path.parent.name for path in HERE.glob("*/world.py")))


def named(name: str) -> World:
    """The world of that name; InputError if it is none of `names()`."""
    if name not in names():
        raise InputError(f"there is no world {name!r}: choose from {', '.join(names())}")
    found: World = import_module(f"{__name__}.{name}.world").WORLD
    return found


def of(generator: Generator) -> World | None:
    """The world that a built-in generator draws; None for others, whatever they are called."""
    name = generator.origin.id or generator.name
    known = name in built_ins() and generator.fingerprint == fingerprint(name)
    return named(weights(name).parent.name) if known else None


def weights(generator: str) -> Path:
    """The file of a built-in generator; InputError for others."""
    if generator not in built_ins():
        raise InputError(f"{generator!r} is not built in: choose from {', '.join(built_ins())}")
    return built_ins()[generator].local


@cache
def fingerprint(generator: str) -> str:
    """That of a built-in generator."""
    return load(generator).fingerprint


def load(generator: str = BUILT_IN) -> StyleGAN2:
    """Load a built-in generator, on the CPU; it draws the scenes of its world from the same latents."""
    from safetensors.torch import load_file  # late: the chain of imports is long

    from rewriter.checkpoints.convert import convert
    from rewriter.generators.stylegan2 import StyleGAN2

    made = convert(load_file(weights(generator)), name=generator)
    assert isinstance(made, StyleGAN2)  # the package ships no other
    return made


def examples(generator: str | None = None) -> dict[str, Path]:
    """The shipped edits of a generator, name → edit file; its picture lies beside it.

    None: those of all generators; a name that several have means the first one's.
    """
    shipped = _shipped()
    if generator is not None:
        return dict(shipped.get(generator, {}))
    return {name: path for own in reversed(shipped.values()) for name, path in own.items()}


@cache
def _shipped() -> dict[str, dict[str, Path]]:
    """The shipped edits by generator: first those of built-in generators."""
    folders = {path.name: path for path in sorted(HERE.glob("*/examples/*")) if path.is_dir()}
    order = [*(name for name in built_ins() if name in folders), *folders]
    return {name: {path.stem: path for path in sorted(folders[name].glob("*.json"))} for name in dict.fromkeys(order)}
