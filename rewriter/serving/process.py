"""Who does the jobs of a pool: threads of this process, or a process of its own that is started again when it dies.

Both take a `Job` by `start`, and report by the functions that `listen` gets. `worker` is the other end of a `Process`.
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from threading import RLock, Thread
from typing import Any

from rewriter.serving.fair import LANES, Job
from rewriter.serving.lanes import Lanes, Run, Send

log = logging.getLogger(__name__)
SETTLED = 0.3  # seconds until what a dead process did is done by others: whatever ended it may end them too


class Here:
    """Does jobs in threads of this process."""

    ready, pid, lanes = True, os.getpid(), LANES

    def __init__(self, run: Run, *, limit: float) -> None:
        self._run, self._limit = run, limit

    def listen(self, send: Send, gone: Callable[[], object]) -> None:
        """Say where reports go."""
        self._send = send
        self._lanes = Lanes(self._run, send, limit=self._limit)

    def start(self, job: Job) -> None:
        """Begin a job."""
        self._lanes.start(job.number, job.lane, job.name, job.arguments)

    def cancel(self, job: Job) -> None:
        """Ask a job to end at its next step."""
        self._lanes.cancel(job.number)

    def kill(self) -> bool:
        """A thread cannot be ended; new work is done by other threads."""
        self._lanes = Lanes(self._run, self._send, limit=self._limit)
        return False

    def learn(self, *news: Any) -> None:
        """Nothing to do: what runs the jobs is in this process."""

    def forget(self, *what: Any) -> None:
        """Forget something."""
        self._run.forget(*what)  # type: ignore[attr-defined]  # as `worker` expects it

    def close(self) -> None:
        """Nothing to do."""


class Process:
    """Does jobs in a process of its own, which is started again when it dies.

    Args:
        entry: "module:function"; the function gets `options` and returns what runs jobs (see `worker`).
        options: picklable; "limit": seconds that long work may take; "path": folders to import from; "nice": by how
            much it gives way to other processes.
        lanes: what kinds of jobs it does.
    """

    def __init__(self, entry: str, options: Mapping[str, Any], lanes: Sequence[str] = LANES) -> None:
        self._entry, self._options, self.lanes = entry, dict(options), lanes
        self._news: list[tuple[Any, ...]] = []
        self._ready, self._closed, self._failures = False, False, 0

    @property
    def ready(self) -> bool:
        """Whether it can begin a job; not if it has just died, although nobody has noticed yet."""
        return self._ready and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def listen(self, send: Send, gone: Callable[[], object]) -> None:
        """Start the process; `send` gets its reports, `gone` is called when it has died, and again when it is ready."""
        self._sends, self._gone = send, gone
        self._begin()

    def _begin(self) -> None:
        ours, theirs = Pipe()
        self._pipe, self._lock = ours, RLock()
        command = [sys.executable, "-m", "rewriter.serving.worker", str(theirs.fileno()), self._entry]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL)
        theirs.close()
        self._send(self._options)
        for news in self._news:
            self._send(("learn", *news))
        Thread(target=self._read, args=[ours, self._process], daemon=True).start()

    def _read(self, pipe: Any, process: subprocess.Popen[bytes]) -> None:
        with suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                number, item = pickle.loads(pipe.recv_bytes())
                if number:
                    self._sends(number, item)
                else:
                    self._ready, self._failures = True, 0
                    self._gone()
        self._ready = False
        status = process.wait()
        pipe.close()
        if not self._closed:
            time.sleep(SETTLED)
            self._gone()
            self._failures += 1
            if status:
                log.warning("a worker process ended with status %s; another takes its place", status)
            if self._failures > 1:  # it does not even start
                time.sleep(min(30.0, 2.0**self._failures))
            self._begin()

    def _send(self, message: Any) -> None:
        data = pickle.dumps(message)
        with self._lock, suppress(OSError):  # it died; whoever reads sees that
            self._pipe.send_bytes(data)

    def start(self, job: Job) -> None:
        """Begin a job."""
        self._send(("start", job.number, job.lane, job.name, job.arguments))

    def cancel(self, job: Job) -> None:
        """Ask a job to end at its next step."""
        self._send(("cancel", job.number))

    def kill(self) -> bool:
        """End the process at once; another takes its place."""
        self._ready = False
        self._process.kill()
        return True

    def learn(self, *news: Any) -> None:
        """Tell the process, and those that take its place."""
        self._news.append(news)
        self._send(("learn", *news))

    def forget(self, *what: Any) -> None:
        """Tell the process to forget something."""
        self._send(("forget", *what))

    def close(self) -> None:
        """End the process."""
        self._closed = True
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        self._process.kill()
