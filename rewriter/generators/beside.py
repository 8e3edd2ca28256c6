"""Rules beside the weight: memories of their own, which answer only where their context is.

A change of W answers a little everywhere, because no key is exactly orthogonal to D, and because it changes every
output's norm. A rule beside W has a gate. Where the gate is shut, nothing changes, to the bit, and demodulation is
always that of W. Such a rule does not fold into W: each rule keeps a change of W as well, for files of other programs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rewriter.generators.base import Generator
    from rewriter.generators.layer import LayerInfo, Memory


class Beside(ABC):
    """A memory beside a layer's weight."""

    form: ClassVar[str]  # the form of edits that make one, and of files that hold one

    @abstractmethod
    def change(self, memory: Memory, keys: Tensor, sigma: Tensor | None, response: Tensor) -> Tensor:
        """What to add to the demodulated response (n, out, H, W), for keys (n, in, h, w) and σ (n, out)."""

    @abstractmethod
    def matches(self, keys: Tensor) -> Tensor:
        """How far the gate is open at each key, (n, h, w) in 0 … 1."""

    def fold(self, base: Generator, twin: Generator, layer: str, strength: float) -> None:
        """Write into the weights of a copy what these can hold of it, besides the rule's own change of W."""
        return  # nothing

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, float32; the inverse of `from_tensors`."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Beside:
        """From what a file holds; KeyError, TypeError or ValueError if that is no such memory."""

    @abstractmethod
    def fits(self, info: LayerInfo) -> bool:
        """Whether it belongs to a layer of these channels, kernel and sizes of maps."""

    def to(self, device: torch.device | str) -> Beside:
        """The same on another device."""
        return self.from_tensors({name: tensor.to(device) for name, tensor in self.tensors().items()})


def form_of(beside: Beside | None) -> str:
    """The form of a change: "weight" where nothing is beside W."""
    return "weight" if beside is None else beside.form
