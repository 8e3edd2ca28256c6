"""What people said of pairs of pictures: a file that only grows, a line an answer, written at once and for good."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from rewriter.errors import InputError

CANNOT_TELL = "cannot tell"
_KINDS: dict[str, Any] = {"rater": str, "pair": int, "left": str, "right": str, "chosen": str, "seconds": (int, float)}


@dataclass(frozen=True)
class Answer:
    """What a rater said of a pair.

    rater: a random word for them. pair: its number in the study. left, right: the methods that were shown there.
    chosen: one of the two, or CANNOT_TELL. seconds: how long they looked.
    """

    rater: str
    pair: int
    left: str
    right: str
    chosen: str
    seconds: float


@dataclass(frozen=True)
class Answers:
    """All that was said. damaged: the numbers of lines that were cut short when a program was killed as it wrote."""

    given: tuple[Answer, ...] = ()
    damaged: tuple[int, ...] = ()


def read(path: Path, belongs: Callable[[Answer], bool]) -> Answers:
    """The answers of a file; none if it is not there yet.

    Args:
        path: the file.
        belongs: whether an answer is one of this study.

    Raises:
        InputError: a line is whole, but is no answer of this study; or the file cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return Answers()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror})") from error
    given, damaged = [], []
    for number, line in enumerate(lines, 1):
        try:
            answer = _answer(json.loads(line))
        except (ValueError, RecursionError):
            damaged.append(number)
            continue
        if answer is None or not belongs(answer):
            raise InputError(f"line {number} of {path} is no answer of this study: remove that line")
        given.append(answer)
    return Answers(tuple(given), tuple(damaged))


def append(path: Path, answer: Answer, belongs: Callable[[Answer], bool]) -> bool:
    """Write an answer; False if its rater has judged that pair already.

    Raises:
        InputError: it is no answer of this study, or cannot be written.
    """
    if not belongs(answer):
        raise InputError(f"{answer} is no answer of this study")
    try:
        with FileLock(path.with_name(f".{path.name}.lock")), path.open("a+b") as file:
            if any((one.rater, one.pair) == (answer.rater, answer.pair) for one in read(path, belongs).given):
                return False
            file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
            cut = file.read(1) not in (b"", b"\n")  # the last writer was killed: what it left stays a line of its own
            file.write(b"\n" * cut + json.dumps(asdict(answer)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): the answer is not saved") from error
    return True


def _answer(said: Any) -> Answer | None:
    """An answer from its JSON; None if it is something else."""
    if not isinstance(said, dict) or set(said) != set(_KINDS):
        return None
    return Answer(**said) if all(isinstance(said[name], kind) for name, kind in _KINDS.items()) else None
