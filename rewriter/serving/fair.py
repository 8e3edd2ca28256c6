"""Whose turn it is: a queue that serves visitors in turn, however many clicks each of them sends."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

QUICK, LONG, BACKGROUND = LANES = ("quick", "long", "background")
GUESSES = {QUICK: 0.05, LONG: 3.0, BACKGROUND: 5.0}  # seconds that work takes, before any was seen
LATEST = 0.2  # weight of the latest time in an estimate
CROWD = 8  # visitors of one address from which on they share what that many get
REMEMBERED = 4096

Listener = Callable[[Any], object]
_numbers = count(1)


@dataclass(eq=False)
class Job:
    """Work that a visitor asks for: a function by name, with picklable arguments.

    `listen` gets what the work reports on the way, and at the end ("end", result); it is called from other threads and
    must not block. `about` is what the work's time depends on, such as the generator.
    """

    name: str
    arguments: tuple[Any, ...]
    listen: Listener
    lane: str = QUICK
    visitor: str = ""
    address: str = ""
    about: str = ""
    number: int = field(default_factory=lambda: next(_numbers))
    turn: float = math.inf  # virtual time at which it is due
    expected: float = 0.0  # seconds
    started: float = math.inf  # when it was given to a worker
    seconds: float = 10.0  # for a click: after so many it is taken for hanging
    deadline: float = math.inf  # when it is ended
    tries: int = 0
    cancelled: bool = False


class Estimates:
    """How long work takes, learned from the work itself."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], float] = {}

    def expected(self, job: Job) -> float:
        """Seconds that a job will take, as far as can be said."""
        return self._seconds.get((job.name, job.about), GUESSES[job.lane])

    def learn(self, job: Job, seconds: float) -> None:
        """Take what a job took into account."""
        key = job.name, job.about
        if key in self._seconds or len(self._seconds) < REMEMBERED:  # names come from the network
            self._seconds[key] = (1 - LATEST) * self.expected(job) + LATEST * seconds


class FairQueue:
    """Jobs in the order in which they are due: nobody's second before everybody's first (start-time fair queueing).

    A visitor's next job is due when the time that the jobs before it are expected to take has been given to everybody
    else too. Visitors of one address beyond CROWD share the turns of CROWD visitors. Not safe to share between threads.
    """

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.time = 0.0  # virtual: when the job that was taken last was due
        self._next: dict[str, float] = {}  # by visitor: when their next job is due

    def __len__(self) -> int:
        return len(self.jobs)

    def put(self, job: Job) -> None:
        """Add a job behind those that are due before it; `job.expected` is how long it will take."""
        job.turn = max(self.time, self._next.get(job.visitor, 0.0))
        self._next[job.visitor] = job.turn + job.expected * max(1.0, self._crowd(job) / CROWD)
        insort(self.jobs, job, key=lambda each: (each.turn, each.number))
        if len(self._next) > REMEMBERED:
            self._next = {visitor: due for visitor, due in self._next.items() if due > self.time}

    def _crowd(self, job: Job) -> int:
        """How many visitors of the same address wait."""
        if not job.address:
            return 1
        return len({each.visitor for each in self.jobs if each.address == job.address} | {job.visitor})

    def take(self) -> Job | None:
        """Remove and return the first job, if there is one."""
        if not self.jobs:
            return None
        job = self.jobs.pop(0)
        self.time = max(self.time, job.turn)
        return job

    def remove(self, job: Job) -> bool:
        """Take a job out of the queue; whether it was in it."""
        if job not in self.jobs:
            return False
        self.jobs.remove(job)
        return True

    def before(self, job: Job) -> list[Job]:
        """The jobs that will be served before this one."""
        return self.jobs[: self.jobs.index(job)] if job in self.jobs else []
