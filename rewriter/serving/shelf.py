"""Small files by name, such as pictures, in one bounded database on disk that several processes share."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import local

log = logging.getLogger(__name__)
LIMIT = 512 << 20  # bytes
TOUCHED = 60.0  # seconds after which use is noted again
CHECKED = 256 << 10  # bytes written between looks at the whole size
PART = 500  # names in one question
TABLE = "CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, data BLOB, note REAL, used REAL)"


class Shelf:
    """Files with a number as a note each; the least recently used are dropped beyond `limit` bytes.

    A shelf that cannot be read or written holds nothing: what is missing has to be made again anyway.
    """

    def __init__(self, path: str | Path, *, limit: int = LIMIT) -> None:
        self.path, self.limit = Path(path), limit
        self._own, self._written = local(), CHECKED

    def get(self, name: str) -> bytes | None:
        """A file."""
        with suppress(sqlite3.Error, OSError):
            row = self._database().execute("SELECT data, used FROM files WHERE name = ?", [name]).fetchone()
            if row is not None:
                self._touch([(name, row[1])])
                return bytes(row[0])
        return None

    def notes(self, names: Sequence[str]) -> dict[str, float]:
        """The notes of those files that are there."""
        found: dict[str, float] = {}
        with suppress(sqlite3.Error, OSError):
            for first in range(0, len(names), PART):
                part = names[first : first + PART]
                marks = ", ".join("?" * len(part))
                asked = f"SELECT name, note, used FROM files WHERE name IN ({marks})"  # noqa: S608, only marks
                rows = self._database().execute(asked, part).fetchall()
                found |= {name: note for name, note, _ in rows}
                self._touch([(name, used) for name, _, used in rows])
        return found

    def put(self, files: Mapping[str, tuple[bytes, float]]) -> bool:
        """Keep files by name, with a note each; whether that was possible."""
        now = time.time()
        rows = [(name, data, note, now) for name, (data, note) in files.items()]
        try:
            with self._database() as database:
                database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows)
        except (sqlite3.Error, OSError) as error:
            log.warning("pictures cannot be kept in %s (%s): they are sent with each answer", self.path, error)
            return False
        self._written += sum(len(data) for data, _ in files.values())
        if self._written >= CHECKED:
            self._written = 0
            self._tidy()
        return True

    def _touch(self, used: Iterable[tuple[str, float]]) -> None:
        now = time.time()
        old = [(now, name) for name, at in used if now > at + TOUCHED]
        if old:
            with self._database() as database:
                database.executemany("UPDATE files SET used = ? WHERE name = ?", old)

    def _tidy(self) -> None:
        """Drop the least recently used files until a tenth of the room is free."""
        with suppress(sqlite3.Error, OSError), self._database() as database:
            (size,) = database.execute("SELECT coalesce(sum(length(data)), 0) FROM files").fetchone()
            if size > self.limit:
                database.execute(
                    "DELETE FROM files WHERE name IN (SELECT name FROM (SELECT name, sum(length(data)) OVER (ORDER BY "
                    "used DESC, name) AS size FROM files) WHERE size > ?)",
                    [self.limit * 9 // 10],
                )

    def _database(self) -> sqlite3.Connection:
        """This thread's connection."""
        found: sqlite3.Connection | None = getattr(self._own, "database", None)
        if found is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            found = sqlite3.connect(self.path, timeout=5)
            try:
                found.execute("PRAGMA journal_mode = WAL")
                found.execute("PRAGMA synchronous = OFF")  # a cache: what a crash loses is made again
                found.execute(TABLE)
            except sqlite3.DatabaseError as error:
                found.close()
                if isinstance(error, sqlite3.OperationalError):  # busy, or not writable
                    raise
                self.path.unlink(missing_ok=True)  # damaged
                raise
            self._own.database = found
        return found
