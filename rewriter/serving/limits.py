"""How much one visitor, one address and all together may ask for at once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from rewriter.errors import RewriterError

REMEMBERED = 20_000  # visitors and addresses


@dataclass(frozen=True)
class Allowance:
    """Requests a second in the long run and at once, requests under way, and uploaded bytes a minute."""

    rate: float
    burst: float
    under_way: int
    upload: float


TAB = Allowance(rate=20, burst=60, under_way=12, upload=64 << 20)  # one browser tab or script
ADDRESS = Allowance(rate=200, burst=600, under_way=200, upload=256 << 20)  # a school may share one


class RefusedError(RewriterError):
    """Too much at once; `wait`: seconds after which it may be tried again."""

    def __init__(self, words: str, wait: float) -> None:
        super().__init__(words)
        self.wait = wait


class _Account:
    """What somebody has used."""

    def __init__(self, allowance: Allowance) -> None:
        self.allowance, self.requests, self.bytes = allowance, allowance.burst, allowance.upload
        self.under_way, self.since = 0, time.monotonic()

    def check(self, size: int) -> None:
        now, allowance = time.monotonic(), self.allowance
        passed, self.since = now - self.since, now
        self.requests = min(allowance.burst, self.requests + passed * allowance.rate)
        self.bytes = min(allowance.upload, self.bytes + passed * allowance.upload / 60)
        if self.under_way >= allowance.under_way:
            raise RefusedError("too many requests at once from here: wait until some have ended", 1.0)
        if self.requests < 1:
            raise RefusedError("too many requests from here", (1 - self.requests) / allowance.rate)
        if self.bytes < size:
            raise RefusedError("too much was uploaded from here", 60 * (size - self.bytes) / allowance.upload)

    def take(self, size: int) -> None:
        self.requests -= 1
        self.bytes -= size


class Limits:
    """Keeps accounts for tabs and addresses; what is over its limit is refused with the time to wait."""

    def __init__(self, tab: Allowance = TAB, address: Allowance = ADDRESS) -> None:
        self._allowances = {"tab": tab, "address": address}
        self._accounts: OrderedDict[tuple[str, str], _Account] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def request(self, *, tab: str = "", address: str = "", size: int = 0) -> Iterator[None]:
        """Count a request of `size` bytes while it is under way; RefusedError if it is too much. "" is not limited."""
        named = [(kind, name) for kind, name in (("tab", tab), ("address", address)) if name]
        with self._lock:
            accounts = [self._account(key) for key in named]
            for account in accounts:
                account.check(size)
            for account in accounts:
                account.take(size)
                account.under_way += 1
        try:
            yield
        finally:
            with self._lock:
                for account in accounts:
                    account.under_way -= 1

    def _account(self, key: tuple[str, str]) -> _Account:
        account = self._accounts.setdefault(key, _Account(self._allowances[key[0]]))
        self._accounts.move_to_end(key)
        while len(self._accounts) > REMEMBERED:
            self._accounts.popitem(last=False)
        return account
