"""The page's routes over HTTP: clicks with records, what is refused, and that nobody gets more than a share."""

import base64
import hashlib
import json
import socket
import threading
import time

import httpx
import pytest
import torch
from clicks import PLACE, THING, Tab, busy, connected, going_on, marked, served, until
from conftest import DATA

from app import Page
from received import from_record, to_record
from rewriter import Rewriter, masks, worlds
from rewriter.editing.history import History, State
from rewriter.editing.region import Region
from rewriter.serving.limits import Allowance
from state import Shared, Visitor

SMALL = str(DATA / "nvidia_stylegan2_16px_plain.pt")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def page():
    with served(SMALL, "townscape") as page:
        yield page


@pytest.fixture
def http(page):
    with connected(page) as client:
        yield client


@pytest.fixture
def tab(http):
    return Tab(http)


def from_record_of(tab):
    return from_record(tab.record.rpartition(".")[0], ours=True)


# --- clicks ---


def test_a_whole_edit_is_made_click_by_click_and_pictures_are_files_for_ever(tab, http):
    done = marked(tab).step("execute")
    assert len(done["rules"]["rules"]) == 1 and done["progress"] is None and done["trouble"] == {}
    tile = done["film"]["tiles"][0]
    now, before = (http.get(tile[which]) for which in ("image", "other"))
    assert now.content[:2] == b"\xff\xd8" and now.content != before.content
    assert "immutable" in now.headers["cache-control"] and now.headers["content-type"] == "image/jpeg"
    off = tab.step("rule", "switch", 0, False)["film"]["tiles"]
    assert off[0]["image"] == tile["other"] and "other" not in off[0]
    assert len(tab.step("step", "undo")["rules"]["rules"]) == 1 and "record" not in tab.step("browse", "0-11")
    assert http.get("rewriter/pictures/nothing.jpg").status_code == 404


def test_pictures_are_sent_inline_to_those_who_cannot_fetch_them(tab, http):
    named = tab.step("browse", "40-43")["film"]["tiles"]
    inline = tab.step("browse", "40-43", inline=True)["film"]["tiles"]
    for file, url in zip(named, inline, strict=True):
        assert base64.b64decode(url["image"].removeprefix("data:image/jpeg;base64,")) == http.get(file["image"]).content
    assert "inline" not in json.loads(tab.record.rpartition(".")[0])


def test_any_server_with_the_secret_continues_the_work(tab, http, page):
    marked(tab)
    other = Page(Shared((SMALL, "townscape"), device="cpu"))
    other.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        for url in (other.demo.local_url, page.demo.local_url) * 2:  # no stickiness
            tab.http = httpx.Client(base_url=url, timeout=60)
            seen = tab.step("execute")
        assert len(seen["rules"]["rules"]) == 1 and "again" not in seen["bar"]["next"]
    finally:
        other.close()


def test_a_record_need_not_be_sent_twice(tab, http):
    tab.mark("copy", 1, THING)
    digest = hashlib.sha256(tab.record.encode()).hexdigest()
    shown = tab.step("refresh", record=None, known=digest)
    assert len(shown["film"]["tiles"]) == 12
    answer = http.post("rewriter/step", json=tab.asks("refresh", record=None, known="0" * 64))
    assert answer.status_code == 409 and "in full" in answer.json()["message"]


def test_two_visitors_never_see_each_others_work(http):
    one, other = Tab(http), Tab(http)
    assert len(marked(one).step("execute")["rules"]["rules"]) == 1
    assert other.mark("copy", 3, PLACE)["rules"]["rules"] == []


def test_progress_and_parts_come_before_the_end(tab):
    marked(tab).step("set", "form", "auto")
    tab.step("execute")
    assert any("progress" in line and line["progress"] for line in tab.lines[:-1])
    tab.step("fetch", "townscape", True)
    assert tab.lines[-1]["about"]["value"] == "townscape" and from_record_of(tab).link == "townscape"
    tab.step("fetch", SMALL)
    assert from_record_of(tab).link == SMALL  # linked, and not on top, unless the page says otherwise
    prepared = tab.step("prepare")
    assert "progress" not in prepared and "record" not in prepared


def test_trouble_is_said_and_nothing_is_lost(tab):
    tab.mark("copy", 1, THING)
    record = tab.record
    for name, *args in (
        *(("execute",), ("mark", "copy", "nonsense"), ("mark",), ("pick", "x"), ("rule", "strength", 7, 1)),
        *(
            ("fetch", "nothing"),
            ("fetch", "no/thing"),
            ("fetch", "#edit=x"),
            ("load", "a.json", "AAAA"),
            ("set", "x", 1),
        ),
        *(("load", "../../etc/passwd", "!"), ("browse", ["0"]), ("open", 7), ("fetch",)),
    ):
        shown = tab.step(name, *args)
        assert (name == "open") or shown["trouble"]["message"], name
        assert "/tmp" not in str(shown["trouble"]) and "Traceback" not in str(shown["trouble"])
    assert from_record_of(tab).works == from_record(record.rpartition(".")[0], ours=True).works


def test_damaged_and_foreign_records_are_told_apart_from_lost_work(tab):
    tab.mark("copy", 1, THING)
    text, signature = tab.record.rpartition(".")[::2]
    own = tab.step("open", {}, record=text)  # unsigned, as from an earlier installation
    assert own["slots"]["copy"]["seed"] == 1 and own["trouble"]["message"] == ""
    for bad in ("{}", "[" * 3000, f"{text[:-9]}.{signature}"):
        opened = tab.step("open", {}, record=bad)
        assert "cannot be restored" in opened["trouble"]["message"] and "copy" not in opened["slots"]
        tab.record = bad
        assert "cannot be restored" in tab.step("execute")["trouble"]["message"]
        assert "trouble" not in tab.step("refresh")  # the tab goes on, without that work


# --- what is refused ---


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "not as it should be"),
        (b"[]", 400, "not as it should be"),
        (b"[" * 100_000, 413, "parts"),
        (b"[" * 40_000, 400, "not as it should be"),
        (json.dumps({"name": "execute", "tab": "short"}).encode(), 400, "16 to 64"),
        (json.dumps({"name": "drop_tables", "tab": "a" * 16}).encode(), 400, "no step"),
        (json.dumps({"name": "draft", "tab": "a" * 16}).encode(), 400, "no step"),
        (json.dumps({"name": ["x"], "tab": "a" * 16}).encode(), 400, "no"),
        (json.dumps({"name": "pick", "args": [1] * 9, "tab": "a" * 16}).encode(), 400, "at most eight"),
        (json.dumps({"name": "pick", "args": "x", "tab": "a" * 16}).encode(), 400, "a list"),
        (json.dumps({"name": "load", "args": ["/etc/passwd"], "tab": "a" * 16}).encode(), 400, "base64"),
        (json.dumps({"name": "load", "args": [7, 7], "tab": "a" * 16}).encode(), 400, "base64"),
        (json.dumps({"name": "load_file", "args": ["/etc/passwd"], "tab": "a" * 16}).encode(), 400, "no step"),
        (json.dumps({"name": "pick", "record": ["x"], "tab": "a" * 16}).encode(), 400, "texts"),
        (json.dumps({"name": "ab" * (1 << 20), "tab": "a" * 16}).encode(), 400, "no step"),
        (json.dumps({"name": "pick", "args": [[{}] * 100_000], "tab": "a" * 16}).encode(), 413, "parts"),
        (json.dumps({"name": "pick", "tab": "a" * 16, "x": "x" * (17 << 20)}).encode(), 413, "16 MB"),
        (bytes(49 << 20), 413, "48 MB"),
    ],
    ids=lambda value: str(value[:20]) if isinstance(value, bytes) else str(value),
)
def test_requests_that_make_no_sense_are_refused_with_the_reason(http, body, status, said):
    answer = http.post("rewriter/step", content=body)
    assert answer.status_code == status and said in answer.json()["message"]


def test_a_stream_without_a_length_is_cut_off(http):
    def endless():
        for _ in range(60):
            yield bytes(1 << 20)

    answer = http.post("rewriter/step", content=endless())
    assert answer.status_code == 413 and "48 MB" in answer.json()["message"]


def strangers_record(generators, places):
    """Work for many generators with many masks, as the browser of a stranger may claim to have kept it."""
    session = Rewriter(worlds.load())
    regions = []
    for number in range(places):
        mask = torch.zeros(256, 256)
        mask[number % 250 : number % 250 + 4, (number * 7) % 250 : (number * 7) % 250 + 4] = 1
        regions.append(Region(number, mask))
    states = [State(session.edit.with_(context=tuple(regions[i : i + 85]))) for i in range(0, places, 85)]
    data = History(tuple(states)).to_bytes()
    works = {name: data for name in ("townscape", SMALL, *(f"{n}" for n in range(generators - 2)))}
    return to_record(Visitor("townscape", works=works))


def test_kept_work_of_a_stranger_takes_neither_time_nor_memory(tab, http):
    huge, large = strangers_record(26, 510), strangers_record(2, 510)
    for record, said in ((huge, "MB"), (large, "cells")):
        began = time.monotonic()
        opened = tab.step("open", {}, record=record)
        assert time.monotonic() - began < 2 and said in opened["trouble"]["message"]
    few = tab.step("open", {}, record=strangers_record(2, 40))
    assert few["trouble"]["message"] == "" and len(few["slots"]["context"]) == 40


def test_gradios_side_doors_are_closed(http, page):
    for path in ("run/execute", "api/execute", "run/predict"):
        answer = http.post(f"gradio_api/{path}", json={"data": [], "fn_index": 0})
        assert answer.status_code in (400, 404), path
    for path in ("runs", "run-history/records", "gradio_api/runs", "gradio_api/run-history/buckets", "monitoring"):
        assert http.get(path).status_code in (400, 404), path
    for path in ("gradio_api/vibe-edit", "gradio_api/profiling/clear", "gradio_api/proxy=http://127.0.0.1:1/"):
        assert http.post(path).status_code in (400, 404, 405), path
    answer = http.post("gradio_api/queue/join", json={"data": [], "fn_index": 999, "session_hash": "x"})
    assert answer.status_code in (400, 404) and "/" not in answer.json()["detail"].replace("?view", "")
    assert http.post("gradio_api/queue/join", content=bytes(3 << 20)).status_code == 413
    many = {f"files{n}": ("a.json", bytes(12 << 20)) for n in range(5)}
    assert http.post("gradio_api/upload", files=many).status_code == 413


def test_callers_without_a_session_do_not_share_one(http):
    def call(name, data):
        event = http.post(f"gradio_api/call/{name}", json={"data": data}).json()["event_id"]
        return http.get(f"gradio_api/call/{name}/{event}").text

    assert "paste it" in call("copy", [1, masks.encode(THING)])
    assert "nothing to undo" in call("undo", []) or "error" in call("undo", [])


def test_health_is_for_this_machine_only(http):
    health = http.get("rewriter/health").json()
    assert health["waiting"] == {"quick": 0, "long": 0, "background": 0} and len(health["workers"]) == 1
    assert http.get("rewriter/health", headers={"x-forwarded-for": "9.9.9.9"}).status_code == 404


def test_a_record_with_half_a_character_is_refused(http, tab):
    answer = http.post("rewriter/step", content=json.dumps(tab.asks("open", {}) | {"record": "\ud800"}))
    assert answer.status_code == 200 and "cannot be restored" in answer.text


# --- nobody gets more than a share ---


@pytest.fixture
def slow(page, monkeypatch):
    """Searching goes on until it is cancelled."""
    stopped = threading.Event()

    def find(visitor, painted=None, notify=None):
        while notify(0, 1, "Searching"):
            time.sleep(0.01)
        stopped.set()
        return {}

    monkeypatch.setattr(page.queue._work._handlers, "find", find)
    return stopped


def test_a_body_that_comes_too_slowly_is_cut_off_and_others_are_not_held_up(http, tab, monkeypatch):
    monkeypatch.setattr("asked.BODY_SECONDS", 1.0)
    slow = [socket.create_connection((http.base_url.host, http.base_url.port)) for _ in range(10)]
    try:
        for each in slow:
            each.sendall(b"POST /rewriter/step HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n{")
        large = http.post("rewriter/step", json=tab.asks("pick", "5", x="x" * 300_000))
        assert large.status_code == 200
        slow[0].settimeout(5)
        assert b"408" in slow[0].recv(100)
    finally:
        for each in slow:
            each.close()


def test_work_ends_when_its_client_has_gone(tab, http, slow):
    with going_on(tab, "find"):
        assert until(lambda: busy(http) == 1, 5)
        assert tab.step("browse", "0-3")["film"]["seeds"] == "0-3"  # clicks go on meanwhile
    began = time.monotonic()
    assert until(lambda: busy(http) == 0, 5) and slow.is_set() and time.monotonic() - began < 2


def test_who_waits_is_told_their_place_and_a_waiting_click_can_be_left(tab, http, slow):
    tabs = [Tab(http) for _ in range(6)]
    with going_on(tabs[0], "find"), going_on(tabs[1], "find"), going_on(tabs[2], "find"), going_on(tabs[3], "find"):
        assert until(lambda: busy(http) == 4, 5)
        with going_on(tabs[4], "find"), going_on(tabs[5], "find") as last:
            heard = b""
            while b"queue" not in heard:
                heard += last.recv(1000)
            assert b"You are fifth in the queue: about" in heard
        assert until(lambda: busy(http) == 4, 3)
    assert until(lambda: busy(http) == 0, 5)


def test_a_visitor_who_sends_much_is_told_to_wait_and_others_are_not(http):
    greedy, other = Tab(http), Tab(http)
    answers = [http.post("rewriter/step", json=greedy.asks("pick", "x")) for _ in range(90)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and 0 < refused[0].json()["wait"] < 1 and "Retry-After" in refused[0].headers
    assert other.step("pick", "5")["canvas"]["seed"] == 5


def test_many_tabs_of_one_address_are_limited_together(http, page, monkeypatch):
    monkeypatch.setitem(page.limits._allowances, "address", Allowance(rate=1, burst=20, under_way=9, upload=1 << 20))
    behind = {"x-forwarded-for": "spoofed, 203.0.113.7"}
    picks = [http.post("rewriter/step", json=Tab(http).asks("pick", "5"), headers=behind) for _ in range(30)]
    assert {answer.status_code for answer in picks} == {200, 429} and picks[19].status_code == 200
    other = {"x-forwarded-for": "203.0.113.7, 203.0.113.8"}
    assert http.post("rewriter/step", json=Tab(http).asks("pick", "5"), headers=other).status_code == 200
    posts = [http.post("gradio_api/cancel", json={}, headers=behind).status_code for _ in range(3)]
    assert posts == [429] * 3 and http.get("", headers=behind).status_code == 200
    large = http.post("rewriter/step", content=bytes(2 << 20), headers=other)
    assert large.status_code == 429 and "uploaded" in large.json()["message"]
