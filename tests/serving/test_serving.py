"""Whose turn it is, worker processes that die, signed records, a shelf for several processes, limits."""

import os
import signal
import sqlite3
import threading
import time
from queue import SimpleQueue

import pytest

from rewriter.serving.fair import BACKGROUND, LONG, QUICK, Estimates, FairQueue, Job
from rewriter.serving.lanes import Lanes
from rewriter.serving.limits import Allowance, Limits, RefusedError
from rewriter.serving.pool import GONE, Pool
from rewriter.serving.process import Here, Process
from rewriter.serving.records import Records, secret
from rewriter.serving.shelf import Shelf

SECONDS = 30.0


def job(visitor="", expected=1.0, **more):
    return Job("work", (), print, visitor=visitor, expected=expected, **more)


def order(queue):
    return [taken.visitor for taken in iter(queue.take, None)]


# --- the fair queue ---


def test_nobody_is_served_twice_before_everybody_once():
    queue = FairQueue()
    for visitor in "aaabbc":
        queue.put(job(visitor))
    assert order(queue) == ["a", "b", "c", "a", "b", "a"]


def test_a_newcomer_comes_before_the_second_click_of_others():
    queue = FairQueue()
    for _ in range(60):
        queue.put(job("many"))
    queue.take()
    queue.put(late := job("late"))
    assert len(queue.before(late)) == 0 and queue.take() is late


def test_long_work_counts_for_more_than_short_work():
    queue = FairQueue()
    queue.put(job("search", expected=10.0))
    queue.put(job("search"))
    for _ in range(5):
        queue.put(job("clicks"))
    assert order(queue) == ["search", *["clicks"] * 5, "search"]


def test_time_that_was_not_used_is_not_saved_up():
    queue = FairQueue()
    queue.put(job("first", expected=100.0))
    queue.put(job("first"))
    assert order(queue) == ["first", "first"]
    for visitor in ("late", "late", "late", "first"):
        queue.put(job(visitor))
    assert order(queue) == ["late", "late", "first", "late"]


def test_many_visitors_of_one_address_share_the_turns_of_some():
    queue = FairQueue()
    for turn in range(4):
        for tab in range(32):
            queue.put(job(f"tab {tab}", address="one address"))
        queue.put(job(f"alone {turn}" if turn < 0 else "alone", address="another"))
    served = order(queue)
    assert served.index("alone") <= 32 and [place for place, who in enumerate(served) if who == "alone"][-1] < 70


def test_a_removed_job_is_not_served_and_places_are_known():
    queue = FairQueue()
    first, second, third = (job(visitor) for visitor in "abc")
    for each in (first, second, third):
        queue.put(each)
    assert queue.before(third) == [first, second] and queue.remove(second) and not queue.remove(second)
    assert queue.before(third) == [first] and len(queue) == 2


def test_what_work_takes_is_learned():
    estimates, one = Estimates(), job(about="small")
    assert estimates.expected(one) == 0.05
    for _ in range(40):
        estimates.learn(one, 2.0)
    assert estimates.expected(one) == pytest.approx(2.0, rel=0.01) and estimates.expected(job(about="large")) == 0.05


# --- lanes: turns of long work in one process ---


def lanes(**jobs):
    """Lanes that run functions by name, and what they report."""
    reports = SimpleQueue()
    run = Lanes(lambda name, *a, **k: jobs[name](*a, **k), lambda number, item: reports.put((number, item)), limit=60)
    return run, reports


def ends(reports, count):
    """The numbers and results of the next jobs that end, in order."""
    found = []
    while len(found) < count:
        number, item = reports.get(timeout=SECONDS)
        if item[0] == "end":
            found.append((number, item[1]))
    return found


def test_a_click_does_not_wait_for_long_work_and_short_long_work_overtakes(monkeypatch):
    monkeypatch.setattr("rewriter.serving.lanes.QUANTUM", 0.05)
    begun, most, working = threading.Event(), [], []

    def long(steps, notify):
        begun.set()
        for step in range(steps):
            working.append(1)
            most.append(len(working))
            time.sleep(0.01)
            working.pop()
            if not notify(step, steps, "Working"):
                return "stopped"
        return "done"

    run, reports = lanes(long=long, click=lambda: "clicked")
    run.start(1, LONG, "long", (10_000,))
    assert begun.wait(SECONDS)
    run.start(2, QUICK, "click", ())
    run.start(3, LONG, "long", (5,))
    assert ends(reports, 2) == [(2, "clicked"), (3, "done")] and max(most) == 1
    run.cancel(1)
    assert ends(reports, 1) == [(1, "stopped")] and not run.busy


def test_long_work_of_the_same_length_is_done_in_order():
    def work(steps, notify):
        for step in range(steps):
            time.sleep(0.005)
            notify(step, steps, "Working")
        return steps

    run, reports = lanes(work=work)
    for number in range(1, 5):
        run.start(number, LONG, "work", (20,))
    assert [number for number, _ in ends(reports, 4)] == [1, 2, 3, 4]


def test_background_work_waits_for_all_other_work_and_a_waiting_job_is_cancelled_at_once():
    hold, seen = threading.Event(), []

    def work(name, notify):
        seen.append(name)
        while not hold.is_set() and notify(0, 1, name):
            time.sleep(0.005)
        return name

    run, reports = lanes(work=work)
    run.start(1, LONG, "work", ("first",))
    run.start(2, BACKGROUND, "work", ("background",))
    run.start(3, LONG, "work", ("second",))
    time.sleep(0.1)
    assert seen[0] == "first"
    run.cancel(2)
    assert ends(reports, 1) == [(2, None)] and "background" not in seen
    hold.set()
    assert sorted(ends(reports, 2)) == [(1, "first"), (3, "second")]


def test_work_over_its_time_is_told_to_stop():
    reports = SimpleQueue()

    def endless(name, notify):
        while notify(0, 1, ""):
            time.sleep(0.001)
        return "out of time"

    Lanes(endless, lambda number, item: reports.put((number, item)), limit=0.05).start(1, LONG, "endless", ())
    assert ends(reports, 1) == [(1, "out of time")]


# --- the pool ---


@pytest.fixture(scope="module")
def pool():
    """Two worker processes."""
    options = {"scale": 1, "path": [os.path.dirname(__file__)], "limit": 60}
    pool = Pool([Process("serving_work:make", options) for _ in range(2)])
    yield pool
    pool.close()


def ready(pool):
    """Wait until both processes are there."""
    end = time.monotonic() + SECONDS
    while not all(worker.ready for worker in pool.workers) and time.monotonic() < end:
        time.sleep(0.02)
    assert all(worker.ready for worker in pool.workers)


def submit(pool, name, *arguments, lane=QUICK, visitor="someone"):
    """A job, and what it reports."""
    reports = SimpleQueue()
    new = Job(name, arguments, reports.put, lane, visitor)
    pool.submit(new)
    return new, reports


def result(reports):
    """The end of a job."""
    while True:
        item = reports.get(timeout=SECONDS)
        if item[0] == "end":
            return item[1]


def test_processes_do_the_work_and_a_visitor_stays_with_one(pool):
    assert result(submit(pool, "double", 21)[1]) == 42
    pids = {result(submit(pool, "pid", visitor="ada")[1]) for _ in range(5)}
    assert len(pids) == 1 and os.getpid() not in pids and pids < {worker.pid for worker in pool.workers}


def test_a_killed_process_loses_nothing_and_another_takes_its_place(pool, tmp_path):
    before = {worker.pid for worker in pool.workers}
    for lane in (QUICK, LONG):
        assert result(submit(pool, "die", str(tmp_path / lane), lane=lane)[1]) == "survived"
    _, running = submit(pool, "steps", 20, 0.05, lane=LONG)
    while running.get(timeout=SECONDS)[0] == "end":
        pass
    busy = next(worker for worker in pool.state()["workers"] if worker[LONG])
    os.kill(busy["pid"], signal.SIGKILL)
    assert result(running) == "done"
    ready(pool)
    assert {worker.pid for worker in pool.workers} != before


def test_work_that_kills_every_process_is_given_up(pool):
    assert result(submit(pool, "always_die")[1]) == GONE and result(submit(pool, "double", 1)[1]) == 2


def test_cancelled_work_ends_within_two_seconds_wherever_it_is(pool):
    waiting = [submit(pool, "steps", 10_000, 0.01, lane=LONG) for _ in range(12)]
    hanging = submit(pool, "hang", lane=LONG, visitor="hanging")
    assert result(submit(pool, "double", 1)[1]) == 2
    began = time.monotonic()
    for each, _ in [*waiting, hanging]:
        pool.cancel(each)
    assert {result(reports) for _, reports in waiting} <= {None, "stopped"}
    assert result(hanging[1]) is None and time.monotonic() - began < 2.5
    assert result(submit(pool, "double", 3)[1]) == 6 and pool.state()["waiting"] == {QUICK: 0, LONG: 0, BACKGROUND: 0}


def test_whoever_waits_is_told_their_place_and_how_long(pool):
    ready(pool)
    running = [submit(pool, "steps", 10_000, 0.01, lane=LONG, visitor=f"{n}")[0] for n in range(8)]
    late, reports = submit(pool, "steps", 1, 0.0, lane=LONG, visitor="late")
    place, seconds = pool.wait(late)
    assert pool.waits(late) and place == 7 and 1 < seconds < 60
    for each in running:
        pool.cancel(each)
    assert result(reports) == "done" and not pool.waits(late)


def test_news_reach_processes_that_are_started_later(pool, tmp_path):
    pool.learn("name", "where")
    result(submit(pool, "die", str(tmp_path / "once"))[1])
    assert all(result(submit(pool, "news", visitor=f"{n}")[1]) == [("name", "where")] for n in range(4))


def test_all_processes_forget_what_they_are_told_to(pool):
    for name in ("a", "b"):
        pool.learn(name)
    pool.forget("a")
    known = [result(submit(pool, "news", visitor=f"{n}")[1]) for n in range(4)]
    assert all(("b",) in each and ("a",) not in each for each in known)


def test_threads_do_what_processes_do_and_a_hanging_one_is_left_behind():
    from serving_work import Work

    pool = Pool([Here(Work(3), limit=60)])
    assert result(submit(pool, "double", 1)[1]) == 6
    hanging, reports = submit(pool, "hang", lane=LONG)
    pool.cancel(hanging)
    assert result(reports) is None and result(submit(pool, "steps", 1, 0.0, lane=LONG)[1]) == "done"


# --- records, shelf, limits ---


def test_a_signed_record_is_known_again_and_a_changed_one_is_not():
    records, text = Records(b"a secret"), '{"ä": "1.5"}'
    signed = records.sign(text)
    assert records.read(signed) == (text, True) and records.read(text) == (text, False)
    assert Records(b"another").read(signed) == (text, False)
    assert records.read(signed.replace("1.5", "2.5")) == (text.replace("1.5", "2.5"), False)
    assert records.read("") == ("", False)


def test_records_are_remembered_for_a_while_and_within_a_bound():
    records = Records(b"a secret", limit=1000, seconds=0.05)
    digest = records.remember("x" * 400)
    assert records.recall(digest) == "x" * 400 and records.recall("nothing") is None
    for letter in "abc":
        records.remember(letter * 400)
    assert records.recall(digest) is None
    last = records.remember("d")
    assert records.recall(last) == "d"
    time.sleep(0.06)
    records.sweep()
    assert records.recall(last) is None


def test_the_secret_is_made_once_and_hosts_may_share_one(monkeypatch, tmp_path):
    monkeypatch.setenv("REWRITER_CACHE", str(tmp_path))
    first = secret()
    assert len(first) == 32 and secret() == first and (tmp_path / "secret").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("REWRITER_SECRET", "of two hosts")
    assert secret() == b"of two hosts"


def test_shelf_is_shared_bounded_and_mended(tmp_path):
    one, other = (Shelf(tmp_path / "shelf.sqlite", limit=1 << 20) for _ in range(2))
    one.put({"a": (b"1", 0.5), "b": (b"2", 7.0)})
    assert other.get("a") == b"1" and other.notes(["a", "b", "c"]) == {"a": 0.5, "b": 7.0} and other.get("c") is None
    for number in range(80):
        other.put({f"large {number}": (bytes(32 << 10), 0.0)})
    with sqlite3.connect(tmp_path / "shelf.sqlite") as database:
        (size,) = database.execute("SELECT sum(length(data)) FROM files").fetchone()
    assert size <= (1 << 20) + (256 << 10) and one.get("large 79") is not None and one.get("large 0") is None
    names = [f"name {n}" for n in range(1200)]
    one.put({name: (b"", float(n)) for n, name in enumerate(names)})
    assert len(one.notes(names)) == 1200
    (tmp_path / "damaged.sqlite").write_bytes(b"nothing of the kind" * 1000)
    damaged = Shelf(tmp_path / "damaged.sqlite")
    assert damaged.get("a") is None
    damaged.put({"a": (b"1", 0.0)})
    assert damaged.get("a") == b"1"
    nowhere = Shelf("/proc/nowhere/shelf.sqlite")
    nowhere.put({"a": (b"1", 0.0)})
    assert nowhere.get("a") is None and nowhere.notes(["a"]) == {}


def test_who_asks_for_too_much_at_once_waits():
    small = Allowance(rate=10, burst=3, under_way=2, upload=1000)
    limits = Limits(tab=small, address=Allowance(rate=1000, burst=1000, under_way=3, upload=1000))
    with limits.request(tab="a"), limits.request(tab="a"):
        with pytest.raises(RefusedError, match="at once"), limits.request(tab="a"):
            pass
        with limits.request(tab="b", address="x"), limits.request(tab="c", address="x"):
            pass
    with limits.request(tab="a"):
        pass
    with pytest.raises(RefusedError, match="too many requests") as refused, limits.request(tab="a"):
        pass
    assert 0 < refused.value.wait <= 0.11
    time.sleep(0.11)
    with limits.request(tab="a"):
        pass
    with pytest.raises(RefusedError, match="uploaded") as refused, limits.request(address="y", size=2000):
        pass
    assert refused.value.wait == pytest.approx(60, rel=0.01)
    with limits.request():  # who is on this machine has no address
        pass
