"""A checkpoint file → the tensors of its generator, by their published names. Nothing in the file is executed.

.safetensors                  read by safetensors, in place
.pt .pth .bin .tar, torch's   checked by `pickles` and `archive`, then read by torch.load(weights_only=True), in place
.pkl, NVIDIA's persistence    read by `pickles`; only the tensors of G_ema are used

The format is recognised by the first bytes, not by the file's name.
"""

from __future__ import annotations

import argparse
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from rewriter.checkpoints import CONDITIONAL, LARGEST
from rewriter.checkpoints.archive import scan_zip
from rewriter.checkpoints.pickle_types import DTYPES, Persistent, Storage, TensorInfo
from rewriter.checkpoints.pickles import MAGIC, run, scan_older
from rewriter.checkpoints.stated import RATE, stated
from rewriter.errors import InputError
from rewriter.generators.architectures import ARCHITECTURES

CONTAINERS = (  # names under which files hold the weights, the averaged ones first
    *("g_ema", "generator_smooth", "generator_ema", "netG_state_dict", "generator_state_dict", "netG", "generator"),
    "state_dict",
)
OLDER = b"\x80\x02\x8a\n" + MAGIC.to_bytes(10, "little")  # first bytes of torch.save's older format
HEADER = 4 << 20  # bytes of a header of safetensors
DEPTH, SIDE = 16, 1 << 20  # how deep modules may be nested; the longest axis of a tensor
Options = dict[str, Any]
_PLAIN = (Tensor, torch.nn.Parameter)
_LOADING = Lock()  # the names that torch.load accepts are a setting of the whole process


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Options]:
    """State dict of a checkpoint file, and the settings that it states, such as conv_clamp.

    Tensors may be mapped from the file. InputError if it is missing, damaged, or holds more than tensors.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(0)
            if not size or size > LARGEST:
                raise InputError("it is empty" if not size else f"it is larger than {LARGEST >> 30} GB")
            state, options = _read(path, file, head, size)
        _check(state, size)
        return state, options
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or error}): check the name") from error
    except InputError as error:
        told = ": " in str(error) or "because" in str(error)  # the message says what to do next
        step = "" if told else "; if it should be one, fetch it again from where it was published"
        raise InputError(f"cannot read {path} as a checkpoint: {error}{step}") from error
    except Exception as error:  # the parsers raise anything for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot read {path} as a checkpoint ({reason[:200]}): fetch it again") from error


def _check(state: Mapping[str, Tensor], size: int) -> None:
    """Raise InputError for tensors that cannot be weights."""
    for name, value in state.items():
        if not name.isprintable():
            raise InputError(f"it has a tensor with the unprintable name {name[:80]!r}")
        if value.dtype not in DTYPES.values() or max(value.shape, default=1) > SIDE:
            raise InputError(f"{name[:80]} is {tuple(value.shape)} of {value.dtype}, which no weight is")
    if sum(value.nbytes for value in state.values()) > size:
        raise InputError("its tensors are larger than the file: they overlap")


def _read(path: Path, file: BinaryIO, head: bytes, size: int) -> tuple[dict[str, Tensor], Options]:
    """Read a file by the format that its first bytes tell."""
    if head[8:9] == b"{":
        if int.from_bytes(head[:8], "little") > HEADER:
            raise InputError(f"its header is larger than {HEADER >> 20} MB")
        return _safetensors(path)
    if head[:4] == b"PK\x03\x04":
        scan_zip(file, size)
        return _container(_load(path, mmap=True))
    if head.startswith(OLDER):
        scan_older(file, size)
        if _is_tar(head):  # torch.load would read it as one
            raise InputError("it is a tar archive as well as a file of torch.save")
        return _container(_load(path, mmap=False))
    if head[:1] == b"\x80":
        return _persistence(run(file, size))
    if head.startswith(b"version https://git-lfs"):
        raise InputError("it is a Git LFS pointer to the file: get the file itself, with `git lfs pull`")
    if head.lstrip()[:1] == b"<":
        raise InputError("it is a web page: download the file itself")
    known = "safetensors, a file of torch.save, or a pickle of NVIDIA's StyleGAN2"
    raise InputError(f"it has an unknown format: expected {known}")


def _safetensors(path: Path) -> tuple[dict[str, Tensor], Options]:
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return state, _settings(file.metadata() or {})


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _load(path: Path, *, mmap: bool) -> Any:
    with _LOADING, torch.serialization.safe_globals([argparse.Namespace]):  # a training run's options
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except pickle.UnpicklingError as error:  # its text recommends to run what the file names
            raise InputError("it holds more than tensors, or is damaged") from error
        except RuntimeError as error:
            raise InputError(f"PyTorch cannot read it ({str(error).splitlines()[0][:80]})") from error


def _container(loaded: Any) -> tuple[dict[str, Tensor], Options]:
    """Tensors by name, from the dict in which training code saves them."""
    options: Options = {}
    if isinstance(loaded, Mapping):
        inside = next((name for name in CONTAINERS if isinstance(loaded.get(name), Mapping)), None)
        if inside:
            average = loaded.get("latent_avg")
            options = _settings({"conv_clamp": loaded.get("conv_clamp")})
            loaded = {**loaded[inside], **({} if average is None else {"latent_avg": average})}
    if not isinstance(loaded, Mapping) or not all(type(value) in _PLAIN for value in loaded.values()):
        raise InputError("it does not hold a state dict of tensors: export the generator's (g_ema) weights")
    return {str(name): value.detach() for name, value in loaded.items()}, options


def _settings(told: Mapping[str, Any]) -> Options:
    """The settings that a file states, validated; those of no architecture are left out."""
    checks = {name: check for each in ARCHITECTURES.values() for name, check in each.SETTINGS.items()}
    checks["mapping_rate"] = RATE
    return {name: checks[name](name, _plain(told[name])) for name in checks if told.get(name) is not None}


def _plain(value: Any) -> Any:
    """The value of a text in metadata."""
    if isinstance(value, str):
        with suppress(ValueError):
            return {"True": True, "False": False}[value] if value in ("True", "False") else float(value)
    return value


# --- NVIDIA's persistence ---


def _persistence(loaded: Any) -> tuple[dict[str, Tensor], Options]:
    """The averaged generator in a training run's pickle, or a generator alone."""
    generator = loaded.get("G_ema") if isinstance(loaded, dict) else loaded
    if not isinstance(generator, Persistent) or generator.name != "Generator":
        raise InputError("it holds no generator of NVIDIA's code: expected a dict with G_ema, or the generator itself")
    modules = dict(_modules(generator, "", 0, set()))
    if generator.fields.get("c_dim"):
        raise InputError(f"this generator is not supported, because {CONDITIONAL}")
    described = {
        f"{prefix}{name}": value
        for prefix, module in modules.items()
        for group in ("_parameters", "_buffers")
        for name, value in _fields(module, group).items()
        if value is not None
    }
    if odd := next((name for name, value in described.items() if not isinstance(value, TensorInfo)), None):
        raise InputError(f"it has a {type(described[odd]).__name__} where the tensor {odd[:80]!r} belongs")
    numbers = {storage: _numbers(storage) for storage in {value.storage for value in described.values()}}
    views = {name: numbers[at.storage].as_strided(at.shape, at.stride, at.offset) for name, at in described.items()}
    return views, _settings(stated(modules))


def _modules(module: Persistent, prefix: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Persistent]]:
    """A module and those inside it, by their prefixes; InputError if one is in two places."""
    if id(module) in seen or depth > DEPTH:
        raise InputError("its modules are nested too deeply, or one is in two places")
    seen.add(id(module))
    yield prefix, module
    for name, inner in _fields(module, "_modules").items():
        if not isinstance(inner, Persistent):
            raise InputError(f"it has a module {f'{prefix}{name}'[:80]!r} that NVIDIA's code did not save")
        yield from _modules(inner, f"{prefix}{name}.", depth + 1, seen)


def _fields(module: Persistent, group: str) -> Mapping[str, Any]:
    fields = module.fields.get(group)
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise InputError(f"its {module.name[:80]!r} has no {group}")
    return fields


def _numbers(storage: Storage) -> Tensor:
    """The numbers that are embedded in the pickle, (count,)."""
    if not storage.count:
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(bytearray(storage.data), dtype=storage.dtype)
