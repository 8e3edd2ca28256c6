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
from typing import Any, BinaryIO

from rewriter.checkpoints.pickle_types import DTYPES, KNOWN, Known, Storage, key_of, only, refuse_call, storage_of
from rewriter.errors import InputError

MOST_STEPS = 500_000  # opcodes; a training run's pickle of three networks has a fifth of that
MOST_EMBEDDED = 4_000  # storages in a pickle; that one has 600
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch.save's older format


class _Fence:
    """A file that refuses to read beyond its end, so that a false length in it costs no memory."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, size: int) -> bytes:
        """Read so many bytes; InputError if there are fewer."""
        left = self._size - self._file.tell()
        if not 0 <= size <= left:
            raise InputError(f"it asks for {size:,} bytes where {left:,} are left")
        return self._file.read(size)

    def readline(self) -> bytes:
        """Read a line, of at most 512 bytes: names are short."""
        return self._file.readline(512)

    def tell(self) -> int:
        """The position."""
        return self._file.tell()


@dataclass
class Budget:
    """What one file may still use, together with the files embedded in it."""

    payload: int  # bytes of embedded files
    embedded: int = MOST_EMBEDDED
    steps: int = MOST_STEPS


def run(file: BinaryIO, size: int) -> Any:
    """The data of a pickle that embeds its storages as files of torch.save; InputError if it holds anything else."""
    return interpret(file, size, Machine(Budget(size), nested=True))


def interpret(file: BinaryIO, size: int, machine: Machine) -> Any:
    """The data of the pickle that begins at the file's position, which moves behind it."""
    steps = pickletools.genops(_Fence(file, size))  # type: ignore[arg-type]  # it needs no more of a file
    try:
        for opcode, argument, _ in steps:
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, UnicodeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"its pickle is damaged ({str(error)[:100]})") from error
    raise InputError("its pickle has no end")


class Machine:
    """The stack, the memo, and what each opcode does to them; one method for a family of opcodes."""

    def __init__(self, budget: Budget, *, nested: bool = False) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.budget, self.nested = budget, nested
        self.storages: dict[str, Storage] = {}  # by key: all that the pickle names

    def step(self, name: str, argument: Any) -> None:
        """Do one opcode."""
        self.spend(1)
        if name not in OPCODES:
            raise InputError(f"it uses the opcode {name}, which no checkpoint needs")
        OPCODES[name](self, argument)

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

    def _build(self, _: Any) -> None:  # for dicts and unread values attributes are ignored; a tensor they would change
        target, state = self._take(2)
        if target is not None and not type(target) is type(state) is dict:
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
            if full in KNOWN:
                return Known(full, KNOWN[full])
            storage = re.fullmatch(r"torch\.([A-Z]\w+)Storage", full)
            if storage and storage[1] in DTYPES:
                return Known(full, refuse_call)
        hint = ": it is a TensorFlow network; take the one for PyTorch" if full.startswith("dnnlib.tflib") else ""
        raise InputError(f"it names {full[:100]!r}, and nothing that a file names is run or imported here{hint}")

    def _embedded(self, payload: Any) -> Storage:
        """A storage from an embedded file in torch.save's older format."""
        budget = self.budget
        budget.payload, budget.embedded = budget.payload - len(only(bytes, payload)), budget.embedded - 1
        if budget.payload < 0 or budget.embedded < 0:
            raise InputError("its embedded storages are larger than the file, or too many")
        file = io.BytesIO(payload)
        storage = scan_older(file, len(payload), budget)
        if not isinstance(storage, Storage):
            raise InputError("an embedded file holds no storage")
        start = file.tell() + 8
        if int.from_bytes(payload[start - 8 : start], "little") != storage.count:
            raise InputError("an embedded storage has another size than it says")
        return Storage(storage.dtype, storage.count, storage.key, memoryview(payload)[start : start + storage.nbytes])


_PUSHED = "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES"
_DO: Mapping[str, Callable[[Machine, Any], Any]] = {
    "PROTO FRAME": lambda machine, _: None,
    f"{_PUSHED} BINBYTES8": lambda machine, value: machine.stack.append(value),
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
OPCODES = {name: do for names, do in _DO.items() for name in names.split()}


# --- files of torch.save ---


def scan_older(file: BinaryIO, size: int, budget: Budget | None = None) -> Any:
    """The data of a file in torch.save's older format: five pickles, then the storages; InputError for other files."""
    budget = budget or Budget(0)  # which allows no embedded files
    machines = [Machine(budget) for _ in range(5)]
    magic, protocol, system, found, keys = (interpret(file, size, machine) for machine in machines)
    if magic != MAGIC or protocol != 1001 or type(system) is not dict or system.get("little_endian") is not True:
        raise InputError("it is not a file of torch.save, or one of a big-endian machine")
    known = machines[3].storages
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(known):
        raise InputError("its list of storages is not that of its tensors")
    if file.tell() + sum(8 + storage.nbytes for storage in known.values()) > size:
        raise InputError("its storages are cut short")
    return found
