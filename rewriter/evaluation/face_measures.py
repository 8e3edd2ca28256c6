"""What is measured where a copied thing belongs on a face: how much of it is there, and how clearly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.masks import bounds

RING = 4  # px, the width of the ring around the thing's place in which seams are counted
REACH = 3  # px that the thing may lie off its place
ENOUGH = -0.3  # logarithm of the amplitude of detail, relative to the thing's, from which nothing is faint
COARSE = 1.5  # px of blur that parts colours from fine detail


@dataclass(frozen=True)
class Place:
    """Where a copied thing belongs on n faces: the thing (n, 3, H, W) in [-1, 1], and its soft mask (n, H, W)."""

    thing: Tensor
    mask: Tensor

    def pasted(self, pictures: Tensor) -> Tensor:
        """The thing's own pixels on pictures (n, 3, H, W): what an ideal edit would come near to."""
        return torch.lerp(pictures, self.thing, self.mask[:, None])


def grown(masks: Tensor, margin: int) -> Tensor:
    """Soft masks (n, H, W) → bool, grown by a margin in px."""
    return F.max_pool2d(masks[:, None], 2 * margin + 1, 1, margin)[:, 0] > 0.1


def gradients(pictures: Tensor) -> Tensor:
    """Central differences of the brightness along x and y, in shares of its range a pixel, (n, 2, H, W)."""
    grey = F.pad(brightness(pictures), (1, 1, 1, 1), mode="replicate")
    across, down = grey[:, :, 1:-1, 2:] - grey[:, :, 1:-1, :-2], grey[:, :, 2:, 1:-1] - grey[:, :, :-2, 1:-1]
    return torch.cat([across, down], 1) / 2


def brightness(pictures: Tensor) -> Tensor:
    """The brightness of pictures in [-1, 1], as a range of length 1: (n, 1, H, W)."""
    return (pictures * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True) / 2


def blurred(maps: Tensor, sigma: float = COARSE) -> Tensor:
    """Maps (n, c, H, W) under a Gaussian of `sigma` px; the rim is continued."""
    reach, channels = round(3 * sigma), maps.shape[1]
    kernel = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(channels, 1, 1, -1)
    across = F.conv2d(F.pad(maps, (reach, reach, 0, 0), mode="replicate"), kernel, groups=channels)
    return F.conv2d(F.pad(across, (0, 0, reach, reach), mode="replicate"), kernel.mT, groups=channels)


def measured(place: Place, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of `face_score.FEATURES`, (n, 4), at the best of all shifts by `REACH`, and the match there, (n,).

    *Strength* is how strongly the thing's fine detail is there (1: as copied), *colour* how much nearer the colours
    came (see `_likeness`), *match gained* the gain in the correlation of fine detail, and *faintness* how much less
    detail of any kind there is than the thing has, as a logarithm: high where it is blurred.
    """
    box, mask = bounds(place.mask.amax(0), above=0.05), place.mask[:, None]
    mask = mask[..., box.rows, box.columns]
    thing = [each[..., box.rows, box.columns] for each in _fine_and_coarse(place.thing)]
    rows, columns = (slice(part.start, part.stop + 2 * REACH) for part in (box.rows, box.columns))
    padded = (F.pad(torch.cat(_fine_and_coarse(each), 1), (REACH,) * 4, mode="replicate") for each in (before, after))
    old, new = (each[..., rows, columns] for each in padded)
    matches = [_matches(each[:, :1], thing[0], mask).flatten(1) for each in (old, new)]
    match, best = matches[1].max(1)
    gained = match - matches[0].gather(1, best[:, None])[:, 0]
    old, new = (_window(each, best, mask.shape[2:]) for each in (old, new))
    strength = (new[:, :1] * thing[0] * mask).sum((1, 2, 3)) / (thing[0].square() * mask).sum((1, 2, 3))
    colour = _likeness(new[:, 1:], old[:, 1:], thing[1], mask)
    there, wanted = ((each.square() * mask).sum((1, 2, 3)) for each in (new[:, :1], thing[0]))
    faintness = (ENOUGH - ((there + 1e-6) / (wanted + 1e-6)).log() / 2).clamp(0, 2)
    return torch.stack([strength.clamp(-0.5, 1.5), colour, gained, faintness], 1), match


def _fine_and_coarse(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """The fine detail of the brightness, (n, 1, H, W), and the colours without it, (n, 3, H, W)."""
    grey = brightness(pictures)
    return grey - blurred(grey), blurred(pictures)


def _matches(maps: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Correlation of a pattern (n, 1, h, w) under masks with every window of a larger map (n, 1, H, W)."""
    product = _each_with_its_own(maps, wanted * mask)
    power = _each_with_its_own(maps.square(), mask)
    norm = (wanted.square() * mask).sum((1, 2, 3))
    return product / (power * norm[:, None, None]).sqrt().clamp_min(1e-6)


def _each_with_its_own(maps: Tensor, kernels: Tensor) -> Tensor:
    """Maps (n, c, H, W) correlated each with its own kernel (n, c, h, w): (n, H - h + 1, W - w + 1)."""
    height, width = kernels.shape[2:]
    down, across = maps.shape[2] - height + 1, maps.shape[3] - width + 1
    shifts = [maps[:, :, y : y + height, x : x + width] for y in range(down) for x in range(across)]
    return torch.stack([(shift * kernels).sum((1, 2, 3)) for shift in shifts], 1).unflatten(1, (down, across))


def _window(maps: Tensor, best: Tensor, size: Sequence[int]) -> Tensor:
    """The window of maps (n, c, H, W) at the best of the places, which are numbered row by row: (n, c, h, w)."""
    (height, width), across = size, 2 * REACH + 1
    tops, lefts = (best // across).tolist(), (best % across).tolist()
    return torch.stack([m[:, y : y + height, x : x + width] for m, y, x in zip(maps, tops, lefts, strict=True)])


def _likeness(after: Tensor, before: Tensor, thing: Tensor, mask: Tensor) -> Tensor:
    """How much nearer to the thing's colours the picture came: 0 as before, 1 the thing itself, at least -1; (n,)."""
    was, now = (((each - thing).square() * mask).sum((1, 2, 3)) for each in (before, after))
    return (1 - now / was.clamp_min(1e-4)).clamp(-1, 1)


def seam(mask: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Mean gain in the strength of edges on the ring around masks, in 1/255 a pixel, (n,)."""
    ring = grown(mask, RING) & ~(mask > 0.1)
    old, new = (gradients(each).square().sum(1).sqrt() * 255 for each in (before, after))
    return ((new - old) * ring).sum((1, 2)) / ring.sum((1, 2)).clamp_min(1)
