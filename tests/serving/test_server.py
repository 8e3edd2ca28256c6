"""The whole server as people start it: worker processes that die, hosts that share the work, an end on request."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from clicks import Tab, busy, going_on, marked, until

from rewriter.masks import encode
from rewriter.serving.worker import memory

pytestmark = pytest.mark.hostile
SMALL = str(Path(__file__).parents[1] / "data" / "nvidia_stylegan2_16px_plain.pt")


@contextmanager
def serving(*options, **environment):
    """A page in a process of its own; yields the process and its address."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "rewriter", "demo", "--port", f"{port}", "--no-browser", "--generator", SMALL]
    process = subprocess.Popen(
        [*command, *options],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or healthy(url), 90)
        assert process.poll() is None, process.stdout.read()
        yield process, url
    finally:
        process.kill()
        process.communicate()


def healthy(url):
    try:
        health = httpx.get(f"{url}/rewriter/health").json()
        return all(worker["state"] == "ready" for worker in health["workers"])
    except (httpx.HTTPError, ValueError):
        return False


def pids(url):
    return [worker["pid"] for worker in httpx.get(f"{url}/rewriter/health").json()["workers"]]


def tab_at(url):
    tab = Tab(httpx.Client(base_url=url, timeout=60))
    tab.step("fetch", SMALL, False)
    return tab


def test_a_worker_is_killed_in_the_middle_of_an_execute_and_nothing_is_lost():
    with serving("--workers", "2") as (_, url):
        tabs = [marked(tab_at(url)) for _ in range(4)]
        with going_on(tabs[0], "suggest"):
            assert until(lambda: busy(tabs[0].http) == 1, 10)
            for worker in httpx.get(f"{url}/rewriter/health").json()["workers"]:
                if worker["long"]:
                    os.kill(worker["pid"], signal.SIGKILL)
            for tab in tabs[1:]:
                assert len(tab.step("execute")["rules"]["rules"]) == 1
        assert len(tabs[0].step("execute")["rules"]["rules"]) == 1 and until(lambda: healthy(url), 30)
        for pid in pids(url):  # all at once
            os.kill(pid, signal.SIGKILL)
        assert len(tabs[0].step("step", "undo")["rules"]["rules"]) == 0


def test_two_hosts_behind_a_balancer_serve_one_visitor_in_turn_and_one_is_killed(tmp_path):
    """The hosts share nothing but a secret, and have caches of their own; the balancer sends each click to the next."""
    of = {f"REWRITER_{name}": f"{value}" for name, value in (("SECRET", "of both"), ("CACHE", tmp_path / "one"))}
    with serving(**of) as (first, one), serving(**{**of, "REWRITER_CACHE": str(tmp_path / "two")}) as (_, two):
        hosts = itertools.cycle([one, two])

        class Balanced(Tab):
            def step(self, name, *args, **more):
                for _ in range(2):
                    self.http = httpx.Client(base_url=next(hosts), timeout=60)
                    try:
                        return super().step(name, *args, **more)
                    except httpx.HTTPError:  # the page tries again
                        continue

        tab = Balanced(None)
        tab.step("fetch", SMALL, False)
        marked(tab).step("execute")
        assert len(tab.step("rule", "strength", 0, 0.5)["rules"]["rules"]) == 1
        film = tab.step("refresh")["film"]["tiles"]
        assert film[0]["image"].startswith("data:") and tab.step("refresh")["film"]["tiles"] == film  # by the other
        first.kill()
        assert [rule["strength"] for rule in tab.step("step", "undo")["rules"]["rules"]] == [1.0]
        assert tab.step("step", "undo")["rules"]["rules"] == []


def test_the_server_ends_on_request_and_leaves_nothing_behind(tmp_path):
    with serving(TMPDIR=str(tmp_path)) as (process, url):
        tab, workers = marked(tab_at(url)), pids(url)
        with going_on(tab, "suggest"):
            assert until(lambda: busy(tab.http) == 1, 10)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) in (0, 143)
        assert until(lambda: not any(memory(pid) for pid in workers), 5)
        assert "Traceback" not in process.stdout.read() and not [*tmp_path.rglob("*.safetensors")]


def test_hostile_calls_leave_the_memory_bounded():
    """Records, files and masks that decode to much, from many tabs: refused in time, and at most 300 MB more."""
    bomb = f"0:{encode(torch.ones(1024, 1024))}"
    with serving("--workers", "1") as (process, url):
        tabs = [tab_at(url) for _ in range(8)]
        tabs[0].step("browse", "0-11")

        def used():
            return memory(process.pid) + sum(memory(pid) for pid in pids(url))

        before = used()
        for tab in tabs:
            for _ in range(3):
                began = time.monotonic()
                tab.step("mark", "context", bomb)
                tab.step("open", {}, record="x" * (3 << 20))
                tab.step("load", "a.safetensors", "AAAA" * (2 << 20))
                assert time.monotonic() - began < 6
        assert used() - before < 300 << 20
