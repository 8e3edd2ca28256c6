"""The paper's pixel baselines: a pasted thing is copied to the corresponding place of other pictures.

    edited picture, mask ──best buddies of features──► sparse matches ──moving least squares──► a place for every pixel
                                                                                                      │
                    other picture ◄──copy, or blend a Laplacian pyramid── picture and mask, warped ◄──┘

"NBB + direct copying" and "NBB + Laplace blending" of Table 2, Bau et al. 2020. No rule is learned: a picture in which
nothing corresponds is not changed. Places are (row, column) in cells of the features; the centre of the first cell is
(0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.editing.likeness import moved
from rewriter.generators.filters import TAPS
from rewriter.masks import grow, resize

PATCH = 3  # cells a side that are compared at once
SIMILAR = 0.5  # least cosine of a match; the best of a thousand unrelated patches stays below half of that
RING = 1  # cells around the mask whose matches may follow those within it
GIVE, SLACK = 0.25, 1.0  # two matches agree if they move apart by less than this share of their distance, and a cell
FEWEST, SHARE = 4, 0.1  # matches that are needed (three fit any affine map), and their share of the mask's cells
STRETCH = 2.0  # a thing becomes at most this many times larger or smaller
COARSEST = 8  # pixels a side at which a pyramid ends


@dataclass(frozen=True, eq=False)
class Edited:
    """The picture that was edited."""

    picture: Tensor  # with the thing pasted in, (3, H, W) in [-1, 1]
    mask: Tensor  # opacity of the thing, (H, W) in [0, 1]
    features: Tensor  # of the picture before pasting, (c, h, w)


def paste(copied: Tensor, thing: Tensor, target: Tensor, place: Tensor, features: Tensor) -> Edited:
    """Paste a thing from one picture (3, H, W) onto another, centre on centre; `features` are the target's.

    Thing and place are masks (H, W). What leaves the picture is cut off.
    """
    picture, alpha = moved(copied, thing, place)
    return Edited(torch.lerp(target, picture, alpha), alpha, features)


def propagate(reference: Edited, pictures: Tensor, features: Tensor, *, blend: str = "copy") -> Tensor:
    """Paste the thing into other pictures (n, 3, H, W), at the place that corresponds to the reference's.

    Matches count if they lie within the mask or a cell beside it, and move like the largest group of those within. With
    fewer than 4, or fewer than a tenth of the mask's cells, a picture is not changed. `features` (n, c, h, w) are of
    the same layer as the reference's. Blend "copy" lays the warped pixels over the picture; "laplace" blends a
    Laplacian pyramid, which hides the seam, lets colours run across it and may overshoot [-1, 1] a little.
    """
    inside = resize(reference.mask, (features.shape[2], features.shape[3]))
    near, received = grow(inside, RING, RING, RING, RING), []
    for picture, own in zip(pictures, features, strict=True):
        there, here = _agreeing(*best_buddies(reference.features, own, inside=near)[:2], inside)
        received.append(_composite(reference, picture, there, here, blend) if len(there) else picture)
    return torch.stack(received) if received else pictures


def _composite(reference: Edited, picture: Tensor, there: Tensor, here: Tensor, blend: str) -> Tensor:
    """One picture (3, H, W) with the thing; places `there` (k, 2) of the reference correspond to those `here`."""
    field = _field(here, there, reference.features.shape[1:], picture.shape[1:])[None]
    thing = F.grid_sample(reference.picture[None], field, padding_mode="border", align_corners=False)
    alpha = F.grid_sample(reference.mask[None, None], field, align_corners=False)
    return (torch.lerp if blend == "copy" else laplace)(picture[None], thing, alpha)[0]


def best_buddies(a: Tensor, b: Tensor, *, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cells of two feature maps (c, h, w) that are each other's nearest neighbours (Aberman et al. 2018), in one layer.

    Patches of 3 × 3 cells are compared by their cosine. Only cells of `a` where `inside` (h, w) is positive count.
    Returns places (k, 2) in `a` and in `b`, and their cosines (k,), at least 0.5, in the reading order of `a`.
    """
    own, other, cells = _patches(a), _patches(b), (inside.flatten() > 0).nonzero()[:, 0]
    cosine, best = (own[:, cells].T @ other).max(1)
    keep = ((other[:, best].T @ own).argmax(1) == cells) & (cosine >= SIMILAR)
    here, there = (torch.stack([at // inside.shape[1], at % inside.shape[1]], 1) + 0.5 for at in (cells, best))
    return here[keep], there[keep], cosine[keep]


def _patches(features: Tensor) -> Tensor:
    """Features (c, h, w) → the patch around each cell as a unit vector, (c · 9, h·w).

    Channels are standardised, so that a town at dusk resembles the same town at noon.
    """
    variance, mean = torch.var_mean(features, (1, 2), correction=0, keepdim=True)
    standard = ((features - mean) / variance.clamp_min(1e-12).sqrt())[None]
    padded = F.pad(standard, (PATCH // 2,) * 4, mode="replicate")
    return F.normalize(F.unfold(padded, PATCH)[0], dim=0)


def _agreeing(there: Tensor, here: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The largest group of matches, by the mask's weight, that move together; none if they are too few."""
    if not len(there):
        return there, here
    weight = inside[tuple(there.long().T)]
    apart, distance = ((each[:, None] - each).norm(dim=2) for each in (here - there, there))
    agrees = apart <= GIVE * distance + SLACK
    keep = agrees[(agrees * weight).sum(1).argmax()]
    enough = keep.sum() >= FEWEST and (keep & (weight > 0)).sum() >= SHARE * (inside > 0).sum()
    return there[keep & enough], here[keep & enough]


def _field(points: Tensor, onto: Tensor, cells: torch.Size, size: torch.Size) -> Tensor:
    """Where each pixel comes from, (H, W, 2), as `grid_sample` wants it: x and y in [-1, 1].

    It is solved at the corners of the cells and interpolated in between, which is cheap for large pictures.
    """
    rows, columns = (torch.arange(count + 1, device=points.device) for count in cells)
    corners = torch.cartesian_prod(rows, columns).to(points)
    moved = moving_least_squares(points, onto, corners, blur=1.0, stretch=STRETCH).view(len(rows), len(columns), 2)
    field = (moved.flip(2) * points.new_tensor([2 / cells[1], 2 / cells[0]]) - 1).permute(2, 0, 1)
    y, x = ((torch.arange(side, device=points.device) * 2 + 1) / side - 1 for side in size)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)
    return F.grid_sample(field[None], grid[None], align_corners=True)[0].permute(1, 2, 0)


def moving_least_squares(
    points: Tensor, onto: Tensor, at: Tensor, *, blur: float = 0.0, stretch: float | None = None
) -> Tensor:
    """Deform the plane by affine moving least squares (Schaefer et al. 2006).

    Points (k, 2) go onto others (k, 2); each place `at` (m, 2) moves by the affine map that fits the points best,
    weighted by 1 / d². What the points do not determine is the identity: one point gives a translation, points on a
    line stretch only along it. Nearer than `blur` weights are equal, so that noise averages out; 0 interpolates.
    `stretch` limits how much a map enlarges or shrinks, and forbids flips.
    """
    p, q, v = points.double(), onto.double(), at.double()
    weight = 1 / ((v[:, None] - p).square().sum(2) + max(blur**2, 1e-12))  # (m, k)
    weight = (weight / weight.sum(1, keepdim=True))[..., None]
    from_, to = (weight * p).sum(1, keepdim=True), (weight * q).sum(1, keepdim=True)
    spread, turned = ((weight * (p - from_)).mT @ each for each in (p - from_, q - to))  # (m, 2, 2)
    undetermined = 1e-9 * spread.diagonal(dim1=1, dim2=2).sum(1) + 1e-12  # against rounding
    prior = undetermined[:, None, None] * torch.eye(2).to(v)
    linear = torch.linalg.solve(spread + prior, turned + prior)
    linear = linear if stretch is None else _limited(linear, stretch)
    return ((v[:, None] - from_) @ linear + to)[:, 0].to(at)


def _limited(linear: Tensor, stretch: float) -> Tensor:
    """Keep the singular values of maps (m, 2, 2) within [1 / stretch, stretch], in closed form.

    A map is a rotation scaled by the mean of its singular values (the second negative if it flips) plus a reflection
    scaled by half their difference.
    """
    (a, b), (c, d) = linear[:, 0].T, linear[:, 1].T
    e, h, f, g = (a + d) / 2 + 1e-30, (c - b) / 2, (a - d) / 2, (c + b) / 2  # 1e-30: a zero map is not rotated
    rotation, reflection = torch.hypot(e, h), torch.hypot(f, g)
    large, small = ((rotation + sign * reflection).clamp(1 / stretch, stretch) for sign in (1, -1))
    more, less = (large + small) / 2 / rotation, (large - small) / 2 / reflection.clamp_min(1e-30)
    e, h, f, g = e * more, h * more, f * less, g * less
    return torch.stack([torch.stack([e + f, g - h], 1), torch.stack([g + h, e - f], 1)], 1)


def laplace(below: Tensor, above: Tensor, mask: Tensor) -> Tensor:
    """Blend pictures (n, c, H, W) by a Laplacian pyramid (Burt & Adelson 1983); `above` shows where the mask is 1.

    The mask is (n, 1, H, W).
    """
    size = mask.shape[2:]
    if min(size) < 2 * COARSEST:
        return torch.lerp(below, above, mask)
    low, high = _halved(below), _halved(above)
    fine = torch.lerp(below - _doubled(low, size), above - _doubled(high, size), mask)
    return fine + _doubled(laplace(low, high, _halved(mask)), size)


def _halved(image: Tensor) -> Tensor:
    row = image.new_tensor(TAPS) / sum(TAPS)
    kernel = torch.outer(row, row).expand(image.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=image.shape[1])


def _doubled(image: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(image, size=tuple(size), mode="bilinear", align_corners=False)
