"""Visitors by script, for a load test: each talks to the page's server over plain HTTP, as the page in a browser does.

A visitor is one tab. Its clicks follow one another. Told "not now", it waits as long as it is told; if a stream breaks
off, or the server does not have its work, it sends the same click again with all of its work; pictures that it has
seen are not asked for again. A click is lost only if its last line never comes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from torch import Tensor

from rewriter.masks import disc, encode

PICTURES = "rewriter/pictures/"
BROKEN = (OSError, EOFError, ValueError)  # a server that went away, or an answer that stops or is none
AGAIN = 0.5  # seconds until a click is sent again
AT_ONCE, FETCHING = 6, 64  # pictures that one browser loads at once, and all of them together
GENERATOR, SIDE, SEEN = "townscape", 64, 48  # what is rewritten; cells of a mask's side; pictures that are marked
Films = dict[str, tuple[str, ...]]  # SHA-256 of the pictures in the filmstrip, by the click that showed them


@dataclass(frozen=True)
class Marks:
    """What one visit points at: seeds and masks (SIDE, SIDE) to copy, to paste on and to take as context."""

    copy: tuple[int, Tensor]
    paste: tuple[int, Tensor]
    context: tuple[int, Tensor]

    @classmethod
    def drawn(cls, *key: object) -> Marks:
        """Marks that depend on the key alone; two keys have different ones, so that no rule is shared."""
        draw = random.Random(repr(key))

        def place() -> tuple[int, Tensor]:
            row, column, radius = draw.uniform(0.2, 0.8), draw.uniform(0.2, 0.8), draw.uniform(0.07, 0.14)
            return draw.randrange(SEEN), disc(SIDE, row, column, radius)

        return cls(place(), place(), place())

    def clicks(self, form: str) -> Iterator[tuple[str, str, list[Any]]]:
        """The clicks of a visit, each with what it is called here, its step and the step's arguments."""
        for what in ("copy", "paste", "context"):
            seed, mask = getattr(self, what)
            yield what, "mark", [what, f"{seed}:{encode(mask)}"]
        if form != "auto":
            yield "set", "set", ["form", form]
        yield "execute", "execute", []
        yield "off", "rule", ["switch", 0, False]
        yield "on", "rule", ["switch", 0, True]
        yield "undo", "step", ["undo"]
        yield "browse", "browse", ["12-23"]


class Site:
    """A server, over connections that all visitors share; plain streams, because they take little of the machine."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._secure, self._host, self._path = parts.scheme == "https", parts.netloc, parts.path.rstrip("/")
        self._address = parts.hostname or "", parts.port or (443 if self._secure else 80)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.fetching = asyncio.Semaphore(FETCHING)
        self.contents: dict[str, str] = {}  # by a picture's name: the SHA-256 of what first came under it

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case and content of an answer; one of BROKEN if it does not come in full."""
        reader, writer = await self._connection()
        data, kept = b"" if body is None else json.dumps(body).encode(), False
        scheme = "https" if self._secure else "http"
        head = [f"{method} {self._path}/{path} HTTP/1.1", f"Host: {self._host}", f"Origin: {scheme}://{self._host}"]
        head += ["Content-Type: application/json", f"Content-Length: {len(data)}", "", ""]
        try:
            writer.write("\r\n".join(head).encode() + data)
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
            pairs = (line.partition(":") for line in lines if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            content = await _content(reader, headers)
            kept = headers.get("connection", "").lower() != "close"
            return int(first.split()[1]), headers, content
        finally:
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.close()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
            writer.close()
        return await asyncio.open_connection(*self._address, ssl=self._secure or None, limit=1 << 20)

    async def get(self, path: str) -> Any:
        """The JSON behind a path; None where there is none."""
        try:
            status, _, data = await self.request("GET", path)
            return json.loads(data) if status == 200 else None
        except BROKEN:
            return None

    def close(self) -> None:
        """Close all connections: everybody leaves."""
        while self._idle:
            self._idle.pop()[1].close()


async def _content(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    """The content of an answer with these headers."""
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding", "").lower() != "chunked":
        raise ValueError("an answer without a length may be cut off unseen")
    chunks = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        chunks.append((await reader.readexactly(size + 2))[:-2])
    await reader.readuntil(b"\r\n")
    return b"".join(chunks)


@dataclass
class Click:
    """What became of a click: seconds until its last line and its new pictures were there, and what it took."""

    kind: str
    start: float
    seconds: float = 0.0
    ended: bool = False
    refused: int = 0
    resent: int = 0
    trouble: str = ""


@dataclass
class Visitor:
    """One tab.

    Attributes:
        site: the server.
        key: stage and number, from which pauses are drawn.
        pause: mean seconds between clicks.
        deadline: time, as of time.monotonic(), at which a click that has not ended is given up as lost.
        keep: whether the pictures themselves are kept, in `files` by their SHA-256.
    """

    site: Site
    key: tuple[str, int]
    pause: float
    deadline: float
    keep: bool = False
    clicks: list[Click] = field(default_factory=list)
    visits: list[tuple[float, Films]] = field(default_factory=list)  # seconds without the pauses, and what was shown
    files: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(repr(self.key))
        self._tab = uuid4().hex
        self._record: str | None = None
        self._start: str | None = None  # what a visit begins with
        self._inline = False
        self._seen: dict[str, str] = {}

    @property
    def name(self) -> str:
        """For people."""
        return " ".join(map(str, self.key))

    @property
    def lost(self) -> bool:
        """Whether a click was lost."""
        return any(not click.ended for click in self.clicks)

    async def arrive(self, within: float) -> None:
        """Load the page, at some time in the first seconds, and choose the generator."""
        await asyncio.sleep(self._random.uniform(0, within))
        await self.click("page", "")
        await self.click("open", "open", [{"hash": "", "link": {}}])
        await self.click("generator", "fetch", [GENERATOR, False, False])
        self._start = self._record

    async def visit(self, marks: Marks, form: str) -> None:
        """The clicks of one visit, which begins without marks and rules, with pauses between them."""
        self._record, films, first = self._start, Films(), len(self.clicks)
        for kind, name, arguments in marks.clicks(form):
            shown = await self.click(kind, name, arguments)
            if self.lost:
                return
            if "film" in shown:
                films[kind] = self.shown(shown["film"])
            await asyncio.sleep(self._random.expovariate(1 / self.pause) if self.pause else 0)
        self.visits.append((sum(click.seconds for click in self.clicks[first:]), films))

    def shown(self, film: Mapping[str, Any]) -> tuple[str, ...]:
        """The SHA-256 of each picture in a filmstrip, "" where it did not load."""
        return tuple(self._seen.get(tile["image"], "") for tile in film["tiles"])

    async def click(self, kind: str, name: str, arguments: Sequence[Any] = ()) -> dict[str, Any]:
        """Do one step, or load the page if it has no name; returns the parts of the page that came."""
        click, shown = Click(kind, time.monotonic()), dict[str, Any]()
        self.clicks.append(click)
        try:
            async with asyncio.timeout(self.deadline - click.start):
                shown = await self._click(click, name, arguments)
        except TimeoutError:
            click.trouble = click.trouble or "no answer in time"
        click.seconds = time.monotonic() - click.start
        return shown

    async def _click(self, click: Click, name: str, arguments: Sequence[Any]) -> dict[str, Any]:
        full = False
        while not click.ended:
            try:
                status, headers, data = await self._send(name, arguments, full)
                shown = _merged(data) if status == 200 and name else {}
            except BROKEN:
                status, headers, data, shown = 0, {}, b"", {}
            click.ended = status == 200 and (not name or "end" in shown)
            if status in (429, 503):
                click.refused += 1
                await asyncio.sleep(_wait(headers, data))
            elif status == 409 and not full:
                full = True
            elif status in (0, 200) and not click.ended:  # the server went away
                click.resent, full = click.resent + 1, True
                await asyncio.sleep(AGAIN)
            elif not click.ended:
                click.trouble = f"status {status}: {data[:200].decode(errors='replace')}"
                return {}
        click.trouble = (shown.get("trouble") or {}).get("message") or ""
        self._record = shown.pop("record", self._record)
        if not await self._load(shown) and not self._inline:
            self._inline = True
            shown |= await self._click(Click("refresh", 0), "refresh", [])
        return shown

    async def _send(self, name: str, arguments: Sequence[Any], full: bool) -> tuple[int, dict[str, str], bytes]:
        if not name:
            return await self.site.request("GET", "")
        body = {"tab": self._tab, "name": name, "args": arguments, "inline": self._inline}
        if self._record is None or full:
            body["record"] = self._record
        else:
            body["known"] = hashlib.sha256(self._record.encode()).hexdigest()
        return await self.site.request("POST", "rewriter/step", body)

    async def _load(self, shown: Any) -> bool:
        """Load the pictures that are new to this browser; whether all came."""
        new = [name for name in dict.fromkeys(_pictures(shown)) if name not in self._seen]
        loading = asyncio.Semaphore(AT_ONCE)

        async def load(name: str) -> bool:
            try:
                data = base64.b64decode(name.partition(",")[2]) if name.startswith("data:") else b""
                if not data:
                    async with loading, self.site.fetching:
                        status, _, data = await self.site.request("GET", name)
                    if status != 200:
                        return False
            except BROKEN:
                return False
            self._seen[name] = digest = hashlib.sha256(data).hexdigest()
            if self.site.contents.setdefault(name, digest) != digest:
                self.clicks[-1].trouble = f"two different pictures came under the name {name}"
            if self.keep:
                self.files[digest] = data
            return True

        return all(await asyncio.gather(*map(load, new)))


def _merged(data: bytes) -> dict[str, Any]:
    """The lines of an answer as one; a later part replaces an earlier one."""
    shown: dict[str, Any] = {}
    for line in data.splitlines():
        shown |= json.loads(line) if line.strip() else {}
    return shown


def _wait(headers: Mapping[str, str], data: bytes) -> float:
    """The seconds that an answer asks to wait."""
    try:
        said = json.loads(data).get("wait") or headers.get("retry-after") or 1
        return max(0.05, float(said))
    except (ValueError, AttributeError):
        return 1.0


def _pictures(shown: Any) -> Iterator[str]:
    """Everything in the parts of a page that a browser loads as a picture."""
    if isinstance(shown, str) and (shown.startswith(PICTURES) or shown.startswith("data:image/")):
        yield shown
    for one in shown.values() if isinstance(shown, dict) else shown if isinstance(shown, list) else ():
        yield from _pictures(one)
