"""Memories beside W that answer only where their context is: a low-rank change behind a gate, or copied values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from rewriter.generators.beside import Beside
from rewriter.generators.template import Peaks, Template, single

if TYPE_CHECKING:
    from rewriter.generators.layer import LayerInfo, Memory

CODES = 64  # most numbers in which a window's border says what its light is like


@dataclass(frozen=True, eq=False)
class Gated(Beside):
    """Λ Dᵀ behind a gate on the first direction: y += σ Λ ∗ (g · D k), with g from 0 below `low` to 1 above `high`."""

    form = "gated"

    delta: Tensor  # Λ (out, r, kh, kw)
    directions: Tensor  # D (r, in)
    low: float  # response to the first direction
    high: float

    def __post_init__(self) -> None:
        """Numbers as a file holds them, so that a rule is the same after it is loaded."""
        for name in ("low", "high"):
            object.__setattr__(self, name, single(getattr(self, name)))

    def tensors(self) -> dict[str, Tensor]:
        """Λ, D and the thresholds."""
        return {"delta": self.delta, "directions": self.directions, "thresholds": torch.tensor([self.low, self.high])}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Gated:
        """From Λ, D and the thresholds."""
        low, high = tensors["thresholds"].tolist()
        return cls(tensors["delta"], tensors["directions"], low, high)

    def fits(self, info: LayerInfo) -> bool:
        """Whether Λ and D have the layer's channels and kernel."""
        rank, kernel = self.delta.shape[1] if self.delta.ndim == 4 else 0, (info.kernel, info.kernel)
        shapes = (
            self.delta.shape == (info.out_channels, rank, *kernel),
            self.directions.shape == (rank, info.in_channels),
        )
        return 0 < rank <= info.in_channels and all(shapes) and self.low < self.high

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

    form = "template"

    template: Template
    alpha: Tensor  # how far each cell of the window is replaced, (H', W') in 0 … 1
    copied: Tensor  # the answer for a window whose border is zero, (out, H', W')
    encode: Tensor  # (q, out, H', W'), what the border says of the light; zero away from the border
    decode: Tensor  # (q, out, H', W'), what that means for each cell
    shift: tuple[float, float]  # from the template's corner to the window's, in value cells
    scale: int  # value cells per key cell
    snap: int  # windows move in such steps of value cells,
    phase: tuple[int, int]  # from this corner: an upsampling layer's even and odd cells have statistics of their own

    def __post_init__(self) -> None:
        """Numbers as a file holds them, and in its order, so that a rule is the same after it is loaded."""
        object.__setattr__(self, "shift", (single(self.shift[0]), single(self.shift[1])))
        for name in ("alpha", "copied", "encode", "decode"):
            object.__setattr__(self, name, getattr(self, name).contiguous())

    def tensors(self) -> dict[str, Tensor]:
        """Template, window and thresholds."""
        numbers = torch.tensor([self.template.low, self.template.high, *self.shift, self.scale, self.snap, *self.phase])
        parts = {"patch": self.template.patch, "whitening": self.template.whitening, "alpha": self.alpha}
        return {**parts, "copied": self.copied, "encode": self.encode, "decode": self.decode, "numbers": numbers}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Recall:
        """From template, window and thresholds."""
        low, high, down, right, *whole = tensors["numbers"].tolist()
        scale, snap, top, left = map(int, whole)
        template = Template(tensors["patch"], tensors["whitening"], low, high)
        alpha, copied, encode, decode = (tensors[name] for name in ("alpha", "copied", "encode", "decode"))
        return cls(template, alpha, copied, encode, decode, (down, right), scale, snap, (top, left))

    def fits(self, info: LayerInfo) -> bool:
        """Whether template and window have the layer's channels, scale and extent, and belong together."""
        patch, whitening, window = self.template.patch, self.template.whitening, tuple(self.alpha.shape)
        codes, (low, high) = tuple(self.encode.shape), (self.template.low, self.template.high)
        return (
            patch.ndim == 3
            and 0 < min(patch.shape)
            and len(patch) <= info.in_channels
            and max(patch.shape[1:]) <= info.key_resolution
            and whitening.shape == (len(patch), info.in_channels)
            and len(window) == 2
            and 0 < min(window) <= max(window) <= 2 * info.resolution  # its border lies around what was copied
            and self.copied.shape == (info.out_channels, *window)
            and len(codes) == 4
            and codes[0] <= CODES
            and codes[1:] == (info.out_channels, *window)
            and self.decode.shape == codes
            and self.scale == info.scale
            and self.snap in (1, info.scale)
            and all(0 <= at < info.scale for at in self.phase)
            and low < high
        )

    def _found(self, keys: Tensor) -> tuple[Peaks, Tensor]:
        """Where the template matches, and how far each cell of the window there is replaced, (P, H', W')."""
        template = self.template.to(keys)
        peaks = template.peaks(template.scores(keys))
        return peaks, template.opened(peaks.score)[:, None, None] * self.alpha.to(keys)

    def touched(self, keys: Tensor) -> Tensor:
        """How far each value is replaced, (n, H, W) in 0 … 1, for keys (n, in, h, w)."""
        peaks, weight = self._found(keys)
        maps = keys.new_zeros(len(keys), 1, keys.shape[2] * self.scale, keys.shape[3] * self.scale)
        return _put(maps, peaks.picture, self.corners(peaks.place), weight[:, None])[:, 0].clamp(0, 1)

    def matches(self, keys: Tensor) -> Tensor:
        """How far the gate is open at each key, (n, h, w) in 0 … 1: the cells whose values it replaces."""
        touched = self.touched(keys)[:, None]
        return F.max_pool2d(touched, self.scale)[:, 0] if self.scale > 1 else touched[:, 0]

    def corners(self, place: Tensor) -> Tensor:
        """Corners of windows in value cells (P, 2), of templates at the given places in key cells (P, 2)."""
        phase = place.new_tensor(self.phase)
        wanted = place * self.scale + place.new_tensor(self.shift) - phase
        return ((wanted / self.snap).round() * self.snap + phase).long()

    def change(self, memory: Memory, keys: Tensor, sigma: Tensor | None, response: Tensor) -> Tensor:
        """The weighted difference from the windows' wanted values; where windows overlap, their mean."""
        peaks, weight = self._found(keys)
        change = torch.zeros_like(response)
        if not len(peaks.score):
            return change
        corners = self.corners(peaks.place)
        windows = cut(response, peaks.picture, corners, (self.alpha.shape[0], self.alpha.shape[1]))
        wanted = self.wanted(windows)
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
