"""One layer: the keys that enter it, and the memory that turns them into values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from rewriter.errors import InputError
from rewriter.generators.change import LowRank, stack
from rewriter.generators.frame import Frame


@dataclass(frozen=True)
class LayerInfo:
    """One rewritable convolution: its channels and the sides of the square maps it reads and writes.

    Where maps reach beyond the picture, as in StyleGAN3, `margin` cells on each side lie outside of it.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    key_resolution: int
    resolution: int
    margin: int = 0  # of both maps, which are then of one size

    @property
    def frame(self) -> Frame:
        """Where the picture lies on the map of values."""
        return Frame(self.resolution, self.margin)

    @property
    def key_frame(self) -> Frame:
        """Where the picture lies on the map of keys."""
        return Frame(self.key_resolution, self.margin)

    def check_units(self, units: Sequence[int]) -> None:
        """Raise InputError for units, numbered from 0, that the layer does not have."""
        if units and not 0 <= min(units) <= max(units) < self.out_channels:
            wrong = min(units) if min(units) < 0 else max(units)
            raise InputError(f"{self.name} has units 0 to {self.out_channels - 1}, not {wrong}")

    @property
    def scale(self) -> int:
        """Value cells per key cell, on each axis: 2 where the layer upsamples."""
        return max(1, self.resolution // self.key_resolution)

    @property
    def reach(self) -> float:
        """How far a key is seen beyond its own cell, in key cells on each side.

        An even kernel is that of a transposed convolution, which spreads a key over `kernel` value cells.
        """
        return self.kernel // 2 if self.kernel % 2 else (self.kernel - self.scale) / 2 / self.scale


@dataclass(frozen=True)
class Features:
    """What enters a layer, and all that is needed to go on from there."""

    layer: str
    keys: Tensor  # (n, in, h, w), the layer's input, after style modulation
    style: Tensor | None = None  # (n, in), what modulated it; this, w and skip in a StyleGAN2 only
    w: Tensor | None = None  # (n, w_dim), latents; (n, layers + 1, w_dim) where each layer has its own
    skip: Tensor | None = None  # (n, 3, h', w'), the picture so far
    gates: Mapping[str, Tensor] = field(default_factory=dict)  # layer → (n, c, 1, 1), what scales it; in FastGANs only
    own: tuple[Sequence[LowRank], ...] = ()  # changes that belong to each picture, as those of photos; (): to none

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: slice | list[int]) -> Features:
        parts: dict[str, Any] = {name: value[index] for name, value in self._tensors().items()}
        parts["gates"] = {layer: gate[index] for layer, gate in self.gates.items()}
        if self.own:
            parts["own"] = self.own[index] if isinstance(index, slice) else tuple(self.own[i] for i in index)
        return replace(self, **parts)

    def own_changes(self) -> list[list[LowRank]]:
        """For each picture those of its own changes that are of this layer."""
        lists = self.own or ((),) * len(self)
        return [[change for change in each if change.layer == self.layer and change.active] for each in lists]

    def _tensors(self) -> dict[str, Tensor]:
        named = {"keys": self.keys, "style": self.style, "w": self.w, "skip": self.skip}
        return {name: value for name, value in named.items() if value is not None}

    @staticmethod
    def cat(parts: Sequence[Features]) -> Features:
        """Join batches that enter the same layer."""
        columns = [part._tensors() for part in parts]
        joined: dict[str, Any] = {name: join([c[name] for c in columns]) for name in columns[0]}
        joined["gates"] = {layer: torch.cat([part.gates[layer] for part in parts]) for layer in parts[0].gates}
        if any(part.own for part in parts):
            joined["own"] = tuple(own for part in parts for own in part.own or ((),) * len(part))
        return replace(parts[0], **joined)


def join(rows: Sequence[Tensor]) -> Tensor:
    """Batches as one; latents (n, d) that serve all layers are repeated where others are (n, layers, d)."""
    layers = max((row for row in rows), key=lambda row: row.ndim).shape
    return torch.cat([row if row.ndim == len(layers) else row[:, None].expand(-1, layers[1], -1) for row in rows])


class Memory(nn.Module, ABC):
    """One layer seen as an associative memory: keys → values through the weight W (out, in, kh, kw)."""

    weight: nn.Parameter

    @abstractmethod
    def response(self, keys: Tensor, weight: Tensor) -> Tensor:
        """The linear part W ∗ k: keys (n, c, h, w) and a weight (o, c, kh, kw) → (n, o, H, W), upsampling included."""

    @abstractmethod
    def offset(self) -> Tensor:
        """What is added to the demodulated response: noise and bias, broadcastable to (out, H, W)."""

    @abstractmethod
    def activate(self, x: Tensor) -> Tensor:
        """From response plus offset to the values; the identity where the layer is linear."""

    @abstractmethod
    def inverse(self, values: Tensor) -> Tensor:
        """What `activate` makes these values of; at a clamp, the least that it clamps."""

    @abstractmethod
    def slope(self, x: Tensor) -> Tensor:
        """Derivative of `activate`, of the same shape."""

    def energy(self, changes: Sequence[LowRank] = ()) -> Tensor:
        """Squared weights summed over the taps, (out, in): what demodulation divides by, the changes included."""
        total = self.weight.square().sum((2, 3))
        if not changes:
            return total
        delta, directions = stack(changes, self.weight)
        cross = torch.einsum("oiyx,oryx,ri->oi", self.weight, delta, directions)
        return (total + 2 * cross + torch.einsum("oryx,ri->oiyx", delta, directions).square().sum((2, 3))).clamp_min(0)

    def scale(self, style: Tensor, energy: Tensor) -> Tensor:
        """Demodulation σ (n, out), one over each output's norm: style (n, in), energy (out, in) or (n, out, in)."""
        squared = style.square()
        total = squared @ energy.T if energy.ndim == 2 else (energy @ squared[:, :, None])[:, :, 0]
        return torch.rsqrt(total + 1e-8)

    def recall(self, keys: Tensor, style: Tensor | None, changes: Sequence[LowRank] = ()) -> Tensor:
        """Values (n, out, H, W) of keys (n, in, h, w) under the changes, which are never added to W."""
        return self.activate(self.respond(keys, style, changes) + self.offset())

    def respond(self, keys: Tensor, style: Tensor | None, changes: Sequence[LowRank] = ()) -> Tensor:
        """The demodulated response (n, out, H, W) under the changes: what the offset is added to."""
        response, plain = self.response(keys, self.weight), [change for change in changes if change.beside is None]
        if plain:
            delta, directions = stack(plain, self.weight)
            response = response + self.response(torch.einsum("ri,nihw->nrhw", directions, keys), delta)
        sigma = None if style is None else self.scale(style, self.energy(plain))
        if sigma is not None:
            response = response * sigma[:, :, None, None]
        return self._with_memories(changes, keys, sigma, response)

    def answer(self, features: Features, changes: Sequence[LowRank] = ()) -> Tensor:
        """Like `respond`, with the pictures' own changes too."""
        own = features.own_changes()
        if not any(own):
            return self.respond(features.keys, features.style, changes)
        styles = [None] * len(own) if features.style is None else features.style.split(1)
        rows = zip(features.keys.split(1), styles, own, strict=True)
        return torch.cat([self.respond(keys, style, [*each, *changes]) for keys, style, each in rows])

    def recall_each(self, keys: Tensor, style: Tensor | None, changes: Sequence[Sequence[LowRank]]) -> Tensor:
        """Like `recall`, with changes of its own for each picture: y = σ_i · (W ∗ k + Λ_i ∗ (D_i k)).

        W is applied to the whole batch at once. What differs from picture to picture is small: R maps D_i k, seen
        through each tap, times Λ_i.
        """
        kinds = list(dict.fromkeys(map(tuple, changes)))
        plain = [[change for change in kind if change.beside is None] for kind in kinds]
        index = [kinds.index(tuple(own)) for own in changes]
        delta, directions = (part[index] for part in self._stack_kinds(plain))
        n, rank, taps = len(keys), delta.shape[2], self.weight.shape[2:].numel()
        response = self.response(keys, self.weight)
        if rank:
            maps = torch.bmm(directions, keys.flatten(2)).view(n * rank, 1, *keys.shape[2:])
            one_tap = torch.eye(taps, device=keys.device, dtype=keys.dtype).view(taps, 1, *self.weight.shape[2:])
            seen = self.response(maps, one_tap)  # (n·R, taps, H, W)
            change = torch.bmm(delta.flatten(2), seen.view(n, rank * taps, -1))
            response = response + change.view_as(response)
        sigma = None
        if style is not None:
            sigma = self.scale(style, torch.stack([self.energy(kind) for kind in plain])[index])
            response = response * sigma[:, :, None, None]
        for i, kind in enumerate(kinds):
            if any(change.beside is not None for change in kind):
                rows = [row for row, own in enumerate(index) if own == i]
                part = None if sigma is None else sigma[rows]
                response[rows] = self._with_memories(kind, keys[rows], part, response[rows])
        return self.activate(response + self.offset())

    def _with_memories(
        self, changes: Sequence[LowRank], keys: Tensor, sigma: Tensor | None, response: Tensor
    ) -> Tensor:
        """Add what the memories beside W answer, one after the other."""
        for change in changes:
            if change.beside is not None:
                response = response + change.strength * change.beside.change(self, keys, sigma, response)
        return response

    def _stack_kinds(self, kinds: Sequence[Sequence[LowRank]]) -> tuple[Tensor, Tensor]:
        """Lists of changes as Λ (kinds, out, R, kh, kw) and D (kinds, R, in), R the largest rank; zeros fill up."""
        outputs, inputs, *kernel = self.weight.shape
        rank = max(sum(change.rank for change in kind) for kind in kinds)
        delta = self.weight.new_zeros(len(kinds), outputs, rank, *kernel)
        directions = self.weight.new_zeros(len(kinds), rank, inputs)
        for i, kind in enumerate(kinds):
            if kind:
                own_delta, own_directions = stack(kind, self.weight)
                delta[i, :, : own_delta.shape[1]] = own_delta
                directions[i, : len(own_directions)] = own_directions
        return delta, directions


class LinearMemory(Memory):
    """A memory without a non-linearity: its values are the responses plus the offset."""

    def activate(self, x: Tensor) -> Tensor:
        """The identity: this memory is linear."""
        return x

    def inverse(self, values: Tensor) -> Tensor:
        """The identity."""
        return values

    def slope(self, x: Tensor) -> Tensor:
        """One everywhere."""
        return torch.ones_like(x)


def random_weight(*shape: int, over: float = 1.0) -> Tensor:
    """Normal random numbers, divided by `over`; on the meta device, where this would import half of torch, a shape."""
    weight = torch.empty(shape)
    return weight if weight.is_meta else weight.normal_().div_(over)


def pixel_norm(x: Tensor) -> Tensor:
    """Features (n, c, …), or latents (n, c), divided by their root mean square at each place."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)
