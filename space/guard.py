"""What stands before all routes: limits by address and size, routes that nobody needs, errors that say nothing."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from asked import FILE_BODY, address_of
from rewriter.serving.limits import Limits, RefusedError

OWN = "/rewriter/"  # routes that have limits of their own
UPLOAD = re.compile(r"/gradio_api/upload/?")
CLOSED = re.compile(  # Gradio's, for other apps than this
    r"(/gradio_api)?/(runs?-?history|runs|vibe|undo-vibe|profiling|monitoring|stream|deep_link|proxy=|process_recording|dev)"
    r"([/-].*|)|(/gradio_api)?/proxy=.*"
)
LISTENING = re.compile(r"/gradio_api/(queue/data|call/(v2/)?[^/]+/(?P<event>[^/]+))/?")
POSTED = 2 << 20  # bytes of a request that brings no file


class TooLargeError(Exception):
    """A body that is larger than it may be."""


class Listeners:
    """Who listens to the results of Gradio's queue, by session: whoever asked and does not listen has gone."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def __contains__(self, session: str) -> bool:
        return self._open[session] > 0

    @contextmanager
    def listening(self, request: Request) -> Iterator[None]:
        """Note that a request listens, if it does, while it is answered."""
        found = LISTENING.fullmatch(request.scope["path"]) if request.method == "GET" else None
        session = found and (found["event"] or request.query_params.get("session_hash"))
        if not session:
            yield
            return
        self._open[session] += 1
        try:
            yield
        finally:
            self._open[session] -= 1
            if not self._open[session]:
                del self._open[session]


class Guard:
    """Middleware. What is refused is answered with JSON: {"detail": message}."""

    def __init__(self, app: ASGIApp, limits: Limits, listeners: Listeners) -> None:
        self._app, self._limits, self._listeners = app, limits, listeners

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http" or scope["path"].startswith(OWN):
            await self._app(scope, receive, send)
            return
        request, begun = Request(scope), False

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            with ExitStack() as stack:
                self._check(request, stack)
                stack.enter_context(self._listeners.listening(request))
                limit = FILE_BODY if UPLOAD.fullmatch(scope["path"]) else POSTED
                await self._app(scope, _bounded(receive, request, limit), sent)
        except RefusedError as error:
            await _answer(send, 429, f"{error}: try again in {error.wait:.0f} s", error.wait)
        except TooLargeError:
            if not begun:
                await _answer(send, 413, "the request is too large")
        except (LookupError, ValueError, AssertionError):
            logging.exception("a request that makes no sense to Gradio")
            if not begun:
                await _answer(send, 400, "there is nothing here that answers such a request: see ?view=api")
        except Exception:
            logging.exception("a request failed")
            if not begun:
                await _answer(send, 500, "something went wrong: try again")

    def _check(self, request: Request, stack: ExitStack) -> None:
        path = request.scope["path"]
        if CLOSED.fullmatch(path):
            raise LookupError(f"{path} is closed")
        if request.method == "POST":
            size = int(request.headers.get("content-length") or 0) if UPLOAD.fullmatch(path) else 0
            stack.enter_context(self._limits.request(address=address_of(request), size=size))


def _bounded(receive: Receive, request: Request, limit: int) -> Receive:
    """Receive a body up to a limit."""
    if int(request.headers.get("content-length") or 0) > limit:
        raise TooLargeError
    size = 0

    async def received() -> MutableMapping[str, Any]:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise TooLargeError
        return message

    return received


async def _answer(send: Send, status: int, message: str, wait: float | None = None) -> None:
    headers = [(b"content-type", b"application/json")]
    if wait is not None:
        headers.append((b"retry-after", f"{max(1, round(wait))}".encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": message}).encode()})
