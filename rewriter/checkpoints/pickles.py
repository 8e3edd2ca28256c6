"""Reads a stranger's pickle without Python's unpickler: a small machine that makes plain data and nothing else.

It interprets the opcodes of `pickletools`, imports no module, and calls only the functions in `pickle_types`. Any other
name or opcode is refused. Tensors come out as `TensorInfo`: their numbers are read later, by `read`.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from rewriter.checkpoints.pickle_types import (
    DTYPES,
    HINTS,
    KNOWN,
    MODULES,
    Built,
    Chunk,
    Known,
    Storage,
    key_of,
    only,
    refuse_call,
    storage_of,
    unread,
)
from rewriter.errors import InputError

MOST_STEPS = 500_000  # opcodes; a training run's pickle of three networks has a fifth of that
MOST_EMBEDDED = 4_000  # storages in a pickle; that one has 600
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch.save's older format


class _Fence:
    """A file that refuses to read beyond an end, so that a false length in it costs no memory."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file, self._left = file, end - file.tell()

    def _claim(self, size: int) -> None:
        if not 0 <= size <= self._left:
            raise InputError(f"it asks for {size:,} bytes where {max(0, self._left):,} are left")
        self._left -= size

    def read(self, size: int) -> bytes:
        """Read so many bytes; InputError if there are fewer."""
        self._claim(size)
        return self._file.read(size)

    def readline(self) -> bytes:
        """Read a line, of at most 512 bytes: names are short."""
        line = self._file.readline(512)
        self._claim(len(line))
        return line

    def pass_over(self, size: int) -> Chunk:
        """Pass over so many bytes; InputError if there are fewer."""
        self._claim(size)
        start = self._file.tell()
        self._file.seek(start + size)
        return Chunk(self._file, start, size)


@dataclass
class Budget:
    """What one file may still use, together with the files embedded in it."""

    payload: int = 0  # bytes of embedded files
    encoded: int = 0  # characters of texts that stand for bytes
    embedded: int = MOST_EMBEDDED
    steps: int = MOST_STEPS


def run(file: BinaryIO, size: int) -> Any:
    """The data of a pickle that embeds its numbers; InputError if it holds anything but data."""
    return interpret(file, size, Machine(Budget(size, size), nested=True))


def interpret(file: BinaryIO, end: int, machine: Machine) -> Any:
    """The data of the pickle that begins at the file's position, which moves behind it."""
    fence = _Fence(file, end)
    try:
        while (code := fence.read(1)) != b".":
            machine.step(code, fence)
        return machine.stack.pop()
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"its pickle is damaged ({str(error)[:100]})") from error


class Machine:
    """The stack, the memo, and what each opcode does to them; one method for a family of opcodes."""

    def __init__(self, budget: Budget, *, nested: bool = False) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.budget, self.nested = budget, nested
        self.storages: dict[str, Storage] = {}  # by key: all that the pickle names

    def step(self, code: bytes, fence: _Fence) -> None:
        """Do one opcode, whose argument comes next."""
        self.spend(1)
        if code not in OPCODES:
            raise InputError(f"it uses the opcode {_name_of(code)}, which no checkpoint needs")
        argument, do = OPCODES[code]
        do(self, argument(fence))

    def spend(self, steps: int) -> None:
        """Use up steps of the budget."""
        self.budget.steps -= steps
        if self.budget.steps < 0:
            raise InputError(f"it has more than {MOST_STEPS:,} steps")

    def _put(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def _since_mark(self, _: Any = None) -> list[Any]:
        return self._take(len(self.stack) - self.marks.pop())

    def _take(self, count: int) -> list[Any]:
        if not 0 <= count <= len(self.stack):
            raise InputError("its pickle pops more than it has pushed")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _extend(self, items: list[Any]) -> None:
        only(list, self.stack[-1]).extend(items)

    def _set(self, items: list[Any]) -> None:
        target = only(dict, self.stack[-1])
        if len(items) % 2:
            raise InputError("its pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key_of(key)] = value

    def _name(self, argument: str | None) -> None:
        module, name = argument.split(" ", 1) if argument else self._take(2)
        self.stack.append(self._known(module, name))

    def _call(self, _: Any) -> None:
        called, arguments = self._take(2)
        self.spend(sum(len(argument) for argument in only(tuple, arguments) if type(argument) is list))
        self.stack.append(only(Known, called).make(*only(tuple, arguments)))

    def _build(self, _: Any) -> None:  # attributes of dicts and sets are ignored; a tensor they would change
        target, state = self._take(2)
        if type(target) is Built and target.state is None:
            target.state = state
        elif target is not None and not type(target) is type(state) is dict:
            raise InputError(f"it changes a {type(target).__name__} by a {type(state).__name__}")
        self.stack.append(target)

    def _storage(self, _: Any) -> None:
        storage = storage_of(self.stack.pop())
        first = self.storages.setdefault(storage.key, storage)
        if (first.dtype, first.count) != (storage.dtype, storage.count):
            raise InputError("it has one storage in two sizes or types")
        self.stack.append(first)

    def _known(self, module: Any, name: Any) -> Known:
        """The function of ours for a global name; nothing is looked up in any module."""
        full = f"{only(str, module)}.{only(str, name)}"
        if "." not in name:
            if full == "torch.storage._load_from_bytes" and self.nested:
                return Known(full, self._embedded)
            if full == "_codecs.encode":
                return Known(full, self._encoded)
            if full in KNOWN:
                return Known(full, KNOWN[full])
            if re.match(MODULES, full):
                return Known(full, partial(unread, full))
            storage = re.fullmatch(r"torch\.([A-Z]\w+)Storage", full)
            if storage and storage[1] in DTYPES:
                return Known(full, refuse_call)
        hint = next(hint for pattern, hint in HINTS.items() if re.match(pattern, full))
        raise InputError(f"it names {full[:100]!r}, and nothing that a file names is run or imported here: {hint}")

    def _encoded(self, text: Any, encoding: Any) -> Chunk:
        """Stands for _codecs.encode, by which protocol 2 writes bytes."""
        self.budget.encoded -= len(only(str, text))
        if encoding != "latin1" or self.budget.encoded < 0:
            raise InputError("it has bytes in a form that no checkpoint needs, or too many of them")
        return Chunk(io.BytesIO(text.encode("latin1")), 0, len(text))

    def _embedded(self, payload: Any) -> Storage:
        """Stands for torch.storage._load_from_bytes: a storage from an embedded file in torch.save's older format."""
        budget, file = self.budget, only(Chunk, payload).file
        budget.payload, budget.embedded = budget.payload - payload.size, budget.embedded - 1
        if budget.payload < 0 or budget.embedded < 0:
            raise InputError("its embedded storages are larger than the file, or too many")
        before = file.tell()
        file.seek(payload.start)
        storage = scan_older(file, payload.start + payload.size, budget)
        if not isinstance(storage, Storage):
            raise InputError("an embedded file holds no storage")
        file.seek(before)
        return storage


_PUSHED = "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8"
_DO: Mapping[str, Callable[[Machine, Any], Any]] = {
    "PROTO FRAME": lambda machine, _: None,
    f"{_PUSHED} SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8": lambda machine, value: machine.stack.append(value),
    "BINPUT LONG_BINPUT MEMOIZE": Machine._put,
    "BINGET LONG_BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK ADDITEMS": Machine._since_mark,  # no picture depends on what is in a set
    "BUILD": Machine._build,
    "NONE EMPTY_SET": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine._since_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine._take(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine._take(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine._take(3))),
    "APPEND": lambda machine, _: machine._extend(machine._take(1)),
    "APPENDS": lambda machine, _: machine._extend(machine._since_mark()),
    "SETITEM": lambda machine, _: machine._set(machine._take(2)),
    "SETITEMS": lambda machine, _: machine._set(machine._since_mark()),
    "GLOBAL STACK_GLOBAL": Machine._name,
    "REDUCE NEWOBJ": Machine._call,
    "BINPERSID": Machine._storage,
}
_WIDTHS = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}  # bytes of a length


def _reader(opcode: pickletools.OpcodeInfo) -> Callable[[Any], Any]:
    """What reads an opcode's argument from a fence."""
    if width := _WIDTHS.get(opcode.name):
        return lambda fence: fence.pass_over(int.from_bytes(fence.read(width), "little"))
    return opcode.arg.reader if opcode.arg else lambda fence: None


def _name_of(code: bytes) -> str:
    found = pickletools.code2op.get(code.decode("latin1"))  # type: ignore[attr-defined]
    return found.name if found else repr(code)


_DONE = {name: do for names, do in _DO.items() for name in names.split()}
OPCODES = {
    opcode.code.encode("latin1"): (_reader(opcode), _DONE[opcode.name])
    for opcode in pickletools.opcodes
    if opcode.name in _DONE
}


# --- files of torch.save ---


def scan_older(file: BinaryIO, end: int, budget: Budget | None = None) -> Any:
    """The data of a file in torch.save's older format: five pickles, then the storages; InputError for other files."""
    budget = budget or Budget(encoded=end)  # which allows no embedded files
    machines = [Machine(budget) for _ in range(5)]
    magic, protocol, system, found, keys = (interpret(file, end, machine) for machine in machines)
    if magic != MAGIC or protocol != 1001 or type(system) is not dict or system.get("little_endian") is not True:
        raise InputError("it is not a file of torch.save, or one of a big-endian machine")
    known = machines[3].storages
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(known):
        raise InputError("its list of storages is not that of its tensors")
    fence = _Fence(file, end)
    for storage in (known[key] for key in keys):
        if int.from_bytes(fence.read(8), "little") != storage.count:
            raise InputError("it has a storage of another size than it says")
        storage.data = fence.pass_over(storage.nbytes)
    return found
