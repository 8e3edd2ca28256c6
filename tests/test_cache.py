"""The bounded cache: what it drops, when, and how large it takes values to be."""

import sys
import threading
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pytest
import torch

from rewriter import cache
from rewriter.cache import Cache


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(cache, "monotonic", clock)
    return clock


def kept(cache, keys):
    return "".join(key for key in keys if key in cache._kept)  # which counts as no use


def test_what_nobody_used_for_so_long_is_swept_away(clock):
    ours = Cache(1000, 60)
    for key in "abc":
        ours.put(key, b"0123456789")
        clock.now += 10
    ours.peek("a")  # of the ages 30, 20, 10
    clock.now += 39
    assert (ours.sweep(), kept(ours, "abc"), ours.size) == (0, "abc", 30)
    clock.now += 1
    assert (ours.sweep(), kept(ours, "abc"), ours.size) == (1, "ac", 20)
    clock.now += 19
    ours.put("d", b"0")
    assert kept(ours, "abcd") == "ad"
    ours.put("a", b"")  # is kept already, and used now
    clock.now += 59
    assert (ours.sweep(), ours.peek("a")) == (0, b"0123456789")
    clock.now += 60
    assert (ours.sweep(), ours.size, ours.peek("a")) == (2, 0, None)


def test_without_an_age_nothing_is_swept_away(clock):
    ours = Cache(1000)
    ours.put("a", b"0")
    clock.now += 1e9
    assert ours.sweep() == 0 and ours.peek("a") == b"0"


@dataclass
class Made:
    name: str
    more: object = None


PARTS = {
    "text": "x" * 5000,
    "dict": {"picture": b"x" * 5000},
    "keys": {"x" * 5000: 1},
    "mapping": MappingProxyType({"deep": {"deeper": "x" * 5000}}),
    "set": {"x" * 5000},
    "bytearray": bytearray(5000),
    "memory": memoryview(bytes(5000)),
    "array": np.zeros(5000, np.uint8),
    "numbers": [*range(1000, 1150)],
    "object": Made("a", {"b": [b"x" * 5000]}),
    "tensor": torch.zeros(1250),
}


@pytest.mark.parametrize("name", PARTS)
def test_values_count_with_all_their_parts(name):
    ours = Cache(1 << 20)
    ours.put(name, PARTS[name])
    assert 5000 <= ours.size <= 6500
    small = Cache(4999)
    small.put(name, PARTS[name])
    assert small.peek(name) is None and small.size == 0


def test_a_part_that_is_there_twice_counts_once_and_a_circle_ends():
    text, ours = "x" * 5000, Cache(1 << 20)
    circle = [text, text, Made(text)]
    circle.append(circle)
    ours.put("circle", circle)
    assert 5000 < ours.size < 6000


def test_threads_that_use_and_sweep_keep_the_books_right():
    ours, errors, interval = Cache(400, 0.0001), [], sys.getswitchinterval()

    def work(seed):
        try:
            for i in range(3000):
                key = (seed * 7 + i) % 50
                assert ours.get(key, lambda key=key: bytes(key + 1)) == bytes(key + 1)
                if i % 3 == 0:
                    ours.sweep()
        except Exception as error:  # so that the test fails, and not a thread of it alone
            errors.append(error)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors and ours.size == sum(size for _, size, _ in ours._kept.values()) <= 400


def test_a_replaced_value_counts_once():
    cache = Cache(1000)
    for _ in range(5):
        cache.replace("a", bytes(300))
    cache.replace("a", bytes(400))
    assert len(cache.peek("a")) == 400 and cache.size == 400
    cache.put("b", bytes(500))
    assert cache.peek("a") is not None and cache.peek("b") is not None
