"""Inverted: a photo as a generator draws it, so that it is a picture like those of seeds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.generators.change import LowRank, identity

HELD, LET_GO = 2.0, 8.0  # change by edits, in 1/255, up to which the residue is shown, and from which it is not
SOFT = 32  # of the picture's side: how far around a change the residue fades, as one part of so many


@dataclass(frozen=True, eq=False)
class Inverted:
    """A photo, where it was found in a generator, and what the generator lacked to draw it.

    Attributes:
        name: how places on the photo name it: "photo-" and sixteen digits of its content's hash.
        photo: the photo itself, (3, H, W) at the generator's resolution, uint8.
        latent: what `Generator.enter` takes, without the axis of a batch.
        own: changes for this photo only, small and of low rank.
        drawn: what the generator draws of it with these, (3, H, W), float32.
    """

    name: str
    photo: Tensor
    latent: Tensor
    own: tuple[LowRank, ...]
    drawn: Tensor

    @cached_property
    def original(self) -> Tensor:
        """The photo, (3, H, W) in [-1, 1]."""
        return as_picture(self.photo).to(self.drawn)

    @cached_property
    def identity(self) -> str:
        """Forty hexadecimal digits of where it was found and with which changes: one photo can be found twice."""
        latent = self.latent.detach().cpu().contiguous().numpy().tobytes()
        return hashlib.sha256(f"{self.name} {identity(self.own)}".encode() + latent).hexdigest()[:40]

    def finish(self, picture: Tensor) -> Tensor:
        """A picture (3, H, W) that the generator draws of it, perhaps edited, with what is left of the photo.

        That residue, photo less `drawn`, fades out around every place that edits change.
        """
        return picture + self.kept(picture) * (self.original - self.drawn)

    def kept(self, picture: Tensor) -> Tensor:
        """Where a picture (3, H, W) of it is as it was drawn, softly: (H, W), 1 there and 0 where edits changed it."""
        change = (picture - self.drawn).abs().amax(0)[None, None] * 127.5
        reach = max(1, picture.shape[-1] // SOFT)
        near = F.max_pool2d(change, 2 * reach + 1, 1, reach)
        shown = 1 - ((near - HELD) / (LET_GO - HELD)).clamp(0, 1)
        soft = F.avg_pool2d(F.pad(shown, [reach] * 4, mode="replicate"), 2 * reach + 1, 1)
        return torch.minimum(shown, soft)[0, 0]


def as_picture(photo: Tensor) -> Tensor:
    """A photo (3, H, W), uint8, as a picture in [-1, 1]."""
    return photo.float() / 127.5 - 1


def named(photo: Tensor) -> str:
    """The name of a photo (3, H, W), uint8: of its shape and its pixels."""
    content = f"{tuple(photo.shape)}".encode() + photo.cpu().contiguous().numpy().tobytes()
    return f"photo-{hashlib.sha256(content).hexdigest()[:16]}"
