"""The arrays and numbers of NumPy in a pickle, and the reading of all numbers that a pickle embeds."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rewriter.checkpoints.pickle_types import ARRAY, SCALAR, Built, Chunk, Storage, TensorInfo, only
from rewriter.errors import InputError

CODES = {  # NumPy's names of types
    **{"f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "b1": torch.bool},
    **{"i1": torch.int8, "i2": torch.int16, "i4": torch.int32, "i8": torch.int64, "u1": torch.uint8},
}


def array_info(value: Any, name: str) -> TensorInfo:
    """What an array, or a scalar, holds, nothing of which is read yet; InputError if it is none of numbers.

    `name` is that of the weight, for the error.
    """
    if is_scalar(value):
        value = Built(ARRAY, (1, (), value.state[0], False, value.state[1]))
    if type(value) is not Built or value.name != ARRAY or type(value.state) is not tuple or len(value.state) != 5:
        raise InputError(f"it has another thing ({type(value).__name__}) where the array {name[:80]!r} belongs")
    _, shape, kind, fortran, data = value.state
    dtype = _dtype(kind, name)
    sides = only(tuple, shape)
    if type(fortran) is not bool or len(sides) > 8 or not all(type(n) is int and 0 <= n < 1 << 40 for n in sides):
        raise InputError(f"its array {name[:80]!r} has an impossible shape or order")
    count = math.prod(sides)
    if count * dtype.itemsize != only(Chunk, data).size:
        raise InputError(f"its array {name[:80]!r} of the shape {sides} has {data.size:,} bytes")
    order = range(len(sides)) if fortran else reversed(range(len(sides)))
    stride, step = [0] * len(sides), 1
    for axis in order:
        stride[axis], step = step, step * max(sides[axis], 1)
    return TensorInfo(Storage(dtype, count, name, data), 0, sides, tuple(stride))


def _dtype(kind: Any, name: str) -> torch.dtype:
    """The type of an array's numbers; InputError for others than numbers in this machine's order of bytes."""
    found = CODES.get(kind.name) if type(kind) is Built else None
    order = kind.state[1] if found and type(kind.state) is tuple and len(kind.state) > 1 else "="
    same = {"little": "<", "big": ">"}[sys.byteorder]
    if found is None or (found.itemsize > 1 and order not in ("=", same)):
        raise InputError(f"its array {name[:80]!r} does not hold numbers of this machine's kind")
    return found


def is_scalar(value: Any) -> bool:
    """Whether a value is one of NumPy's numbers."""
    return type(value) is Built and value.name == SCALAR and len(value.state) == 2


def plain(value: Any) -> Any:
    """A scalar of NumPy as a number of Python; any other value as it is."""
    return read_all({"": array_info(value, "number")}, most=8)[""].item() if is_scalar(value) else value


def read_all(described: Mapping[str, TensorInfo], *, most: int) -> dict[str, Tensor]:
    """The numbers that are embedded in a pickle, by name; InputError for more than `most` bytes.

    No file that holds its numbers once has more of them than its size.
    """
    storages = {value.storage for value in described.values()}
    if sum(storage.nbytes for storage in storages) > most:
        raise InputError("its tensors are larger than the file: they overlap")
    numbers = {storage: _numbers(storage) for storage in storages}
    return {name: numbers[at.storage].as_strided(at.shape, at.stride, at.offset) for name, at in described.items()}


def _numbers(storage: Storage) -> Tensor:
    """All numbers of a storage, (count,)."""
    numbers = torch.empty(storage.count, dtype=storage.dtype)
    if storage.data is None:
        raise InputError("it names numbers that are not in it")
    if storage.count:
        storage.data.fill(numbers.view(torch.uint8).numpy().data)
    return numbers
