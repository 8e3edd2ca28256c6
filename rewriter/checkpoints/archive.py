"""Reads a zipped file of torch.save: a pickle, and a record for each storage."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any, BinaryIO

from rewriter.checkpoints.pickle_types import Chunk
from rewriter.checkpoints.pickles import Budget, Machine, interpret
from rewriter.errors import InputError

MOST_LISTED = 4 << 20  # bytes of the list of records
MOST_PICKLE = 64 << 20  # bytes of the pickle among them


def scan_zip(file: BinaryIO, size: int) -> Any:
    """The data of a zipped file of torch.save; InputError if its pickle is refused, or does not fit its records."""
    records = _records(file, size)
    pickles = [name for name in records if name.endswith("/data.pkl")]
    if len(pickles) != 1 or records[pickles[0]][1] > MOST_PICKLE:
        raise InputError("its archive is not one of torch.save")
    start, length = records[pickles[0]]
    file.seek(start)
    data = file.read(length)
    folder = pickles[0].removesuffix("data.pkl")
    order, width = records.get(f"{folder}byteorder", (0, 0))
    file.seek(order)
    if width and file.read(min(width, 6)) != b"little":
        raise InputError("it is of a big-endian machine")
    machine = Machine(Budget(encoded=length))
    found = interpret(io.BytesIO(data), len(data), machine)
    for key, storage in machine.storages.items():
        start, length = records.get(f"{folder}data/{key}".lower(), (0, -1))
        if length != storage.nbytes:
            raise InputError(f"its archive lacks the storage {key[:20]!r}, or has it in another size")
        storage.data = Chunk(file, start, length)
    return found


def _records(file: BinaryIO, size: int) -> dict[str, tuple[int, int]]:
    """Position and length of each record of an archive, by its name in small letters.

    No archive may be ambiguous: other programs would read another thing in it.
    """
    offset, count = _listed(file, size)
    archive = zipfile.ZipFile(file)
    found, end = {}, 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise InputError("its archive is compressed or encrypted, which torch.save does not do: unzip it first")
        if info.filename != info.orig_filename:
            raise InputError("its archive has a record of two names")
        file.seek(info.header_offset)
        header = struct.unpack("<4s22xHH", file.read(30))
        start = info.header_offset + 30 + header[1] + header[2]
        if header[0] != b"PK\3\4" or info.header_offset < end or start + info.file_size > offset:
            raise InputError("its archive's records overlap")
        end = start + info.file_size
        found[info.filename.lower()] = (start, info.file_size)
    if len(found) != count:
        raise InputError("its archive has two records of one name")
    return found


def _listed(file: BinaryIO, size: int) -> tuple[int, int]:
    """Position of an archive's list of records, and their number; the list and its own position end the file."""
    file.seek(max(0, size - 98))
    tail = file.read().rjust(98, b"\0")
    mark, _, _, _, count, length, offset, comment = struct.unpack("<4s4H2LH", tail[76:])
    end = size - 22
    if tail[56:60] == b"PK\6\7":
        end, place = size - 98, int.from_bytes(tail[64:72], "little")
        longer, rest, _, _, count, length, offset = struct.unpack("<4sQ12s4Q", tail[:56])
        comment += longer != b"PK\6\6" or rest != 44 or place != end
    if mark != b"PK\5\6" or comment or offset + length != end or length > MOST_LISTED:
        raise InputError("its archive is cut short, or has too many records")
    return offset, count
