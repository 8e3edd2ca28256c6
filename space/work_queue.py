"""Where the page's work is done: by a pool of threads or processes, or by ZeroGPU's forked worker.

`call` waits for quick work; `follow` iterates over the progress of long work, then its result, and cancels it when the
iterator is closed. Errors come as values, because an exception would cost ZeroGPU a worker. Arguments and results are
picklable.
"""

from __future__ import annotations

import html
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import gradio as gr
import torch
from gradio.context import LocalContext

from downloads import Downloads
from handlers import LINK, LONG, Handlers
from rewriter.checkpoints.catalogue import built_ins
from rewriter.editing.link import decode
from rewriter.errors import InputError, RewriterError
from rewriter.hub.browse import public_rules
from rewriter.serving.fair import BACKGROUND, LANES, QUICK, Job
from rewriter.serving.fair import LONG as LONG_LANE
from rewriter.serving.lanes import Lanes
from rewriter.serving.pool import CANCELLED, GONE, Pool
from rewriter.serving.process import Here, Process
from state import Shared, Visitor
from view import Shown
from work import ERROR, WRONG, Work

try:
    from spaces import GPU  # installed on Spaces with ZeroGPU only
except ImportError:
    GPU = None

ZERO_GPU = GPU is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
ON_SPACE = bool(os.environ.get("SPACE_ID"))  # shared with strangers, who wait
CALL_SECONDS, LONG_SECONDS = 10, 60 if ON_SPACE else 900  # limits for quick work on ZeroGPU, and for long work
CLICK_SECONDS, SLOW_CLICK_SECONDS = 10.0, 90.0  # after which a click hangs: on built-in worlds, on large generators
HERE, NICE = Path(__file__).parent, 15  # by how much long work gives way to clicks
INTERVAL = 0.1  # seconds without progress after which whoever follows the work can stop following it
ALWAYS_LONG = (*LONG, "choose", "example", "work", "adopt", "compare", "load_file", "first", "wall")
LOST = "the process that did this ended, and nothing has changed: try again"
Progress = tuple[float, str]  # share done, message
Following = Generator[Progress | Shown, None, None]


@dataclass(frozen=True)
class Who:
    """Who asks: whose turn it is, whether a proxy told the address, and the request, which ZeroGPU wants to see."""

    visitor: str = ""
    address: str = ""
    request: Any = None


NOBODY = Who()


class WorkQueue:
    """Runs handlers by name; the library's errors become messages on the page."""

    def __init__(self, handlers: Handlers, workers: int = 0) -> None:
        """`workers`: processes that do the work; 0: threads of this one."""
        self.shared, self._downloads, self._work = handlers.shared, Downloads(), Work(handlers)
        shared = self.shared
        if ZERO_GPU:
            shared.background, shared.on_cpu = False, frozenset(built_ins())  # its seconds are the visitors' own
        self.pool = Pool([*_processes(shared, workers)] if workers else [Here(self._work, limit=LONG_SECONDS)])
        self._gpu_call = GPU(self._work, duration=self._seconds) if ZERO_GPU else None
        self._gpu_follow = GPU(self._progress, duration=self._seconds) if ZERO_GPU else None

    def submit(self, name: str, arguments: tuple[Any, ...], listen: Callable[[Any], object], who: Who = NOBODY) -> Job:
        """Begin work as soon as it is the visitor's turn; `listen` gets progress, parts, and last ("end", result)."""
        generator = self._generator(name, arguments)
        lane = BACKGROUND if name == "prepare" else LONG_LANE if name in ALWAYS_LONG else QUICK
        if name == "choose" and generator in built_ins():  # small ones are drawn at once
            lane = QUICK
        seconds = CLICK_SECONDS if generator in built_ins() else SLOW_CLICK_SECONDS
        job = Job(name, arguments, listen, lane, who.visitor, who.address, generator, seconds=seconds)
        if self._gpu_call and generator not in self.shared.on_cpu:
            Thread(target=self._on_gpu, args=[job, who.request], daemon=True).start()
        else:
            self.pool.submit(job)
        return job

    def call(self, name: str, *arguments: Any, who: Who = NOBODY) -> Shown:
        """The result of a handler; gr.Error if it fails."""
        *_, last = self.follow(name, *arguments, who=who)
        assert isinstance(last, dict)  # progress comes before it
        return last

    def follow(self, name: str, *arguments: Any, who: Who = NOBODY) -> Following:
        """The progress of a handler, then its result; gr.Error if it fails."""
        items: SimpleQueue[Any] = SimpleQueue()
        job, last, ended = self.submit(name, arguments, items.put, who), (0.0, "Working"), False
        try:
            while not ended:
                with suppress(Empty):
                    item = items.get(timeout=INTERVAL)
                    ended = is_end(item)
                    if ended or isinstance(item, dict):
                        yield checked(result_of(item) if ended else item)
                        continue
                    last = item
                yield last
        finally:
            if not ended:
                self.pool.cancel(job)

    def fetch(self, name: str) -> Generator[Progress, None, None]:
        """Download a generator if necessary, beside the queue; its progress; gr.Error if that fails."""
        shared = self.shared
        with errors_shown(f"fetching {name}"):
            if shared.absent(name):
                shared.sources[name] = yield from self._downloads.follow(shared.source(name))
                self.pool.learn(name, shared.sources[name])
            if self._gpu_call:
                shared.model(name)  # a worker would load it again each time

    def fetch_wanted(self, wanted: str, *, linked: bool = True, on_top: bool = False) -> Following:
        """Download what a card, a link or the generator menu asks for, beside the queue; then say how to continue.

        That is an example, a generator that is offered here, a published one with such a base, or edits in a link. The
        last item is {"fetched": the name and arguments of a handler}.
        """
        if wanted in self.shared.names:
            yield from self.fetch(wanted)
            yield {"fetched": ("choose", wanted, wanted if linked else None)}
        elif wanted.startswith(LINK):
            with errors_shown("opening the link"):
                generator = decode(wanted.removeprefix(LINK))[-1].generator
            yield from self.fetch(generator)
            yield {"fetched": ("work", generator, wanted)}
        elif "/" not in wanted:
            with errors_shown("opening the example"):
                generator, _ = self.shared.example(wanted)
            yield from self.fetch(generator)
            yield {"fetched": ("example", wanted, linked, on_top)}
        else:
            yield 0.0, f"Looking for {wanted}"
            with errors_shown(f"opening {wanted}"):
                base, rules = public_rules(wanted)
                if base not in self.shared.names:
                    advice = f"on your own machine you can open it with: rewriter demo --generator {wanted}"
                    raise InputError(f"the base of {wanted} is not offered here: {advice}")
            yield from self.fetch(base)
            yield {"fetched": ("adopt", base, rules, wanted)}

    def _generator(self, name: str, arguments: tuple[Any, ...]) -> str:
        """The generator that a handler works on."""
        if name == "example":
            with suppress(InputError):  # the handler says that there is no such example
                return self.shared.example(arguments[1])[0]
        if name in ("choose", "work", "adopt") and len(arguments) > 1:
            return f"{arguments[1]}"
        return arguments[0].generator if arguments and isinstance(arguments[0], Visitor) else ""

    # --- ZeroGPU ---

    def _seconds(self, name: str, *arguments: Any) -> float:
        """How many of the visitor's GPU seconds to ask for: twice what such work took; shorter asks get in earlier."""
        job = Job(name, arguments, print, LONG_LANE if name in ALWAYS_LONG else QUICK, about=arguments[0].generator)
        return min(LONG_SECONDS, max(CALL_SECONDS, 2 * self.pool.estimates.expected(job)))

    def _on_gpu(self, job: Job, request: Any) -> None:
        """Do a job on ZeroGPU's worker, which has a queue of its own by visitor."""
        LocalContext.request.set(request)
        assert self._gpu_call and self._gpu_follow
        began, result = time.monotonic(), None
        try:
            if job.lane == QUICK:
                result = self._gpu_call(job.name, *job.arguments)
            else:
                followed = self._gpu_follow(job.name, *job.arguments)
                for item in followed:
                    if job.cancelled:
                        break
                    if not is_end(item):
                        job.listen(item)
                    result = result_of(item) if is_end(item) else None
                followed.close()
        except gr.Error as error:  # no more seconds for this visitor, for example
            result = {ERROR: html.unescape(str(error.message))}
        except Exception:
            logging.exception("%s failed on ZeroGPU", job.name)
            result = {ERROR: WRONG}
        self.pool.estimates.learn(job, time.monotonic() - began)
        job.listen(("end", result))

    def _progress(self, name: str, *arguments: Any) -> Generator[Any, None, None]:
        """The progress of a handler, then ("end", its result), in ZeroGPU's worker."""
        items: SimpleQueue[Any] = SimpleQueue()
        lanes = Lanes(self._work, lambda _, item: items.put(item), limit=LONG_SECONDS)
        lanes.start(1, LONG_LANE, name, arguments)
        item: Any = (0.0, "Working")
        try:
            while not is_end(item):
                with suppress(Empty):
                    item = items.get(timeout=INTERVAL)
                yield item
        finally:
            lanes.cancel(1)
            while not is_end(item):  # somebody else gets the GPU as soon as this returns
                item = items.get()


def _processes(shared: Shared, workers: int) -> Iterator[Process]:
    """Worker processes, each on the next GPU if there are any; several have one more beside them, for clicks alone."""
    gpus = torch.cuda.device_count() if shared.device is None else 0
    same = {"names": shared.names, "shelf": str(shared.shelf.path), "background": shared.background}
    same |= {"share": max(1, (os.cpu_count() or 1) // workers), "path": [str(HERE)], "limit": LONG_SECONDS}
    for index in range(workers):
        device = f"cuda:{index % gpus}" if gpus else shared.device and f"{shared.device}"
        lanes = (LONG_LANE, BACKGROUND) if workers > 1 else LANES
        yield Process("work:work", {**same, "device": device, "nice": NICE if workers > 1 else 0}, lanes)
        if workers > 1 and not index:
            yield Process("work:work", {**same, "device": device}, (QUICK,))


def is_end(item: Any) -> bool:
    """Whether what a job reports is its end."""
    return isinstance(item, tuple) and item[0] == "end"


def result_of(item: Any) -> Shown:
    """The result in a job's end."""
    result = item[1]
    if result is CANCELLED:
        return {ERROR: "cancelled"}
    return {ERROR: LOST} if result == GONE else result


@contextmanager
def errors_shown(doing: str) -> Iterator[None]:
    """Show errors from outside of the queue on the page, too."""
    try:
        yield
    except RewriterError as error:
        checked({ERROR: str(error)})
    except gr.Error:
        raise
    except Exception:
        logging.exception("%s failed", doing)
        checked({ERROR: f"something went wrong in {doing}: try again"})


def checked(result: Any) -> Any:
    """A result; gr.Error if it holds an error message."""
    if isinstance(result, dict) and ERROR in result:
        raise gr.Error(f"{html.escape(result[ERROR], quote=False).rstrip('.')}.", duration=10, print_exception=False)
    return result
