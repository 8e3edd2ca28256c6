"""What can be done to a layer: a low-rank change of its weight, or a memory beside it; neither is written into W."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rewriter.generators.beside import Beside

STRENGTHS = (-1.0, 2.0)  # the range that people may set


@dataclass(frozen=True, eq=False)
class LowRank:
    """A change W + strength · Λ Dᵀ of one layer (Eq. 15 and 18, Bau et al. 2020).

    Where there is a memory `beside` W, pictures are drawn with that instead, and Λ Dᵀ is what comes nearest to it for
    programs that know W only.
    """

    layer: str
    delta: Tensor  # Λ (out, r, kh, kw)
    directions: Tensor  # D (r, in), one row per direction in key space
    strength: float = 1.0  # 0 is the unchanged layer and 1 the change as solved, both to the bit
    on: bool = True  # False changes nothing, and remembers the strength
    fingerprint: str = ""  # of the only generator it may be applied to; "": any whose layer has these shapes
    beside: Beside | None = None

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.directions.shape[0]

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return self.on and self.strength != 0

    def weight(self) -> Tensor:
        """The change of the layer's weight, (out, in, kh, kw), strength included."""
        return torch.einsum("oryx,ri->oiyx", self.scaled_delta(), self.directions)

    def to(self, device: torch.device | str) -> Self:
        """The same with its tensors on another device."""
        beside = self.beside and self.beside.to(device)
        return replace(self, delta=self.delta.to(device), directions=self.directions.to(device), beside=beside)

    def scaled_delta(self) -> Tensor:
        """Λ times strength."""
        return self.delta if self.strength == 1 else self.delta * self.strength


def stack(changes: Sequence[LowRank], like: Tensor) -> tuple[Tensor, Tensor]:
    """Several changes of one layer as one: Λ (out, R, kh, kw) and D (R, in), with the device and dtype of `like`."""
    delta = torch.cat([change.scaled_delta().to(like) for change in changes], 1)
    return delta, torch.cat([change.directions.to(like) for change in changes])


def identity(changes: Sequence[LowRank]) -> str:
    """Forty hexadecimal digits for caches that many people share; "" for an empty list.

    They tell changes apart that were made to look alike: of the same bytes, in another shape or form.
    """
    sha = hashlib.sha256()
    for change in changes:
        tensors = {"delta": change.scaled_delta(), "directions": change.directions}
        strength = None if change.beside is None else change.strength
        if change.beside is not None:
            tensors |= {f"beside.{name}": tensor for name, tensor in change.beside.tensors().items()}
        parts = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()]
        sha.update(f"{change.layer!r} {type(change.beside).__name__} {strength!r} {parts!r}\n".encode())
        for tensor in tensors.values():
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:40] if changes else ""


def digest(changes: Sequence[LowRank]) -> str:
    """Sixteen hexadecimal digits that name a list of changes in files; "" for an empty list. For caches: `identity`."""
    sha = hashlib.sha256()
    for change in changes:
        sha.update(change.layer.encode())
        tensors = [change.scaled_delta(), change.directions]
        if change.beside is not None:
            tensors += [*change.beside.tensors().values(), torch.tensor(change.strength)]
        for tensor in tensors:
            sha.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16] if changes else ""
