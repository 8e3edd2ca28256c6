"""A catalogue entry → its file on this machine: fetched once, whole, and exactly the one that was meant.

Files go into the Hugging Face cache, where other tools find them. What has arrived of a download that stopped is kept
there too and gone on with; nothing takes its name in the cache before its size and SHA-256 are right.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import (
    HfApi,
    constants,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.utils import WeakFileLock, build_hf_headers, get_session, hf_raise_for_status

from rewriter.checkpoints.catalogue import Entry
from rewriter.errors import InputError
from rewriter.files import read_json, replacing
from rewriter.memory.statistics import default_cache
from rewriter.remote import LOG_IN, TRANSPORT, in_words

OnStep = Callable[[int, int], Any]  # bytes there, bytes in all; may raise to stop
CHUNK = 1 << 20
PATIENCE, PAUSE = 5, 1.0  # attempts without a byte; seconds between two
SPARE = 64 << 20  # bytes that a disk should have left
ADVICE = {
    401: f"its owner lets only those in whom they know: ask on its page, then {LOG_IN}",
    403: f"its owner asks for an agreement first: accept it on its page, then {LOG_IN}",
    404: "the file, the repository or its revision is not there any more: look for the model elsewhere, download it "
    "yourself and give its path",
}


def cached(entry: Entry) -> Path | None:
    """Where the entry's file is on this machine, if it is; asks nobody."""
    if entry.repository is None:
        return entry.local if entry.local.exists() else None
    found = try_to_load_from_cache(entry.repository, entry.file, revision=entry.revision, cache_dir=_cache())
    return Path(found) if isinstance(found, str) else None


def fetch(entry: Entry, *, on_step: OnStep = lambda done, of: None) -> Path:
    """The entry's file, downloaded if it is not here, and verified.

    Args:
        entry: of the catalogue.
        on_step: told how many bytes there are, and of how many; what it raises stops the download, to be gone on with.

    Raises:
        InputError: offline, refused, cut short, no room, or not the file that was meant; says what to do next.
    """
    path = cached(entry)
    if path is None and entry.repository is None:
        why = entry.note and f" ({entry.note})"
        raise InputError(f"{entry.id} needs the file {entry.local}, which is not there{why}")
    if path is None:
        path = _download(entry, on_step)
    verify(entry, path)
    return path


def verify(entry: Entry, path: Path) -> str:
    """The file's SHA-256, which is the entry's; it is remembered, so that an unchanged file is read for it only once.

    Raises:
        InputError: it has another size or hash than the entry says, or than it had when it was first downloaded.
    """
    real, known = path.resolve(), _Ledger()
    stat = real.stat()
    if entry.size is not None and stat.st_size != entry.size:
        raise InputError(_other(entry, path, f"{entry.size:,} bytes", f"{stat.st_size:,}"))
    seen = known.get(str(real))
    unchanged = seen is not None and seen[:2] == [stat.st_size, stat.st_mtime_ns]
    found: str = seen[2] if seen is not None and unchanged else hash_of(real)
    name = f"{entry.repository}@{entry.revision}/{entry.file}"
    expected = entry.sha256 or (known.get(name) or ["", "", ""])[2]
    if not found.startswith(expected):
        raise InputError(_other(entry, path, f"SHA-256 {expected}", found))
    known.note({str(real): [stat.st_size, stat.st_mtime_ns, found], name: [0, 0, found]})
    return found


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _other(entry: Entry, path: Path, expected: str, found: str) -> str:
    return (
        f"{path} is not the file of {entry.id}: expected {expected}, found {found}. Nothing was read or deleted: "
        "delete it to fetch it again, or give its path to use it as it is"
    )


class _Ledger:
    """What hashes were found: file → [size, time of its last change, SHA-256]; without it files are read once more."""

    def __init__(self) -> None:
        self._path = default_cache() / "verified.json"

    def get(self, key: str) -> list[Any] | None:
        """What is known of a file."""
        entry = self._all().get(key)
        valid = isinstance(entry, list) and len(entry) == 3 and re.fullmatch(r"[0-9a-f]{64}", str(entry[2]))
        return entry if valid else None

    def note(self, news: dict[str, list[Any]]) -> None:
        """Remember."""
        known = self._all()
        if any(known.get(key) != value for key, value in news.items()):
            with replacing(self._path) as temporary:
                temporary.write_text(json.dumps({**known, **news}, indent=1))

    def _all(self) -> dict[str, Any]:
        try:
            known = read_json(self._path)
        except InputError:
            return {}
        return known if isinstance(known, dict) else {}


# --- the network ---


def _cache() -> Path:
    return Path(constants.HF_HUB_CACHE)


def _download(entry: Entry, on_step: OnStep) -> Path:
    """Fetch into the cache; what is there of an earlier try is gone on with."""
    assert entry.repository and entry.revision
    url = hf_hub_url(entry.repository, entry.file, revision=entry.revision)
    with in_words(f"download {entry.id} from {entry.repository}", HfApi(token=get_token()), ADVICE):
        about = get_hf_file_metadata(url)
        size, etag = about.size or entry.size, about.etag or ""
        if not size or not re.fullmatch(r"\w[\w.-]{7,127}", etag):
            raise InputError(f"{entry.repository} does not say how large {entry.file} is: try again later")
        if entry.size not in (None, size):
            raise InputError(f"{entry.repository} has another file: expected {entry.size:,} bytes, found {size:,}")
        folder = _cache() / f"models--{entry.repository.replace('/', '--')}" / "blobs"
        blob, partial = folder / etag, folder / f"{etag}.part"
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(f"{partial}.lock"):  # another process may be at it
                if not blob.exists():
                    _fill(url, partial, size, on_step)
                    _accept(entry, partial, blob)
        return Path(hf_hub_download(entry.repository, entry.file, revision=entry.revision, cache_dir=_cache()))


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Say what to do where the disk refuses."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # the client's own, such as being offline
            raise
        hint = "free some space, or set HF_HOME to a folder on another disk; what has arrived is kept"
        raise InputError(f"cannot write in {folder} ({error.strerror}): {hint}") from error


def _fill(url: str, partial: Path, size: int, on_step: OnStep) -> None:
    """Bring a file to its whole size, from wherever it is; a connection that breaks off is taken up again."""
    missing = size - (partial.stat().st_size if partial.exists() else 0)
    free = shutil.disk_usage(partial.parent).free
    if free < missing + SPARE:
        needed = f"{missing / 1e6:,.0f} MB and some to spare are needed, {free / 1e6:,.0f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed}")
    failures = 0
    with partial.open("ab") as file:
        if missing < 0:
            file.truncate(0)
        while (there := file.tell()) < size:
            on_step(there, size)
            try:
                _stream(url, file, size, on_step)
            except TRANSPORT:
                if failures == PATIENCE:
                    raise
            failures = 0 if file.tell() > there else failures + 1
            if file.tell() < size:
                if failures > PATIENCE:
                    raise InputError("the connection breaks off again and again: try later; what has arrived is kept")
                time.sleep(PAUSE)
    on_step(size, size)


def _stream(url: str, file: BinaryIO, size: int, on_step: OnStep) -> None:
    """One request for what is missing."""
    headers = {**build_hf_headers(), "Range": f"bytes={file.tell()}-", "Accept-Encoding": "identity"}
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        if response.status_code != 206:  # all of it, from the beginning
            file.seek(0)
            file.truncate()
        for chunk in response.iter_bytes(CHUNK):
            file.write(chunk[: max(0, size - file.tell())])
            on_step(file.tell(), size)


def _accept(entry: Entry, partial: Path, blob: Path) -> None:
    """Give a whole file its name in the cache, if it is the one that was meant."""
    found = hash_of(partial)
    lfs = blob.name if re.fullmatch(r"[0-9a-f]{64}", blob.name) else ""
    for expected in (entry.sha256 or "", lfs):
        if not found.startswith(expected):
            raise InputError(_other(entry, partial, f"SHA-256 {expected}", found))
    partial.replace(blob)
