"""Checkpoint files → state dicts, reading tensors only: nothing in a file is executed."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rewriter.errors import InputError
from rewriter.files import replacing
from rewriter.generators.base import Generator
from rewriter.generators.proggan import ProgressiveGAN
from rewriter.generators.stylegan2 import StyleGAN2


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict of a .safetensors, .pt, .pth or .bin file, and what else it says for `convert`.

    Raises:
        InputError: the file is missing, damaged, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            options: dict[str, Any] = {"clamp": metadata["clamp"] == "True"} if "clamp" in metadata else {}
            return state, options | _clamp(path, metadata.get("conv_clamp"))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot read {path} as a checkpoint ({reason[:200]}): fetch it again") from error
    return _state(path, loaded)


def _state(path: Path, loaded: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name from the containers in which people publish them."""
    options: dict[str, Any] = {}
    if isinstance(loaded, Mapping) and isinstance(loaded.get("g_ema"), Mapping):
        average = loaded.get("latent_avg")
        loaded = {**loaded["g_ema"], **({} if average is None else {"latent_avg": average})}
    elif isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        options = _clamp(path, loaded.get("conv_clamp"))
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(f"{path} does not hold a state dict of tensors: export the generator's (g_ema) weights")
    return {str(name): value for name, value in loaded.items()}, options


def _clamp(path: Path, value: Any) -> dict[str, float]:
    """The clamp that a file states, as an option; nothing if it states none."""
    try:
        clamp = None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        clamp = math.nan
    if clamp is not None and not 0 < clamp < math.inf:
        raise InputError(f"{path} states conv_clamp {value!r}: expected a number above 0")
    return {} if clamp is None else {"conv_clamp": clamp}


def write_checkpoint(generator: Generator, path: str | Path) -> None:
    """Write a generator's weights as safetensors in its canonical names (NVIDIA's for StyleGAN2)."""
    metadata = {"format": "pt"}
    if isinstance(generator, StyleGAN2) and generator.config.conv_clamp is not None:
        metadata["conv_clamp"] = str(generator.config.conv_clamp)
    if isinstance(generator, ProgressiveGAN):
        metadata["clamp"] = str(generator.config.clamp)
    with replacing(path) as temporary:
        save_file({k: v.contiguous() for k, v in generator.state_dict().items()}, temporary, metadata=metadata)
