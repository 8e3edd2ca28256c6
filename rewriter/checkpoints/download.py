"""A file that is meant, such as a catalogue entry's → on this machine: fetched once, whole, and exactly that one.

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
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import Timeout
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

from rewriter.cache import default_folder
from rewriter.checkpoints.catalogue import PinnedFile
from rewriter.checkpoints.client import AGAIN, TRANSPORT, check_token, in_words
from rewriter.checkpoints.read import SIZE
from rewriter.errors import InputError, OnStep, report
from rewriter.files import read_json, replacing

Step = tuple[int, int]
PATIENCE, PAUSE = 5, 1.0  # attempts without a byte; seconds between two
WAIT = 0.5  # seconds for another process, before telling how far it is
SPARE = 64 << 20  # bytes that a disk should have left
LOG_IN = "run `hf auth login`, or set HF_TOKEN to a token that may read (https://huggingface.co/settings/tokens)"
ASK = "check HF_ENDPOINT and the catalogue, or download the file yourself and give its path"
LATER = f"try later, {AGAIN}"
GONE = "look for the model elsewhere, download it yourself and give its path"
ADVICE = {
    401: f"it is not there any more ({GONE}), or not for everybody, or the token is not valid: {LOG_IN}",
    403: f"its owner asks for an agreement first: accept it on its page, then {LOG_IN}",
    404: f"the file, the repository or its revision is not there any more: {GONE}",
}


def cached(entry: PinnedFile) -> Path | None:
    """Where the entry's file is on this machine, if it is; asks nobody."""
    if entry.repository is None:
        return entry.local if entry.local.is_file() else None
    found = try_to_load_from_cache(entry.repository, entry.file, revision=entry.revision, cache_dir=_cache())
    return Path(found) if isinstance(found, str) else None


def fetch(entry: PinnedFile, *, on_step: OnStep | None = None) -> Path:
    """The entry's file, downloaded if it is not here, and verified.

    Args:
        entry: of the catalogue, or any other file that is known so exactly.
        on_step: called with the bytes downloaded and the bytes in all; returning False cancels the download.

    Raises:
        InputError: offline, refused, cut short, no room, or not the file that was meant; says what to do next.
        CancelledError: `on_step` returned False; the next download resumes.
    """
    path = cached(entry)
    if path is None and entry.repository is None:
        why = entry.note and f" ({entry.note})"
        raise InputError(f"{entry.id} needs the file {entry.local}, which is not there{why}")
    if path is None:
        with closing(_download(entry)) as steps:
            for done, of in steps:
                report(
                    on_step, done, of, cancelled=f"the download of {entry.id} was cancelled; the next one resumes it"
                )
        path = cached(entry)
        assert path is not None
    verify(entry, path)
    return path


def verify(entry: PinnedFile, path: Path) -> str:
    """The file's SHA-256, which is the entry's; it is remembered, so that an unchanged file is read for it only once.

    Raises:
        InputError: it has another size or hash than the entry says, or than it had when it was first downloaded.
    """
    real, known = path.resolve(), _Ledger()
    try:
        stat = real.stat()
    except OSError as error:
        raise InputError(f"cannot read {path} of {entry.id} ({error.strerror}): fetch it again") from error
    if entry.size is not None and stat.st_size != entry.size:
        raise InputError(_other(entry, path, f"{entry.size:,} bytes", f"{stat.st_size:,}"))
    seen = known.get(str(real))
    unchanged = seen is not None and seen[:2] == [stat.st_size, stat.st_mtime_ns]
    found: str = seen[2] if seen is not None and unchanged else hash_of(real)
    name = f"{entry.repository}@{entry.revision}/{entry.file}"
    first = known.get(name) if entry.repository else None  # a file of one's own may change
    expected = entry.sha256 or (first[2] if first else "")
    if not found.startswith(expected):
        raise InputError(_other(entry, path, f"SHA-256 {expected}", found))
    known.note({str(real): [stat.st_size, stat.st_mtime_ns, found], name: [0, 0, found]})
    return found


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hex; InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check the disk and its permissions") from error


def _other(entry: PinnedFile, path: Path, expected: str, found: str) -> str:
    return (
        f"{path} is not the file of {entry.id}: expected {expected}, found {found}. Nothing was read or deleted: "
        "delete it to fetch it again, or give its path to use it as it is"
    )


class _Ledger:
    """What hashes were found: file → [size, time of its last change, SHA-256]; without it files are read once more."""

    def __init__(self) -> None:
        self._path = default_folder() / "verified.json"

    def get(self, key: str) -> list[Any] | None:
        """What is known of a file."""
        entry = self._all().get(key)
        valid = isinstance(entry, list) and len(entry) == 3 and re.fullmatch(r"[0-9a-f]{64}", str(entry[2]))
        return entry if valid else None

    def note(self, news: dict[str, list[Any]]) -> None:
        """Remember, where that can be written."""
        known = self._all()
        if any(known.get(key) != value for key, value in news.items()):
            with suppress(InputError), replacing(self._path) as temporary:
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


def _download(entry: PinnedFile) -> Generator[Step, None, None]:
    """Fetch into the cache, from what is there of an earlier try; yields the bytes there, and in all."""
    assert entry.repository and entry.revision
    url = hf_hub_url(entry.repository, entry.file, revision=entry.revision)
    doing = f"download {entry.id} from {entry.repository}"
    token = get_token()
    with in_words(doing, HfApi(token=token), ADVICE):
        try:
            check_token(token or "")
        except InputError as error:
            raise InputError(f"cannot {doing}: {error}") from error
        about = get_hf_file_metadata(url)
        size, etag = about.size or entry.size, about.etag or ""
        if not size or not re.fullmatch(r"\w[\w.-]{7,127}", etag, re.ASCII):
            raise InputError(f"cannot {doing}: it does not say how large {entry.file} is, or of what version; {ASK}")
        if size > SIZE:
            raise InputError(f"cannot {doing}: {entry.file} is larger than {SIZE >> 30} GB, the most that is read")
        if entry.size not in (None, size):
            raise InputError(f"cannot {doing}: expected {entry.size:,} bytes, found {size:,}; {ASK}")
        folder = _cache() / f"models--{entry.repository.replace('/', '--')}" / "blobs"
        blob, partial = folder / etag, folder / f"{etag}.part"
        with _writing(doing, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with ExitStack() as alone:
                yield from _alone(alone, partial, size)
                if not blob.exists():
                    _check_room(partial, size)
                    yield from _fill(doing, url, partial, size)
                    _accept(entry, partial, blob)
        hf_hub_download(entry.repository, entry.file, revision=entry.revision, cache_dir=_cache())


@contextmanager
def _writing(doing: str, folder: Path) -> Iterator[None]:
    """Say what to do where the disk refuses."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # the client's own, such as being offline
            raise
        hint = f"make room, or set HF_HOME to a folder on another disk, {AGAIN}"
        raise InputError(f"cannot {doing}, because {folder} cannot be written ({error.strerror}): {hint}") from error


def _alone(until: ExitStack, partial: Path, size: int) -> Iterator[Step]:
    """Wait while another process is at it, and tell how far that is."""
    while True:
        try:
            until.enter_context(WeakFileLock(f"{partial}.lock", timeout=WAIT))
            return
        except Timeout:
            yield min(_size(partial), size), size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # or renamed by whoever has finished it
        return 0


def _check_room(partial: Path, size: int) -> None:
    missing, free = size - _size(partial), shutil.disk_usage(partial.parent).free
    if free < missing + SPARE:
        needed = f"{missing / 1e6:,.0f} MB and some to spare are needed, {free / 1e6:,.0f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed}")


def _fill(doing: str, url: str, partial: Path, size: int) -> Iterator[Step]:
    """Bring a file to its whole size, from wherever it is; a connection that breaks off is taken up again."""
    failures, broken, best = 0, None, 0
    with partial.open("ab") as file:
        if file.tell() > size:
            file.seek(0)
            file.truncate()
        while (there := file.tell()) < size:
            yield there, size
            try:
                yield from _stream(url, file, size)
            except TRANSPORT as error:
                broken = error
            failures, best = 0 if file.tell() > max(there, best) else failures + 1, max(best, file.tell())
            if failures > PATIENCE:
                raise InputError(f"cannot {doing}: the connection breaks off again and again; {LATER}") from broken
            if file.tell() < size:
                time.sleep(PAUSE)
    yield size, size


def _stream(url: str, file: BinaryIO, size: int) -> Iterator[Step]:
    """One request for what is missing."""
    there = file.tell()
    headers = {**build_hf_headers(), "Range": f"bytes={there}-", "Accept-Encoding": "identity"}
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        begins = response.headers.get("Content-Range", "").startswith(f"bytes {there}-")
        if response.status_code != 206:  # all of it, from the beginning
            file.seek(0)
            file.truncate()
        elif not begins:
            raise ValueError("another part of the file than the one that was asked for")
        for chunk in response.iter_raw():  # as they arrive, so that nothing is lost with the connection
            file.write(chunk[: size - file.tell()])
            yield file.tell(), size
            if file.tell() == size:
                return  # whatever else may come


def _accept(entry: PinnedFile, partial: Path, blob: Path) -> None:
    """Give a whole file its name in the cache, if it is the one that was meant."""
    found = hash_of(partial)
    lfs = blob.name if re.fullmatch(r"[0-9a-f]{64}", blob.name) else ""
    for expected in (entry.sha256 or "", lfs):
        if not found.startswith(expected):
            raise InputError(_other(entry, partial, f"SHA-256 {expected}", found))
    partial.replace(blob)
