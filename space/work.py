"""The work of one process: handlers by name, their errors as values. A worker process imports nothing of the page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from handlers import Handlers
from photos import Photos
from rewriter.errors import CancelledError, RewriterError
from rewriter.hub.sources import Source
from state import Shared
from view import Shown, in_words

ERROR = "error"  # the part of a result that holds an error message
WRONG = "something went wrong, and nothing has changed: try again, or try something else"
TOO_LONG = "this took too long, or was cancelled; nothing has changed"


class Work:
    """Calls handlers by name."""

    def __init__(self, handlers: Handlers) -> None:
        self.shared, self._handlers = handlers.shared, handlers

    def __call__(self, name: str, *arguments: Any, **notify: Any) -> Shown:
        """What a handler returns, or {ERROR: message}."""
        try:
            return getattr(self._handlers, name)(*arguments, **notify)
        except CancelledError:
            return {ERROR: TOO_LONG}
        except RewriterError as error:
            return {ERROR: in_words(error)}
        except Exception:
            logging.exception("%s failed", name)
            return {ERROR: WRONG}

    def learn(self, name: str, source: Source) -> None:
        """Load a generator from here from now on: it was downloaded."""
        self.shared.sources[name] = source

    def forget(self, photos: Sequence[str]) -> None:
        """Forget all that is remembered of these photos."""
        self.shared.forget(photos)

    def rest(self) -> None:
        """Drop what was not used for some time."""
        self.shared.sweep()


def work(names: Sequence[str], device: str | None, shelf: str, background: bool, share: int) -> Work:
    """What a worker process runs; `share`: cores that it may count on."""
    shared = Shared(names, device=device, shelf=shelf)
    shared.background, shared.share = background, share
    return Work(Photos(shared))
