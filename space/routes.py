"""The page's own routes: a click is one request with the visitor's record, answered line by line.

No visitor is remembered between requests, so that any process of any host can answer. `guard` stands before all routes.
"""

from __future__ import annotations

import asyncio
import base64
import html
import json
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, suppress
from typing import Any

from starlette.concurrency import iterate_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from album import Album
from asked import AnswerError, Reader, Step, address_of
from photos import OPENED
from received import to_record
from rewriter.serving.limits import Limits, RefusedError
from rewriter.serving.records import Records
from rewriter.serving.worker import memory
from state import PICTURES, Visitor
from view import Shown
from work import ERROR
from work_queue import WorkQueue, is_end, result_of

PROGRESS, HEARTBEAT = 0.2, 0.5  # seconds between reports, and between signs of life
FINISHING = {"progress": {"share": 0.0, "words": "Getting ready …"}}  # a first measurement, or other work that ends
FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


class Lines(StreamingResponse):
    """An answer line by line; `limited` is left when it ends, also if nobody waits for it any more."""

    def __init__(self, lines: AsyncIterator[bytes], limited: AbstractContextManager[None]) -> None:
        super().__init__(lines, media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})
        self._limited = limited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._limited.__exit__(None, None, None)


class Routes:
    """The routes, for Gradio's app to serve; `own`: what is served by name besides the pictures on the shelf."""

    def __init__(
        self,
        queue: WorkQueue,
        records: Records,
        limits: Limits,
        own: dict[str, tuple[bytes, str]],
        album: Album,
    ) -> None:
        self.queue, self.records, self.limits, self.own, self.album = queue, records, limits, own, album
        self._reader = Reader(queue, records, limits, album)

    def all(self) -> list[Route]:
        """For `app_kwargs={"routes": …}`."""
        return [
            Route("/rewriter/step", self.step, methods=["POST"]),
            Route(f"/{PICTURES}{{name}}", self.picture, methods=["GET"]),
            Route("/rewriter/health", self.health, methods=["GET"]),
        ]

    async def step(self, request: Request) -> Response:
        """Answer a click."""
        try:
            asked = await self._reader.read(request)
            if asked.name == "unload":
                self._forget(asked.who.visitor)
                return Response(status_code=204)
            limited = self.limits.request(tab=asked.who.visitor, address=asked.who.address)
            limited.__enter__()
        except RefusedError as error:
            return AnswerError(429, f"{error}", error.wait).response
        except AnswerError as error:
            return error.response
        except ClientDisconnect:
            return Response(status_code=400)

        if asked.sent:
            self.album.put(asked.who.visitor, asked.visitor.photos)

        async def lines() -> AsyncIterator[bytes]:
            async for shown in self._answers(asked, request):
                yield json.dumps(shown).encode() + b"\n" if shown is not None else b"\n"

        return Lines(lines(), limited)

    async def picture(self, request: Request) -> Response:
        """A picture by its name; its content never changes."""
        name = request.path_params["name"]
        if name in self.own:
            data, kind = self.own[name]
            return Response(data, media_type=kind, headers=FOREVER)
        found = await asyncio.to_thread(self.queue.shared.shelf.get, name)
        if found is None:
            return Response("this picture is not here any more", 404, media_type="text/plain")
        return Response(found, media_type="image/jpeg", headers=FOREVER)

    async def health(self, request: Request) -> Response:
        """For operators on this machine: the workers, what waits, and memory."""
        if address_of(request):
            return Response(status_code=404)
        state = self.queue.pool.state()
        for worker in state["workers"]:
            worker["rss_mb"] = round(memory(worker["pid"]) / 1e6)
        return JSONResponse({**state, "rss_mb": round(memory() / 1e6)})

    # --- answering ---

    async def _answers(self, asked: Step, request: Request) -> AsyncIterator[Shown | None]:
        """Parts to show as they come, None as a sign of life; the last one has "end"."""
        name, arguments = asked.name, [asked.visitor, *asked.arguments]
        if name == "fetch":
            fetched: Shown = {}
            async for one in self._fetched(asked, request):
                fetched = one or {}
                yield one if "fetched" not in fetched else None
            if "fetched" not in fetched:
                return
            name, *rest = fetched["fetched"]
            arguments = [asked.visitor, *rest]
        elif name == "attempt":
            name, arguments = "rule", [asked.visitor, "try", *asked.arguments]
        elif name == "open":
            arguments = [asked.visitor, *(asked.arguments or [None]), asked.trouble]
        elif asked.trouble:
            yield {"trouble": _trouble(asked.trouble), "record": self._record(asked.visitor), "end": True}
            return
        partly = False
        async for one in self._done(name, tuple(arguments), asked, request):
            if one is not None and "end" in one:
                yield await self._last(one, asked, partly, request)
                return
            partly |= one is not None and "film" in one
            yield one

    async def _fetched(self, asked: Step, request: Request) -> AsyncIterator[Shown | None]:
        """The progress of a download, beside the queue; at last {"fetched": …}, or the trouble."""
        usual = ["", True, False]
        wanted, linked, on_top = [*asked.arguments, *usual[len(asked.arguments) :]][:3]
        following = self.queue.fetch_wanted(f"{wanted}", linked=bool(linked), on_top=bool(on_top))
        try:
            async for one in iterate_in_threadpool(following):
                if await request.is_disconnected():
                    return
                yield one if isinstance(one, dict) else {"progress": {"share": one[0], "words": f"{one[1]} …"}}
        except Exception as error:  # gr.Error with a message for the page; everything else became one
            words = html.unescape(str(getattr(error, "message", error)))
            yield {"progress": None, "trouble": _trouble(words), "end": True}
        finally:
            with suppress(ValueError):  # it is running in its thread, and ends there
                following.close()

    async def _done(
        self, name: str, arguments: tuple[Any, ...], asked: Step, request: Request
    ) -> AsyncIterator[Shown | None]:
        """The reports of a job as parts to show; the last one is {"end": its result}."""
        loop, items = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def listen(item: Any) -> None:
            with suppress(RuntimeError):  # the server stops
                loop.call_soon_threadsafe(items.put_nowait, item)

        pool, silent = self.queue.pool, name in ("prepare", "rule")
        job, ended, heard, reported = self.queue.submit(name, arguments, listen, asked.who), False, False, 0.0
        try:
            while not ended:
                try:
                    item = await asyncio.wait_for(items.get(), HEARTBEAT)
                except TimeoutError:
                    if await request.is_disconnected():
                        return
                    waits = pool.waits(job)
                    yield None if silent or heard else waiting_words(*pool.wait(job)) if waits else FINISHING
                    continue
                heard = True
                if ended := is_end(item):
                    yield {"end": result_of(item)}
                elif isinstance(item, dict):
                    yield item
                elif not silent and time.monotonic() > reported + PROGRESS:
                    reported = time.monotonic()
                    yield {"progress": {"share": item[0], "words": f"{item[1]} …"}}
        finally:
            if not ended:
                pool.cancel(job)

    async def _last(self, one: Shown, asked: Step, partly: bool, request: Request) -> Shown:
        """The last line of an answer."""
        result: Shown = one["end"]
        shown: Shown = {} if asked.name == "prepare" else {"progress": None}
        shown |= {} if asked.name in ("prepare", "refresh") else {"trouble": {}}
        if asked.name == "attempt":
            return {"end": True} | ({} if ERROR in result else result)
        if ERROR in result:
            shown["trouble"] = _trouble(result[ERROR])
            if partly:  # the pictures as they are after all
                async for last in self._done("refresh", (asked.visitor,), asked, request):
                    again = (last or {}).get("end") or {}
                    shown |= {name: part for name, part in again.items() if name not in ("visitor", ERROR)}
        shown |= {name: part for name, part in result.items() if name not in ("visitor", ERROR)}
        if asked.name == "forget_photo" and asked.arguments:
            self._forget(asked.who.visitor, f"{asked.arguments[0]}")
        if OPENED in result:
            name, data = (result[OPENED][part] for part in ("name", "data"))
            self.album.put(asked.who.visitor, {name: data})
            shown[OPENED] = {"name": name, "data": base64.b64encode(data).decode()}
        visitor = result.get("visitor")
        if visitor is not None and (visitor != asked.visitor or asked.name in ("open", "fetch")):
            shown["record"] = self._record(visitor)
        return {**shown, "end": True}

    def _forget(self, tab: str, name: str | None = None) -> None:
        """Forget a photo of a tab, or all of them, here and in the workers."""
        if gone := self.album.forget(tab, name):
            self.queue.pool.forget(gone)

    def _record(self, visitor: Visitor) -> str:
        """A visitor's record, signed."""
        signed = self.records.sign(to_record(visitor))
        self.records.remember(signed)
        return signed


def _trouble(message: str) -> Shown:
    """A message for the page; `at` makes it another one even if it says the same."""
    first, _, _ = message.partition(" ")  # a file's name stays as it is
    message = f"{message[:1].upper()}{message[1:]}" if first.isalpha() else message
    return {"message": f"{message.rstrip('.')}.", "at": time.time_ns()}


def waiting_words(place: int, seconds: float) -> Shown:
    """Where somebody stands in the queue, and for how long about."""
    at = ORDINALS[place - 1] if place <= len(ORDINALS) else f"number {place:,}"
    about = f"about {max(1, round(seconds))} s" if seconds < 90 else f"about {round(seconds / 60)} minutes"
    return {"progress": {"share": 0.0, "words": f"You are {at} in the queue: {about} …"}}
