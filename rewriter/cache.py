"""A bounded cache in memory, and the folder for caches on disk."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from torch import Tensor, nn

T = TypeVar("T")


class Cache:
    """Values by key within `limit` bytes; the least recently used are dropped first. Safe to share between threads.

    A value larger than the limit is never kept.
    """

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


def default_folder() -> Path:
    """Folder for what is kept on disk: $REWRITER_CACHE, or rewriter/ in the user's cache folder."""
    if own := os.environ.get("REWRITER_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rewriter"
