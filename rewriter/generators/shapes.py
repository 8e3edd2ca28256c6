"""An architecture's sizes, read from the names and shapes in a state dict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from rewriter.errors import InputError

WIDEST = 8192  # features; the widest published network has 1024


@dataclass(frozen=True)
class Shapes:
    """A state dict that nothing has been built for yet."""

    state: Mapping[str, Tensor]  # by canonical name
    names: Mapping[str, str] = field(default_factory=dict)  # canonical name → the file's, where it differs; for errors

    def size(self, name: str, axis: int, *, rank: int) -> int:
        """The size of one axis of a tensor; InputError if it is missing, has not `rank` axes, or is far too wide."""
        named, tensor = self.names.get(name, name), self.state.get(name)
        if tensor is None:
            raise InputError(f"the checkpoint does not fit its architecture: missing {named}")
        if tensor.ndim != rank or not tensor.numel():
            raise InputError(f"the checkpoint does not fit its architecture: {named} is {tuple(tensor.shape)}")
        if tensor.shape[axis] > WIDEST:
            raise InputError(f"{named} is {tuple(tensor.shape)}: no generator has more than {WIDEST:,} features")
        return tensor.shape[axis]


def largest(pattern: str, names: Iterable[str], *, most: int = 64) -> int:
    """The largest number, of at most `most`, that the pattern's group matches in a name; 0 if there is none."""
    numbers = [int(match[1]) for name in names if (match := re.match(pattern, name)) and len(match[1]) < 5]
    return max([number for number in numbers if number <= most], default=0)
