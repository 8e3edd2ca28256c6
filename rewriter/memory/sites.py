"""A layer's values at a set of places as a function of Λ.

At place p of picture i, output channel o answers `activate(σ · (base + φ·a) + offset)`, where a holds the channel's own
row of Λ (Q = r · taps numbers), φ the *basis responses* (each direction's key map through each tap, upsampling and blur
included) and σ = ‖(W_o + a Dᵀ) ⊙ style‖⁻¹ the demodulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rewriter.generators.change import LowRank
    from rewriter.generators.layer import Features, Memory
    from rewriter.memory.goal import Goal

Gate = Callable[[Tensor], Tensor]  # keys (n, in, h, w) → how far a memory beside W is open there, (n, h, w)


@dataclass(frozen=True)
class LowRankDemodulation:
    """σ as a function of Λ for few directions, I pictures and O output channels: σ⁻² = norm + 2 a·cross + aᵀ gram a."""

    norm: Tensor  # (I, O)
    cross: Tensor  # (I, O, Q)
    gram: Tensor  # (I, Q, Q)

    @staticmethod
    def of(memory: Memory, directions: Tensor, style: Tensor) -> LowRankDemodulation:
        """For directions D (r, in) and the pictures' styles (I, in)."""
        power, weight = style.square(), memory.weight.flatten(2)
        taps = weight.shape[2]
        powered = power[:, None] * directions  # (I, r, in); formed first: three factors at once would fill the memory
        cross = torch.einsum("oit,nri->nort", weight, powered).flatten(2)
        overlap = torch.einsum("nri,si->nrs", powered, directions)
        gram = torch.einsum("nrs,tu->nrtsu", overlap, torch.eye(taps, device=style.device))
        return LowRankDemodulation(power @ memory.energy().T + 1e-8, cross, gram.flatten(3).flatten(1, 2))

    @staticmethod
    def cat(parts: Sequence[LowRankDemodulation]) -> LowRankDemodulation:
        """Join the pictures of several sets."""
        columns = zip(*((part.norm, part.cross, part.gram) for part in parts), strict=True)
        return LowRankDemodulation(*map(torch.cat, columns))

    def channels(self, block: slice) -> LowRankDemodulation:
        """Some of the output channels."""
        return replace(self, norm=self.norm[:, block], cross=self.cross[:, block])

    def bend(self, a: Tensor) -> Tensor:
        """Half the gradient of σ⁻² at a (O, Q), for every picture: cross + gram a, (I, O, Q)."""
        return self.cross + torch.einsum("oq,iqp->iop", a, self.gram)

    def sigma(self, a: Tensor) -> Tensor:
        """σ (I, O) at a (O, Q)."""
        return torch.rsqrt((self.norm + ((self.cross + self.bend(a)) * a).sum(2)).clamp_min(1e-8))

    def pull_back(self, a: Tensor, pull: Tensor) -> Tensor:
        """Gradient (O, Q) of a loss at a, from its derivative by σ⁻²/2, `pull` (I, O)."""
        return torch.einsum("io,ioq->oq", pull, self.bend(a))


@dataclass(frozen=True)
class FullDemodulation:
    """The same where the directions are all channels."""

    weight: Tensor  # (O, in, taps)
    power: Tensor  # of the styles, (I, in)

    @staticmethod
    def of(memory: Memory, style: Tensor) -> FullDemodulation:
        """For the pictures' styles (I, in)."""
        return FullDemodulation(memory.weight.flatten(2), style.square())

    @staticmethod
    def cat(parts: Sequence[FullDemodulation]) -> FullDemodulation:
        """Join the pictures of several sets."""
        return FullDemodulation(parts[0].weight, torch.cat([part.power for part in parts]))

    def channels(self, block: slice) -> FullDemodulation:
        """Some of the output channels."""
        return replace(self, weight=self.weight[block])

    def sigma(self, a: Tensor) -> Tensor:
        """σ (I, O) at a (O, in · taps)."""
        return torch.rsqrt(self.power @ (self.weight + a.view_as(self.weight)).square().sum(2).T + 1e-8)

    def pull_back(self, a: Tensor, pull: Tensor) -> Tensor:
        """Gradient (O, in · taps) of a loss at a, from its derivative by σ⁻²/2, `pull` (I, O)."""
        return ((pull.T @ self.power)[:, :, None] * (self.weight + a.view_as(self.weight))).flatten(1)


@dataclass(frozen=True)
class FixedDemodulation:
    """The same for a memory beside W, which leaves σ as it is."""

    fixed: Tensor  # σ (I, O)

    @staticmethod
    def cat(parts: Sequence[FixedDemodulation]) -> FixedDemodulation:
        """Join the pictures of several sets."""
        return FixedDemodulation(torch.cat([part.fixed for part in parts]))

    def channels(self, block: slice) -> FixedDemodulation:
        """Some of the output channels."""
        return replace(self, fixed=self.fixed[:, block])

    def sigma(self, a: Tensor) -> Tensor:
        """σ (I, O), whatever a is."""
        return self.fixed

    def pull_back(self, a: Tensor, pull: Tensor) -> Tensor:
        """No gradient (O, Q)."""
        return torch.zeros_like(a)


Demodulation = LowRankDemodulation | FullDemodulation | FixedDemodulation


@dataclass(frozen=True)
class Sites:
    """P places of I pictures, O output channels, Q = rank · taps numbers per channel."""

    basis: Tensor  # φ (P, Q)
    base: Tensor  # W ∗ k, (P, O)
    offset: Tensor  # what is added before the non-linearity, (P, O)
    wanted: Tensor  # the values aimed at, (P, O)
    weight: Tensor  # how much each place counts, (P,)
    picture: Tensor  # which picture each place belongs to, (P,), in order
    demodulation: Demodulation | None = None  # None where the layer does not demodulate

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
        gate: Callable[[Tensor], Tensor] | None = None,
        earlier: Sequence[LowRank] = (),
    ) -> Sites:
        """Collect places (I, n), indices into the flattened value map, with their weight (I, n), of I pictures.

        `directions`: D (r, in); None: every channel of the key. `wanted`: the values aimed at, (I, out, H, W); None:
        the present ones. `base`: W ∗ k at the places if it is known already, (I·n, out). `gate`: keys (n, in, h, w) →
        how far a memory beside W is open there, (n, h, w); None: the change is one of W itself. `earlier`: rules whose
        memories beside W answer already.
        """
        keys = features.keys
        seen = keys if directions is None else torch.einsum("ri,nihw->nrhw", directions, keys)
        if gate is not None:
            seen = seen * gate(keys)[:, None]
        kernel = memory.weight.shape[2:]
        one_tap = torch.eye(kernel.numel(), dtype=keys.dtype, device=keys.device).view(-1, 1, *kernel)
        through = memory.response(seen.flatten(0, 1)[:, None], one_tap)
        through = through.view(len(keys), -1, *through.shape[2:])
        base = at_places(memory.response(keys, memory.weight), places) if base is None else base
        offset = _offset(memory, through.shape[2:]).expand(len(keys), -1, -1, -1)
        if earlier or features.own:
            plain = memory.respond(keys, features.style)
            offset = offset + memory.answer(features, earlier) - plain
        demodulation: Demodulation | None = None
        if features.style is not None and gate is not None:
            demodulation = FixedDemodulation(memory.scale(features.style, memory.energy()))
        elif features.style is not None and directions is not None:
            demodulation = LowRankDemodulation.of(memory, directions, features.style)
        elif features.style is not None:
            demodulation = FullDemodulation.of(memory, features.style)
        sites = Sites(
            basis=at_places(through, places),
            base=base,
            offset=at_places(offset, places),
            wanted=base if wanted is None else at_places(wanted, places),
            weight=weight.flatten(),
            picture=torch.arange(len(keys), device=places.device).repeat_interleave(places.shape[1]),
            demodulation=demodulation,
        )
        if wanted is None:
            today = memory.activate(sites.before_activation(base.new_zeros(base.shape[1], sites.basis.shape[1])))
            sites = replace(sites, wanted=today)
        return sites

    @staticmethod
    def cat(parts: Sequence[Sites]) -> Sites:
        """Join the places of several sets of pictures, gathered for the same directions."""
        counts = [int(part.picture.max()) + 1 for part in parts]
        names = ("basis", "base", "offset", "wanted", "weight")
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        picture = torch.cat([part.picture + sum(counts[:i]) for i, part in enumerate(parts)])
        kinds: list[Any] = [part.demodulation for part in parts if part.demodulation is not None]
        return Sites(**joined, picture=picture, demodulation=type(kinds[0]).cat(kinds) if kinds else None)

    def channels(self, block: slice) -> Sites:
        """The same places, some of the output channels: they do not depend on each other."""
        columns = {name: getattr(self, name)[:, block] for name in ("base", "offset", "wanted")}
        return replace(self, **columns, demodulation=self.demodulation and self.demodulation.channels(block))

    def per_picture(self, terms: Tensor) -> Tensor:
        """Sum terms (P, O) over the places of each picture → (I, O)."""
        count = int(self.picture[-1]) + 1
        return terms.new_zeros(count, terms.shape[1]).index_add_(0, self.picture, terms)

    def forward(self, a: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """W ∗ k under Λ (P, O), the demodulation (I, O) or None, and what enters the non-linearity (P, O)."""
        linear = self.base + self.basis @ a.T
        if self.demodulation is None:
            return linear, None, self.offset + linear
        sigma = self.demodulation.sigma(a)
        return linear, sigma, self.offset + linear * sigma[self.picture]

    def before_activation(self, a: Tensor) -> Tensor:
        """What enters the non-linearity, (P, O)."""
        return self.forward(a)[2]


def _offset(memory: Memory, size: torch.Size) -> Tensor:
    """Noise and bias of maps of a size, (out, H, W).

    A crop gets the first numbers of the layer's noise, in rows as wide as the crop: the original draws noise anew for
    every size, from the same seed.
    """
    offset = memory.offset()
    if offset.shape[1:].numel() > 1 and offset.shape[1:] != size:
        offset = offset.flatten(1)[:, : size.numel()].unflatten(1, size)
    return offset.expand(len(memory.weight), *size)


def at_places(maps: Tensor, places: Tensor) -> Tensor:
    """(I, c, H, W) at places (I, n) → (I·n, c)."""
    index = places[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, index).transpose(1, 2).flatten(0, 1)


def goal_sites(
    memory: Memory,
    goal: Goal,
    directions: Tensor | None,
    gate: Gate | None = None,
    earlier: Sequence[LowRank] = (),
) -> Sites:
    """The goal's places, picture by picture, each picture with the same total weight; 1 in all.

    `directions`: D (r, in); None: every channel of the key.
    """
    parts = []
    for i in range(len(goal.weight)):
        one = goal[i : i + 1]
        weight = one.weight.flatten()
        places = weight.nonzero().T  # (1, n)
        share = weight[places] / (weight.sum() * len(goal.weight))
        at: dict[str, Any] = {"weight": share, "wanted": one.values, "gate": gate, "earlier": earlier}
        parts.append(Sites.gather(memory, directions, one.features, places, **at))
    return Sites.cat(parts)
