"""How a command ends: with its own status, with one clear line and status 2, or because it was told to stop."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from rewriter.errors import RewriterError

FAILED, CLOSED = 2, 1  # statuses: after an error; after whoever read our output closed it
STOPPING = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what a system sends that shuts down
TWICE = 1.0  # seconds in which a repeated signal is the same wish: terminals and launchers send some twice
ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """End on SIGTERM with status 143 and on Ctrl-C with 130, without a traceback, after temporary files are removed.

    A command may set its own handlers with `signal.signal`; what was there before comes back afterwards. A second
    signal, more than a second after the first, ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            raise SystemExit(128 + number)  # which runs what stands in `finally`
        if time.monotonic() - first[0] > TWICE:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {each: signal.getsignal(each) for each in STOPPING}
    for each, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup and a shell's background jobs have it
            signal.signal(each, stop)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """End with one line on standard error and status 2 where something cannot be used, read, written or printed."""
    try:
        try:
            yield
        except SystemExit as ended:
            if not ended.code and sys.stdout is not None:
                sys.stdout.flush()  # a full disk is noticed here, and not when Python is gone
            raise
    except RewriterError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno == errno.EPIPE:
            _print_no_more()
            sys.exit(CLOSED)
        _fail(_of_the_system(error))


def _of_the_system(error: OSError) -> str:
    """What the system refused, and the next step."""
    name = f" {os.fsdecode(error.filename)}:" if isinstance(error.filename, (str, bytes)) else ""
    hint = "make room, or write to another disk" if error.errno in ROOM else "check that place and its permissions"
    return f"cannot go on:{name} {error.strerror or error}; {hint}"


def _fail(words: str) -> None:
    with contextlib.suppress(OSError):  # there may be no room for these words either
        print(f"rewriter: {words}", file=sys.stderr)
    _print_no_more()
    sys.exit(FAILED)


def _print_no_more() -> None:
    """Throw away what cannot be printed: Python would try again when it ends, and complain."""
    for name in ("stdout", "stderr"):
        try:
            if (stream := getattr(sys, name)) is not None:
                stream.flush()
        except OSError:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
