"""Marked places → a template of keys; copied values and their like elsewhere → what to recall where it matches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.generators.template import Template
from rewriter.memory.second_moment import SecondMoment

WHITENED = 64  # principal directions of the keys that a template looks at: with 256 it finds no better places
FLOOR = 1e-2  # of the mean eigenvalue of C, added to each: weak directions are mostly noise
MARGIN = 1  # key cells around a mark that belong to its template: surroundings place it better than the thing alone
ALIGNED = 2  # times that the marks are aligned with their mean
CODES = 8  # numbers that say what a border is like: more would follow the thing itself
RIDGE = 10.0  # windows' worth of doubt about what a border means
RIM = 0.05  # a cell replaced less than this is border
OWN = 1.8, 3.3  # spread of the values at a cell from which on, and above which, the copied ones are kept as they are


def whitening(moment: SecondMoment, most: int = WHITENED) -> Tensor:
    """Z (m, in): the strongest principal directions of the keys, each divided by its spread."""
    values, vectors = torch.linalg.eigh(moment.matrix)
    strongest = values.flip(0)[:most] + FLOOR * values.mean()
    return (vectors.flip(1)[:, :most] * strongest.rsqrt()).T.float().contiguous()


def template_of(
    keys: Tensor, centres: Sequence[tuple[float, float]], size: tuple[int, int], z: Tensor
) -> tuple[Template, tuple[float, float]]:
    """The mean of the marked patches, and where the marks lie in it: (row, column) from its corner, in key cells.

    `keys` (n, in, h, w) are of the marked pictures, `centres` the marks' (row, column) in key cells; `size` is the
    template's height and width in key cells. Marks are drawn by hand, so each patch moves, by a cell at most, to where
    it is most like the mean of all.
    """
    whitened = torch.einsum("mi,nihw->nmhw", z, keys)
    total, corners = whitened.shape[2:], []
    for centre in centres:
        pairs = zip(centre, size, total, strict=True)
        corners.append(tuple(max(0, min(side - part, round(middle - part / 2))) for middle, part, side in pairs))
    cut = lambda i, y, x: whitened[i, :, y : y + size[0], x : x + size[1]]  # noqa: E731
    for _ in range(ALIGNED if len(centres) > 2 else 0):
        mean, moved = torch.stack([cut(i, *c) for i, c in enumerate(corners)]).mean(0), []
        for i, (y, x) in enumerate(corners):
            scores = Template(mean, z).cosine(whitened[i : i + 1])[0]
            near = [(r, c) for r in range(y - 1, y + 2) for c in range(x - 1, x + 2)]
            near = [(r, c) for r, c in near if 0 <= r < scores.shape[0] and 0 <= c < scores.shape[1]]
            moved.append(max(near, key=lambda at: float(scores[at])))
        corners = moved
    patches = torch.stack([cut(i, *corner) for i, corner in enumerate(corners)])
    offsets = [(r - y, c - x) for (r, c), (y, x) in zip(centres, corners, strict=True)]
    mean = tuple(sum(axis) / len(offsets) for axis in zip(*offsets, strict=True))
    return Template(patches.mean(0), z), (mean[0], mean[1])


def transplant(windows: Tensor, source: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What to recall: the copied window, corrected by what differs in the light; → copied, encode, decode.

    Across windows (N, out, H', W') of places like the marked ones, ridge regression tells what the border of a window
    says of its inside: how bright it is, what colour the skin has. A window w then becomes source + B (code(w) −
    code(source)). Cells at which the source is unlike all that the border could tell are the thing itself: there the
    correction fades, and the copied values stay as they are. `alpha` (H', W'): how far each cell is replaced.
    """
    n, shape = len(windows), windows.shape[1:]
    border = (alpha < RIM).expand(shape).flatten()
    flat = windows.flatten(1).double()
    x, mean = flat[:, border], flat.mean(0)
    spread = x.std(0).clamp_min(1e-6)
    centred = (x - mean[border]) / spread
    _, _, principal = torch.linalg.svd(centred, full_matrices=False)
    encode = flat.new_zeros(min(CODES, n // 8, len(principal)), flat.shape[1])
    encode[:, border] = principal[: len(encode)] / spread
    codes = (flat - mean) @ encode.T
    gram = codes.T @ codes + RIDGE * torch.eye(len(encode), dtype=torch.float64)
    decode = torch.linalg.solve(gram, codes.T @ (flat - mean))
    left = (flat - mean - codes @ decode).std(0).view(shape)
    own = source.flatten().double() - mean
    unlike = (own - (own @ encode.T) @ decode).view(shape) / left.clamp_min(float(left.mean()) * 0.1)
    distance = unlike.square().mean(0).sqrt()
    smooth = F.avg_pool2d(F.max_pool2d(distance[None], 3, 1, 1), 3, 1, 1, count_include_pad=False)[0]
    kept = ((smooth - OWN[0]) / (OWN[1] - OWN[0])).clamp(0, 1)
    decode = decode.view(-1, *shape) * (1 - kept)
    copied = source.double() - torch.einsum("q,qohw->ohw", source.flatten().double() @ encode.T, decode)
    return copied.float(), encode.view(-1, *shape).float(), decode.float()
