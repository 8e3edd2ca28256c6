"""Generators on their way: each is fetched once, however many wait for it, and no longer than somebody does."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event, Lock

from rewriter.hub.sources import Source

AT_ONCE = 2
BEAT = 0.2  # seconds between two pieces of news


class Download:
    """One generator on its way."""

    def __init__(self, source: Source, pool: ThreadPoolExecutor) -> None:
        self.there, self.of, self.waiting, self.stop = 0, 0, 0, Event()
        self.done: Future[Source] = pool.submit(source.fetch, self._tell)

    def _tell(self, there: int, of: int) -> bool:
        self.there, self.of = there, of
        return not self.stop.is_set()


class Downloads:
    """Those of this process."""

    def __init__(self) -> None:
        self._pool, self._lock = ThreadPoolExecutor(AT_ONCE, "download"), Lock()
        self._running: dict[str, Download] = {}

    def follow(self, source: Source, title: str) -> Generator[tuple[float, str], None, Source]:
        """The share that is there, and words, until all of it is; what closes the iterator stops waiting.

        Returns the source, pinned to the revision that was downloaded.

        Raises:
            InputError: the download failed; says what to do next.
        """
        with self._lock:
            mine = self._running.get(source.name)
            if mine is None or mine.stop.is_set() or mine.done.done():
                mine = self._running[source.name] = Download(source, self._pool)
            mine.waiting += 1
        try:
            while not mine.done.done():
                share = mine.there / mine.of if mine.of else 0.0
                amount = f": {mine.there / 1e6:.0f} of {mine.of / 1e6:.0f} MB" if mine.of else ""
                yield share, f"Downloading {title}{amount}" if mine.done.running() else "Waiting for other downloads"
                wait([mine.done], BEAT)
            return mine.done.result()
        finally:
            with self._lock:
                mine.waiting -= 1
                if not mine.waiting:
                    mine.stop.set()
                    mine.done.cancel()
