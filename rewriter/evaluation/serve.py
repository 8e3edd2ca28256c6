"""The load test of the page: crowds of visitors by script, lookers, a slow neighbour, and a worker that is killed.

Visitors talk HTTP with a server that is started for them, or with another one. What a rate is compared with is measured
before, in a plain loop of this process (`isolation`).
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import count
from math import ceil
from typing import Any

import psutil
import torch

from rewriter.errors import ComputationError
from rewriter.evaluation.isolation import PAGE, Plain, mixed_up, plain_loop
from rewriter.evaluation.run import machine
from rewriter.evaluation.tables import markdown_table
from rewriter.generators.latents import SEEDS
from rewriter.serving.load import Click, Marks, Site, Visitor

Row = dict[str, Any]
LIGHT = ("copy", "paste", "off", "on", "undo", "browse")  # browse: to pictures that others have seen before
COUNTS = ("refused", "resent", "lost", "troubles")
CHECKED, FEW = 6, 8  # visitors whose pictures are compared with the plain loop's; those of the smaller stages
PAGES = 8  # that everybody looks at
FRESH, TURNS = 5000, 900  # seeds from which on new pages are drawn at random, and how many for each visitor
BRIEF, ARRIVING = 20.0, 10.0  # at most so many seconds for a smaller stage, and until the last visitor has arrived
LATE = 600.0  # seconds after the end of a stage at which a click is given up as lost
STARTING = 180.0  # seconds in which the server has to start
MB = 2**20


@dataclass(frozen=True)
class Plan:
    """What is tested.

    Attributes:
        visitors: numbers of visitors at once.
        seconds: for each number; visits that have begun are finished.
        pause: mean seconds between a visitor's clicks, exponentially distributed.
        workers: processes of our own server that work.
        form: of the rules.
        settle: seconds after the visitors have left until memory is measured again.
        url: of a server that runs already; "": our own.
        seed: from which marks are drawn; another one each time, because a server may keep pictures for ever.
    """

    visitors: tuple[int, ...] = (1, 20, 100, 500)
    seconds: float = 60.0
    pause: float = 1.0
    workers: int = 2
    form: str = "weight"
    settle: float = 10.0
    url: str = ""
    seed: int = field(default_factory=lambda: secrets.randbelow(2**32))

    def stages(self) -> dict[str, int]:
        """Numbers of visitors by stage, of those in which they make rules; only our own workers are killed."""
        return {f"{number} at once": number for number in self.visitors} | ({} if self.url else {"killed": FEW})

    def checked(self, stage: str) -> list[int]:
        """The visitors of a stage whose first visit is compared with the plain loop: a few, from first to last."""
        return sorted({round(i * (self.stages()[stage] - 1) / (CHECKED - 1)) for i in range(CHECKED)})


def serve(plan: Plan, on_row: Callable[[str], object] = str) -> Row:
    """Everything that is measured; `on_row` is called with a line about each stage when it is done.

    Raises:
        ComputationError: the server did not start.
    """
    plain = plain_loop([(stage, i, 0) for stage in plan.stages() for i in plan.checked(stage)], plan.form, plan.seed)
    on_row(f"a plain loop: {plain.rate:.2f} executes/s")
    about = {"machine": machine(torch.device("cpu")) | {"cores": os.cpu_count()}, "plan": asdict(plan)}
    report: Row = {**about, "plain_executes_per_second": plain.rate, "crowds": []}
    with started(plan) as server:
        asyncio.run(warmed(server, plan))
        for stage, number in plan.stages().items():
            if stage != "killed":
                report["crowds"].append(asyncio.run(crowd(server, plan, stage, plain)))
                on_row(f"{number} visitors: {report['crowds'][-1]}")
        report["looking"] = asyncio.run(looking(server, plan))
        on_row(f"looking: {report['looking']}")
        report["neighbour"] = asyncio.run(neighbour(server, plan))
        on_row(f"a slow neighbour: {report['neighbour']}")
        if "killed" in plan.stages():
            report["killed"] = asyncio.run(crowd(server, plan, "killed", plain))
            on_row(f"a worker is killed: {report['killed']}")
    return report


# --- the server and its memory ---


class Server:
    """The server under test; `process` is its first one if it is ours."""

    def __init__(self, url: str, process: psutil.Process | None = None) -> None:
        self.url, self.process = url, process

    def workers(self) -> list[psutil.Process]:
        """The processes that our own server has started."""
        return self.process.children(recursive=True) if self.process else []

    def memory(self) -> float | None:
        """Bytes of all its processes; what they share counts once where the system can tell. None if it is not ours."""
        if self.process is None:
            return None
        total = 0.0
        for process in (self.process, *self.workers()):
            with suppress(psutil.Error):  # it has just ended
                used = process.memory_full_info()
                total += getattr(used, "pss", 0) or used.rss
        return total


@contextmanager
def started(plan: Plan) -> Iterator[Server]:
    """The server under test, ready; ours is ended on leaving. ComputationError if it does not start."""
    if plan.url:
        yield Server(plan.url)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"--port": port, "--workers": plan.workers, "--generator": "townscape"}
    command = [sys.executable, "-m", "rewriter", "demo", *(f"{each}" for pair in options.items() for each in pair)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            server = Server(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
            if not asyncio.run(_ready(Site(server.url), process)):
                said.seek(0)
                raise ComputationError(f"the server did not start: {said.read()[-2000:].decode(errors='replace')}")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


async def _ready(site: Site, process: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + STARTING
    while time.monotonic() < until and process.poll() is None:
        health = await site.get("rewriter/health")
        if health and all(worker["state"] == "ready" for worker in health["workers"]):
            return True
        await asyncio.sleep(0.5)
    return False


@asynccontextmanager
async def watched(server: Server, settle: float) -> AsyncIterator[tuple[Site, Row]]:
    """Connections to the server, and a row that gets its memory in bytes: before, peak, present and after."""
    site, row = Site(server.url), Row(before=server.memory())
    used = [row["before"] or 0.0]

    async def watch() -> None:
        while True:
            await asyncio.sleep(1)
            used.append(await asyncio.to_thread(server.memory) or 0.0)

    watching = asyncio.create_task(watch())
    try:
        yield site, row
        row |= {"present": server.memory(), "peak": max(used) or None}
    finally:
        watching.cancel()
        site.close()
    await asyncio.sleep(settle if server.process else 0)
    row["after"] = server.memory()


# --- the stages ---


async def warmed(server: Server, plan: Plan) -> None:
    """Visits that are not counted: in each worker, a first execute measures a layer."""
    site = Site(server.url)

    async def one(i: int) -> None:
        visitor = Visitor(site, ("warm", i), 0, time.monotonic() + LATE)
        await visitor.arrive(0)
        await visitor.visit(Marks.drawn(plan.seed, "warm", i), plan.form)

    await asyncio.gather(*map(one, range(2 * max(1, plan.workers))))
    site.close()


async def crowd(server: Server, plan: Plan, stage: str, plain: Plain) -> Row:
    """Visitors who make rules, visit after visit; in the stage "killed", a worker is killed meanwhile."""
    async with watched(server, plan.settle) as (site, memory):
        seconds = min(BRIEF, plan.seconds) if stage == "killed" else plan.seconds
        stop, checked = time.monotonic() + seconds, plan.checked(stage)

        async def one(i: int) -> Visitor:
            visitor = Visitor(site, (stage, i), plan.pause, stop + LATE, keep=i in checked)
            await visitor.arrive(min(ARRIVING, seconds / 6))
            for turn in count():
                if visitor.lost or turn and time.monotonic() > stop:
                    break
                await visitor.visit(Marks.drawn(plan.seed, stage, i, turn), plan.form)
            return visitor

        killing = asyncio.create_task(kill(server, site)) if stage == "killed" else None
        visitors = await asyncio.gather(*map(one, range(plan.stages()[stage])))
    row = {"visitors": len(visitors), **figures(visitors, stop), "memory": memory}
    row |= {"share_of_plain": (row["executes_per_second"] or 0) / plain.rate}
    if killing is not None:
        row["killed"] = killing.done()
        killing.cancel()
    return row | {"checked": len(checked), "mixed_up": mixed_up(visitors, plain)}


async def kill(server: Server, site: Site) -> None:
    """End a worker process of our own server in the middle of long work."""
    while True:
        health = await site.get("rewriter/health") or {}
        busy = {worker["pid"] for worker in health.get("workers", ()) if worker.get("long")}
        if found := [process for process in server.workers() if process.pid in busy]:
            await asyncio.sleep(0.3)
            found[0].send_signal(signal.SIGKILL)
            return
        await asyncio.sleep(0.1)


async def looking(server: Server, plan: Plan) -> Row:
    """Pictures per second without pauses: a few visitors look at new ones, then all look at the same pages."""
    seconds, number = min(BRIEF, plan.seconds), max(plan.visitors)

    async def rates(site: Site, kind: str, visitors: int, texts: Callable[[int, int], str]) -> Row:
        stop = time.monotonic() + seconds

        async def look(i: int) -> Visitor:
            visitor = Visitor(site, (kind, i), 0, stop + LATE)
            await visitor.arrive(seconds / 4)
            for turn in count():
                if visitor.lost or time.monotonic() > stop:
                    break
                await visitor.click("browse", "browse", [texts(i, turn)])
            return visitor

        seen = await asyncio.gather(*map(look, range(visitors)))
        clicks = [click for visitor in seen for click in visitor.clicks if click.kind == "browse"]
        row = {"visitors": visitors, "pictures_per_second": PAGE * (rate(clicks, stop) or 0), **figures(seen, stop)}
        return {name: row[name] for name in ("visitors", "pictures_per_second", "light_p50", "light_p95", *COUNTS)}

    new = random.Random(plan.seed).sample(range(FRESH, SEEDS - PAGE, PAGE), FEW * TURNS)
    async with watched(server, 0) as (site, _):
        uncached = await rates(site, "new", FEW, lambda i, turn: _page(new[i * TURNS + turn % TURNS]))
        await rates(site, "first", 1, lambda i, turn: _page(turn % PAGES * PAGE))
    async with watched(server, plan.settle) as (site, memory):
        cached = await rates(site, "known", number, lambda i, turn: _page((i + turn) % PAGES * PAGE))
    times = cached["pictures_per_second"] / uncached["pictures_per_second"] if uncached["pictures_per_second"] else None
    return {"uncached": uncached, "cached": cached, "times": times, "memory": memory}


def _page(first: int) -> str:
    return f"{first}-{first + PAGE - 1}"


async def neighbour(server: Server, plan: Plan) -> Row:
    """Light clicks of one visitor alone, then beside another who asks for every layer and searches all the time."""
    site, seconds, pause = Site(server.url), min(BRIEF, plan.seconds), min(0.1, plan.pause)

    async def light(name: str) -> Visitor:
        visitor = Visitor(site, (name, 0), pause, time.monotonic() + seconds + LATE)
        await visitor.arrive(0)
        await visitor.visit(Marks.drawn(plan.seed, name, 0, 0), plan.form)
        visitor.clicks.clear()
        until = time.monotonic() + seconds
        for turn in count(1):
            clicks = [each for each in Marks.drawn(plan.seed, name, 0, turn).clicks("auto") if each[0] in LIGHT]
            for kind, step, arguments in sorted(clicks, key=lambda each: each[0] in ("copy", "paste")):
                if visitor.lost or time.monotonic() > until:
                    return visitor
                await visitor.click(kind, step, arguments)
                await asyncio.sleep(pause)
        return visitor

    async def slow(done: Awaitable[Any]) -> Visitor:
        visitor, going = (
            Visitor(site, ("slow", 0), 0, time.monotonic() + 2 * seconds + LATE),
            asyncio.ensure_future(done),
        )
        await visitor.arrive(0)
        for turn in count():
            for kind, step, arguments in [*Marks.drawn(plan.seed, "slow", 0, turn).clicks("auto")][:3]:
                await visitor.click(kind, step, arguments)
            for step in ("suggest", "find"):
                if visitor.lost or going.done():
                    return visitor
                await visitor.click(step, step)
        return visitor

    alone = await light("alone")
    beside = asyncio.create_task(light("beside"))
    busy = await slow(beside)
    seen = [alone, await beside, busy]
    site.close()
    times = [[click.seconds for click in visitor.clicks] for visitor in seen[:2]]
    row: Row = {
        f"{name}_p{share}": percentile(each, share / 100) or 0.0
        for name, each in zip(("alone", "beside"), times, strict=True)
        for share in (50, 95)
    }
    row |= {f"times_p{share}": row[f"beside_p{share}"] / (row[f"alone_p{share}"] or 1) for share in (50, 95)}
    shown, asked = figures(seen, 0), sum(click.kind in ("suggest", "find") for click in busy.clicks)
    return row | {"asked": asked} | {name: shown[name] for name in COUNTS}


# --- figures ---


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed; None without values."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)] if values else None


def rate(clicks: Sequence[Click], until: float) -> float | None:
    """Ended clicks per second, from the first one's start to the last one's end before `until`, if there is one."""
    ends = [click.start + click.seconds for click in clicks if click.ended]
    if not ends:
        return None
    first, last = min(click.start for click in clicks), max((end for end in ends if end <= until), default=max(ends))
    return sum(end <= last for end in ends) / (last - first)


def figures(visitors: Sequence[Visitor], until: float) -> Row:
    """What visitors saw: seconds of a visit and of clicks, executes per second until then, and what went wrong."""
    clicks = [click for visitor in visitors for click in visitor.clicks]
    kinds = {"copy": ("copy",), "light": LIGHT, "execute": ("execute",)}
    took = {name: [click.seconds for click in clicks if click.kind in own] for name, own in kinds.items()}
    took["visit"] = [seconds for visitor in visitors for seconds, _ in visitor.visits]
    return {
        "visits": len(took["visit"]),
        **{f"{name}_p{share}": percentile(each, share / 100) for name, each in took.items() for share in (50, 95)},
        "executes_per_second": rate([click for click in clicks if click.kind == "execute"], until),
        "refused": sum(click.refused for click in clicks),
        "resent": sum(click.resent for click in clicks),
        "lost": sum(not click.ended for click in clicks),
        "troubles": Counter(click.trouble for click in clicks if click.trouble).most_common(5),
    }


def failures(report: Row) -> list[str]:
    """What must not happen, in words: lost clicks, and visitors who were mixed up."""
    rows = {f"{row['visitors']} visitors": row for row in report["crowds"]} | {"a slow neighbour": report["neighbour"]}
    rows |= {f"looking, {name}": report["looking"][name] for name in ("uncached", "cached")}
    rows |= {"a killed worker": report["killed"]} if "killed" in report else {}
    lost = [f"{name}: {row['lost']} clicks lost" for name, row in rows.items() if row["lost"]]
    return lost + [f"{name}: {words}" for name, row in rows.items() for words in row.get("mixed_up", ())]


HEADS = (
    *("visitors at once", "a visit, p50 (× alone)", "copy p50 / p95, s", "light clicks p50 / p95, s"),
    *("execute p50 / p95, s", "executes/s (share of a plain loop)", "refused", "sent again", "lost"),
    *("memory before / peak / after, MB", "kB a present visitor", "pictures are one's own"),
)


def markdown(report: Row) -> str:
    """The report as a table and sentences."""
    plan, alone = report["plan"], next((row["visit_p50"] for row in report["crowds"] if row["visitors"] == 1), None)
    where = plan["url"] or f"our own server on loopback, {plan['workers']} workers"
    lines = [
        f"{where}; {report['machine']['cores']} cores, torch {report['machine']['torch']}; {plan['seconds']:g} s for each "
        f"number of visitors, who pause {plan['pause']:g} s on average and arrive within "
        f"{min(ARRIVING, plan['seconds'] / 6):g} s; rules of form {plan['form']}; a plain loop with one thread makes "
        f"{report['plain_executes_per_second']:.2f} executes/s; memory after: {plan['settle']:g} s later.",
        "",
        *markdown_table(HEADS, [_cells(row, alone) for row in report["crowds"]]),
        "",
    ]
    look, near = report["looking"], report["neighbour"]
    lines.append(
        f"- Mostly look: {look['cached']['visitors']} visitors who look at known pictures get "
        f"{look['cached']['pictures_per_second']:.0f} a second, {_text(look['times'])} times as many as "
        f"{look['uncached']['visitors']} who look at new ones ({look['uncached']['pictures_per_second']:.0f}); "
        f"a page of 12 takes {_pair(look['cached'], 'light')} s; {_per_visitor(look, look['cached'])} kB a visitor."
    )
    lines.append(
        f"- A slow neighbour ({near['asked']} times every layer or a search): a light click takes "
        f"{_pair(near, 'beside')} s (p50 / p95), {near['times_p50']:.1f} / {near['times_p95']:.1f} times as long as "
        f"alone ({_pair(near, 'alone')} s)."
    )
    if "killed" in report:
        row = report["killed"]
        lines.append(
            f"- A worker {'was killed in mid-execute' if row['killed'] else 'could not be killed: none was busy'}: "
            f"{row['visitors']} visitors, {row['visits']} visits, {row['lost']} clicks lost, {row['resent']} sent again; "
            f"an execute took {_text(row['execute_p50'])} s (p50) and {_text(row['execute_p95'])} s (p95)."
        )
    troubles = [each for row in (*report["crowds"], look["cached"], look["uncached"], near) for each in row["troubles"]]
    lines += [f"- {times} clicks were answered: {words}" for words, times in troubles]
    return "\n".join([*lines, *(f"- FAILED: {words}" for words in failures(report))])


def _cells(row: Row, alone: float | None) -> list[str]:
    times = f" ({row['visit_p50'] / alone:.1f})" if alone and row["visit_p50"] else ""
    memory = " / ".join(
        _text(row["memory"][name] and row["memory"][name] / MB, 0) for name in ("before", "peak", "after")
    )
    return [
        *(f"{row['visitors']}", f"{_text(row['visit_p50'])} s{times}"),
        *(_pair(row, name) for name in ("copy", "light", "execute")),
        f"{_text(row['executes_per_second'])} ({row['share_of_plain']:.0%})",
        *(f"{row[name]:,}" for name in ("refused", "resent", "lost")),
        *(memory, _per_visitor(row, row)),
        f"{row['checked']} checked" if not row["mixed_up"] else f"NO: {len(row['mixed_up'])} signs",
    ]


def _pair(row: Row, name: str) -> str:
    return f"{_text(row[f'{name}_p50'])} / {_text(row[f'{name}_p95'])}"


def _per_visitor(row: Row, counted: Row) -> str:
    memory = row["memory"]
    return _text(memory["before"] and (memory["present"] - memory["before"]) / counted["visitors"] / 1000, 0)


def _text(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
