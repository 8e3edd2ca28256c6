"""A photo from a file, or an image, to a picture of a generator: cut, found, adapted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from rewriter.editing.statistics import Statistics
from rewriter.errors import OnStep
from rewriter.generators.base import Generator, exact
from rewriter.generators.change import LowRank
from rewriter.generators.inverted import Inverted, as_picture, named
from rewriter.photo.adaptation import adapt
from rewriter.photo.exactness import SAME, psnr
from rewriter.photo.inversion import Inversion, OnPicture
from rewriter.photo.nearest import Thumbnails
from rewriter.photo.square import Crop, cut, middle, read

ADAPTED = 0.25  # faithfulness from which on the generator is adapted to the photo


def open_photo(
    generator: Generator,
    source: str | Path | bytes | Image.Image,
    *,
    crop: Crop | None = None,
    faithful: float = 0.5,
    effort: float = 1.0,
    statistics: Statistics | None = None,
    on_step: OnStep | None = None,
    on_picture: OnPicture | None = None,
    on_found: Callable[[Inverted], object] | None = None,
) -> Inverted:
    """Open a photo as a picture of a generator: `Rewriter.open` takes it, and `Generator.with_photos`.

    Args:
        generator: where it is looked for; without its rules.
        source: a file, its content, or an image.
        crop: the square to take; None: see `square.middle`.
        faithful: 0 … 1, see `Inversion`. Below ¼ the generator is not adapted.
        effort: a factor on the number of steps.
        statistics: of the generator, for the adaptation.
        on_step: progress, (steps done, of), of the inversion and then of the adaptation.
        on_picture: called with the picture so far, (3, H, W), now and then.
        on_found: called with the photo as it was found, before the adaptation.

    Raises:
        InputError: no image that can be read, a crop outside of it, or numbers out of range.
        CancelledError: `on_step` returned False.
    """
    image = source if isinstance(source, Image.Image) else read(source)
    photo = cut(image.convert("RGB"), middle(image) if crop is None else crop, generator.resolution)
    thumbnails = Thumbnails.of(generator, on_step=on_step)
    search = Inversion(generator, as_picture(photo), faithful=faithful, effort=effort, thumbnails=thumbnails)
    latent = search.run(on_step=on_step, on_picture=on_picture)
    found = inverted(generator, photo, latent)
    if on_found is not None:
        on_found(found)
    if faithful < ADAPTED or psnr(found.drawn, found.original) >= SAME:
        return found
    asked: dict[str, Any] = {"faithful": faithful, "effort": effort, "on_step": on_step, "on_picture": on_picture}
    own = adapt(generator, found.original, latent, statistics=statistics, **asked)
    adapted = inverted(generator, photo, latent, own)
    better = psnr(adapted.drawn, adapted.original) > psnr(found.drawn, found.original)
    return adapted if better else found  # a picture of the generator's own needs no adaptation


def inverted(generator: Generator, photo: Tensor, latent: Tensor, own: Sequence[LowRank] = ()) -> Inverted:
    """A photo (3, H, W), uint8, with what was found, and what the generator draws of that."""
    return Inverted(named(photo), photo, latent.to(generator.device), tuple(own), draw(generator, latent, own))


@torch.no_grad()
def draw(generator: Generator, latent: Tensor, changes: Sequence[LowRank] = ()) -> Tensor:
    """The picture (3, H, W) of the latents of a photo under changes: its own, and rules; without residue."""
    with exact(generator.device):
        return generator.picture(generator.enter(latent[None].to(generator.device)), rules=changes)[0]
