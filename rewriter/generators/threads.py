"""How many processor threads a generator is worth.

Threads wait for each other after every layer: one that shares its core with another program holds up all of them. On
two cores that others kept busy, two threads took up to 7 times as long as one, and two to three times the processor
time (128 px towns and a 256 px StyleGAN2); on cores with little other work, 0.7 to 1 times as long.
"""

from __future__ import annotations

import math
import os
import time

import torch

from rewriter.generators.base import Generator

SMALL = 5e9  # operations a picture; below it several threads cost more processor time than they save
SLACK = 0.25  # cores' worth of others' load that is overlooked: some service is always awake
MINUTE = 60.0  # over which the system averages its load
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
USUAL = torch.get_num_threads()
BEGAN = time.monotonic()


def choose_threads(generator: Generator, *, share: int | None = None) -> None:
    """Let this process work with as many threads as a generator on a CPU is worth now, unless the user chose a number.

    That is one for a small generator; else as many as cores are free, but no more than `share`: the cores that this
    process may count on, where several share the machine.

    For programs that own their process, such as the command line and the page: the number is the whole process's.
    """
    if any(os.environ.get(name) for name in VARIABLES) or generator.device.type != "cpu":
        return
    most = USUAL if share is None else min(USUAL, share)
    worth = 1 if generator.operations < SMALL else max(1, min(most, free_cores()))
    if worth != torch.get_num_threads():
        torch.set_num_threads(worth)


def free_cores() -> int:
    """How many of the machine's cores other programs leave free, by its load; all of them where that is unknown."""
    cores = os.cpu_count() or 1
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has none
        return cores
    return math.floor(cores - max(0.0, load - own_load()) + SLACK)


def own_load() -> float:
    """This process's part in the system's load, in cores: its average so far, as far as the last minute shows it."""
    running = max(time.monotonic() - BEGAN, 1e-3)
    return time.process_time() / running * -math.expm1(-running / MINUTE)
