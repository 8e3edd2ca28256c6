"""What is worth keeping, within a bound: the least recently used goes first. Shared by threads and visitors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

from torch import Tensor, nn

T = TypeVar("T")


class Cache:
    """Values by key, as many as fit into `limit` bytes. What does not fit on its own is made anew each time."""

    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under the key, or what `make` makes."""
        found: T | None = self.peek(key)
        if found is None:
            found = make()
            self.put(key, found)
        return found

    def peek(self, key: Hashable) -> Any:
        """What is kept under the key, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: object) -> None:
        """Keep a value, unless one is kept already or it is larger than the whole cache."""
        size = max(1, _bytes(value))
        with self._lock:
            if key in self._kept or size > self.limit:
                return
            self._kept[key] = value, size
            self.size += size
            while self.size > self.limit:
                self.size -= self._kept.popitem(last=False)[1][1]


def _bytes(value: object) -> int:
    """Bytes of what is large in a value: a tensor, a file's content, a network, a collection, an object."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, nn.Module):
        return sum(part.nbytes for part in value.state_dict().values())
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, (tuple, list)):
        return sum(map(_bytes, value))
    return sum(_bytes(part) for part in vars(value).values()) if hasattr(value, "__dict__") else 0
