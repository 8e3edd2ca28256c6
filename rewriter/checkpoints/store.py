"""Our own form of a generator: a folder with config.json and model.safetensors, or the latter alone.

Weights have their canonical names: NVIDIA's for StyleGAN2, GAN Dissection's for Progressive GAN, else our own.
The config holds what tensors cannot: settings such as the clamp, the fingerprint, and whose they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rewriter.checkpoints.config import CONFIG, WEIGHTS, apply_config, config_of, read_config
from rewriter.checkpoints.convert import convert, rewrite_as
from rewriter.checkpoints.export_tensorflow import arguments_of, write_networks
from rewriter.checkpoints.layouts import written_as
from rewriter.checkpoints.read import read_checkpoint
from rewriter.errors import InputError
from rewriter.files import write_json, write_tensors, write_torch
from rewriter.generators.base import Generator

AVERAGED = {"rosinality": "g_ema", "basicsr": "params_ema"}  # where these layouts' files have the averaged weights


def write_weights(generator: Generator, path: str | Path) -> None:
    """Write a generator's weights, without its rules, as safetensors with the settings in the metadata."""
    metadata = {"format": "pt", **{key: str(value) for key, value in generator.settings().items()}}
    write_tensors(generator.state_dict(), path, metadata)


def save(generator: Generator, folder: str | Path) -> None:
    """Write a generator, without its rules, as a folder that `load` reads; InputError if it cannot be written to."""
    folder = Path(folder)
    write_weights(generator, folder / WEIGHTS)
    write_json(config_of(generator), folder / CONFIG, indent=2)


def export(generator: Generator, path: str | Path, layout: str) -> None:
    """Write weights as a file for other people's tools, exact to the bit; InputError if there is no such layout."""
    state: dict[str, Any] = rewrite_as(generator, layout)
    if layout == "tensorflow":
        write_networks(state, generator.settings(), path)
        return
    if layout in AVERAGED:
        state = {"latent_avg": state.pop("latent_avg"), AVERAGED[layout]: state, **generator.settings()}
    write_torch(state, path)


def layouts_of(generator: Generator) -> Iterator[str]:
    """The layouts that `export` can write a generator in."""
    for layout in written_as(generator):
        with suppress(InputError):  # of its architecture, but unable to hold this one
            state = rewrite_as(generator, layout)
            if layout == "tensorflow":
                arguments_of(state, generator.settings())
            yield layout


def read_file(
    path: Path,
    *,
    name: str,
    conv_clamp: float | None = None,
    mapping_rate: float | None = None,
    default_clamp: float | None = None,
) -> Generator:
    """Read a checkpoint file of any known layout.

    The features are clamped at `conv_clamp`; None: at what the file says, or `default_clamp` if it says nothing.
    `mapping_rate` is the learning rate of the mapping network, relative to the other layers', that multiplies its
    weights; None: what the file says, or 0.01. InputError for a damaged or hostile file, an unknown layout, or a clamp
    or rate for an architecture that has none.
    """
    state, options = read_checkpoint(path)
    for what, said in {"conv_clamp": conv_clamp, "mapping_rate": mapping_rate}.items():
        known = options.get(what)
        if said is not None and known != said and (known or "mapping_rate" in options):  # a pickle states both
            raise InputError(f"{path} says itself that its {what} is {known or 'none'}: leave {what} out")
    clamp = conv_clamp or options.get("conv_clamp") or default_clamp
    given = {"conv_clamp": clamp, "mapping_rate": mapping_rate or options.get("mapping_rate")}
    try:
        generator = convert(state, name=name, keep=False, **{**options, **given})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    generator.described = "mapping_rate" in options
    if conv_clamp is not None and "conv_clamp" not in generator.SETTINGS:
        raise InputError(f"{path} is a {generator.architecture}, which takes no conv_clamp: leave it out")
    return generator


def load(folder: str | Path) -> Generator:
    """Read what `save` wrote; InputError for damaged files, or weights that do not belong to the config."""
    folder = Path(folder)
    about = read_config(folder)
    state, options = read_checkpoint(folder / WEIGHTS)
    generator = convert(state, name="".join(filter(str.isprintable, about["name"]))[:80], keep=False, **options)
    if generator.fingerprint != about.get("fingerprint"):
        said, found = str(about.get("fingerprint"))[:12], generator.fingerprint[:12]
        differ = f"expected the fingerprint {said}, found {found}: fetch both again"
        raise InputError(f"{folder / WEIGHTS} does not belong to {CONFIG}: {differ}")
    apply_config(generator, about)
    return generator
