"""Clicks of a browser's tab by script, over HTTP."""

import json
import secrets
import socket
import time
from contextlib import contextmanager

import httpx
from conftest import square

from app import Page
from rewriter import masks
from state import Shared

THING, PLACE = square(4, 4, 12, 12), square(2, 6, 8, 12)


@contextmanager
def served(*names):
    """A page with these generators, at a free port of this machine."""
    page = Page(Shared(names, device="cpu"))
    page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    yield page
    page.close()


@contextmanager
def connected(page):
    """A client of a page."""
    with httpx.Client(base_url=page.demo.local_url, timeout=60) as client:
        yield client


class Tab:
    """A browser's tab: it keeps the record."""

    def __init__(self, http):
        self.http, self.name, self.record = http, secrets.token_hex(8), None

    def asks(self, name, *args, **more):
        return {"tab": self.name, "name": name, "args": args, "record": self.record, **more}

    def step(self, name, *args, **more):
        """All parts of the answer to a click; `lines` holds them one by one."""
        answer = self.http.post("rewriter/step", json=self.asks(name, *args, **more))
        assert answer.status_code == 200, answer.text
        self.lines = [json.loads(line) for line in answer.text.splitlines() if line]
        shown = {name: part for line in self.lines for name, part in line.items()}
        assert self.lines[-1]["end"] is True and sum("end" in line for line in self.lines) == 1
        self.record = shown.get("record", self.record)
        return shown

    def mark(self, what, seed, mask):
        return self.step("mark", what, f"{seed}:{masks.encode(mask)}")


def marked(tab):
    """A tab with an edit that can be executed."""
    tab.mark("copy", 1, THING)
    tab.mark("paste", 0, PLACE)
    tab.step("set", "form", "weight")
    return tab


@contextmanager
def going_on(tab, name, *args):
    """A request that is being answered; leaving closes the connection."""
    body = json.dumps(tab.asks(name, *args)).encode()
    with socket.create_connection((tab.http.base_url.host, tab.http.base_url.port)) as connection:
        head = f"POST /rewriter/step HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        assert b"200" in connection.recv(1000)
        yield connection


def busy(http):
    health = http.get("rewriter/health").json()
    return sum(worker["long"] for worker in health["workers"]) + health["waiting"]["long"]


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()
