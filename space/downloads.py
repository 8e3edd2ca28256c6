"""Downloads of generators: one for all visitors who wait for it, cancelled when the last of them leaves."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event, Lock

from rewriter.hub.sources import Source

AT_ONCE = 2
INTERVAL = 0.2  # seconds between progress reports


class Download:
    """The download of one generator."""

    def __init__(self, source: Source, pool: ThreadPoolExecutor) -> None:
        self.received, self.size, self.waiting, self.cancelled = 0, 0, 0, Event()
        self.done: Future[Source] = pool.submit(source.fetch, self._on_step)

    def _on_step(self, received: int, size: int) -> bool:
        self.received, self.size = received, size
        return not self.cancelled.is_set()


class Downloads:
    """The downloads of this process."""

    def __init__(self) -> None:
        self._pool, self._lock = ThreadPoolExecutor(AT_ONCE, "download"), Lock()
        self._running: dict[str, Download] = {}

    def follow(self, source: Source) -> Generator[tuple[float, str], None, Source]:
        """Report (share, message) until the download is complete; closing the iterator stops waiting for it.

        Returns the source, pinned to the revision that was downloaded.

        Raises:
            InputError: the download failed; says what to do next.
        """
        with self._lock:
            mine = self._running.get(source.name)
            if mine is None or mine.cancelled.is_set() or mine.done.done():
                mine = self._running[source.name] = Download(source, self._pool)
            mine.waiting += 1
        title = source.origin.title or source.name
        try:
            while not mine.done.done():
                share = mine.received / mine.size if mine.size else 0.0
                amount = f": {mine.received / 1e6:.0f} of {mine.size / 1e6:.0f} MB" if mine.size else ""
                yield share, f"Downloading {title}{amount}" if mine.done.running() else "Waiting for other downloads"
                wait([mine.done], INTERVAL)
            return mine.done.result()
        finally:
            with self._lock:
                mine.waiting -= 1
                if not mine.waiting:
                    mine.cancelled.set()
                    mine.done.cancel()
