"""Rules beside the weight: memories of their own, which answer only where their context is.

A change of W answers a little everywhere, because no key is exactly orthogonal to D, and because it changes every
output's norm. A rule beside W has a gate. Where the gate is shut, nothing changes, to the bit, and demodulation is
always that of W. Such a rule does not fold into W: each rule keeps a change of W as well, for files of other programs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rewriter.generators.template import Template

if TYPE_CHECKING:
    from rewriter.generators.layer import Memory


class Beside(ABC):
    """A memory beside a layer's weight."""

    @abstractmethod
    def change(self, memory: Memory, keys: Tensor, sigma: Tensor | None, response: Tensor) -> Tensor:
        """What to add to the demodulated response (n, out, H, W), for keys (n, in, h, w) and σ (n, out)."""

    @abstractmethod
    def matches(self, keys: Tensor) -> Tensor:
        """How far the gate is open at each key, (n, h, w) in 0 … 1."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""


@dataclass(frozen=True, eq=False)
class Gated(Beside):
    """Λ Dᵀ behind a gate on the first direction: y += σ Λ ∗ (g · D k), with g from 0 below `low` to 1 above `high`."""

    delta: Tensor  # Λ (out, r, kh, kw)
    directions: Tensor  # D (r, in)
    low: float  # response to the first direction
    high: float

    def tensors(self) -> dict[str, Tensor]:
        """Λ, D and the thresholds."""
        return {"delta": self.delta, "directions": self.directions, "thresholds": torch.tensor([self.low, self.high])}

    def matches(self, keys: Tensor) -> Tensor:
        """How far the gate is open at each key, (n, h, w) in 0 … 1."""
        first = torch.einsum("i,nihw->nhw", self.directions[0].to(keys), keys)
        return ((first - self.low) / (self.high - self.low)).clamp(0, 1)

    def change(self, memory: Memory, keys: Tensor, sigma: Tensor | None, response: Tensor) -> Tensor:
        """σ Λ ∗ (g · D k)."""
        seen = torch.einsum("ri,nihw->nrhw", self.directions.to(keys), keys) * self.matches(keys)[:, None]
        change = memory.response(seen, self.delta.to(keys))
        return change if sigma is None else change * sigma[:, :, None, None]


@dataclass(frozen=True, eq=False)
class Recall(Beside):
    """Copied values, recalled where a template of keys matches, in the light of what surrounds the place.

    The window of values at such a place becomes `copied` + `decode` · `encode` · (its border), by `alpha`.
    """

    template: Template
    alpha: Tensor  # how far each cell of the window is replaced, (H', W') in 0 … 1
    copied: Tensor  # the answer for a window whose border is zero, (out, H', W')
    encode: Tensor  # (q, out, H', W'), what the border says of the light; zero away from the border
    decode: Tensor  # (q, out, H', W'), what that means for each cell
    shift: tuple[float, float]  # from the template's corner to the window's, in value cells
    scale: int  # value cells per key cell
    snap: int  # windows move in such steps of value cells,
    phase: tuple[int, int]  # from this corner: an upsampling layer's even and odd cells have statistics of their own

    def tensors(self) -> dict[str, Tensor]:
        """Template, window and thresholds."""
        numbers = torch.tensor([self.template.low, self.template.high, *self.shift, self.scale, self.snap, *self.phase])
        parts = {"patch": self.template.patch, "whitening": self.template.whitening, "alpha": self.alpha}
        return {**parts, "copied": self.copied, "encode": self.encode, "decode": self.decode, "numbers": numbers}

    def matches(self, keys: Tensor) -> Tensor:
        """How far the gate is open at each key, (n, h, w) in 0 … 1: a match covers the template's cells."""
        template, scores = self.template.to(keys), self.template.to(keys).scores(keys)
        peaks = template.peaks(scores)
        opened = keys.new_zeros(len(keys), *keys.shape[2:])
        height, width = template.size
        rows = peaks.place[:, 0].round().long()[:, None] + torch.arange(height, device=keys.device)
        columns = peaks.place[:, 1].round().long()[:, None] + torch.arange(width, device=keys.device)
        inside = (rows.clamp(0, keys.shape[2] - 1), columns.clamp(0, keys.shape[3] - 1))
        index = (peaks.picture[:, None, None], inside[0][:, :, None], inside[1][:, None, :])
        opened[index] = torch.maximum(opened[index], template.opened(peaks.score)[:, None, None])
        return opened

    def corners(self, place: Tensor) -> Tensor:
        """Corners of windows in value cells (P, 2), of templates at the given places in key cells (P, 2)."""
        phase = place.new_tensor(self.phase)
        wanted = place * self.scale + place.new_tensor(self.shift) - phase
        return ((wanted / self.snap).round() * self.snap + phase).long()

    def change(self, memory: Memory, keys: Tensor, sigma: Tensor | None, response: Tensor) -> Tensor:
        """The weighted difference from the windows' wanted values; where windows overlap, their mean."""
        template = self.template.to(keys)
        peaks = template.peaks(template.scores(keys))
        change = torch.zeros_like(response)
        if not len(peaks.score):
            return change
        corners = self.corners(peaks.place)
        windows = cut(response, peaks.picture, corners, (self.alpha.shape[0], self.alpha.shape[1]))
        wanted = self.wanted(windows)
        weight = template.opened(peaks.score)[:, None, None] * self.alpha.to(keys)
        total = _put(response[:, :1] * 0, peaks.picture, corners, weight[:, None])
        change = _put(change, peaks.picture, corners, (wanted - windows) * weight[:, None])
        return change / total.clamp_min(1)

    def wanted(self, windows: Tensor) -> Tensor:
        """What windows (P, out, H', W') should become."""
        codes = torch.einsum("pohw,qohw->pq", windows, self.encode.to(windows))
        return self.copied.to(windows) + torch.einsum("pq,qohw->pohw", codes, self.decode.to(windows))


def cut(maps: Tensor, picture: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows (P, c, H', W') of maps (n, c, H, W); beyond the border a map goes on as it ends."""
    rows = (corners[:, 0, None] + torch.arange(size[0], device=maps.device)).clamp(0, maps.shape[2] - 1)
    columns = (corners[:, 1, None] + torch.arange(size[1], device=maps.device)).clamp(0, maps.shape[3] - 1)
    found = maps.permute(0, 2, 3, 1)[picture[:, None, None], rows[:, :, None], columns[:, None, :]]
    return found.permute(0, 3, 1, 2)


def _put(maps: Tensor, picture: Tensor, corners: Tensor, windows: Tensor) -> Tensor:
    """Add windows (P, c, H', W') onto maps (n, c, H, W); what lies beyond the border is lost."""
    n, c, height, width = maps.shape
    rows = (corners[:, 0, None] + torch.arange(windows.shape[2], device=maps.device))[:, :, None]
    columns = (corners[:, 1, None] + torch.arange(windows.shape[3], device=maps.device))[:, None, :]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    flat = (picture[:, None, None] * height + rows.clamp(0, height - 1)) * width + columns.clamp(0, width - 1)
    values = (windows * inside[:, None]).permute(0, 2, 3, 1).flatten(0, 2)
    laid = maps.permute(0, 2, 3, 1).reshape(-1, c).index_add(0, flat.flatten(), values)
    return laid.view(n, height, width, c).permute(0, 3, 1, 2)
