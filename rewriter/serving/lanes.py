"""The work of one process: clicks one after the other, and beside them long work in slices."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Condition, Event
from typing import Any

from rewriter.serving.fair import BACKGROUND, QUICK

SLICES = 4  # long jobs that are under way at once; one of them works
QUANTUM = 4.0  # seconds of work after which a job lets those pass that have had less
REPORTED = 0.1  # seconds between reports of progress

Run = Callable[..., Any]  # (name, *arguments) → result; long work also takes notify=
Send = Callable[[int, Any], object]  # number of the job, what it reports


Turn = tuple[bool, int, int]  # background, how many times QUANTUM a job has worked, its number: the least is next


class Turns:
    """Lets one of several threads work at a time: in the order of their jobs' numbers, but long ones give way."""

    def __init__(self) -> None:
        self._changed, self._working = Condition(), False
        self._waiting: list[Turn] = []

    def enter(self, mine: Turn, cancelled: Event) -> bool:
        """Wait for this thread's turn, and take it; False if the job is cancelled before."""
        with self._changed:
            self._waiting.append(mine)
            while (self._working or mine != min(self._waiting)) and not cancelled.is_set():
                self._changed.wait()
            self._waiting.remove(mine)
            taken = not cancelled.is_set()
            self._working |= taken
            self._changed.notify_all()
        return taken

    def leave(self) -> None:
        """Let another thread work."""
        with self._changed:
            self._working = False
            self._changed.notify_all()

    def cancel(self, cancelled: Event) -> None:
        """Set a job's event; if it waits, it need not wait any longer."""
        with self._changed:
            cancelled.set()
            self._changed.notify_all()

    def wanted(self, mine: Turn) -> bool:
        """Whether somebody waits who comes before this one."""
        with self._changed:
            return bool(self._waiting) and min(self._waiting) < mine


class Slice:
    """The `notify` of one long job: reports progress, lets others work, and says whether to go on."""

    def __init__(
        self, turns: Turns, number: int, background: bool, report: Callable[[Any], object], limit: float
    ) -> None:
        self._turns, self._number, self._background, self._report = turns, number, background, report
        self.cancelled, self._mine, self._limit = Event(), False, limit
        self._worked, self._since, self._reported = 0.0, 0.0, -REPORTED

    def _turn(self) -> Turn:
        return self._background, int(self._worked // QUANTUM), self._number

    def begin(self) -> None:
        """Wait for this job's turn."""
        self._mine = self._turns.enter(self._turn(), self.cancelled)
        self._since = time.monotonic()

    def end(self) -> None:
        """Let others work."""
        if self._mine:
            self._mine = False
            self._turns.leave()

    def __call__(self, done: int, of: int, message: str, shown: Any = None) -> bool:
        """Called between steps; False: cancelled, or out of time."""
        now = time.monotonic()
        if shown is not None:
            self._report(shown)
        elif now > self._reported + REPORTED:
            self._reported = now
            self._report((done / of if of else 0.0, message))
        self._worked, self._since = self._worked + now - self._since, now
        if self._mine and self._turns.wanted(self._turn()):
            self.end()
            self.begin()
        return not self.cancelled.is_set() and self._worked < self._limit


class Lanes:
    """Runs jobs by number: `run` does the work, `send` gets what it reports and at last ("end", result).

    Args:
        run: called as run(name, *arguments), for long work with `notify`, the callback of its progress. It returns
            errors as values: what it raises is lost.
        send: called as send(number, item) from the thread that works.
        limit: seconds that long work may take; then its `notify` returns False.
    """

    def __init__(self, run: Run, send: Send, *, limit: float) -> None:
        self._run, self._send, self._limit = run, send, limit
        self._quick, self._long = ThreadPoolExecutor(1, "quick"), ThreadPoolExecutor(SLICES, "long")
        self._turns = Turns()
        self._slices: dict[int, Slice] = {}

    def start(self, number: int, lane: str, name: str, arguments: tuple[Any, ...]) -> None:
        """Begin a job as soon as its lane is free; returns at once."""
        if lane == QUICK:
            self._quick.submit(lambda: self._send(number, ("end", self._run(name, *arguments))))
            return
        mine = Slice(self._turns, number, lane == BACKGROUND, lambda item: self._send(number, item), self._limit)
        self._slices[number] = mine

        def work() -> None:
            mine.begin()
            result = None if mine.cancelled.is_set() else self._run(name, *arguments, notify=mine)
            mine.end()
            self._slices.pop(number, None)
            self._send(number, ("end", result))

        self._long.submit(work)

    def cancel(self, number: int) -> None:
        """Ask a long job to end at its next step."""
        if (mine := self._slices.get(number)) is not None:
            self._turns.cancel(mine.cancelled)

    @property
    def busy(self) -> bool:
        """Whether long work is under way."""
        return bool(self._slices)
