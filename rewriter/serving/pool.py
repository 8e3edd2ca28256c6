"""Gives jobs to workers: in turn by visitor, clicks beside long work, again if a worker process dies.

All work is a function of its arguments, so that a job can be done again by another worker; what a visitor has is never
in a worker.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from threading import RLock, Thread
from typing import Any

from rewriter.serving.fair import BACKGROUND, LANES, LONG, QUICK, Estimates, FairQueue, Job
from rewriter.serving.lanes import QUANTUM, SLICES
from rewriter.serving.process import Here, Process

log = logging.getLogger(__name__)
PATIENCE = 1.6  # seconds until cancelled work that does not end is ended with its process
BESIDE = 6.0  # seconds if other work would end with it, or if it gives way to all other work anyway
WATCHED = 0.25  # seconds between looks at what has run too long
HOMES = 10_000  # visitors whose worker is remembered
GONE = "gone"  # what a job's listener gets as its result if its worker died and it is not tried again
CANCELLED = None  # the result of a job that was cancelled


class Pool:
    """Workers and the jobs that wait for them. Safe to use from any thread."""

    def __init__(self, workers: Sequence[Here | Process]) -> None:
        self.workers, self.estimates = list(workers), Estimates()
        self.queues = {lane: FairQueue() for lane in LANES}
        self._lock = RLock()
        self._running: dict[int, tuple[Job, int]] = {}  # by number: the job and its worker
        self._homes: OrderedDict[str, int] = OrderedDict()  # the worker that knows a visitor's work
        self._closed = False
        for index, worker in enumerate(self.workers):
            worker.listen(self._report, partial(self._changed, index))
        Thread(target=self._watch, name="watch", daemon=True).start()

    def submit(self, job: Job) -> None:
        """Do a job as soon as it is its visitor's turn; its listener gets ("end", result)."""
        with self._lock:
            job.expected = self.estimates.expected(job)
            self.queues[job.lane].put(job)
        self._dispatch()

    def cancel(self, job: Job) -> None:
        """End a job; its listener gets ("end", CANCELLED) soon, or its result if it ends just now."""
        with self._lock:
            job.cancelled = True
            waited = self.queues[job.lane].remove(job)
            _, index = self._running.get(job.number, (job, -1))
            if index >= 0 and job.lane != QUICK:
                self.workers[index].cancel(job)
                alone = sum(at == index for _, at in self._running.values()) == 1 and job.lane != BACKGROUND
                job.deadline = min(job.deadline, time.monotonic() + (PATIENCE if alone else BESIDE))
        if waited:
            job.listen(("end", CANCELLED))

    def wait(self, job: Job) -> tuple[int, float]:
        """How many jobs come before a waiting one, itself included, and about how many seconds it has to wait."""
        with self._lock:
            first = self.queues[job.lane].before(job)
            seconds = sum(each.expected for each in first)
            now = time.monotonic()
            for each, _ in self._running.values():
                if each.lane == job.lane:
                    seconds += max(0.0, each.started + each.expected - now)
            serving = sum(worker.ready and job.lane in worker.lanes for worker in self.workers)
            return len(first) + 1, seconds / max(1, serving)

    def waits(self, job: Job) -> bool:
        """Whether a job has not begun yet."""
        return job.started > time.monotonic()

    def learn(self, *news: Any) -> None:
        """Tell all workers."""
        for worker in self.workers:
            worker.learn(*news)

    def forget(self, *what: Any) -> None:
        """Tell all workers to forget something."""
        for worker in self.workers:
            worker.forget(*what)

    def state(self) -> dict[str, Any]:
        """For operators: the workers, and how many jobs wait in each lane."""
        with self._lock:
            workers = [
                {
                    "pid": worker.pid,
                    "state": "ready" if worker.ready else "starting",
                    **{lane: self._busy(index, lane) for lane in LANES},
                }
                for index, worker in enumerate(self.workers)
            ]
            return {"workers": workers, "waiting": {lane: len(queue) for lane, queue in self.queues.items()}}

    def drain(self, seconds: float = 3.0) -> None:
        """Begin nothing new; wait until what is under way is done, or for some seconds."""
        self._closed, end = True, time.monotonic() + seconds
        while self._running and time.monotonic() < end:
            time.sleep(0.05)

    def close(self) -> None:
        """End all workers."""
        self._closed = True
        for worker in self.workers:
            worker.close()

    # --- inside ---

    def _busy(self, index: int, *lanes: str) -> int:
        return sum(at == index and job.lane in lanes for job, at in self._running.values())

    def _free(self, index: int, lane: str) -> bool:
        """Whether a worker can begin a job of this lane; clicks do not wait for a worker of theirs that is starting."""
        worker = self.workers[index]
        if not worker.ready or lane not in worker.lanes and any(w.ready and lane in w.lanes for w in self.workers):
            return False
        if lane == QUICK:
            return self._busy(index, QUICK) == 0
        if lane == BACKGROUND and (self._busy(index, BACKGROUND) or self.queues[LONG]):
            return False
        young = time.monotonic() - QUANTUM  # work that is not interrupted yet: whoever waits keeps their turn
        if any(at == index and job.lane == LONG and job.started > young for job, at in self._running.values()):
            return False
        return self._busy(index, LONG, BACKGROUND) < SLICES

    def _dispatch(self) -> None:
        with self._lock:
            for lane, queue in self.queues.items():
                while not self._closed and (free := [i for i in range(len(self.workers)) if self._free(i, lane)]):
                    job = queue.take()
                    if job is None:
                        break
                    self._begin(job, self._best(job, free))

    def _best(self, job: Job, free: Sequence[int]) -> int:
        """The worker that knows the visitor's work, unless it has more to do than another."""
        load = {index: self._busy(index, LONG, BACKGROUND) for index in free}
        home = self._homes.get(job.visitor, -1)
        least = min(load.values())
        if home in load and (job.lane == QUICK or load[home] <= least + 1):
            return home
        return min(free, key=lambda index: load[index])

    def _begin(self, job: Job, index: int) -> None:
        job.started, job.tries = time.monotonic(), job.tries + 1
        self._running[job.number] = job, index
        if LONG in self.workers[index].lanes:
            self._homes[job.visitor] = index
            self._homes.move_to_end(job.visitor)
        while len(self._homes) > HOMES:
            self._homes.popitem(last=False)
        job.deadline = job.started + (job.seconds if job.lane == QUICK else math.inf)
        self.workers[index].start(job)

    def _report(self, number: int, item: Any) -> None:
        """What a worker reports of a job."""
        end = isinstance(item, tuple) and item[0] == "end"
        with self._lock:
            job, _ = self._running.get(number, (None, -1))
            if job is not None and end:
                del self._running[number]
                self.estimates.learn(job, time.monotonic() - job.started)
        if job is not None:
            job.listen(item)
        if end:
            self._dispatch()

    def _watch(self) -> None:
        """End the workers of jobs that do not end by themselves."""
        while not self._closed:
            time.sleep(WATCHED)
            self._dispatch()  # what has become old enough to be interrupted
            now = time.monotonic()
            with self._lock:
                late = [(job, index) for job, index in self._running.values() if now > job.deadline]
                for job, _ in late:
                    job.tries, job.deadline = 2, math.inf  # do not do it again
            for job, index in late:
                log.warning("%s does not end: its process is ended", job.name)
                if not self.workers[index].kill():  # it is left behind
                    with self._lock:
                        self._running.pop(job.number, None)
                    job.listen(("end", CANCELLED if job.cancelled else GONE))

    def _changed(self, index: int) -> None:
        """A worker is ready, or has died: its jobs are done by others, once."""
        lost: list[Job] = []
        with self._lock:
            if not self.workers[index].ready:
                for job, at in [*self._running.values()]:
                    if at == index:
                        del self._running[job.number]
                        job.started = math.inf
                        if job.tries > 1 or job.cancelled:
                            lost.append(job)
                        else:
                            self.queues[job.lane].put(job)
        for job in lost:
            job.listen(("end", CANCELLED if job.cancelled else GONE))
        self._dispatch()
