"""Where the models are at work: one piece of work at a time, in one thread; on ZeroGPU in its forked worker.

One thread, because visitors take turns on one device, and because PyTorch keeps a pool of threads for each thread that
it is called from. What goes in and what comes out is picklable.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import gradio as gr

from handlers import Handlers
from rewriter.errors import CancelledError, RewriterError
from view import Shown

try:
    from spaces import GPU  # comes with a Space on ZeroGPU; nobody else needs it
except ImportError:
    GPU = None

ZERO = GPU is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
SECONDS = 60  # that one piece of work may take

News = tuple[float, str]  # share done, and of what


class Lane:
    """Does what a handler does, by its name, in turn; the library's errors become messages on the page.

    `call` waits for what is quick. `follow` is an iterator over the news of what is not, and then what it has led to;
    closing the iterator stops the work.
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self._pool = ThreadPoolExecutor(1, "lane")
        self.call: Callable[..., Shown] = GPU(self._do, duration=SECONDS) if ZERO else self._wait
        self.follow: Callable[..., Iterator[News | Shown]] = (
            GPU(self._follow, duration=SECONDS) if ZERO else self._follow
        )

    def _do(self, name: str, *arguments: Any, **tell: Any) -> Shown:
        try:
            shown: Shown = getattr(self._handlers, name)(*arguments, **tell)
            return shown
        except CancelledError as error:
            raise gr.Error(f"stopped after {SECONDS} s: choose method least-squares, or fewer steps") from error
        except RewriterError as error:
            raise gr.Error(f"{error}.", duration=10, title="Not yet", print_exception=False) from error

    def _wait(self, *named: Any) -> Shown:
        return self._pool.submit(self._do, *named).result()

    def _follow(self, *named: Any) -> Iterator[News | Shown]:
        told: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        stop, end = Event(), time.monotonic() + SECONDS

        def tell(done: int, of: int, words: str, shown: Shown | None = None) -> bool:
            told.put(("news", shown or (done / of, words)))
            return not stop.is_set() and time.monotonic() < end

        def work() -> None:
            try:
                told.put(("end", None if stop.is_set() else self._do(*named, tell=tell)))
            except BaseException as error:  # whatever it is, it is raised where it is waited for
                told.put(("error", error))

        Thread(target=work, daemon=True).start() if ZERO else self._pool.submit(work)
        try:
            what = ""
            while what != "end":
                what, news = told.get()
                if what == "error":
                    raise news
                yield news
        finally:
            stop.set()
