"""A bounded cache in memory, and the folder for caches on disk."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from sys import getsizeof
from threading import Lock
from time import monotonic
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")


class Cache:
    """Values by key within `limit` bytes; the least recently used are dropped first. Safe to share between threads.

    A value larger than the limit is never kept. Values that nobody used for `seconds` are dropped too, by `sweep`,
    which every `put` does; None: they have no age.
    """

    def __init__(self, limit: int, seconds: float | None = None):
        self.limit, self.seconds, self.size = limit, seconds, 0
        self._kept: OrderedDict[Hashable, tuple[Any, int, float]] = OrderedDict()  # value, bytes, when it was used last
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
            return self._use(key)

    def put(self, key: Hashable, value: object) -> None:
        """Keep a value, unless one is kept already or it is larger than the whole cache."""
        size = max(1, _bytes(value, set()))
        self.sweep()
        dropped = []  # so that they are freed when the lock is open again
        with self._lock:
            if key in self._kept or size > self.limit:
                self._use(key)
                return
            self._kept[key] = value, size, monotonic()
            self.size += size
            while self.size > self.limit:
                dropped.append(self._drop_oldest())

    def replace(self, key: Hashable, value: object) -> None:
        """Keep a value instead of what is kept under the key."""
        with self._lock:
            _, size, _ = self._kept.pop(key, (None, 0, 0.0))
            self.size -= size
        self.put(key, value)

    def sweep(self) -> int:
        """Drop what nobody used for `seconds`; returns how many values that were."""
        dropped = []
        with self._lock:
            while self.seconds is not None and self._kept:
                if monotonic() - next(iter(self._kept.values()))[2] < self.seconds:
                    break
                dropped.append(self._drop_oldest())
        return len(dropped)

    def _use(self, key: Hashable) -> Any:
        if key not in self._kept:
            return None
        value, size, _ = self._kept.pop(key)
        self._kept[key] = value, size, monotonic()
        return value

    def _drop_oldest(self) -> Any:
        value, size, _ = self._kept.popitem(last=False)[1]
        self.size -= size
        return value


def _bytes(value: object, seen: set[int]) -> int:
    """Bytes of a value with all its parts, each counted once: tensors, texts, networks, collections, objects."""
    if id(value) in seen or isinstance(value, type):  # a class belongs to the program
        return 0
    seen.add(id(value))
    if isinstance(value, nn.Module):
        return sum(part.nbytes for part in value.state_dict().values())
    if isinstance(value, (bytes, bytearray)):
        return len(value)
    if isinstance(own := getattr(value, "nbytes", None), int):  # tensors, NumPy's arrays, views of memory
        return own
    parts: Iterable[object] = ()
    if isinstance(value, Mapping):
        parts = (part for item in value.items() for part in item)
    elif isinstance(value, (tuple, list, set, frozenset)):
        parts = value
    return getsizeof(value) + sum(_bytes(part, seen) for part in (*parts, *getattr(value, "__dict__", {}).values()))


def default_folder() -> Path:
    """Folder for what is kept on disk: $REWRITER_CACHE, or rewriter/ in the user's cache folder."""
    if own := os.environ.get("REWRITER_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rewriter"
