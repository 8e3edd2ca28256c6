"""Where generators come from: the built-in world, or a checkpoint on disk (the Hub is to follow)."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import PartialState

from rewriter import townscape
from rewriter.checkpoints.convert import convert
from rewriter.checkpoints.read import read_checkpoint
from rewriter.errors import InputError
from rewriter.generators.base import Generator

BUILT_IN = {"townscape": townscape.load}
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def load_generator(name: str, *, device: torch.device | str | None = None) -> Generator:
    """Load a generator by name.

    Args:
        name: "townscape", the built-in world; or the path of a checkpoint in a known layout.
        device: where to put it; None: what accelerate finds (CUDA, MPS or CPU).

    Raises:
        InputError: an unknown name, or a file that is damaged or of an unknown layout.
    """
    if name in BUILT_IN:
        generator: Generator = BUILT_IN[name]()
    elif Path(name).suffix in SUFFIXES:
        state, options = read_checkpoint(Path(name))
        generator = convert(state, name=Path(name).stem, **options)
    else:
        raise InputError(
            f"unknown generator {name!r}: use {', '.join(BUILT_IN)}, or the path of a file that ends in "
            f"{', '.join(SUFFIXES)}"
        )
    try:
        return generator.to(default_device() if device is None else device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used here ({reason}): try cpu, cuda or mps") from error


def default_device() -> torch.device:
    """The device that accelerate chooses."""
    return PartialState().device
