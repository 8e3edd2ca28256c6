"""What a request asks for: its body within bounds, the step and the visitor's work in it, and where it comes from."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from album import EACH, MOST, Album
from handlers import LONG, QUICK
from received import from_record, is_photo
from rewriter.errors import InputError
from rewriter.serving.limits import Limits
from rewriter.serving.records import Records
from state import Visitor, unknown
from work_queue import ON_SPACE, Who, WorkQueue

STEPS = (*QUICK, *LONG, "attempt", "fetch", "unload")
FILES = ("load", "photo", "photo_file")  # steps that bring a file
TAB = re.compile(r"[A-Za-z0-9-]{16,64}")
BODY, FILE_BODY = 16 << 20, 48 << 20  # bytes of a request; of one that brings a file
BODY_SECONDS, BODY_RATE, BODIES = 6.0, 32_000, 16  # to receive a body: seconds and bytes a second; large ones at once
MOST_PARTS = 50_000  # commas and brackets in a request
SMALL = 256 << 10  # bytes up to which a body is not large
MOST_WAITING = 2000  # clicks
FORWARDED = ("x-forwarded-for", "forwarded", "via", "x-forwarded-host", "x-real-ip")  # headers of a proxy or a tunnel


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
    sent: bool = False  # whether photos came with the request
    began: float = field(default_factory=time.monotonic)


class Reader:
    """Reads requests."""

    def __init__(self, queue: WorkQueue, records: Records, limits: Limits, album: Album) -> None:
        self.queue, self.records, self.limits, self.album = queue, records, limits, album
        self._large, self._receiving = asyncio.Semaphore(BODIES), Counter[str]()

    async def read(self, request: Request) -> Step:
        """What a request asks for; AnswerError if that makes no sense, or too much waits already."""
        body = await self._body(request)
        data = await self._data(body)
        name, arguments, tab, photos = data["name"], data.get("args", []), data["tab"], data.get("photos") or []
        if len(body) > BODY and name not in FILES and not isinstance(photos, dict):
            raise AnswerError(413, f"the request is larger than {BODY >> 20} MB")
        who = Who(tab, address_of(request), request)
        if name == "unload":
            return Step(who, name, [], self.queue.shared.newcomer())
        waiting = sum(map(len, self.queue.pool.queues.values()))
        if waiting > MOST_WAITING:
            raise AnswerError(503, f"{waiting:,} clicks wait here: try again in a minute", 30.0)
        visitor, trouble = self._visitor(data.get("record"), data.get("known"))
        found = await asyncio.to_thread(_decoded, photos) if isinstance(photos, dict) else self._found(tab, photos)
        visitor = replace(visitor, inline=data.get("inline") is True, photos=found)
        return Step(who, name, arguments, visitor, trouble, isinstance(photos, dict))

    async def _data(self, body: bytes) -> dict[str, Any]:
        """The body's JSON, with parts of the right kinds."""
        if sum(map(body.count, (b"{", b"[", b","))) > MOST_PARTS:  # so many would hold up everybody
            raise AnswerError(413, "the request has too many parts")
        try:
            data = json.loads(body) if len(body) < SMALL else await asyncio.to_thread(json.loads, body)
            name, arguments, tab = data["name"], data.get("args", []), data["tab"]
            photos = data.get("photos") or []
            if not isinstance(tab, str) or not TAB.fullmatch(tab):
                raise AnswerError(400, "tab: 16 to 64 letters, digits and hyphens, chosen at random by each client")
            if not isinstance(name, str) or name not in STEPS:
                raise AnswerError(400, unknown("step", name, STEPS))
            if not isinstance(photos, (list, dict)) or len(photos) > MOST or not all(map(is_photo, photos)):
                raise AnswerError(400, f"photos: at most {MOST} names, or an object with the content of each in base64")
            if not isinstance(arguments, list) or len(arguments) > 8:
                raise AnswerError(400, "args: a list of at most eight values")
            if name == "load" and not (len(arguments) == 2 and all(isinstance(each, str) for each in arguments)):
                raise AnswerError(400, "load: the name of a file, and its content in base64")
            if not all(data.get(part) is None or isinstance(data[part], str) for part in ("record", "known")):
                raise AnswerError(400, "record, known: texts")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            wrong = f"the request is not as it should be ({type(error).__name__}: {error})"
            raise AnswerError(400, wrong[:200]) from error
        found: dict[str, Any] = data
        return found

    def _found(self, tab: str, names: list[str]) -> dict[str, bytes]:
        """A tab's photos by these names; if one is not here any more, the request is to be sent again with them."""
        found = self.album.look_up(tab, names)
        if len(found) < len({*names}):
            raise AnswerError(409, "these photos are not here any more: send them along")
        return found

    def _visitor(self, record: Any, known: Any) -> tuple[Visitor, str]:
        """The visitor in a record, or a new one and what is wrong with the record."""
        if record is None and known is not None:
            record = self.records.recall(f"{known}")
            if record is None:
                raise AnswerError(409, "this record is not known here: send it in full")
        if record is None:
            return self.queue.shared.newcomer(), ""
        text, ours = self.records.read(f"{record}")
        try:
            return from_record(text, ours=ours), ""
        except InputError as error:
            return self.queue.shared.newcomer(), f"{error}."

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


def _decoded(photos: dict[str, Any]) -> dict[str, bytes]:
    """Photos that came with a request. What is in them is checked when they are opened."""
    found: dict[str, bytes] = {}
    for name, text in photos.items():
        if not isinstance(text, str) or len(text) > EACH * 4 // 3 + 4:
            raise AnswerError(413, f"a photo is larger than {EACH >> 20} MB, or no text in base64")
        try:
            found[name] = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise AnswerError(400, "a photo is no text in base64") from error
    return found


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
