"""How many processor threads a generator is worth."""

from __future__ import annotations

import os

import torch

from rewriter.generators.base import Generator

SMALL = 5e9  # operations a picture; below it several threads cost more processor time than they save
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
USUAL = torch.get_num_threads()


def choose_threads(generator: Generator) -> None:
    """Let this process work with one thread on a small generator on a CPU, unless the user has chosen a number.

    For programs that own their process, such as the command line and the page: the number is the whole process's.
    """
    chosen = any(os.environ.get(name) for name in VARIABLES)
    if not chosen and generator.device.type == "cpu":
        torch.set_num_threads(1 if generator.operations < SMALL else USUAL)
