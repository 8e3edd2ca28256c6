"""A checkpoint file → the tensors of its generator, by their published names. Nothing in the file is executed.

.safetensors                  read by safetensors, in place
.pt .pth .bin .tar, torch's   read by `pickles` and `archive`; only the tensors of the generator are used
.pkl, NVIDIA's                read by `pickles`; only the tensors of the averaged generator are used

The format is recognised by the first bytes, not by the file's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import safe_open
from torch import Tensor

from rewriter.checkpoints import LARGEST
from rewriter.checkpoints.archive import scan_zip
from rewriter.checkpoints.arrays import plain, read_all
from rewriter.checkpoints.persistence import read_persistent
from rewriter.checkpoints.pickle_types import DTYPES, TensorInfo
from rewriter.checkpoints.pickles import MAGIC, run, scan_older
from rewriter.checkpoints.stated import RATE, stated
from rewriter.checkpoints.tensorflow import network_in, read_network
from rewriter.errors import InputError
from rewriter.generators.architectures import ARCHITECTURES

CONTAINERS = (  # names under which files hold the weights, the averaged ones first
    *("g_ema", "G_ema", "generator_smooth", "generator_ema", "netG_ema", "params_ema"),
    *("netG_state_dict", "generator_state_dict", "netG", "generator", "g", "G", "params", "state_dict", "GAN"),
)
BUFFERS = ("weight_u", "weight_v", "running_mean", "running_var", "num_batches_tracked")  # ends of names
OLDER = b"\x80\x02\x8a\n" + MAGIC.to_bytes(10, "little")  # first bytes of torch.save's older format
HEADER = 4 << 20  # bytes of a header of safetensors
SIDE, NAME = 1 << 20, 300  # the longest axis and the longest name of a tensor
Options = dict[str, Any]


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], Options]:
    """State dict of a checkpoint file, and the settings that it states, such as conv_clamp.

    InputError if it is missing, damaged, or holds more than tensors.
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
        if not name.isprintable() or len(name) > NAME:
            raise InputError(f"it has a tensor with a name that no weight has, {name[:80]!r}")
        if value.dtype not in DTYPES.values() or max(value.shape, default=1) > SIDE:
            raise InputError(f"{name[:80]} is {tuple(value.shape)} of {value.dtype}, which no weight is")
    if sum(value.nbytes for value in state.values()) > size:
        raise InputError("its tensors are larger than the file: they overlap")


def form_of(head: bytes) -> str:
    """The format of a file that begins with these 512 bytes; "" if it is unknown."""
    forms = {
        "safetensors": head[8:9] == b"{",
        "torch.save": head[:4] == b"PK\x03\x04",
        "torch.save, older format": head.startswith(OLDER),
        "pickle": head[:1] == b"\x80",
    }
    return next((form for form, fits in forms.items() if fits), "")


def _read(path: Path, file: BinaryIO, head: bytes, size: int) -> tuple[dict[str, Tensor], Options]:
    """Read a file by the format that its first bytes tell."""
    form = form_of(head)
    if form == "safetensors":
        if int.from_bytes(head[:8], "little") > HEADER:
            raise InputError(f"its header is larger than {HEADER >> 20} MB")
        return _safetensors(path)
    if form == "torch.save":
        return _container(scan_zip(file, size), size)
    if form == "torch.save, older format":
        return _container(scan_older(file, size), size)
    if form == "pickle":
        return _pickled(run(file, size), size)
    if head.startswith(b"version https://git-lfs"):
        raise InputError("it is a Git LFS pointer to the file: get the file itself, with `git lfs pull`")
    if head.lstrip()[:1] == b"<":
        raise InputError("it is a web page: download the file itself")
    known = "safetensors, a file of torch.save, or a pickle of NVIDIA's code"
    raise InputError(f"it has an unknown format: expected {known}")


def _pickled(loaded: Any, size: int) -> tuple[dict[str, Tensor], Options]:
    """The generator in a pickle that embeds its numbers: of TensorFlow, a plain state dict, or of NVIDIA's PyTorch."""
    if network := network_in(loaded):
        state, told = read_network(network, size=size)
        return state, _settings(told)
    weights, _ = _inside(loaded)
    if weights and _is_state(weights):
        return _container(loaded, size)
    state, modules = read_persistent(loaded, size=size)
    return state, _settings(stated(modules))


def _safetensors(path: Path) -> tuple[dict[str, Tensor], Options]:
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return state, _settings(file.metadata() or {})


def _container(loaded: Any, size: int) -> tuple[dict[str, Tensor], Options]:
    """Tensors by name, from the dict in which training code saves them."""
    weights, options = _inside(loaded)
    if not _is_state(weights):
        kind = {"TensorInfo": "tensor", "Built": "module"}.get(name := type(weights).__name__, name)
        names = ", ".join(repr(name)[:40] for name in list(weights)[:8]) if isinstance(weights, dict) else ""
        found = f"a {kind} of {names}" if names else f"a {kind} without names"
        raise InputError(
            f"it does not hold a state dict of tensors but {found}: export the generator's (g_ema) weights"
        )
    return read_all({str(name): value for name, value in weights.items()}, most=size), options


def _is_state(weights: Any) -> bool:
    return isinstance(weights, dict) and all(type(value) is TensorInfo for value in weights.values())


def _inside(loaded: Any) -> tuple[Any, Options]:
    """The weights in what a file holds, with the average that lies beside them, and settings."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("models"), Mapping):  # a training run of GenForce
        loaded = loaded["models"]
    if isinstance(loaded, Mapping):
        loaded = _averaged(loaded)
        inside = next((name for name in CONTAINERS if isinstance(loaded.get(name), Mapping)), None)
        if inside:
            average = loaded.get("latent_avg")
            options = _settings({"conv_clamp": plain(loaded.get("conv_clamp"))})
            return {**loaded[inside], **({} if average is None else {"latent_avg": average})}, options
    return loaded, {}


def _averaged(loaded: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """FastGAN's training code saves the averaged parameters as a list, in the order of the generator's: named here."""
    latest, average = loaded.get("g"), loaded.get("g_ema")
    if not isinstance(latest, Mapping) or not isinstance(average, list):
        return loaded
    names = [name for name in latest if not str(name).endswith(BUFFERS)]
    if [getattr(value, "shape", None) for value in average] != [getattr(latest[name], "shape", 0) for name in names]:
        raise InputError("its averaged weights (g_ema) are not those of its generator (g): export the latter alone")
    return {**loaded, "g_ema": {**latest, **dict(zip(names, average, strict=True))}}


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
