"""config.json of our own form of a generator: what tensors cannot hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewriter.checkpoints.catalogue import ADVICE, sanitize_origin
from rewriter.errors import InputError
from rewriter.files import read_json
from rewriter.generators.base import Generator

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CONFIG_LIMIT = 1 << 20  # bytes
FORMAT, VERSIONS = "rewriter-generator", (1, 2)  # version 2 may have rules beside the weights, or no weights
_FIELDS = {"name": str, "origin": dict, "layers": dict}


def config_of(generator: Generator) -> dict[str, Any]:
    """What config.json says."""
    return {
        "format": FORMAT,
        "version": VERSIONS[0],
        "name": generator.name,
        "architecture": generator.architecture,
        "resolution": generator.resolution,
        "zdim": generator.zdim,
        **generator.settings(),
        "fingerprint": generator.fingerprint,
        "layers": dict(generator.advice),
        "origin": generator.origin.to_json(),
    }


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json, its main fields validated; InputError if it is missing, damaged, foreign or too new."""
    path = folder / CONFIG
    about = read_json(path, limit=CONFIG_LIMIT)
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{path} is not the config of a generator that this package wrote: see `rewriter convert`")
    if about.get("version") not in VERSIONS:
        raise InputError(f"{path} is of a later version than {VERSIONS[-1]}: update this package")
    if not all(isinstance(about.get(name), kind) for name, kind in _FIELDS.items()):
        raise InputError(f"{path} lacks {', '.join(_FIELDS)}, or one is of another type: save the generator again")
    return dict(about)


def apply_config(generator: Generator, about: Mapping[str, Any]) -> None:
    """Note what a config says about a generator's origin and the layers to begin at, as far as it is valid."""
    layers = about["layers"]
    generator.origin = sanitize_origin(about["origin"])
    generator.advice = {good: str(layers.get(good)) for good in ADVICE if str(layers.get(good)) in generator.layers}
