"""What a checkpoint's pickle may contain: tensors, plain data, and nothing else.

`KNOWN` lists the names that a file may call, with the function of ours that is called instead; `MODULES` describes
those of classes of PyTorch modules, of which only the fields are kept. Any other name is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO

import torch

from rewriter.errors import InputError

DTYPES = {
    **{"Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16, "Double": torch.float64},
    **{"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8},
    "Bool": torch.bool,
}
ARRAY, SCALAR, NETWORK = "numpy.ndarray", "numpy.scalar", "dnnlib.tflib.network.Network"  # names of `Built`


@dataclass(frozen=True, eq=False)
class Chunk:
    """Bytes of a file, which are not read before they are needed."""

    file: BinaryIO = field(repr=False)
    start: int
    size: int

    def fill(self, target: memoryview) -> None:
        """Read them into memory of their size; InputError if the file has become shorter."""
        self.file.seek(self.start)
        if target.nbytes != self.size or self.file.readinto(target) != self.size:  # type: ignore[attr-defined]
            raise InputError("it changed while it was read")


@dataclass(eq=False)
class Storage:
    """The numbers of tensors; `data` is where they are, as soon as that is known."""

    dtype: torch.dtype
    count: int
    key: str
    data: Chunk | None = None

    @property
    def nbytes(self) -> int:
        """Their size in bytes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class TensorInfo:
    """A tensor that has not been read yet; its elements do not overlap, and all lie in its storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Persistent:
    """An object that NVIDIA's code saved: the name of its class, and its fields; its source code is ignored."""

    name: str
    fields: Mapping[str, Any] = field(repr=False)  # nested values could take forever to print


@dataclass(eq=False)
class Built:
    """An object of another library: the name of its class, and what the file fills it with; nothing is made of it."""

    name: str
    state: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Known:
    """A name that a file may call, and the function that is called instead."""

    name: str
    make: Callable[..., Any]


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, gradient: Any = None, hooks: Any = None) -> TensorInfo:
    """Stands for torch._utils._rebuild_tensor_v2; InputError for a tensor that cannot exist."""
    only(Storage, storage)
    sides = [*only(tuple, shape), *only(tuple, stride), offset]
    if len(shape) != len(stride) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 40 for n in sides):
        raise InputError("it has a tensor of an impossible shape")
    end = offset
    for step, side in sorted(zip(stride, shape, strict=True)):
        if side > 1:
            if step < end - offset + 1:
                raise InputError(f"it has a tensor {tuple(shape)} whose elements overlap")
            end += (side - 1) * step
    if end >= storage.count and 0 not in shape:
        raise InputError(f"it has a tensor {tuple(shape)} larger than its storage of {storage.count:,}")
    return TensorInfo(storage, offset, tuple(shape), tuple(stride))


def _parameter(data: Any, *_: Any) -> TensorInfo:
    """Stands for torch._utils._rebuild_parameter."""
    return only(TensorInfo, data)


def _persistent(meta: Any) -> Persistent:
    """Stands for torch_utils.persistence._reconstruct_persistent_obj, which would run source code."""
    state, name = only(dict, meta).get("state"), meta.get("class_name")
    if not isinstance(state, dict) or not isinstance(name, str):
        raise InputError("it has a persistent object without class or fields")
    return Persistent(name, state)


def _dictionary(*arguments: Any) -> dict[Any, Any]:
    """Stands for classes of dicts: empty, or from pairs."""
    made: dict[Any, Any] = {}
    if arguments:
        for pair in only(list, arguments[0]):
            if type(pair) not in (tuple, list) or len(pair) != 2:
                raise InputError("it has a dict that is not made of pairs")
            made[only(str, pair[0])] = pair[1]
    return made


def _array(kind: Any, *_: Any) -> Built:
    """Stands for NumPy's _reconstruct: an array, which is filled later."""
    if only(Known, kind).name != "numpy.ndarray":
        raise InputError("it has an array of another class")
    return Built(ARRAY)


def _buffered(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Built:
    """Stands for NumPy's _frombuffer, which makes an array in protocol 5; those in another order are not read."""
    return Built(ARRAY, (1, shape, dtype, {"C": False, "F": True}.get(only(str, order)), data))


def _number(*state: Any) -> Built:
    """Stands for NumPy's scalars."""
    return Built(SCALAR, state)


def _dtype(code: Any, *_: Any) -> Built:
    """Stands for NumPy's types of numbers: what fills them, the order of bytes, is read with the code."""
    return Built(only(str, code))


def _set(items: Any = None) -> None:
    """Stands for sets, which no picture depends on."""
    for item in only(list, items or []):
        key_of(item)


def unread(name: str, *_: Any) -> Built:
    """Stands for classes of PyTorch's modules: their fields are kept, and nothing of them runs."""
    return Built(name)


def refuse_call(*_: Any) -> Any:
    """Stands for types, which are named and never called."""
    raise InputError("it calls a type that is only to be named")


def only(kind: type, value: Any) -> Any:
    """The value; InputError unless it is of exactly this type."""
    if type(value) is not kind:
        raise InputError(f"its pickle has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def key_of(value: Any) -> Any:
    """The value as a key; InputError for others than names and numbers, which could take forever to hash."""
    if type(value) is not str and (type(value) is not int or abs(value) >> 60):
        raise InputError(f"it has a {type(value).__name__} as a key: expected a name or a number")
    return value


def storage_of(identity: Any) -> Storage:
    """The storage that a persistent id of torch.save names: ("storage", type, key, location, count)."""
    words = only(tuple, identity)
    if len(words) not in (5, 6) or words[0] != "storage" or (len(words) == 6 and words[5] is not None):
        raise InputError("its persistent id is not that of a storage")
    kind, count = only(Known, words[1]).name, words[4]
    if type(count) is not int or not 0 <= count < 1 << 40:
        raise InputError("it has a storage of an impossible size")
    dtype = DTYPES[kind.removeprefix("torch.").removesuffix("Storage")]
    return Storage(dtype, count, only(str, words[2]))


_CORES = ("core", "_core")  # before and since NumPy 2
KNOWN: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    NETWORK: partial(Built, NETWORK),
    "collections.OrderedDict": _dictionary,
    "dnnlib.util.EasyDict": _dictionary,
    "argparse.Namespace": _dictionary,  # the options of a training run
    **{f"{module}.set": _set for module in ("builtins", "__builtin__")},
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in _CORES},
    **{f"numpy.{core}.multiarray.scalar": _number for core in _CORES},
    **{f"numpy.{core}.numeric._frombuffer": _buffered for core in _CORES},
    "numpy.ndarray": refuse_call,
    "numpy.dtype": _dtype,
}
MODULES = r"(torch\.nn\.(modules|utils)|pg_modules|feature_networks|timm|training\.networks\w*|R3GAN)\."  # of classes
HINTS = {  # what names tell of a file that is refused
    r"tfutil\.Network": "it is a Progressive GAN of TensorFlow; take GAN Dissection's or GenForce's file for PyTorch",
    r"dnnlib\.": "it is of a version of NVIDIA's code that is not known; take the file for PyTorch",
    "": "ask for the generator's state dict, saved with torch.save or as safetensors",
}
