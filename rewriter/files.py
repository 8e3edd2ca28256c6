"""Files, written to a temporary name and then renamed, so that an interruption keeps the old file."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rewriter.errors import InputError

KINDS = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}  # others are devices
NAME = 40  # characters of a file's name that its temporary one keeps


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path, which replaces `path` on leaving without an error; InputError if that is impossible.

    Only a regular file is replaced. Of a symbolic link, it is the file that it points to; the link stays.
    """
    target = _target(Path(path))
    with _beside(target, path) as temporary:
        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(target)
        except (OSError, SafetensorError) as error:
            raise InputError(f"cannot write {path} ({reason(error)}): nothing was changed") from error


def reason(error: Exception) -> str:
    """Why something failed, as the system says it."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _target(path: Path) -> Path:
    """The file that is written for `path`, which may not exist; InputError for anything but a regular file."""
    try:
        mode = os.stat(path).st_mode  # which follows links where the system allows that
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {path} ({reason(error)}): choose another place") from error
    if not stat.S_ISREG(mode):
        kind = next((name for holds, name in KINDS.items() if holds(mode)), "a device")
        raise InputError(f"cannot write {path}: it is {kind}; name a file{' in it' if kind == 'a folder' else ''}")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def _beside(target: Path, named: str | Path) -> Iterator[Path]:
    """A new temporary file in the target's folder, which is made if need be; it is gone on leaving."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {named} ({reason(error)}): choose another place") from error
    temporary = target.with_name(f".{target.stem[:NAME]}-{secrets.token_hex(8)}{target.suffix}")
    try:
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise InputError(f"cannot write {named} ({reason(error)}): choose another place") from error
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(data: bytes, path: str | Path) -> None:
    """Write a file as a whole; InputError where that is not possible."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(text: str, path: str | Path) -> None:
    """Write a text file in UTF-8."""
    write_bytes(text.encode(), path)


def as_json(data: Any, *, indent: int = 1) -> str:
    """JSON as our files hold it: indented, with a final newline."""
    return json.dumps(data, indent=indent, ensure_ascii=False) + "\n"


def write_json(data: Any, path: str | Path, *, indent: int = 1) -> None:
    """Write a JSON file."""
    write_text(as_json(data, indent=indent), path)


def write_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file. Equal content gives equal bytes, so that the Hub need not be sent it again."""
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, dict(metadata))
        with temporary.open("r+b") as file:  # the library writes metadata in random order
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            file.seek(8)
            file.write(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size))


def write_torch(data: Any, path: str | Path) -> None:
    """Write what `torch.save` takes; the same bytes wherever it lies."""
    with replacing(path) as temporary, temporary.open("wb") as file:  # given a path, torch.save would write its name
        try:
            torch.save(data, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # of which torch only says that a position is unexpected
                raise error.__context__ from None
            raise


def check_writable(path: str | Path) -> None:
    """Raise InputError, before any work, if `replacing` could not write `path`; nothing is left there."""
    target = _target(Path(path))
    created = [parent for parent in target.parents if not os.path.exists(parent)]
    with _beside(target, path):
        pass
    for folder in created:
        with contextlib.suppress(OSError):  # somebody else wrote into it meanwhile
            folder.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_bytes(path: str | Path, *, limit: int) -> bytes:
    """A file's content; InputError if it is missing, or larger than `limit` bytes."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror})") from error
    if len(data) > limit:
        raise InputError(f"{path} is larger than {limit >> 20} MB, the most that is read")
    return data


def read_json(path: str | Path, *, limit: int = 64 << 20) -> Any:
    """Parse a JSON file; InputError if it is missing, larger than `limit` bytes, or not JSON."""
    text = read_bytes(path, limit=limit)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}): it may be cut short") from error
