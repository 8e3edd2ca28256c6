"""The server that a load test asks: one that is started for it, with the memory of all its processes, or another."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import psutil

from rewriter.errors import ComputationError
from rewriter.serving.load import GENERATOR, Site

STARTING = 180.0  # seconds in which the server has to start
ENDING = 30.0  # and to end


class Server:
    """The server under test; `process` is its first one if it is ours."""

    def __init__(self, url: str, process: psutil.Process | None = None) -> None:
        self.url, self.process = url, process

    def workers(self) -> list[psutil.Process]:
        """The processes that our own server has started."""
        return self.process.children(recursive=True) if self.process else []

    def memory(self, *, alone: bool = False) -> float | None:
        """Bytes of all its processes; what they share counts once where the system can tell. None if it is not ours.

        `alone`: of the process that talks to visitors, without those that work.
        """
        if self.process is None:
            return None
        return _bytes(self.process) if alone else self._sum(_bytes)

    def cpu(self) -> float:
        """Processor seconds that its present processes have used; 0 if it is not ours."""
        return self._sum(lambda process: sum(process.cpu_times()[:2]))

    def _sum(self, figure: Callable[[psutil.Process], float]) -> float:
        total = 0.0
        for process in (self.process, *self.workers()) if self.process else ():
            with suppress(psutil.Error):  # it has just ended
                total += figure(process)
        return total


def _bytes(process: psutil.Process) -> float:
    return float(getattr(used := process.memory_full_info(), "pss", 0) or used.rss)


@contextmanager
def started(url: str, workers: int) -> Iterator[Server]:
    """The server at a URL; without one our own, ready, which is ended on leaving.

    Raises:
        ComputationError: our own does not start.
    """
    if url:
        yield Server(url)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"--port": port, "--workers": workers, "--generator": GENERATOR}
    command = [sys.executable, "-m", "rewriter", "demo", *(f"{each}" for pair in options.items() for each in pair)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            server = Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
            if not asyncio.run(_ready(Site(server.url), process)):
                said.seek(0)
                raise ComputationError(f"the server did not start: {said.read()[-2000:].decode(errors='replace')}")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(ENDING)
            except subprocess.TimeoutExpired:
                process.kill()


async def _ready(site: Site, process: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + STARTING
    while time.monotonic() < until and process.poll() is None:
        health = await site.get("rewriter/health")
        if health and all(worker["state"] == "ready" for worker in health["workers"]):
            return True
        await asyncio.sleep(0.5)
    return False


@asynccontextmanager
async def watched(server: Server, settle: float) -> AsyncIterator[tuple[Site, dict[str, float | None]]]:
    """Connections to the server, and a row that gets bytes (before, peak, present, after) and processor seconds."""
    site, row, start = Site(server.url), dict[str, float | None](before=server.memory()), server.cpu()
    row["alone_before"] = server.memory(alone=True)
    used = [row["before"]]

    async def watch() -> None:
        while True:
            await asyncio.sleep(1)
            used.append(await asyncio.to_thread(server.memory))

    watching = asyncio.create_task(watch())
    try:
        yield site, row
        row |= {
            "alone_present": server.memory(alone=True),
            "present": server.memory(),
            "peak": max(each or 0 for each in used) or None,
        }
        row["cpu"] = server.cpu() - start
    finally:
        watching.cancel()
        site.close()
    await asyncio.sleep(settle if server.process else 0)
    row["after"] = server.memory()
