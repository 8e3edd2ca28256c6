"""The device that a network runs on."""

from __future__ import annotations

from typing import TypeVar

import torch
from accelerate import PartialState
from torch import nn

from rewriter.errors import InputError

Module = TypeVar("Module", bound=nn.Module)


def default_device() -> torch.device:
    """The device that accelerate chooses: CUDA, MPS or CPU."""
    return PartialState().device


def place(module: Module, device: torch.device | str | None) -> Module:
    """Move a module to a device; None: the default one. InputError if this machine has no such device."""
    try:
        return module.to(default_device() if device is None else device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used here ({reason}): try cpu, cuda or mps") from error
