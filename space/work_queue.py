"""The queue of work on the shared models: a lane for clicks, a lane for long work, or ZeroGPU's forked worker.

Each lane is one thread, because visitors share one device, and because PyTorch keeps a pool of threads for each calling
thread. A click does not wait for what the machine tries in the background. Arguments and results are picklable.
"""

from __future__ import annotations

import html
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

import gradio as gr

from downloads import Downloads
from handlers import LINK, Handlers
from rewriter.editing.link import decode
from rewriter.errors import CancelledError, InputError, RewriterError
from rewriter.hub.browse import public_rules
from state import Visitor
from view import Shown

try:
    from spaces import GPU  # installed on Spaces with ZeroGPU only
except ImportError:
    GPU = None

ZERO_GPU = GPU is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
ON_SPACE = bool(os.environ.get("SPACE_ID"))  # shared with strangers, who wait
CALL_SECONDS, LONG_SECONDS = 10, 60 if ON_SPACE else 900  # limits for quick and for long work
INTERVAL = 0.1  # seconds without progress after which whoever follows the work can stop following it
ERROR = "error"  # the part of a result that holds an error message
Progress = tuple[float, str]  # share done, message
Following = Generator[Progress | Shown, None, None]


class WorkQueue:
    """Runs handlers by name, one after the other in each lane; the library's errors become messages on the page.

    `call` waits for quick work. `follow` iterates over the progress of long work and then its result; closing the
    iterator cancels the work. Errors come out of the queue as values, because an exception would cost ZeroGPU a worker.
    """

    def __init__(self, handlers: Handlers) -> None:
        self.shared, self._handlers, self._downloads = handlers.shared, handlers, Downloads()
        self._quick, self._long = (ThreadPoolExecutor(1, name) for name in ("quick", "long"))
        on_gpu = GPU(self._run, duration=CALL_SECONDS) if ZERO_GPU else None
        self._call: Callable[..., Shown] = on_gpu or (lambda *named: self._quick.submit(self._run, *named).result())
        progress = self._progress
        self._follow: Callable[..., Following] = GPU(progress, duration=LONG_SECONDS) if ZERO_GPU else progress

    def call(self, name: str, *arguments: Any) -> Shown:
        """The result of a handler; gr.Error if it fails."""
        return _checked(self._call(name, *arguments))

    def follow(self, name: str, *arguments: Any) -> Following:
        """The progress of a handler, then its result."""
        followed = self._follow(name, *arguments)
        try:
            for one in followed:
                yield _checked(one)
        finally:
            followed.close()

    def fetch(self, name: str) -> Generator[Progress, None, None]:
        """Download a generator if necessary, beside the queue; its progress; gr.Error if that fails."""
        shared = self.shared
        with errors_shown(f"fetching {name}"):
            if shared.absent(name):
                shared.sources[name] = yield from self._downloads.follow(shared.source(name))
            if ZERO_GPU:
                shared.model(name)  # a worker would load it again each time

    def fetch_wanted(self, wanted: str, *, linked: bool = True, on_top: bool = False) -> Following:
        """Download what a card, a link or the generator menu asks for, beside the queue; then say how to continue.

        That is an example, a generator that is offered here, a published one with such a base, or edits in a link. The
        last item is {"fetched": the name and arguments of a handler}, for `continue_with`.
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

    def continue_with(self, visitor: Visitor, fetched: tuple[Any, ...] | None) -> Following:
        """Follow the handler that continues after a download."""
        if fetched:
            yield from self.follow(fetched[0], visitor, *fetched[1:])

    def _run(self, name: str, *arguments: Any, **notify: Any) -> Shown:
        try:
            return getattr(self._handlers, name)(*arguments, **notify)
        except CancelledError:
            return {ERROR: f"this took longer than {LONG_SECONDS} s and was cancelled; nothing has changed"}
        except RewriterError as error:
            return {ERROR: str(error)}
        except Exception:
            logging.exception("%s failed", name)
            return {ERROR: "something went wrong, and nothing has changed: try again, or try something else"}

    def _progress(self, name: str, *arguments: Any) -> Following:
        results: SimpleQueue[tuple[bool, Progress | Shown]] = SimpleQueue()
        cancelled, end, last = Event(), time.monotonic() + LONG_SECONDS, (0.0, "Working")

        def notify(done: int, of: int, message: str, shown: Shown | None = None) -> bool:
            results.put((False, shown or (done / of, message)))
            return not cancelled.is_set() and time.monotonic() < end

        def work() -> None:
            results.put((True, {} if cancelled.is_set() else self._run(name, *arguments, notify=notify)))

        worker = Thread(target=work, daemon=True) if ZERO_GPU else None
        worker.start() if worker else self._long.submit(work)
        try:
            done = False
            while not done:
                one: Progress | Shown = last
                with suppress(Empty):
                    done, one = results.get(timeout=INTERVAL)
                last = last if isinstance(one, dict) else one
                yield one
        finally:
            cancelled.set()
            if worker:
                worker.join()  # somebody else gets the GPU as soon as this returns


@contextmanager
def errors_shown(doing: str) -> Iterator[None]:
    """Show errors from outside of the queue on the page, too."""
    try:
        yield
    except RewriterError as error:
        _checked({ERROR: str(error)})
    except gr.Error:
        raise
    except Exception:
        logging.exception("%s failed", doing)
        _checked({ERROR: f"something went wrong in {doing}: try again"})


def _checked(result: Any) -> Any:
    """A result; gr.Error if it holds an error message."""
    if isinstance(result, dict) and ERROR in result:
        raise gr.Error(f"{html.escape(result[ERROR], quote=False).rstrip('.')}.", duration=10, print_exception=False)
    return result
