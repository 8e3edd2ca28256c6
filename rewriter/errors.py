"""Errors that a user can act on, and how long work reports its progress and is cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches

OnStep = Callable[[int, int], object]  # progress: called with (done, of); returning False cancels the work


class RewriterError(Exception):
    """Base of every error this package raises on purpose: names the value, what was expected and the next step."""


class InputError(RewriterError, ValueError):
    """Something handed in cannot be used as it is: a mask, a file, a layer name, a rank."""


class AbsentPhotoError(InputError):
    """An edit points at a photo that is not here: it has to be opened first."""


class ComputationError(RewriterError, RuntimeError):
    """A computation failed: non-finite features or weights, or a system without a solution."""


class CancelledError(RewriterError, RuntimeError):
    """The caller's `on_step` returned False; nothing was changed."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A question after the known name that is most like this one, with a space after it; "" if none is like it."""
    near = get_close_matches(f"{name}", [*known], 1)
    return f"did you mean {near[0]}? " if near else ""


def report(on_step: OnStep | None, done: int, of: int, *, cancelled: str = "") -> None:
    """Report progress; raise CancelledError if the caller answers False.

    `cancelled` replaces the error's default words.
    """
    if on_step is not None and on_step(done, of) is False:
        raise CancelledError(cancelled or f"cancelled at step {done:,} of {of:,}; nothing was changed")
