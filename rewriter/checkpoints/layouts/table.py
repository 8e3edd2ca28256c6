"""One table for each layout: the names that a file gives to the tensors of a generator, for reading and writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rewriter.checkpoints import spectral
from rewriter.errors import InputError
from rewriter.generators.filters import TAPS

State = Mapping[str, Tensor]
SKIP = "synthesis.skip_filter"  # our name of a StyleGAN2's filter that is not 1-3-3-1


@dataclass(frozen=True)
class Link:
    """One tensor under two names."""

    theirs: str
    ours: str
    before: int = 0  # how many more axes of length one theirs has in front
    after: int = 0  # and behind
    swap: bool = False  # theirs has the inputs in front of the outputs
    last: bool = False  # theirs has the axes of the kernel in front, the inputs, and the outputs last, as TensorFlow
    flat: bool = False  # theirs may have any more axes of length one; written without them
    flip: bool = False  # theirs has both axes of the kernel reversed
    shift: float = 0.0  # ours is theirs plus this
    spectral: bool = False  # a weight under spectral norm in their code; here and in ours, without it

    def read(self, value: Tensor) -> Tensor:
        """Theirs → ours; a tensor of an unexpected shape is left as it is, to be reported later."""
        core = value.shape[self.before : value.ndim - self.after]
        if self.flat and value.numel() == max(value.shape, default=0):
            core = torch.Size([value.numel()])
        if value.ndim >= self.before + self.after and value.numel() == core.numel():
            value = value.reshape(core)
        value = self._turned(value.permute(3, 2, 0, 1) if self.last and value.ndim == 4 else value)
        return value + self.shift if self.shift else value

    def write(self, value: Tensor) -> Tensor:
        """Ours → theirs."""
        value = self._turned(value - self.shift if self.shift else value)
        value = value.permute(2, 3, 1, 0) if self.last else value
        return value.reshape((1,) * self.before + tuple(value.shape) + (1,) * self.after).contiguous()

    def _turned(self, value: Tensor) -> Tensor:
        value = value.transpose(0, 1) if self.swap and value.ndim >= 2 else value
        return value.flip(-1, -2) if self.flip and value.ndim >= 2 else value


@dataclass(frozen=True)
class Layout:
    """All that a file of one layout holds."""

    name: str
    links: tuple[Link, ...]  # its tensors; none if the names are ours
    filters: Mapping[str, tuple[float, int]] = field(default_factory=dict)  # name → gain, axes of length one in front
    unused: frozenset[str] = frozenset()  # names that may be there and have no effect
    zero: Mapping[str, str] = field(default_factory=dict)  # unused names that must be zero → what it means otherwise
    skip: str = ""  # the filter that may be another than 1-3-3-1; it becomes part of the weights
    optional: frozenset[str] = frozenset()  # our names of tensors that the architecture can derive from others
    settings: Mapping[str, Any] = field(default_factory=dict)  # as the code that the files come from has them

    def read(self, state: MutableMapping[str, Tensor]) -> dict[str, Tensor]:
        """Their tensors under our names; unknown ones keep theirs. InputError for a filter that we do not have.

        `state` is emptied, so that a tensor can be freed as soon as there is another form of it.
        """
        found = {link.ours: link.read(state.pop(link.theirs)) for link in self.links if link.theirs in state}
        for key in self.filters.keys() & state.keys():
            plane = state.pop(key).squeeze()
            if plane.shape != (4, 4) or not torch.allclose(plane.float(), _filter(self.filters[key][0]), atol=1e-5):
                if key != self.skip or plane.shape != (4, 4):
                    raise InputError(f"{key} is not the filter 1-3-3-1: this model would be drawn wrongly here")
                found[SKIP] = plane
        for key, meaning in self.zero.items():
            if key in state and bool(state[key].any()):
                raise InputError(f"this generator is not supported, because {meaning} (its {key} is not zero)")
        rest = {key: state.pop(key) for key in list(state)}
        return found | {key: value for key, value in rest.items() if key not in self.unused}

    def write(self, state: State) -> dict[str, Tensor]:
        """Our tensors under their names, with the filters that their code expects; InputError if it has no such one."""
        if SKIP in state and not self.skip:
            raise InputError(f"{self.name} cannot store the filter of the skip connections: choose genforce")
        out = {link.theirs: link.write(state[link.ours]) for link in self.links if link.ours in state} or dict(state)
        for key, (gain, axes) in self.filters.items():
            plane = state[SKIP] if key == self.skip and SKIP in state else _filter(gain)
            out[key] = plane[(None,) * axes].contiguous()
        for link in (link for link in self.links if link.spectral and link.theirs in out):
            out |= spectral.normed(link.theirs, out.pop(link.theirs), axis=1 if link.swap else 0)
        return out

    @property
    def names(self) -> dict[str, str]:
        """Our name → theirs."""
        return {link.ours: link.theirs for link in self.links}


@dataclass(frozen=True)
class Published:
    """A layout that people publish an architecture in, for networks of any size."""

    name: str
    architecture: str
    table: Callable[..., Layout]
    marker: str = ""  # matches a name in these files, and in no others; "": as in our names
    sizes: Callable[[State], tuple[int, ...]] | None = None  # reads `table`'s arguments from a file's names and shapes


def pair(theirs: str, ours: str, *, shift: float = 0.0) -> list[Link]:
    """A weight and its bias."""
    return [Link(f"{theirs}.weight", f"{ours}.weight"), Link(f"{theirs}.bias", f"{ours}.bias", shift=shift)]


def _filter(gain: float) -> Tensor:
    """The filter 1-3-3-1 on both axes, (4, 4), with the sum `gain`."""
    row = torch.tensor(TAPS) / sum(TAPS)
    return torch.outer(row, row) * gain
