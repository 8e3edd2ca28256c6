"""The page's own routes: a click is one request with the visitor's record, answered line by line.

No visitor is remembered between requests, so that any process of any host can answer. `guard` stands before all routes.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

from starlette.concurrency import iterate_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from handlers import LONG, QUICK
from received import from_record, to_record
from rewriter.errors import InputError
from rewriter.serving.limits import Limits, RefusedError
from rewriter.serving.records import Records
from rewriter.serving.worker import memory
from state import PICTURES, Visitor, unknown
from view import Shown
from work import ERROR
from work_queue import ON_SPACE, Who, WorkQueue, is_end, result_of

STEPS = (*QUICK, *LONG, "attempt", "fetch")
TAB = re.compile(r"[A-Za-z0-9-]{16,64}")
BODY, FILE_BODY = 16 << 20, 48 << 20  # bytes of a request; of one that brings a file
BODY_SECONDS, BODY_RATE, BODIES = 6.0, 32_000, 16  # to receive a body: seconds and bytes a second; large ones at once
MOST_PARTS = 50_000  # commas and brackets in a request
SMALL = 256 << 10  # bytes up to which a body is not large
PROGRESS, HEARTBEAT = 0.2, 0.5  # seconds between reports, and between signs of life
MOST_WAITING = 2000  # clicks
FINISHING = {"progress": {"share": 0.0, "words": "Getting ready …"}}  # a first measurement, or other work that ends
FORWARDED = ("x-forwarded-for", "forwarded", "via", "x-forwarded-host", "x-real-ip")  # headers of a proxy or a tunnel
FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


class AnswerError(Exception):
    """A request that is answered with a status other than 200."""

    def __init__(self, status: int, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.wait = status, message, wait

    @property
    def response(self) -> Response:
        """The answer."""
        waits = {} if self.wait is None else {"wait": round(self.wait + 0.05, 1)}
        headers = {} if self.wait is None else {"Retry-After": f"{max(1, round(self.wait))}"}
        return JSONResponse({"message": self.message, **waits}, self.status, headers)


@dataclass(frozen=True)
class Step:
    """A click: who, what, and the work that it is about."""

    who: Who
    name: str
    arguments: list[Any]
    visitor: Visitor
    trouble: str = ""  # why the record could not be read


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

    def __init__(self, queue: WorkQueue, records: Records, limits: Limits, own: dict[str, tuple[bytes, str]]) -> None:
        self.queue, self.records, self.limits, self.own = queue, records, limits, own
        self._large, self._receiving = asyncio.Semaphore(BODIES), Counter[str]()

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
            asked = await self._asked(request)
            limited = self.limits.request(tab=asked.who.visitor, address=asked.who.address)
            limited.__enter__()
        except RefusedError as error:
            return AnswerError(429, f"{error}", error.wait).response
        except AnswerError as error:
            return error.response
        except ClientDisconnect:
            return Response(status_code=400)

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

    # --- reading a request ---

    async def _asked(self, request: Request) -> Step:
        """What a request asks for; AnswerError if that makes no sense, or too much waits already."""
        body = await self._body(request)
        if sum(map(body.count, (b"{", b"[", b","))) > MOST_PARTS:  # so many would hold up everybody
            raise AnswerError(413, "the request has too many parts")
        try:
            data = json.loads(body) if len(body) < SMALL else await asyncio.to_thread(json.loads, body)
            name, arguments, tab = data["name"], data.get("args", []), data["tab"]
            if not isinstance(tab, str) or not TAB.fullmatch(tab):
                raise AnswerError(400, "tab: 16 to 64 letters, digits and hyphens, chosen at random by each client")
            if not isinstance(name, str) or name not in STEPS:
                raise AnswerError(400, unknown("step", name, STEPS))
            if not isinstance(arguments, list) or len(arguments) > 8:
                raise AnswerError(400, "args: a list of at most eight values")
            if name == "load" and not (len(arguments) == 2 and all(isinstance(each, str) for each in arguments)):
                raise AnswerError(400, "load: the name of a file, and its content in base64")
            if not all(data.get(part) is None or isinstance(data[part], str) for part in ("record", "known")):
                raise AnswerError(400, "record, known: texts")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            wrong = f"the request is not as it should be ({type(error).__name__}: {error})"
            raise AnswerError(400, wrong[:200]) from error
        if len(body) > BODY and name != "load":
            raise AnswerError(413, f"the request is larger than {BODY >> 20} MB")
        waiting = sum(map(len, self.queue.pool.queues.values()))
        if waiting > MOST_WAITING:
            raise AnswerError(503, f"{waiting:,} clicks wait here: try again in a minute", 30.0)
        who = Who(tab, address_of(request), request)
        visitor, trouble = self._visitor(data.get("record"), data.get("known"))
        return Step(who, name, arguments, replace(visitor, inline=data.get("inline") is True), trouble)

    def _visitor(self, record: Any, known: Any) -> tuple[Visitor, str]:
        """The visitor in a record, or a new one and what is wrong with the record."""
        if record is None and known is not None:
            record = self.records.recall(f"{known}")
            if record is None:
                raise AnswerError(409, "this record is not known here: send it in full")
        if record is None:
            return Visitor(self.queue.shared.names[0]), ""
        text, ours = self.records.read(f"{record}")
        try:
            return from_record(text, ours=ours), ""
        except InputError as error:
            return Visitor(self.queue.shared.names[0]), f"{error}."

    async def _body(self, request: Request) -> bytes:
        """The request's body, as far as it may be read."""
        size = int(request.headers.get("content-length") or 0)
        if size > FILE_BODY:
            raise AnswerError(413, f"the request is larger than {FILE_BODY >> 20} MB")
        if size > SMALL or "content-length" not in request.headers:
            address = address_of(request)
            if address and self._receiving[address] >= BODIES // 4:
                raise AnswerError(429, "too many large requests at once from here", 1.0)
            if self._large.locked():
                raise AnswerError(503, "many files are arriving: try again in some seconds", 2.0)
            self._receiving[address] += 1
            try:
                with self.limits.request(address=address, size=size):
                    async with self._large:
                        return await self._received(request)
            finally:
                self._receiving[address] -= 1
        return await self._received(request)

    async def _received(self, request: Request) -> bytes:
        parts, size, began = [], 0, asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(BODY_SECONDS) as limit:
                async for part in request.stream():
                    size += len(part)
                    if size > FILE_BODY:
                        raise AnswerError(413, f"the request is larger than {FILE_BODY >> 20} MB")
                    parts.append(part)
                    limit.reschedule(began + BODY_SECONDS + size / BODY_RATE)
        except TimeoutError as error:
            raise AnswerError(408, "the request took too long to arrive: your connection may be slow") from error
        return b"".join(parts)

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
        visitor = result.get("visitor")
        if visitor is not None and (visitor != asked.visitor or asked.name in ("open", "fetch")):
            shown["record"] = self._record(visitor)
        return {**shown, "end": True}

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


def address_of(request: Request) -> str:
    """The address that a request comes from, as far as it says something: "" on this machine without a proxy.

    The server believes the headers of proxies on this machine, and at the addresses in $FORWARDED_ALLOW_IPS.
    """
    host = request.client.host if request.client else ""
    told = [part.strip() for part in request.headers.get("x-forwarded-for", "").split(",") if part.strip()]
    if ON_SPACE and told:
        return told[-1][:64]  # what the Space's own proxy saw
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.is_loopback and not any(name in request.headers for name in FORWARDED):
        return ""
    return str(ip_network((address, 64), strict=False)) if address.version == 6 else host  # what one home has
