"""A found photo as a file of some hundred kilobytes: the photo, its latents, and its own changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as tensors_as
from torch import Tensor

from rewriter.checks import fields, list_of, text
from rewriter.editing.rule import Rule
from rewriter.errors import InputError
from rewriter.files import read_bytes, write_bytes
from rewriter.generators.base import Generator
from rewriter.generators.inverted import Inverted
from rewriter.photo.opening import inverted

FORMAT = "rewriter-photo-1"
LIMIT = 64 << 20  # bytes
MOST_CHANGES = 32
_DAMAGE = (SafetensorError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
_CHECKS = {"fingerprint": text(64), "layers": list_of(text(200), MOST_CHANGES)}


def to_bytes(photo: Inverted, generator: Generator) -> bytes:
    """The file's content. It holds the photo: whoever has the file can see it."""
    tensors = {"photo": photo.photo, "latent": photo.latent}
    for i, change in enumerate(photo.own):
        tensors |= {f"{i}.delta": change.scaled_delta(), f"{i}.directions": change.directions}
    about = {"fingerprint": generator.fingerprint, "layers": [change.layer for change in photo.own]}
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return tensors_as.save(plain, {"format": FORMAT, "photo": json.dumps(about)})


def from_bytes(data: bytes, generator: Generator) -> Inverted:
    """Inverse of `to_bytes`, the same to the bit; InputError for other data, or a photo of another generator."""
    try:
        if len(data) > LIMIT:
            raise InputError(f"a found photo has at most {LIMIT >> 20} MB, and this has {len(data) >> 20}")
        tensors = tensors_as.load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise InputError(f"this is a safetensors file, but no found photo ({FORMAT})")
        about = fields("the photo", json.loads(metadata["photo"]), _CHECKS)
        return _assemble(about, tensors, generator)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"the found photo is damaged ({error!r}): open the photo itself again") from error


def found_in(data: bytes) -> str:
    """The fingerprint of the generator that a file's photo was found in; "" for other data. The rest is not checked."""
    try:
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        about = json.loads(metadata["photo"]) if metadata["format"] == FORMAT else {}
        return f"{about.get('fingerprint', '')}"
    except _DAMAGE:
        return ""


def save(photo: Inverted, generator: Generator, path: str | Path) -> None:
    """Write the file."""
    write_bytes(to_bytes(photo, generator), path)


def load(path: str | Path, generator: Generator) -> Inverted:
    """Read a file that `save` wrote; see `from_bytes`."""
    try:
        return from_bytes(read_bytes(path, limit=LIMIT), generator)
    except InputError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def _assemble(about: Mapping[str, Any], tensors: Mapping[str, Tensor], generator: Generator) -> Inverted:
    if about["fingerprint"] != generator.fingerprint:
        raise InputError(
            f"the photo was found in a generator with fingerprint {about['fingerprint'][:12]}, {generator.name} has "
            f"{generator.fingerprint[:12]}: load that one, or open the photo itself again"
        )
    photo, latent, side = tensors["photo"], tensors["latent"], generator.resolution
    usual = generator.embed(generator.latents([0]), 1.0)
    shapes = {tuple(usual.shape[1:]), tuple(generator.spread(usual).shape[1:])}
    if photo.dtype != torch.uint8 or tuple(photo.shape) != (3, side, side):
        raise InputError(f"its pixels are not (3, {side}, {side}) bytes")
    if latent.dtype != torch.float32 or tuple(latent.shape) not in shapes or not bool(latent.isfinite().all()):
        raise InputError(f"its latents are no finite numbers of a shape among {sorted(shapes)}")
    own = []
    for i, layer in enumerate(about["layers"]):
        delta, directions = tensors[f"{i}.delta"], tensors[f"{i}.directions"]
        if not all(part.dtype == torch.float32 and bool(part.isfinite().all()) for part in (delta, directions)):
            raise InputError(f"its change of {layer} is not finite float32")
        rule = Rule(layer, delta, directions, fingerprint=generator.fingerprint).to(generator.device)
        generator.check(rule)
        own.append(rule)
    found = inverted(generator, photo, latent, own)
    if not bool(found.drawn.isfinite().all()):
        raise InputError("the generator draws no picture of it: open the photo itself again")
    return found
