"""Marked places → a template of keys; copied values and their like elsewhere → what to recall where it matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

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
PER_CODE = 8  # windows for each such number, at least
RIDGE = 10.0  # windows' worth of doubt about what a border means
RIM = 0.05  # a cell replaced less than this is border
OWN = 0.9, 2.0  # spread of the values at a cell from which on, and above which, the copied ones are kept as they are


def whitening(moment: SecondMoment, most: int = WHITENED) -> Tensor:
    """Z (m, in): the strongest principal directions of the keys, each divided by its spread."""
    values, vectors = torch.linalg.eigh(moment.matrix)
    strongest = values.flip(0)[:most] + FLOOR * values.mean()
    return (vectors.flip(1)[:, :most] * strongest.rsqrt()).T.float().contiguous()


@dataclass(frozen=True)
class Marked:
    """Marked places as a template."""

    template: Template
    patches: Tensor  # of each mark, (n, m, h, w)
    middle: tuple[float, float]  # where the marks lie in the template: (row, column) from its corner, in key cells

    def left_out(self) -> list[float]:
        """The cosine of each mark with the template of the others; with itself if it is the only one."""
        if len(self.patches) < 2:
            return [1.0]
        others = (self.patches.sum(0) - self.patches) / (len(self.patches) - 1)
        return F.cosine_similarity(self.patches.flatten(1), others.flatten(1)).tolist()


def template_of(keys: Tensor, centres: Sequence[tuple[float, float]], size: tuple[int, int], z: Tensor) -> Marked:
    """The mean of the marked patches.

    `keys` (n, in, h, w) are of the marked pictures, `centres` the marks' (row, column) in key cells; `size` is the
    template's height and width in key cells. Marks are drawn by hand, so each patch moves, by a cell at most, to where
    it is most like the mean of all.
    """
    whitened = torch.einsum("mi,nihw->nmhw", z, keys)
    corners = [_corner(centre, size, whitened.shape[2:]) for centre in centres]
    for _ in range(ALIGNED if len(centres) > 2 else 0):
        mean = Template(_patches(whitened, corners, size).mean(0), z)
        corners = [_better(mean.cosine(whitened[[i]])[0], at) for i, at in enumerate(corners)]
    offsets = [(r - y, c - x) for (r, c), (y, x) in zip(centres, corners, strict=True)]
    rows, columns = zip(*offsets, strict=True)
    patches = _patches(whitened, corners, size)
    return Marked(Template(patches.mean(0), z), patches, (fmean(rows), fmean(columns)))


def _corner(centre: tuple[float, float], size: tuple[int, int], total: Sequence[int]) -> tuple[int, int]:
    """Corner of the patch around a place, inside the map."""
    pairs = zip(centre, size, total, strict=True)
    row, column = (max(0, min(side - part, round(middle - part / 2))) for middle, part, side in pairs)
    return row, column


def _patches(maps: Tensor, corners: Sequence[tuple[int, int]], size: tuple[int, int]) -> Tensor:
    """One patch of each map, (n, m, h, w)."""
    return torch.stack([m[:, y : y + size[0], x : x + size[1]] for m, (y, x) in zip(maps, corners, strict=True)])


def _better(scores: Tensor, at: tuple[int, int]) -> tuple[int, int]:
    """The best corner within a cell of this one."""
    rows, columns = (range(max(0, i - 1), min(side, i + 2)) for i, side in zip(at, scores.shape, strict=True))
    return max(((row, column) for row in rows for column in columns), key=lambda place: float(scores[place]))


def transplant(windows: Tensor, source: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What to recall: the copied window, corrected by what differs in the light; → copied, encode, decode.

    Across windows (N, out, H', W') of places like the marked ones, ridge regression tells what the border of a window
    says of its inside: how bright it is, what colour the skin has. A window w then becomes source + B (code(w) −
    code(source)). Cells at which the source is unlike all that the border could tell are the thing itself: there the
    correction fades, and the copied values stay as they are. `alpha` (H', W'): how far each cell is replaced. Where
    there are too few windows to tell, nothing is corrected.
    """
    n, shape = len(windows), windows.shape[1:]
    if n < PER_CODE:
        return source, source.new_zeros(0, *shape), source.new_zeros(0, *shape)
    border = (alpha < RIM).expand(shape).flatten()
    flat = windows.flatten(1).double()
    x, mean = flat[:, border], flat.mean(0)
    spread = x.std(0).clamp_min(1e-6)
    centred = (x - mean[border]) / spread
    encode = flat.new_zeros(min(CODES, n // PER_CODE), flat.shape[1])
    strengths, vectors = torch.linalg.eigh(centred @ centred.T)  # n × n: there are fewer windows than values in one
    strengths = strengths.clamp_min(max(float(strengths[-1]), 1.0) * 1e-9)  # windows may differ in fewer ways
    principal = vectors.flip(1)[:, : len(encode)].T @ centred / strengths.flip(0)[: len(encode), None].sqrt()
    encode[:, border] = principal / spread
    codes = (flat - mean) @ encode.T
    gram = codes.T @ codes + RIDGE * torch.eye(len(encode), dtype=torch.float64)
    decode = torch.linalg.solve(gram, codes.T @ (flat - mean))
    left = (flat - mean - codes @ decode).std(0).view(shape)
    own = source.flatten().double() - mean
    unlike = (own - (own @ encode.T) @ decode).view(shape) / left.clamp_min(max(float(left.mean()) * 0.1, 1e-6))
    distance = unlike.square().mean(0).sqrt()
    smooth = F.avg_pool2d(F.max_pool2d(distance[None], 3, 1, 1), 3, 1, 1, count_include_pad=False)[0]
    kept = ((smooth - OWN[0]) / (OWN[1] - OWN[0])).clamp(0, 1)
    decode = decode.view(-1, *shape) * (1 - kept)
    copied = source.double() - torch.einsum("q,qohw->ohw", source.flatten().double() @ encode.T, decode)
    return copied.float(), encode.view(-1, *shape).float(), decode.float()
