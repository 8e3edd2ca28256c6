"""The paper's pixel baselines: an edit painted into one picture, composited into others where they look alike.

    edited picture, mask ──best buddies of features──► sparse matches ──moving least squares──► a place for every pixel
                                                                                                      │
                    other picture ◄──copy, or blend a Laplacian pyramid── picture and mask, warped ◄──┘

"NBB + direct copying" and "NBB + Laplace blending" of Table 2, Bau et al. 2020. No rule is learned: a picture without
anything that corresponds is left as it is. Places are (row, column) in cells of the features from the top left corner,
so that the middle of the first cell is (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.editing.likeness import centre, shifted
from rewriter.errors import InputError
from rewriter.generators.filters import TAPS
from rewriter.masks import grow, resize

BLENDS = ("copy", "laplace")
PATCH = 3  # cells a side that are compared at once
ALIKE = 0.5  # cosine; the best of a thousand unrelated patches stays below half of that
RING = 1  # cells around the mask whose matches may follow those within it
GIVE, SLACK = 0.25, 1.0  # matches may move apart by a share of their distance, because sizes differ, and a cell
FEWEST, SHARE = 4, 0.1  # matches (three make an affine map, one more can contradict it), and of the mask's cells
STRETCH = 2.0  # no thing is drawn more than so many times larger or smaller
COARSEST = 8  # pixels a side at which a pyramid ends


@dataclass(frozen=True, eq=False)
class Edited:
    """The one picture that was edited by hand.

    picture: with the thing pasted in, (3, H, W) in [-1, 1]. mask: how much of each pixel is the thing's, (H, W) in
    [0, 1]. features: of the picture before anything was pasted, (c, h, w).
    """

    picture: Tensor
    mask: Tensor
    features: Tensor


def paste(copied: Tensor, thing: Tensor, target: Tensor, place: Tensor, features: Tensor) -> Edited:
    """Paste pixels of one picture onto another, the middle of the thing onto the middle of the place.

    Args:
        copied: the picture to copy from, (3, H, W) in [-1, 1].
        thing: what to copy, a mask (H, W) in [0, 1]; it becomes the alpha.
        target: the picture to paste onto, (3, H, W).
        place: where it goes, a mask (H, W); what leaves the picture is cut off.
        features: of the target, (c, h, w).

    Raises:
        InputError: shapes differ, or a mask is empty.
    """
    if copied.shape != target.shape or {thing.shape, place.shape} != {target.shape[1:]}:
        shapes = ", ".join(str(tuple(each.shape)) for each in (copied, thing, target, place))
        raise InputError(f"pictures (3, H, W) and masks (H, W) of one size are needed, not {shapes}: resize them")
    (top, left), (row, column) = centre(thing), centre(place)
    shift = round(row - top), round(column - left)
    alpha = shifted(thing, *shift)
    return Edited(torch.lerp(target, shifted(copied, *shift), alpha), alpha, features)


def propagate(reference: Edited, pictures: Tensor, features: Tensor, *, blend: str = "copy") -> Tensor:
    """Composite the thing into other pictures, at the place that corresponds to where it was pasted.

    Matches count if they lie within the mask or a cell beside it and move like the largest group of those within. A
    picture is left as it is, to the bit, if these are fewer than 4, or match less than a tenth of the mask's cells.

    Args:
        reference: the picture that was edited.
        pictures: other pictures (n, 3, H, W) in [-1, 1].
        features: theirs, (n, c, h, w), of the same layer as the reference's.
        blend: "copy" lays the warped pixels over the picture; "laplace" blends frequency by frequency, which hides
            the seam and lets colours run across it; like generators, it may overshoot [-1, 1] a little.

    Returns:
        pictures (n, 3, H, W).

    Raises:
        InputError: shapes do not fit each other, or there is no such blend.
    """
    size, cells = reference.mask.shape, reference.features.shape
    if blend not in BLENDS:
        raise InputError(f"there is no blend {blend!r}: choose one of {', '.join(BLENDS)}")
    if {reference.picture.shape, pictures.shape[1:]} != {(3, *size)} or features.shape != (len(pictures), *cells):
        given = f"{tuple(pictures.shape)} with features {tuple(features.shape)}"
        edited = f"{tuple(reference.picture.shape)} with a mask {tuple(size)} and features {tuple(cells)}"
        raise InputError(f"pictures are {given}, but the edited one is {edited}: give them one size and one layer")
    inside = resize(reference.mask, (cells[1], cells[2]))
    near, patches, received = grow(inside, RING, RING, RING, RING), _patches(reference.features), []
    for picture, own in zip(pictures, features, strict=True):
        there, here = _agreeing(*_mutual(patches, _patches(own), near)[:2], inside)
        received.append(_composite(reference, picture, there, here, blend) if len(there) else picture)
    return torch.stack(received) if received else pictures


def _composite(reference: Edited, picture: Tensor, there: Tensor, here: Tensor, blend: str) -> Tensor:
    """One picture (3, H, W) with the thing in it; the reference's places (k, 2) correspond to those `here`."""
    field = _field(here, there, reference.features.shape[1:], picture.shape[1:])
    thing = F.grid_sample(reference.picture[None], field[None], padding_mode="border", align_corners=False)[0]
    alpha = F.grid_sample(reference.mask[None, None], field[None], align_corners=False)[0, 0]
    return torch.lerp(picture, thing, alpha) if blend == "copy" else laplace(picture, thing, alpha)


def best_buddies(a: Tensor, b: Tensor, *, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cells of two feature maps that are each other's nearest neighbours (Aberman et al. 2018), in one layer.

    Compared are 3 × 3 patches by their cosine, after each picture's channels were standardised: a town at dusk then
    resembles the same town at noon.

    Args:
        a: features (c, h, w).
        b: features (c, h, w) of another picture.
        inside: cells of `a` whose matches are of interest, those above 0; (h, w).

    Returns:
        places (k, 2) in `a` and in `b` and their cosines (k,), none below 0.5; in `a`'s reading order.

    Raises:
        InputError: shapes differ.
    """
    if a.shape != b.shape or a.shape[1:] != inside.shape:
        shapes = ", ".join(str(tuple(each.shape)) for each in (a, b, inside))
        raise InputError(f"features (c, h, w) of the same layer and a mask (h, w) are needed, not {shapes}")
    return _mutual(_patches(a), _patches(b), inside)


def _mutual(own: Tensor, other: Tensor, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`best_buddies` of patches (d, h w)."""
    cells = (inside.flatten() > 0).nonzero()[:, 0]
    cosine, best = (own[:, cells].T @ other).max(1)
    keep = ((other[:, best].T @ own).argmax(1) == cells) & (cosine >= ALIKE)
    here, there = (torch.stack([at // inside.shape[1], at % inside.shape[1]], 1) + 0.5 for at in (cells, best))
    return here[keep], there[keep], cosine[keep]


def _patches(features: Tensor) -> Tensor:
    """Features (c, h, w) → the patch around each cell as a unit vector, (c · 9, h w)."""
    variance, mean = torch.var_mean(features, (1, 2), correction=0, keepdim=True)
    standard = ((features - mean) / variance.clamp_min(1e-12).sqrt())[None]
    padded = F.pad(standard, (PATCH // 2,) * 4, mode="replicate")
    return F.normalize(F.unfold(padded, PATCH)[0], dim=0)


def _agreeing(there: Tensor, here: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The matches that move with the one that most of the mask would follow (the sky moves apart from a tower).

    None if they are too few.
    """
    if not len(there):
        return there, here
    weight = inside[tuple(there.long().T)]
    apart, distance = ((each[:, None] - each).norm(dim=2) for each in (here - there, there))
    follows = apart <= GIVE * distance + SLACK
    keep = follows[(follows * weight).sum(1).argmax()]
    enough = keep.sum() >= FEWEST and (keep & (weight > 0)).sum() >= SHARE * (inside > 0).sum()
    return there[keep & enough], here[keep & enough]


def _field(points: Tensor, onto: Tensor, cells: torch.Size, size: torch.Size) -> Tensor:
    """Where each pixel comes from, (H, W, 2), as `grid_sample` wants it: x and y in [-1, 1].

    Solved at the corners of the cells and interpolated in between, so that large pictures cost little.
    """
    rows, columns = (torch.arange(count + 1, device=points.device) for count in cells)
    corners = torch.cartesian_prod(rows, columns).to(points)
    moved = moving_least_squares(points, onto, corners, blur=1.0, stretch=STRETCH).view(len(rows), len(columns), 2)
    scale = points.new_tensor([2 / cells[1], 2 / cells[0]])
    y, x = ((torch.arange(side, device=points.device) * 2 + 1) / side - 1 for side in size)
    pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)
    field = (moved.flip(2) * scale - 1).permute(2, 0, 1)
    return F.grid_sample(field[None], pixels[None], align_corners=True)[0].permute(1, 2, 0)


def moving_least_squares(
    points: Tensor, onto: Tensor, at: Tensor, *, blur: float = 0.0, stretch: float | None = None
) -> Tensor:
    """Deform the plane so that points go where they should: affine moving least squares (Schaefer et al. 2006).

    At each place, the affine map that suits the points best, the near ones counting most (1 / d²). What the points
    leave open is not turned or stretched: a single point says how to move, points on a line how to stretch along it.

    Args:
        points: (k, 2), k ≥ 1.
        onto: where they go, (k, 2).
        at: places to ask about, (m, 2).
        blur: distance below which points do not count for more, so that noise in them averages out; 0 interpolates.
        stretch: the local map neither enlarges nor shrinks more than so many times, nor flips; None: it may.

    Returns:
        where they go, (m, 2).

    Raises:
        InputError: there is no point, or not as many of both.
    """
    if not len(points) or points.shape != onto.shape:
        raise InputError(f"{len(points)} points onto {len(onto)}: one or more are needed, and as many of both")
    p, q, v = points.double(), onto.double(), at.double()
    weight = 1 / ((v[:, None] - p).square().sum(2) + max(blur**2, 1e-12))  # (m, k)
    weight = (weight / weight.sum(1, keepdim=True))[..., None]
    from_, to = (weight * p).sum(1, keepdim=True), (weight * q).sum(1, keepdim=True)
    spread, turned = ((weight * (p - from_)).mT @ each for each in (p - from_, q - to))  # (m, 2, 2)
    unsaid = 1e-9 * spread.diagonal(dim1=1, dim2=2).sum(1) + 1e-12  # against rounding
    prior = unsaid[:, None, None] * torch.eye(2).to(v)
    linear = torch.linalg.solve(spread + prior, turned + prior)
    if stretch is not None:
        linear = _held(linear, stretch)
    return ((v[:, None] - from_) @ linear + to)[:, 0].to(at)


def _held(linear: Tensor, stretch: float) -> Tensor:
    """Keep the singular values of maps (m, 2, 2) within [1 / stretch, stretch], in closed form.

    Every such map is a turn, enlarged by the mean of the two (the second negative if it flips), plus a reflection,
    enlarged by half their difference.
    """
    (a, b), (c, d) = linear[:, 0].T, linear[:, 1].T
    e, h, f, g = (a + d) / 2 + 1e-30, (c - b) / 2, (a - d) / 2, (c + b) / 2  # what turns nothing at all is upright
    turn, reflection = torch.hypot(e, h), torch.hypot(f, g)
    large, small = ((turn + sign * reflection).clamp(1 / stretch, stretch) for sign in (1, -1))
    more, less = (large + small) / 2 / turn, (large - small) / 2 / reflection.clamp_min(1e-30)
    e, h, f, g = e * more, h * more, f * less, g * less
    return torch.stack([torch.stack([e + f, g - h], 1), torch.stack([g + h, e - f], 1)], 1)


def laplace(below: Tensor, above: Tensor, mask: Tensor) -> Tensor:
    """Blend pictures frequency by frequency, each under the mask as smooth as itself (Burt & Adelson 1983).

    Args:
        below: picture (c, H, W), which shows where the mask is 0 all around.
        above: picture (c, H, W), which shows where it is 1.
        mask: (H, W) in [0, 1].

    Returns:
        (c, H, W).
    """
    return _blended(below[None], above[None], mask[None, None])[0]


def _blended(below: Tensor, above: Tensor, mask: Tensor) -> Tensor:
    size = mask.shape[2:]
    if min(size) < 2 * COARSEST:
        return torch.lerp(below, above, mask)
    low, high = _halved(below), _halved(above)
    fine = torch.lerp(below - _doubled(low, size), above - _doubled(high, size), mask)
    return fine + _doubled(_blended(low, high, _halved(mask)), size)


def _halved(image: Tensor) -> Tensor:
    row = image.new_tensor(TAPS) / sum(TAPS)
    kernel = torch.outer(row, row).expand(image.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=image.shape[1])


def _doubled(image: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(image, size=tuple(size), mode="bilinear", align_corners=False)
