"""What a name means, and how it becomes a generator: `resolve(name)` asks no network, `Source.load` reads it.

townscape        a built-in generator; portraits and townscape-128 are others
church           an entry of the catalogue: a file that is downloaded once
my-model/        a folder that `rewriter convert` or `rewriter publish --out` wrote
my-model.pkl     a checkpoint file
ada/spires       a repository on the Hub that `rewriter publish` wrote
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

import torch

from rewriter.checkpoints import SUFFIXES
from rewriter.checkpoints.catalogue import catalogue
from rewriter.checkpoints.client import is_name
from rewriter.checkpoints.config import CONFIG
from rewriter.errors import InputError, OnStep
from rewriter.generators.base import Generator
from rewriter.hub.sources import File, Folder, Known, Repository, Source


def load_generator(
    name: str,
    *,
    device: torch.device | str | None = None,
    revision: str | None = None,
    conv_clamp: float | None = None,
    mapping_rate: float | None = None,
    on_step: OnStep | None = None,
) -> Generator:
    """Load a generator by name.

    Args:
        name: "townscape" or another built-in generator; an id of the catalogue (`rewriter generators` lists them),
            which is downloaded once; the path of a checkpoint, or of a folder that `rewriter convert` wrote; or
            USER/NAME on the Hub, a generator that `publish` put there, which brings its rules along.
        revision: for USER/NAME: a branch, a tag or a commit; None: the newest.
        device: where to put it; None: what accelerate finds (CUDA, MPS or CPU).
        conv_clamp: clamp of the features, for a file that does not store it; StyleGAN2-ADA's is 256.
        mapping_rate: relative learning rate of a StyleGAN's mapping network, which multiplies its weights, for a file
            that does not store it; None: 0.01, as in the original implementations.
        on_step: called with the bytes downloaded and the bytes in all; returning False cancels the download.

    Raises:
        InputError: an unknown name, a download that failed, or a file that is damaged, hostile or of an unknown layout.
        CancelledError: `on_step` returned False.
    """
    return resolve(name, revision=revision).load(
        device=device, conv_clamp=conv_clamp, mapping_rate=mapping_rate, on_step=on_step
    )


def resolve(name: str, *, revision: str | None = None) -> Source:
    """What a name means, without asking any network; InputError if nothing. Arguments as for `load_generator`."""
    known = catalogue()
    if revision and (name in known or os.path.exists(name)):
        raise InputError(f"{name} has no revisions: leave revision out")
    if name in known:
        return Known(name, known[name])
    if name and os.path.isfile(os.path.join(name, CONFIG)):
        return Folder(name, Path(name))
    if os.path.isfile(name):
        return File(name)
    if is_name(name) and not os.path.exists(name) and not name.endswith(SUFFIXES):
        return Repository(name, revision or None)
    raise InputError(_unknown(name, known))


def _unknown(name: str, known: Iterable[str]) -> str:
    if os.path.isdir(name):
        return f"{name} is a folder without {CONFIG}: name a file in it, or a folder that `rewriter convert` wrote"
    if name.endswith(SUFFIXES) or "/" in name or "\\" in name:
        return f"there is no file {name}: check the path, or use a name that `rewriter generators` lists"
    listed = ", ".join(get_close_matches(name, known) or islice(known, 6))
    files = f"the path of a file that ends in {', '.join(SUFFIXES)}"
    return f"unknown generator {name!r}: use {listed} … (`rewriter generators` lists all), or {files}"
