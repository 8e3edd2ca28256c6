"""How many threads a process works with: by the generator, the load of others, and its share of the machine."""

import os
import types

import pytest
import torch

from rewriter.generators import threads
from rewriter.generators.threads import SMALL, choose_threads, free_cores

SMALL_ONE, LARGE_ONE = (
    types.SimpleNamespace(device=torch.device("cpu"), operations=operations) for operations in (SMALL / 2, SMALL * 2)
)


@pytest.fixture
def machine(monkeypatch):
    """Pretend a machine of some cores, its load, and how much of that is ours; returns what is chosen there."""
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    chosen = [64]
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[-1])

    def choose(generator=LARGE_ONE, *, cores=8, usual=None, load=0.0, own=0.0, **options):
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 99.0, 99.0), raising=False)
        monkeypatch.setattr(threads, "own_load", lambda: own)
        monkeypatch.setattr(threads, "USUAL", usual or cores)
        choose_threads(generator, **options)
        return chosen[-1]

    return choose


@pytest.mark.parametrize(
    ("load", "own", "wanted"),
    [(0, 0, 8), (0.2, 0, 8), (0.5, 0, 7), (3, 0, 5), (3, 2, 7), (3, 5, 8), (7.5, 0, 1), (8, 0, 1), (40, 1, 1)],
)
def test_a_large_generator_gets_the_cores_that_others_leave_free(machine, load, own, wanted):
    assert machine(load=load, own=own) == wanted


def test_two_cores_of_which_one_is_busy_are_worth_one_thread(machine):
    assert [machine(cores=2, load=load) for load in (0.1, 1.0, 2.0)] == [2, 1, 1]


def test_a_small_generator_gets_one_thread_and_a_share_is_the_most(machine):
    assert machine(SMALL_ONE) == 1
    assert [machine(share=share) for share in (1, 2, 20)] == [1, 2, 8]
    assert machine(share=4, load=6) == 2 and machine(share=0) == 1


def test_the_load_of_a_large_machine_does_not_count_against_a_small_part_of_it(machine):
    assert machine(cores=64, usual=2, load=30) == 2


def test_without_a_known_load_all_cores_count_as_free(machine, monkeypatch):
    machine()
    monkeypatch.delattr(os, "getloadavg")
    assert free_cores() == 8
    monkeypatch.setattr(os, "getloadavg", lambda: (_ for _ in ()).throw(OSError), raising=False)
    assert free_cores() == 8


def test_what_the_user_chose_and_what_runs_elsewhere_stays(machine, monkeypatch):
    elsewhere = types.SimpleNamespace(device=torch.device("cuda"), operations=SMALL * 2)
    assert machine(elsewhere) == 64
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine() == 64


def test_our_own_work_counts_as_far_as_the_last_minute_shows_it(monkeypatch):
    now, used = [threads.BEGAN], [0.0]
    monkeypatch.setattr(threads, "time", types.SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: used[0]))
    shares = []
    for seconds in (0, 6, 60, 600):
        now[0], used[0] = threads.BEGAN + seconds, 2.0 * seconds
        shares.append(threads.own_load())
    assert shares == pytest.approx([0, 2 * 0.0952, 2 * 0.632, 2], abs=1e-2)
