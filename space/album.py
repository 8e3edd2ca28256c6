"""The photos that browser tabs have found, in this process's memory: never in a file, a log or a record.

A tab's photos are forgotten when it is closed, when nobody used them for some minutes, or when room is needed for those
of others; the browser has them too, and sends them again when they are asked for.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from threading import Lock

MOST, EACH = 4, 16 << 20  # photos of a tab; bytes of one, as a file of `rewriter.photo.portable`
LIMIT, SECONDS = 256 << 20, 600.0  # bytes of all photos, and how long they are kept without use


class Album:
    """Photos by tab and name; the least recently used tab is forgotten first. Safe to use from any thread."""

    def __init__(self, *, limit: int = LIMIT, seconds: float = SECONDS) -> None:
        self.limit, self.seconds = limit, seconds
        self._tabs: OrderedDict[str, tuple[dict[str, bytes], float]] = OrderedDict()  # and when they were used last
        self._lock = Lock()

    def look_up(self, tab: str, names: Iterable[str]) -> dict[str, bytes]:
        """Those of the named photos that this tab has here, in the order asked for."""
        with self._lock:
            self._sweep()
            photos, _ = self._tabs.pop(tab, ({}, 0.0))
            if photos:
                self._tabs[tab] = photos, time.monotonic()
            return {name: photos[name] for name in names if name in photos}

    def put(self, tab: str, photos: Mapping[str, bytes]) -> None:
        """Keep photos of a tab: the last MOST of them, none that is larger than EACH, and LIMIT bytes in all."""
        with self._lock:
            self._sweep()
            known, _ = self._tabs.pop(tab, ({}, 0.0))
            new = {name: data for name, data in photos.items() if len(data) <= EACH}
            kept = dict([*{**{name: data for name, data in known.items() if name not in new}, **new}.items()][-MOST:])
            if kept:
                self._tabs[tab] = kept, time.monotonic()
            while self.size > self.limit:
                self._tabs.popitem(last=False)

    def forget(self, tab: str, name: str | None = None) -> list[str]:
        """Forget a photo of a tab, or all of them; returns the names of those that are gone."""
        with self._lock:
            photos, _ = self._tabs.get(tab, ({}, 0.0))
            gone = [each for each in photos if name is None or each == name]
            for each in gone:
                del photos[each]
            if not photos:
                self._tabs.pop(tab, None)
            return gone

    def sweep(self) -> None:
        """Forget what nobody used for some time."""
        with self._lock:
            self._sweep()

    @property
    def size(self) -> int:
        """Bytes of all photos."""
        return sum(len(data) for photos, _ in self._tabs.values() for data in photos.values())

    def _sweep(self) -> None:
        while self._tabs and next(iter(self._tabs.values()))[1] < time.monotonic() - self.seconds:
            self._tabs.popitem(last=False)
