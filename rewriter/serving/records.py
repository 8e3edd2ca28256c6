"""What a visitor has, as a text that the browser keeps: signed, so that this server or another knows its own again."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress

from rewriter.cache import Cache, default_folder

VARIABLE = "REWRITER_SECRET"  # the same on all hosts that serve one page
BYTES, SECONDS = 64 << 20, 600.0  # of records that are remembered


def secret() -> bytes:
    """The secret of this installation: $REWRITER_SECRET, or made once and kept in the cache folder."""
    if given := os.environ.get(VARIABLE):
        return given.encode()
    path, made = default_folder() / "secret", secrets.token_bytes(32)
    with suppress(OSError):  # where it cannot be kept, it lasts as long as this process
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(made)
        except FileExistsError:
            return path.read_bytes()[:1024] or made
    return made


class Records:
    """Signs texts, and remembers the latest for some minutes, so that a browser need not send them again.

    The signature only tells that a server with this secret made the text; it hides nothing.
    """

    def __init__(self, key: bytes | None = None, *, limit: int = BYTES, seconds: float = SECONDS) -> None:
        self._key, self._kept = secret() if key is None else key, Cache(limit, seconds)

    def sign(self, text: str) -> str:
        """A text with its signature behind a point."""
        return f"{text}.{self._signature(text)}"

    def read(self, signed: str) -> tuple[str, bool]:
        """The text, and whether its signature is ours; without a signature the whole is the text."""
        text, _, signature = signed.rpartition(".")
        own = self._signature(text).encode()
        ours = hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), own)
        return (text, True) if ours else (text if len(signature) == 64 else signed, False)

    def _signature(self, text: str) -> str:
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def remember(self, signed: str) -> str:
        """Remember a signed text; returns its digest."""
        digest = hashlib.sha256(signed.encode("utf-8", "surrogatepass")).hexdigest()
        self._kept.put(digest, signed)
        return digest

    def recall(self, digest: str) -> str | None:
        """The remembered text with this digest."""
        found: str | None = self._kept.peek(digest)
        return found

    def sweep(self) -> None:
        """Forget what is too old."""
        self._kept.sweep()
