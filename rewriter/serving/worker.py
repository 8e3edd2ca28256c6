"""A worker process: `python -m rewriter.serving.worker FD MODULE:FUNCTION`, started by `process.Process`.

It reads messages from the inherited pipe FD: first the options of FUNCTION, which returns what runs jobs, then jobs and
cancellations; it ends when the pipe is closed. Messages are pickles between our own processes.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import signal
import sys
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any

from rewriter.serving.lanes import Lanes

IDLE = 30.0  # seconds without a message after which memory is given back, again and again
GROWN = 1 << 30  # bytes by which an idle worker may be larger than when it started


def give_back_memory() -> None:
    """Return memory that Python and the C library no longer use to the system, where that is possible."""
    gc.collect()
    with suppress(OSError, AttributeError):  # only the GNU C library has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def memory(pid: int | str = "self") -> int:
    """Bytes of memory that a process holds; 0 where that cannot be told."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main() -> None:
    """Work until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the server, which closes the pipe
    pipe, (module, _, function) = Connection(int(sys.argv[1])), sys.argv[2].partition(":")
    sending = Lock()

    def send(number: int, item: Any) -> None:
        data = pickle.dumps((number, item))
        with sending, suppress(OSError):  # nobody listens any more
            pipe.send_bytes(data)

    options = pickle.loads(pipe.recv_bytes())
    sys.path[:0] = options.pop("path", [])
    limit, nice = options.pop("limit"), options.pop("nice", 0)
    run = getattr(import_module(module), function)(**options)
    lanes, before = Lanes(run, send, limit=limit), memory()
    if nice:  # now that all is imported: others wait for a process that starts
        os.nice(nice)
    send(0, "ready")
    with suppress(EOFError, OSError):
        while True:
            while not pipe.poll(IDLE):
                if not lanes.busy:
                    run.rest()
                    give_back_memory()
                    if memory() > before + GROWN:
                        return  # another process takes its place
            what, *message = pickle.loads(pipe.recv_bytes())
            if what == "start":
                lanes.start(*message)
            elif what == "cancel":
                lanes.cancel(*message)
            else:
                getattr(run, what)(*message)  # learn or forget
    os._exit(0)  # without waiting for work that nobody wants any more


if __name__ == "__main__":
    main()
