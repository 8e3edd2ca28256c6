"""Rewrite the rules of a generator in the browser: `python space/app.py`, or `rewriter demo`."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import signal
import sys
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from threading import Event
from typing import Any

import gradio as gr
import torch
from starlette.middleware import Middleware

import api
from album import Album
from guard import Guard, Listeners
from photos import Photos
from publish_panel import LOGIN, PublishPanel
from rewriter.checkpoints.catalogue import built_ins, catalogue
from rewriter.checkpoints.client import connect, in_words
from rewriter.errors import InputError
from rewriter.serving.limits import Limits
from rewriter.serving.records import Records
from rewriter.serving.worker import give_back_memory
from routes import Routes
from state import PICTURES, Shared
from studio import studio
from style import LAUNCH
from work_queue import ON_SPACE, ZERO_GPU, WorkQueue

CORES, REST = min(4, os.cpu_count() or 1), 30.0  # worth a process each; seconds between looks at what to forget


class Page:
    """The page: the studio, which speaks with `routes`, and Gradio's part: publishing, and endpoints for scripts.

    Args:
        workers: processes that do the work; 0: threads of this one.
        here: the secret with which a browser proves that this machine opened it; "": none can.
    """

    def __init__(self, shared: Shared, *, login: bool = LOGIN, workers: int = 0, here: str = "") -> None:
        self.shared, self.queue = shared, WorkQueue(Photos(shared), workers)
        self.records, self.limits, self.listeners = Records(), Limits(), Listeners()
        self._own: dict[str, tuple[bytes, str]] = {}
        self.album = Album()
        self.routes = Routes(self.queue, self.records, self.limits, self._own, self.album)
        with gr.Blocks(title="rewriter", analytics_enabled=False, delete_cache=(60, 600)) as self.demo:
            visitor = shared.newcomer()
            on_gpu = ZERO_GPU and visitor.generator not in shared.on_cpu  # not before somebody asks
            first = {} if on_gpu else self.queue.call("first", visitor)
            self.studio = studio({**first, **self._served(self.queue.call("wall", visitor))})
            with gr.Column(elem_id="below"):
                self.panel = PublishPanel(self.demo, self.queue, self.records, login=login, here=here)
            api.expose(self.queue, self.listeners)

    def _served(self, value: Any) -> Any:
        """Parts with their pictures as files, which a browser keeps for ever."""
        if isinstance(value, dict):
            return {name: self._served(part) for name, part in value.items()}
        if isinstance(value, list):
            return [self._served(part) for part in value]
        if isinstance(value, str) and value.startswith("data:image/"):
            kind, _, data = value.removeprefix("data:").partition(";base64,")
            content = base64.b64decode(data)
            name = f"{hashlib.sha256(content).hexdigest()[:40]}.{kind.removeprefix('image/')}"
            self._own[name] = content, kind
            return PICTURES + name
        return value

    def launch(self, **options: Any) -> Any:
        """Serve the page; options are those of Gradio's `launch`."""
        guard = Middleware(Guard, limits=self.limits, listeners=self.listeners)
        around = {"routes": self.routes.all(), "middleware": [guard]}
        self.demo.queue(max_size=512, api_open=False, default_concurrency_limit=None)
        return self.demo.launch(**LAUNCH, app_kwargs=around, **options)

    def rest(self) -> None:
        """Forget those who have left, and give memory back."""
        self.records.sweep()
        self.album.sweep()
        self.shared.sweep()  # of work in this process
        give_back_memory()

    def close(self) -> None:
        """Stop serving, once what is under way is done or some seconds have passed."""
        self.queue.pool.drain()
        self.demo.close()
        self.queue.pool.close()


def _check(mcp: bool, login: bool) -> None:
    """Raise InputError, before anything is loaded, for what is not installed, or a login that cannot work."""
    if login and find_spec("authlib") is None:
        raise InputError("the login needs another package: pip install 'gradio[oauth]'")
    if login and not LOGIN:  # before Gradio asks the same, with a less helpful error
        hub = connect()
        with in_words("log in", hub):
            hub.whoami()
    if mcp and find_spec("mcp") is None:
        raise InputError("MCP needs another package: pip install 'gradio[mcp]'")


def _usual_workers() -> int:
    if ZERO_GPU or sys.platform == "win32":  # which cannot hand a pipe to another program
        return 0
    return torch.cuda.device_count() or CORES if ON_SPACE else 1


def main(
    generators: Sequence[str] = (),
    *,
    mcp: bool = False,
    login: bool = LOGIN,
    workers: int | None = None,
    browser: bool = False,
    **options: Any,
) -> None:
    """Serve the page with the generators of the catalogue and the given ones; options are those of Gradio's launch.

    `workers`: processes that do the work; None: one on a person's machine, one a GPU or core on a Space.
    `browser`: open the page in this machine's browser.

    Raises:
        InputError: a file does not exist, the port is taken, or a package for MCP or the login is not installed.
    """
    _check(mcp, login)
    known = [entry.id for entry in catalogue().values() if entry.remote or entry.local.is_file()]
    workers = _usual_workers() if workers is None else workers
    here, stop = "" if ON_SPACE else secrets.token_urlsafe(24), Event()

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # the second time at once
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    shared = Shared(dict.fromkeys([*generators, *reversed(built_ins()), *known]))
    page = Page(shared, login=login, workers=workers, here=here)
    try:
        page.launch(mcp_server=mcp, prevent_thread_lock=True, **options)
        if here:
            url = f"{page.demo.local_url}?here={here}"
            sys.stdout.write(f"To publish from this machine, open {url}\n")
            sys.stdout.flush()
            if browser:
                webbrowser.open(url)
        while not stop.wait(REST):
            page.rest()
    except OSError as error:
        raise InputError(f"the page cannot be served ({error}): choose another port or host") from error
    finally:
        page.close()


if __name__ == "__main__":
    main()
