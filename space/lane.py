"""Where the models are at work: one piece of work at a time, in one thread; on ZeroGPU in its forked worker.

One thread, because visitors take turns on one device, and because PyTorch keeps a pool of threads for each thread that
it is called from. What goes in and what comes out is picklable.
"""

from __future__ import annotations

import html
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

import gradio as gr

from downloads import Downloads
from handlers import Handlers
from rewriter.errors import CancelledError, InputError, RewriterError
from rewriter.hub.browse import public_rules
from studio import Visitor
from view import Shown

try:
    from spaces import GPU  # comes with a Space on ZeroGPU; nobody else needs it
except ImportError:
    GPU = None

ZERO = GPU is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
SHARED = bool(os.environ.get("SPACE_ID"))  # with strangers, who wait
QUICK, SECONDS = 10, 60 if SHARED else 900  # that one piece of work may take
BEAT = 0.1  # seconds without news after which a watcher is given the chance to leave
REFUSED = "refused"  # the part of what is shown that says why there is nothing else
News = tuple[float, str]  # share done, and of what


class Lane:
    """Does what a handler does, by its name, in turn; the library's errors become messages on the page.

    `call` waits for what is quick. `follow` is an iterator over the news of what is not, and then what it has led to;
    closing the iterator stops the work. Refusals come out of the lane as values: an error would cost ZeroGPU a worker.
    """

    def __init__(self, handlers: Handlers) -> None:
        self.studio, self._handlers, self._downloads = handlers.studio, handlers, Downloads()
        self._pool = ThreadPoolExecutor(1, "lane")
        self._call: Callable[..., Shown] = GPU(self._do, duration=QUICK) if ZERO else self._wait
        self._watch: Callable[..., Iterator[News | Shown]] = GPU(self._news, duration=SECONDS) if ZERO else self._news

    def call(self, *named: Any) -> Shown:
        """What the handler of that name makes of the arguments; gr.Error if it refuses."""
        return _accepted(self._call(*named))

    def follow(self, *named: Any) -> Iterator[News | Shown]:
        """The same with the news on the way."""
        watched = self._watch(*named)
        try:
            for news in watched:
                yield _accepted(news)
        finally:
            watched.close()  # type: ignore[attr-defined]  # it is a generator

    def fetch(self, name: str) -> Iterator[News]:
        """Bring a generator to this machine, aside from the lane; the news of it; gr.Error if that fails."""
        studio = self.studio
        with failing(f"fetching {name}"):
            if studio.absent(name):
                source = studio.source(name)
                studio.sources[name] = yield from self._downloads.follow(source, source.origin.title or name)
            if ZERO:
                studio.model(name)  # here, because what a worker loads is gone with it

    def bring(self, asked: str, *, linked: bool = True) -> Iterator[News | Shown]:
        """Bring what a link, or else the chooser, asks for, aside from the lane: the news, then what is done with it.

        That is a generator on offer; or one that was published, for everybody, on such a base; or a shipped edit.
        """
        if asked in self.studio.names:
            yield from self.fetch(asked)
            yield {"brought": ("choose", asked, asked if linked else None)}
        elif "/" not in asked:
            yield {"brought": ("linked", asked)}
        else:
            yield 0.0, f"Looking for {asked}"
            with failing(f"opening {asked}"):
                base, rules = public_rules(asked)
                if base not in self.studio.names:
                    raise InputError(
                        f"the base of {asked} is not on offer here: open it on your own machine, with "
                        f"rewriter demo --generator {asked}"
                    )
            yield from self.fetch(base)
            yield {"brought": ("adopt", base, rules, asked)}

    def arrived(self, visitor: Visitor, brought: tuple[Any, ...] | None) -> Iterator[News | Shown]:
        """The news of what is done with what was brought, and what that leads to."""
        if brought:
            yield from self.follow(brought[0], visitor, *brought[1:])

    def _do(self, name: str, *arguments: Any, **tell: Any) -> Shown:
        try:
            shown: Shown = getattr(self._handlers, name)(*arguments, **tell)
            return shown
        except CancelledError:
            return {REFUSED: f"this took longer than {SECONDS} s and was stopped; nothing has changed"}
        except RewriterError as error:
            return {REFUSED: str(error)}
        except Exception:
            logging.exception("%s failed", name)
            return {REFUSED: "something went wrong here, and nothing has changed: try again, or something else"}

    def _wait(self, *named: Any) -> Shown:
        return self._pool.submit(self._do, *named).result()

    def _news(self, *named: Any) -> Iterator[News | Shown]:
        told: SimpleQueue[tuple[bool, News | Shown]] = SimpleQueue()
        stop, end, last = Event(), time.monotonic() + SECONDS, (0.0, "Working")

        def tell(done: int, of: int, words: str, shown: Shown | None = None) -> bool:
            told.put((False, shown or (done / of, words)))
            return not stop.is_set() and time.monotonic() < end

        def work() -> None:
            told.put((True, {} if stop.is_set() else self._do(*named, tell=tell)))

        worker = Thread(target=work, daemon=True) if ZERO else None
        worker.start() if worker else self._pool.submit(work)
        try:
            done = False
            while not done:
                news: News | Shown = last
                with suppress(Empty):
                    done, news = told.get(timeout=BEAT)
                last = last if isinstance(news, dict) else news
                yield news
        finally:
            stop.set()
            if worker:
                worker.join()  # the GPU is somebody else's as soon as this returns


@contextmanager
def failing(doing: str) -> Iterator[None]:
    """Errors outside of the lane, as messages on the page."""
    try:
        yield
    except RewriterError as error:
        _accepted({REFUSED: str(error)})
    except gr.Error:
        raise
    except Exception:
        logging.exception("%s failed", doing)
        _accepted({REFUSED: f"something went wrong in {doing}: try again"})


def _accepted(news: Any) -> Any:
    if isinstance(news, dict) and REFUSED in news:
        raise gr.Error(f"{html.escape(news[REFUSED], quote=False)}.", duration=10, print_exception=False)
    return news
