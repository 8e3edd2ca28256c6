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
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from math import ceil
from typing import Any

import torch

from rewriter.evaluation.isolation import PAGE, Plain, mixed_up, plain_loop, told_apart
from rewriter.evaluation.run import machine
from rewriter.evaluation.server import Server, started, watched
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
        lookers: visitors who only look.
        seed: from which marks are drawn; another one each time, because a server may keep pictures for ever.
    """

    visitors: tuple[int, ...] = (1, 20, 100, 500)
    seconds: float = 60.0
    pause: float = 1.0
    workers: int = 2
    form: str = "weight"
    settle: float = 10.0
    url: str = ""
    lookers: int = 500
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
    report: Row = {**about, "plain": {"executes_per_second": plain.rate, "cpu": plain.cpu}, "crowds": []}
    with started(plan.url, plan.workers) as server:
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


# --- the stages ---


def arriving(seconds: float) -> float:
    """Seconds until the last visitor of a stage has arrived."""
    return min(ARRIVING, seconds / 6)


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
            await visitor.arrive(arriving(seconds))
            for turn in count():
                if visitor.lost or turn and time.monotonic() > stop:
                    break
                await visitor.visit(Marks.drawn(plan.seed, stage, i, turn), plan.form)
            return visitor

        killing = asyncio.create_task(kill(server, site)) if stage == "killed" else None
        visitors = await asyncio.gather(*map(one, range(plan.stages()[stage])))
    row = {"visitors": len(visitors), **figures(visitors), "memory": memory}
    row |= {"share_of_plain": row["executes_per_second"] / plain.rate, "times_cpu": None}
    if row["executes"] and memory["cpu"]:  # unlike rates, it hardly depends on what else the machine does
        row["times_cpu"] = memory["cpu"] / row["executes"] / plain.cpu
    if killing is not None:
        row["killed"] = killing.done()
        killing.cancel()
    return row | {"checked": told_apart(plain, stage), "mixed_up": mixed_up(visitors, plain)}


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
    seconds = min(BRIEF, plan.seconds)

    async def rates(site: Site, kind: str, visitors: int, texts: Callable[[int, int], str]) -> Row:
        here = [Visitor(site, (kind, i), 0, time.monotonic() + LATE) for i in range(visitors)]
        await asyncio.gather(*(visitor.arrive(arriving(seconds)) for visitor in here))
        stop = time.monotonic() + seconds

        async def look(i: int, visitor: Visitor) -> Visitor:
            for turn in count():
                if visitor.lost or time.monotonic() > stop:
                    break
                await visitor.click("browse", "browse", [texts(i, turn)])
            return visitor

        seen = await asyncio.gather(*map(look, range(visitors), here))
        clicks = [click for visitor in seen for click in visitor.clicks if click.kind == "browse"]
        row = {"visitors": visitors, "pictures_per_second": PAGE * rate(clicks), **figures(seen)}
        return {name: row[name] for name in ("visitors", "pictures_per_second", "light_p50", "light_p95", *COUNTS)}

    new = random.Random(plan.seed).sample(range(FRESH, SEEDS - PAGE, PAGE), FEW * TURNS)
    async with watched(server, 0) as (site, _):
        uncached = await rates(site, "new", FEW, lambda i, turn: _page(new[i * TURNS + turn % TURNS]))
        await rates(site, "first", 1, lambda i, turn: _page(turn % PAGES * PAGE))
    async with watched(server, plan.settle) as (site, memory):
        cached = await rates(site, "known", plan.lookers, lambda i, turn: _page((i + turn) % PAGES * PAGE))
    times = cached["pictures_per_second"] / uncached["pictures_per_second"] if uncached["pictures_per_second"] else None
    return {"uncached": uncached, "cached": cached, "times": times, "memory": memory}


def _page(first: int) -> str:
    return f"{first}-{first + PAGE - 1}"


async def neighbour(server: Server, plan: Plan) -> Row:
    """Light clicks of one visitor alone, then beside another who asks for every layer and searches all the time."""
    site = Site(server.url)
    alone = await light(site, plan, "alone")
    beside = asyncio.create_task(light(site, plan, "beside"))
    busy = await slow(site, plan, beside)
    seen = [alone, await beside, busy]
    site.close()
    row: Row = {"asked": sum(click.kind in ("suggest", "find") for click in busy.clicks)}
    for share in (50, 95):
        one, two = (percentile([each.seconds for each in visitor.clicks], share / 100) or 0.0 for visitor in seen[:2])
        row |= {f"alone_p{share}": one, f"beside_p{share}": two, f"times_p{share}": two / one if one else 0.0}
    return row | {name: value for name, value in figures(seen).items() if name in COUNTS}


async def light(site: Site, plan: Plan, name: str) -> Visitor:
    """A visitor who has a rule, and then does nothing but light clicks for some seconds."""
    visitor = Visitor(site, (name, 0), min(0.1, plan.pause), time.monotonic() + LATE)
    await visitor.arrive(0)
    await visitor.visit(Marks.drawn(plan.seed, name, 0), plan.form)
    visitor.clicks.clear()
    until = time.monotonic() + min(BRIEF, plan.seconds)
    for turn in count(1):
        clicks = [each for each in Marks.drawn(plan.seed, name, turn).clicks("auto") if each[0] in LIGHT]
        for kind, step, arguments in sorted(clicks, key=lambda each: each[1] == "mark"):  # a mark begins another rule
            if visitor.lost or time.monotonic() > until:
                return visitor
            await visitor.click(kind, step, arguments)
            await asyncio.sleep(visitor.pause)
    return visitor


async def slow(site: Site, plan: Plan, until: asyncio.Task[Visitor]) -> Visitor:
    """A visitor who asks for every layer and searches, with new marks each time, until somebody has finished."""
    visitor = Visitor(site, ("slow", 0), 0, time.monotonic() + 2 * LATE)
    await visitor.arrive(0)
    for turn in count():
        marking = [each for each in Marks.drawn(plan.seed, "slow", turn).clicks("auto") if each[1] == "mark"]
        for kind, step, arguments in (*marking, ("suggest", "suggest", []), ("find", "find", [])):
            if visitor.lost or until.done():
                return visitor
            await visitor.click(kind, step, arguments)
    return visitor


# --- figures ---


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed; None without values."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)] if values else None


def rate(clicks: Sequence[Click]) -> float:
    """Clicks that ended per second, from the first one's start to the last one's end; 0 if none did."""
    ends = [click.start + click.seconds for click in clicks if click.ended]
    return len(ends) / (max(ends) - min(click.start for click in clicks)) if ends else 0.0


def figures(visitors: Sequence[Visitor]) -> Row:
    """What visitors saw: seconds of a visit and of clicks, executes per second, and what went wrong."""
    clicks = [click for visitor in visitors for click in visitor.clicks]
    kinds = {"copy": ("copy",), "light": LIGHT, "execute": ("execute",)}
    took = {name: [click.seconds for click in clicks if click.kind in own] for name, own in kinds.items()}
    took["visit"] = [seconds for visitor in visitors for seconds, _ in visitor.visits]
    every = {kind: [each.seconds for each in clicks if each.kind == kind] for kind in {each.kind for each in clicks}}
    return {
        "visits": len(took["visit"]),
        "clicks": {kind: [percentile(own, 0.5), percentile(own, 0.95)] for kind, own in every.items()},  # p50 and p95
        **{f"{name}_p{share}": percentile(each, share / 100) for name, each in took.items() for share in (50, 95)},
        "executes": len(took["execute"]),
        "executes_per_second": rate([click for click in clicks if click.kind == "execute"]),
        "refused": sum(click.refused for click in clicks),
        "resent": sum(click.resent for click in clicks),
        "lost": sum(not click.ended for click in clicks),
        "troubles": Counter(click.trouble for click in clicks if click.trouble).most_common(5),
    }


def failures(report: Row) -> list[str]:
    """What must not happen, in words: lost clicks, visitors who were mixed up, or none who could be checked."""
    rows = {f"{row['visitors']} visitors": row for row in report["crowds"]} | {"a slow neighbour": report["neighbour"]}
    rows |= {f"looking, {name}": report["looking"][name] for name in ("uncached", "cached")}
    rows |= {"a killed worker": report["killed"]} if "killed" in report else {}
    lost = [f"{name}: {row['lost']} clicks lost" for name, row in rows.items() if row["lost"]]
    if not any(row.get("checked") for row in rows.values()):
        lost.append("nobody's pictures could be checked: their rules change nothing visible")
    return lost + [f"{name}: {words}" for name, row in rows.items() for words in row.get("mixed_up", ())]


HEADS = (
    *("visitors at once", "a visit, p50 (× alone)", "copy p50 / p95, s", "light clicks p50 / p95, s"),
    *(
        "execute p50 / p95, s",
        "executes/s (of a plain loop)",
        "processor time an execute (× plain)",
        "refused",
        "sent again",
        "lost",
    ),
    *("memory before / peak / after, MB", "kB a present visitor", "pictures are one's own"),
)


def markdown(report: Row) -> str:
    """The report as a table and sentences."""
    plan, look, near, crowds = (report[name] for name in ("plan", "looking", "neighbour", "crowds"))
    alone = next((row["visit_p50"] for row in crowds if row["visitors"] == 1), None)
    server = plan["url"] or f"our own server on loopback, {plan['workers']} workers"
    cached, uncached, killed = look["cached"], look["uncached"], report.get("killed")
    words = [
        f"Server: {server}; {report['machine']['cores']} cores, torch {report['machine']['torch']}.",
        f"{plan['seconds']:g} s for each number of visitors, who arrive in {arriving(plan['seconds']):.0f} s, pause "
        f"{plan['pause']:g} s on average between clicks and finish the visits that they have begun.",
        f"Form: {plan['form']}. Memory after: {plan['settle']:g} s later.",
        f"A plain loop with one thread makes {report['plain']['executes_per_second']:.2f} executes/s and needs "
        f"{report['plain']['cpu']:.2f} processor seconds for each; × plain: all that the server needs for a visit.",
        "A present visitor: by how much the process that talks to them grows; the others have caches of fixed sizes.",
    ]
    lines = [
        f"- Mostly look, without pauses: {cached['visitors']} visitors get {cached['pictures_per_second']:,.0f} known "
        f"pictures a second, {_text(look['times'], 0)} times the rate of new ones "
        f"({uncached['pictures_per_second']:,.0f}, {uncached['visitors']} visitors). A known page of {PAGE} takes "
        f"{_pair(cached, 'light')} s (p50 / p95); {_per_visitor(cached, look['memory'])} kB a visitor.",
        f"- A slow neighbour ({near['asked']} times every layer or a search): a light click takes "
        f"{_pair(near, 'beside')} s, {_pair(near, 'times')} times as long as alone ({_pair(near, 'alone')} s).",
    ]
    if killed:
        how = "was killed in mid-execute" if killed["killed"] else "could not be killed: none was busy"
        lines.append(
            f"- A worker {how}: {killed['visitors']} visitors with {killed['visits']} visits, "
            f"{killed['lost']} clicks lost, {killed['resent']} sent again. Executes {_pair(killed, 'execute')} s, "
            f"light clicks {_pair(killed, 'light')} s."
        )
    troubles = [each for row in (*crowds, killed or {}) for each in row.get("troubles", ())]
    lines += [f"- {times} clicks were answered: {trouble}" for trouble, times in troubles]
    lines += [f"- FAILED: {failure}" for failure in failures(report)]
    return "\n".join([" ".join(words), "", *markdown_table(HEADS, [_cells(row, alone) for row in crowds]), "", *lines])


def _cells(row: Row, alone: float | None) -> list[str]:
    times = f" ({row['visit_p50'] / alone:.1f})" if alone and row["visit_p50"] else ""
    memory = " / ".join(
        _text(row["memory"][name] and row["memory"][name] / MB, 0) for name in ("before", "peak", "after")
    )
    return [
        *(f"{row['visitors']}", f"{_text(row['visit_p50'])} s{times}"),
        *(_pair(row, name) for name in ("copy", "light", "execute")),
        f"{_text(row['executes_per_second'])} ({row['share_of_plain']:.0%})",
        _text(row["times_cpu"]),
        *(f"{row[name]:,}" for name in ("refused", "resent", "lost")),
        *(memory, _per_visitor(row, row["memory"])),
        f"{row['checked']} checked" if not row["mixed_up"] else f"NO: {len(row['mixed_up'])} signs",
    ]


def _pair(row: Row, name: str) -> str:
    return f"{_text(row[f'{name}_p50'])} / {_text(row[f'{name}_p95'])}"


def _per_visitor(row: Row, memory: Row) -> str:
    grown = memory["alone_before"] and (memory["alone_present"] - memory["alone_before"])
    return _text(grown and grown / row["visitors"] / 1000, 0)


def _text(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
