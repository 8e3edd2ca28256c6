"""What a pickle from a stranger may do here, in full: a small machine that makes plain data and nothing else.

It runs the opcodes of `pickletools`, knows no module, and calls nothing but the few functions of `described.py`.
Whatever else a file names or asks for is refused by name. Tensors come out as `Described`: what is in them is read
later, and only if it is wanted (`read.py`).

    run         any pickle that holds data and tensors
    scan_older  a file of torch.save's older kind, which is five pickles and then numbers

`archive.py` looks through the newer kind.
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

MOST_STEPS = 500_000  # a training run's pickle of three networks has a fifth of that
MOST_EMBEDDED = 4_000  # storages in a pickle; that one has six hundred
MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch.save's older kind


class _Fence:
    """A file from which no more can be asked for than it holds, so that a length in it costs no memory."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def read(self, size: int) -> bytes:
        """So many bytes, or a refusal."""
        left = self._size - self._file.tell()
        if not 0 <= size <= left:
            raise InputError(f"it asks for {size:,} bytes where {left:,} are left")
        return self._file.read(size)

    def readline(self) -> bytes:
        """A name; names are short."""
        return self._file.readline(512)

    def tell(self) -> int:
        """Where it stands."""
        return self._file.tell()


@dataclass
class Budget:
    """What one file may still ask for, files within it included."""

    payload: int  # bytes of embedded files
    embedded: int = MOST_EMBEDDED
    steps: int = MOST_STEPS


def run(file: BinaryIO, size: int) -> Any:
    """The data of the pickle that a file is; its storages come as embedded files of torch.save.

    Args:
        file: open for reading.
        size: of the whole file, in bytes.

    Raises:
        InputError: it names what is not known here, or is too large, damaged or no pickle.
    """
    return interpret(file, size, Machine(Budget(size), nested=True))


def interpret(file: BinaryIO, size: int, machine: Machine) -> Any:
    """The data of the pickle that begins at the file's position; the file then stands behind it."""
    steps = pickletools.genops(_Fence(file, size))  # type: ignore[arg-type]  # as much of a file as it uses
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
    """The stack, the memo, and what each opcode does to them: the methods are named after the opcodes' families."""

    def __init__(self, budget: Budget, *, nested: bool = False) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.budget, self.nested = budget, nested
        self.storages: dict[str, Storage] = {}  # by their key: all that it names, kept or not

    def step(self, name: str, argument: Any) -> None:
        """Do one opcode."""
        self.spend(1)
        if name not in OPCODES:
            raise InputError(f"it uses the opcode {name}, which no checkpoint needs")
        OPCODES[name](self, argument)

    def spend(self, steps: int) -> None:
        """Take so many of the steps that are left."""
        self.budget.steps -= steps
        if self.budget.steps < 0:
            raise InputError(f"it has more than {MOST_STEPS:,} steps")

    def skip(self, argument: Any) -> None:
        """PROTO, FRAME: nothing to do."""

    def push(self, argument: Any) -> None:
        """A number, a text, bytes."""
        self.stack.append(argument)

    def put(self, place: int | None) -> None:
        """Remember the top."""
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def get(self, place: int) -> None:
        """What was remembered."""
        self.stack.append(self.memo[place])

    def mark(self, _: Any) -> None:
        """What follows belongs together."""
        self.marks.append(len(self.stack))

    def pop(self, _: Any) -> None:
        """Drop the top."""
        self.stack.pop()

    def since_mark(self, _: Any = None) -> list[Any]:
        """Take all that came after the last mark."""
        return self.take(len(self.stack) - self.marks.pop())

    def take(self, count: int) -> list[Any]:
        """Take so many from the top."""
        if not 0 <= count <= len(self.stack):
            raise InputError("its pickle takes more than it has put there")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def extend(self, items: list[Any]) -> None:
        """A list grows."""
        only(list, self.stack[-1]).extend(items)

    def set(self, items: list[Any]) -> None:
        """A dict grows."""
        target = only(dict, self.stack[-1])
        if len(items) % 2:
            raise InputError("its pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key_of(key)] = value

    def name(self, argument: str | None) -> None:
        """A global name."""
        module, name = argument.split(" ", 1) if argument else self.take(2)
        self.stack.append(self._known(module, name))

    def call(self, _: Any) -> None:
        """Call one of the few functions."""
        called, arguments = self.take(2)
        self.spend(sum(len(argument) for argument in only(tuple, arguments) if type(argument) is list))
        self.stack.append(only(Known, called).make(*only(tuple, arguments)))

    def build(self, _: Any) -> None:
        """Attributes of a dict, or of what is left unread, draw nothing; a tensor's would make another of it."""
        target, state = self.take(2)
        if target is not None and not type(target) is type(state) is dict:
            raise InputError(f"it changes a {type(target).__name__} by a {type(state).__name__}")
        self.stack.append(target)

    def storage(self, _: Any) -> None:
        """A persistent id: tensors' numbers lie elsewhere."""
        storage = storage_of(self.stack.pop())
        first = self.storages.setdefault(storage.key, storage)
        if (first.dtype, first.count) != (storage.dtype, storage.count):
            raise InputError("it has one storage in two sizes or types")
        self.stack.append(first)

    def _known(self, module: Any, name: Any) -> Known:
        """What stands for a global name here; nothing is looked up in any module."""
        full = f"{only(str, module)}.{only(str, name)}"
        if "." not in name:
            if full == "torch.storage._load_from_bytes" and self.nested:
                return Known(full, self._embedded)
            if full in KNOWN:
                return Known(full, KNOWN[full])
            storage = re.fullmatch(r"torch\.([A-Z]\w+)Storage", full)
            if storage and storage[1] in DTYPES:
                return Known(full, refuse_call)
        hint = ""
        if full.startswith("dnnlib.tflib"):
            hint = ": it is a TensorFlow network; take the one for PyTorch"
        raise InputError(f"it names {full[:100]!r}, and nothing that a file names is run or imported here{hint}")

    def _embedded(self, payload: Any) -> Storage:
        """A storage that is an embedded file of torch.save's older kind."""
        budget = self.budget
        budget.payload, budget.embedded = budget.payload - len(only(bytes, payload)), budget.embedded - 1
        if budget.payload < 0 or budget.embedded < 0:
            raise InputError("its embedded storages are larger than the file, or too many")
        file = io.BytesIO(payload)
        storage = _scan_older(file, len(payload), budget)
        if not isinstance(storage, Storage):
            raise InputError("an embedded file holds something else than a storage")
        start = file.tell() + 8
        if int.from_bytes(payload[start - 8 : start], "little") != storage.count:
            raise InputError("an embedded storage has another size than it says")
        return Storage(storage.dtype, storage.count, storage.key, memoryview(payload)[start : start + storage.nbytes])


_PUSHED = "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES"
_DO: Mapping[str, Callable[[Machine, Any], Any]] = {
    "PROTO FRAME": Machine.skip,
    f"{_PUSHED} BINBYTES8": Machine.push,
    "BINPUT LONG_BINPUT MEMOIZE": Machine.put,
    "BINGET LONG_BINGET": Machine.get,
    "MARK": Machine.mark,
    "POP": Machine.pop,
    "POP_MARK ADDITEMS": Machine.since_mark,  # what is in a set draws nothing
    "BUILD": Machine.build,
    "NONE EMPTY_SET": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.take(3))),
    "APPEND": lambda machine, _: machine.extend(machine.take(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set(machine.since_mark()),
    "GLOBAL STACK_GLOBAL": Machine.name,
    "REDUCE NEWOBJ": Machine.call,
    "BINPERSID": Machine.storage,
}
OPCODES = {name: do for names, do in _DO.items() for name in names.split()}


# --- files of torch.save ---


def scan_older(file: BinaryIO, size: int) -> Any:
    """The data of a file of torch.save's older kind: five pickles, then the storages.

    Raises:
        InputError: it is none, its storages are not all there, or a pickle that `run` refuses.
    """
    return _scan_older(file, size, Budget(0))


def _scan_older(file: BinaryIO, size: int, budget: Budget) -> Any:
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
