"""Where generators come from: the built-in world, the catalogue, or a file of one's own."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import nn

from rewriter.checkpoints import store
from rewriter.checkpoints.catalogue import Entry, catalogue
from rewriter.checkpoints.client import is_name
from rewriter.checkpoints.convert import convert
from rewriter.checkpoints.download import fetch, hash_of, verify
from rewriter.checkpoints.read import read_checkpoint
from rewriter.editing.rule import carried_rules
from rewriter.errors import InputError
from rewriter.files import read_json
from rewriter.generators.base import Generator
from rewriter.generators.origin import Origin
from rewriter.generators.stylegan2 import StyleGAN2
from rewriter.hub import repository
from rewriter.hub.repository import BUILT_IN
from rewriter.worlds import townscape

Module = TypeVar("Module", bound=nn.Module)
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".pkl")


def load_generator(
    name: str,
    *,
    device: torch.device | str | None = None,
    revision: str | None = None,
    conv_clamp: float | None = None,
    on_step: Callable[[int, int], Any] = lambda done, of: None,
) -> Generator:
    """Load a generator by name.

    Args:
        name: "townscape", the built-in world; another id of the catalogue (`rewriter generators` lists them), which is
            downloaded once; the path of a checkpoint; or of a folder that `rewriter convert` wrote; or USER/NAME on the
            Hub, a generator that `publish` put there: it carries its rules.
        revision: of one on the Hub: a branch, a tag or a commit; None: the newest.
        device: where to put it; None: what accelerate finds (CUDA, MPS or CPU).
        conv_clamp: for a file that cannot say at what its features are clamped, as StyleGAN2-ADA's are at 256.
        on_step: told how many bytes of a download are there, and of how many; what it raises stops it.

    Raises:
        InputError: an unknown name, a download that failed, or a file that is damaged, hostile or of an unknown layout.
    """
    if conv_clamp is not None and not 0 < conv_clamp < math.inf:
        raise InputError(f"conv_clamp is {conv_clamp:g}, expected a number above 0, such as 256")
    known = catalogue()
    remote = name not in known and on_hub(name)
    if revision and not remote and (name in known or os.path.exists(name)):
        raise InputError(f"{name} has no revisions: leave revision out")
    if conv_clamp is not None and (name == BUILT_IN or remote or os.path.isdir(name)):
        raise InputError(f"{name} says itself whether its features are clamped: leave conv_clamp out")
    if name == BUILT_IN:
        generator: Generator = townscape.load()
        _belongs_to(generator, known[BUILT_IN])
    elif name in known:
        path = fetch(known[name], on_step=on_step)
        generator = _read(known[name], path, conv_clamp)
        generator.origin = replace(generator.origin, sha256=verify(known[name], path))  # all of it
    elif name and os.path.isfile(os.path.join(name, store.CONFIG)):
        generator = _folder(Path(name), on_step)
    elif remote:
        folder, commit = repository.fetch(name, revision or None, on_step=on_step)
        generator = _folder(folder, on_step)
        generator.origin = replace(generator.origin, published=f"{name}@{commit}")
    elif os.path.isfile(name):
        path = Path(name)
        entry, found = _entry_of(path, known.values())
        generator = _read(entry, path, conv_clamp)
        generator.origin = replace(generator.origin, sha256=found) if entry else generator.origin
    else:
        raise InputError(_unknown(name, known.keys()))
    generator = placed(generator, device)
    generator.rules = tuple(rule.to(generator.device) for rule in carried_rules(generator))
    return generator


def _folder(folder: Path, on_step: Callable[[int, int], Any]) -> Generator:
    """A generator from a folder of ours, with the rules that lie there."""
    if not repository.is_published(folder):
        return store.load(folder)
    about = repository.read(folder)
    if about.weights:
        generator = store.load(folder)
        if about.known is not None:  # under which licence that is, is not the repository's to say
            generator.origin = replace(catalogue()[about.known].origin, sha256=None, rules=generator.origin.rules)
        if about.known == BUILT_IN and not repository.is_built_in(generator):
            raise InputError(f"{folder / store.CONFIG} says that its base is {BUILT_IN}, and its weights are others")
    elif about.known is not None:
        generator = load_generator(about.known, device="cpu", on_step=on_step)
    else:
        assert about.base is not None  # it has been looked for
        state, options = read_checkpoint(fetch(about.base, on_step=on_step))
        clamp = about.clamp or options.get("conv_clamp")
        generator = convert(state, name=about.base.id, **{**options, "conv_clamp": clamp})
        store.describe(generator, read_json(folder / store.CONFIG))
    if generator.fingerprint != about.fingerprint:
        raise InputError(
            f"the base {generator.name} is not the one that the rules in {folder} were made on: expected the "
            f"fingerprint {about.fingerprint[:12]}, found {generator.fingerprint[:12]}"
        )
    generator.rules = repository.rules_in(folder, about)
    for rule in generator.rules:
        generator.check(rule)
    return generator


def prefetch(name: str, *, on_step: Callable[[int, int], Any] = lambda done, of: None) -> str | None:
    """Bring to this machine what `load_generator` reads for this name, without loading it.

    Returns the revision, for `load_generator`, of what is on the Hub under this name; None for all else.

    Args:
        name: see `load_generator`; for what is a file or a folder there is nothing to do.
        on_step: told how many bytes of a download are there, and of how many; what it raises stops it.

    Raises:
        InputError: a download that failed, or a repository that holds no generator.
    """
    known = catalogue()
    if name in known and name != BUILT_IN:
        fetch(known[name], on_step=on_step)
    elif name not in known and on_hub(name):
        folder, commit = repository.fetch(name, on_step=on_step)
        about = repository.read(folder) if repository.is_published(folder) else None
        if about and about.known and not about.weights:
            prefetch(about.known, on_step=on_step)
        elif about and about.base and not about.weights:
            fetch(about.base, on_step=on_step)
        return commit
    return None


def on_hub(name: str) -> bool:
    """Whether this can only be a repository on the Hub: USER/NAME, and no path here."""
    return is_name(name) and not os.path.exists(name) and not name.endswith(SUFFIXES)


def default_device() -> torch.device:
    """The device that accelerate chooses."""
    return PartialState().device


def placed(module: Module, device: torch.device | str | None) -> Module:
    """A module, put on a device; None: what accelerate finds. InputError if that cannot be used here."""
    try:
        return module.to(default_device() if device is None else device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used here ({reason}): try cpu, cuda or mps") from error


def _read(entry: Entry | None, path: Path, conv_clamp: float | None) -> Generator:
    """A generator from a checkpoint, which is the entry's if there is one."""
    state, options = read_checkpoint(path)
    clamp = conv_clamp or options.get("conv_clamp") or (entry and entry.clamp)
    generator = convert(state, name=entry.id if entry else path.stem, **{**options, "conv_clamp": clamp})
    if conv_clamp is not None and not isinstance(generator, StyleGAN2):
        raise InputError(f"{path} is no StyleGAN2: it has no conv_clamp; leave it out")
    if entry is None:
        generator.origin = Origin(file=path.name)
    else:
        _belongs_to(generator, entry)
        generator.origin = replace(generator.origin, clamp=conv_clamp or entry.clamp)
    return generator


def _belongs_to(generator: Generator, entry: Entry) -> None:
    """Note whose it is and where to begin; InputError if it is not what the entry says."""
    if (found := store.architecture(generator)) != entry.architecture:
        raise InputError(f"{entry.id} is a {found}, and the catalogue says {entry.architecture}: correct the entry")
    if generator.resolution != entry.resolution:
        raise InputError(
            f"{entry.id} draws {generator.resolution} px, and the catalogue says {entry.resolution}: correct the entry"
        )
    generator.origin = entry.origin
    generator.advice = {good: layer for good, layer in entry.layers.items() if layer in generator.layers}


def _entry_of(path: Path, known: Iterable[Entry]) -> tuple[Entry | None, str]:
    """The entry whose file one's own is: by size, or name where that is not known; then by its hash, read once."""
    size = path.stat().st_size
    alike = [entry for entry in known if entry.size == size or not entry.size and path.name == Path(entry.file).name]
    hashed = [entry for entry in alike if entry.sha256]
    found = hash_of(path) if hashed else ""
    return next((entry for entry in hashed if found.startswith(entry.sha256 or "-")), None), found


def _unknown(name: str, known: Iterable[str]) -> str:
    if os.path.isdir(name):
        return (
            f"{name} is a folder without {store.CONFIG}: name a file in it, or a folder that `rewriter convert` wrote"
        )
    if name.endswith(SUFFIXES) or "/" in name or "\\" in name:
        return f"there is no file {name}: check the path, or use a name that `rewriter generators` lists"
    alike = get_close_matches(name, known)
    listed = ", ".join(alike or islice(known, 6))
    files = f"the path of a file that ends in {', '.join(SUFFIXES)}"
    return f"unknown generator {name!r}: use {listed} … (`rewriter generators` lists all), or {files}"
