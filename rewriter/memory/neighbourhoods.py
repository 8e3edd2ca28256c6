"""Neighbourhoods: all the keys that feed one value, through all taps; and their second moment, streamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.errors import ComputationError, InputError

if TYPE_CHECKING:
    from rewriter.generators.layer import Memory

RIDGE = 1e-4  # added to the diagonal of C, times its mean: what random pictures hardly show is not free to change


class Rows(NamedTuple):
    """Neighbourhoods of the values that one group of taps feeds."""

    which: Tensor  # of the places asked for, (m,)
    phi: Tensor  # (m, in, taps of the group)


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """How the keys around a value reach it: through which taps, and by how much where the layer upsamples and blurs.

    A layer treats all its channels and key cells alike, and keys beyond the border are zero. So what one channel's
    impulse causes near it tells everything.
    """

    impulse: Tensor  # (phases, window, taps): phases of value cells within a key cell, key cells around it
    groups: tuple[Tensor, ...]  # the taps in groups: those of different groups never feed the same value
    group_of: Tensor  # of each phase, (phases,)
    scale: int  # value cells per key cell
    side: int  # of the window
    before: int  # key cells of the window above and left of the value's own key cell

    @staticmethod
    def of(memory: Memory, size: tuple[int, int]) -> Neighbourhood:
        """Of a layer whose key maps have the given size, (h, w)."""
        side, kernel, weight = min(*size, 3), memory.weight.shape[2:], memory.weight
        taps = torch.eye(kernel.numel(), dtype=weight.dtype, device=weight.device).view(-1, 1, *kernel)
        impulses = torch.eye(side * side, dtype=weight.dtype, device=weight.device).view(-1, 1, side, side)
        answer = memory.response(impulses, taps)
        scale, before = answer.shape[2] // side, side // 2
        middle = slice(before * scale, (before + 1) * scale)
        impulse = answer[:, :, middle, middle].permute(2, 3, 0, 1).flatten(0, 1)
        feeds = (impulse != 0).any(1)  # (phases, taps)
        groups, group_of = _groups(feeds), feeds.new_zeros(len(feeds), dtype=torch.long)
        for number, group in enumerate(groups):
            group_of[feeds[:, group].any(1)] = number
        return Neighbourhood(impulse, groups, group_of, scale, side, before)

    def moment(self, channels: int) -> NeighbourhoodMoment:
        """An empty moment of such neighbourhoods."""
        return NeighbourhoodMoment(channels, [len(group) for group in self.groups])

    def gather(self, keys: Tensor, picture: Tensor, place: Tensor) -> list[Rows]:
        """Neighbourhoods of P values in keys (n, in, h, w), by group of taps.

        `picture` (P,) says which of the n each value is in, `place` (P,) where: its index in the flattened value map.
        """
        width, after = keys.shape[3] * self.scale, self.side - 1 - self.before
        row, column = place // width, place % width
        phase = row % self.scale * self.scale + column % self.scale
        padded = F.pad(keys, (self.before, after, self.before, after)).permute(0, 2, 3, 1)
        found = []
        for number, group in enumerate(self.groups):
            which = (self.group_of[phase] == number).nonzero().flatten()
            impulse = self.impulse[:, :, group]
            cells = (impulse != 0).any(2)[self.group_of == number].any(0).nonzero().flatten()
            rows = (row[which] // self.scale)[:, None] + cells // self.side
            columns = (column[which] // self.scale)[:, None] + cells % self.side
            seen = padded[picture[which][:, None], rows, columns]  # (m, cells, in)
            found.append(Rows(which, seen.transpose(1, 2) @ impulse[phase[which]][:, cells].to(keys)))
        return found


def _groups(feeds: Tensor) -> tuple[Tensor, ...]:
    """Groups of taps that are linked by a value that both feed, or through others; `feeds` (phases, taps)."""
    linked = feeds.T.float() @ feeds.float() + torch.eye(feeds.shape[1], device=feeds.device)
    for _ in range(len(linked).bit_length()):
        linked = (linked @ linked).clamp_max(1)
    firsts = (linked > 0).float().argmax(1)
    return tuple((firsts == first).nonzero().flatten() for first in firsts.unique())


class NeighbourhoodMoment:
    """Streamed C = E[φ φᵀ] (uncentred) over all places, one matrix for each group of taps; two of them merge.

    Products are formed in float32, a batch at a time, and added up in float64 on the CPU: with thousands of numbers a
    place, products in float64 take twice as long.
    """

    def __init__(self, channels: int, taps: Sequence[int]):
        self.channels, self.taps = channels, tuple(taps)  # taps of each group
        sizes = [channels * count for count in taps]
        self.totals = [torch.zeros(size, size, dtype=torch.float64) for size in sizes]  # Σ φ φᵀ, channel by channel
        self.count = 0  # places seen
        self._inverse: dict[int, tuple[int, Tensor]] = {}  # by group, with the count

    def update(self, rows: Sequence[Rows]) -> None:
        """Add neighbourhoods; ComputationError, and nothing is added, if they are not finite."""
        if not all(bool(each.phi.isfinite().all()) for each in rows):
            raise ComputationError("the layer's features are not finite: the weights are damaged or overflow here")
        for total, each in zip(self.totals, rows, strict=True):
            phi = each.phi.flatten(1)
            total += (phi.T @ phi).cpu()
            self.count += len(phi)

    def merge(self, other: NeighbourhoodMoment) -> None:
        """Add what another moment has seen."""
        if (self.channels, self.taps) != (other.channels, other.taps):
            raise InputError("these moments belong to different layers and do not merge")
        for total, more in zip(self.totals, other.totals, strict=True):
            total += more
        self.count += other.count

    def sums(self) -> dict[str, Tensor]:
        """What it holds, by name."""
        return {f"total{number}": total for number, total in enumerate(self.totals)}

    def ridge(self, group: int) -> float:
        """What is added to the diagonal of C to make it invertible."""
        if not self.count:
            raise InputError("no neighbourhoods yet: call update first")
        return RIDGE * max(float(self.totals[group].diagonal().mean()) / self.count, 1e-30)

    def matrix(self, group: int) -> Tensor:
        """C of a group of taps with the ridge, (in · taps, in · taps), float64."""
        matrix = self.totals[group] / max(1, self.count)
        matrix.diagonal().add_(self.ridge(group))
        return matrix

    def inverse(self, group: int) -> Tensor:
        """The inverse of `matrix`, float32; kept, because every edit of the layer needs it."""
        known = self._inverse.get(group)
        if known is None or known[0] != self.count:
            factor = torch.linalg.cholesky(self.matrix(group))
            known = self._inverse[group] = self.count, torch.cholesky_inverse(factor).float()
        return known[1]

    def through(self, group: int, directions: Tensor) -> Tensor:
        """`matrix` seen through orthonormal directions D (r, in) of the keys, (r · taps, r · taps)."""
        return through(self.totals[group], directions) / self.count + self.ridge(group) * torch.eye(
            len(directions) * self.taps[group], dtype=torch.float64
        )

    def of_keys(self, group: int) -> Tensor:
        """`matrix` as one of single keys, summed over the taps, (in, in)."""
        ridge = self.ridge(group) * self.taps[group] * torch.eye(self.channels, dtype=torch.float64)
        return of_keys(self.totals[group], self.channels) / self.count + ridge


def through(matrix: Tensor, directions: Tensor) -> Tensor:
    """A matrix (in · taps, in · taps) seen through directions D (r, in), (r · taps, r · taps)."""
    r, channels = directions.shape
    half = (directions @ matrix.view(channels, -1)).view(-1, channels, matrix.shape[0] // channels)
    return torch.einsum("aju,sj->asu", half, directions).flatten(1)


def of_keys(matrix: Tensor, channels: int) -> Tensor:
    """A matrix (in · taps, in · taps) as one of single keys, summed over the taps, (in, in)."""
    taps = len(matrix) // channels
    return torch.einsum("itjt->ij", matrix.view(channels, taps, channels, taps))
