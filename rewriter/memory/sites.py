"""What a set of places sees of a rule: the layer's answer there as a function of Λ.

At place p of picture i, output channel o answers `activate(σ · (base + φ·a) + offset)`, where a holds the channel's own
row of Λ (r · taps numbers), φ the *basis responses* (each direction's key map through each tap, upsampling and blur
included) and σ = ‖(W_o + a Dᵀ) ⊙ style‖⁻¹ the demodulation: σ⁻² = norm + 2 a·cross + aᵀ gram a.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rewriter.generators.layer import Features, Memory


@dataclass(frozen=True)
class Sites:
    """P places of I pictures, O output channels, Q = rank · taps numbers per channel.

    basis φ (P, Q); base (P, O); offset (P, O); wanted (P, O); weight (P,); picture (P,) index below I. Where the layer
    demodulates: norm (I, O), and cross (I, O, Q) and gram (I, Q, Q), or, where the directions are all channels, what
    those would be made of: the weight itself (O, in, taps) and the power of the style (I, in).
    """

    basis: Tensor
    base: Tensor
    offset: Tensor
    wanted: Tensor
    weight: Tensor
    picture: Tensor
    norm: Tensor | None = None
    cross: Tensor | None = None
    gram: Tensor | None = None
    whole: Tensor | None = None
    power: Tensor | None = None

    @staticmethod
    def gather(
        memory: Memory,
        directions: Tensor | None,
        features: Features,
        places: Tensor,
        *,
        weight: Tensor,
        wanted: Tensor | None = None,
        base: Tensor | None = None,
    ) -> Sites:
        """Collect places (I, n), indices into the flattened value map, of the pictures in `features`.

        directions: D (r, in); None: every channel of the key. weight: (I, n). wanted: the values aimed at,
        (I, out, H, W); None: those of today. base: W ∗ k at the places if it is known already, (I·n, out).
        """
        keys = features.keys
        seen = keys if directions is None else torch.einsum("ri,nihw->nrhw", directions, keys)
        kernel = memory.weight.shape[2:]
        one_tap = torch.eye(kernel.numel(), dtype=keys.dtype, device=keys.device).view(-1, 1, *kernel)
        through = memory.response(seen.flatten(0, 1)[:, None], one_tap)
        through = through.view(len(keys), -1, *through.shape[2:])
        base = at_places(memory.response(keys, memory.weight), places) if base is None else base
        offset = memory.offset().expand(len(keys), len(memory.weight), *through.shape[2:])
        sites = Sites(
            basis=at_places(through, places),
            base=base,
            offset=at_places(offset, places),
            wanted=base if wanted is None else at_places(wanted, places),
            weight=weight.flatten(),
            picture=torch.arange(len(keys), device=places.device).repeat_interleave(places.shape[1]),
        )
        if features.style is not None:
            sites = sites._demodulated(memory, directions, features.style)
        if wanted is None:
            today = memory.activate(sites.before_activation(base.new_zeros(base.shape[1], sites.basis.shape[1])))
            sites = replace(sites, wanted=today)
        return sites

    def _demodulated(self, memory: Memory, directions: Tensor | None, style: Tensor) -> Sites:
        power, weight = style.square(), memory.weight.flatten(2)
        taps = weight.shape[2]
        norm = power @ memory.energy().T + 1e-8
        if directions is None:
            return replace(self, norm=norm, whole=weight, power=power)
        powered = power[:, None] * directions  # (I, r, in); formed first: three factors at once would fill the memory
        cross = torch.einsum("oit,nri->nort", weight, powered).flatten(2)
        overlap = torch.einsum("nri,si->nrs", powered, directions)
        gram = torch.einsum("nrs,tu->nrtsu", overlap, torch.eye(taps, device=style.device))
        return replace(self, norm=norm, cross=cross, gram=gram.flatten(3).flatten(1, 2))

    @staticmethod
    def cat(parts: list[Sites]) -> Sites:
        """Join the places of several sets of pictures."""
        pictures = [int(part.picture.max()) + 1 for part in parts]
        merged: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts])
            for name in ("basis", "base", "offset", "wanted", "weight")
        }
        shifts = [sum(pictures[:i]) for i in range(len(parts))]
        merged["picture"] = torch.cat([part.picture + shift for part, shift in zip(parts, shifts, strict=True)])
        for name in ("norm", "cross", "gram", "power"):
            terms = [getattr(part, name) for part in parts]
            merged[name] = None if terms[0] is None else torch.cat(terms)
        merged["whole"] = parts[0].whole
        return Sites(**merged)

    def channels(self, block: slice) -> Sites:
        """The same places, some of the output channels: they do not depend on each other."""
        columns = {name: getattr(self, name)[:, block] for name in ("base", "offset", "wanted")}
        scales = {name: value[:, block] for name in ("norm", "cross") if (value := getattr(self, name)) is not None}
        return replace(self, **columns, **scales)

    def bend(self, a: Tensor) -> Tensor | None:
        """Half the gradient of σ⁻² at Λ as a (O, Q), for every picture: cross + gram a, (I, O, Q)."""
        if self.cross is None or self.gram is None:
            return None
        return self.cross + torch.einsum("oq,iqp->iop", a, self.gram)

    def sigma(self, a: Tensor) -> Tensor | None:
        """Demodulation (I, O) for Λ as a (O, Q); None where the layer has none."""
        if self.whole is not None and self.power is not None:
            return torch.rsqrt(self.power @ (self.whole + a.view_as(self.whole)).square().sum(2).T + 1e-8)
        bend = self.bend(a)
        if bend is None or self.norm is None or self.cross is None:
            return None
        return torch.rsqrt((self.norm + ((self.cross + bend) * a).sum(2)).clamp_min(1e-8))

    def through_sigma(self, a: Tensor, pull: Tensor) -> Tensor:
        """Gradient (O, Q) of a loss at a, through σ⁻²/2, from its derivative pull (I, O)."""
        if self.whole is not None and self.power is not None:
            return ((pull.T @ self.power)[:, :, None] * (self.whole + a.view_as(self.whole))).flatten(1)
        bend = self.bend(a)
        assert bend is not None  # only called where the layer demodulates
        return torch.einsum("io,ioq->oq", pull, bend)

    def per_picture(self, terms: Tensor) -> Tensor:
        """Sum terms (P, O) over the places of each picture → (I, O)."""
        count = int(self.picture[-1]) + 1
        return terms.new_zeros(count, terms.shape[1]).index_add_(0, self.picture, terms)

    def forward(self, a: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """W ∗ k under Λ (P, O), the demodulation (I, O) or None, and what enters the non-linearity (P, O)."""
        linear, sigma = self.base + self.basis @ a.T, self.sigma(a)
        return linear, sigma, self.offset + (linear if sigma is None else linear * sigma[self.picture])

    def before_activation(self, a: Tensor) -> Tensor:
        """What enters the non-linearity, (P, O)."""
        return self.forward(a)[2]


def at_places(maps: Tensor, places: Tensor) -> Tensor:
    """(I, c, H, W) at places (I, n) → (I·n, c)."""
    index = places[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, index).transpose(1, 2).flatten(0, 1)
