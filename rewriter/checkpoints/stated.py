"""What layers in NVIDIA's pickles say of themselves: settings to take over, and reasons to refuse."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

from rewriter.checkpoints.arrays import plain
from rewriter.checkpoints.pickle_types import Persistent, TensorInfo
from rewriter.checks import number
from rewriter.errors import InputError
from rewriter.generators.mapping import MAPPING_RATE
from rewriter.generators.stylegan3 import BAND, CLAMP, MARGIN, OUTPUT_SCALE, TAPS

RATE = number(1e-6, 1e6)  # what the learning rate of a mapping network may be
DRAWN: Mapping[
    str, Mapping[str, str | float]
] = {  # class → fields, and what they have to be for a layer to be drawn as here
    "SynthesisBlock": {"architecture": "skip"},
    "SynthesisLayer": {"activation": "lrelu", "act_gain": math.sqrt(2)},
}
FILTERED: Mapping[str, Mapping[str, str | float]] = {  # the same for StyleGAN3
    "SynthesisNetwork": {"margin_size": MARGIN, "output_scale": OUTPUT_SCALE},
    "SynthesisInput": {"bandwidth": BAND},
    "SynthesisLayer": {"conv_clamp": CLAMP},
}


def stated(modules: Mapping[str, Persistent]) -> dict[str, Any]:
    """The clamp and the mapping network's learning rate, as far as the layers state them.

    InputError, by the name of the layer and its field, for layers that would be drawn wrongly.
    """
    filtered = any(module.name == "SynthesisInput" for module in modules.values())
    for prefix, module in modules.items():
        for name, drawn in (FILTERED if filtered else DRAWN).get(module.name, {}).items():
            _require(prefix, name, _said(module, name, drawn), drawn)
        _check_filters(prefix, module)
    clamps = [_said(module, "conv_clamp", None) for module in modules.values() if "conv_clamp" in module.fields]
    if any(type(clamp) not in (type(None), int, float) or clamp != clamps[0] for clamp in clamps):
        raise InputError("its layers are clamped differently")
    rates = {prefix: rate for prefix, module in modules.items() for rate in _rates(prefix, module)}
    first = next(iter(rates.values()), MAPPING_RATE)
    for prefix, rate in rates.items():
        _require(prefix, "bias_gain", rate, first)
    return {"conv_clamp": clamps[0] if clamps else None, "mapping_rate": first if rates else None}


def _rates(prefix: str, module: Persistent) -> Iterator[float]:
    """The learning rate that a layer of the mapping network states, if it does; checks any fully connected layer."""
    if module.name != "FullyConnectedLayer":
        return
    mapping = prefix.startswith("mapping.")
    _require(prefix, "activation", _said(module, "activation", usual := "lrelu" if mapping else "linear"), usual)
    rate = RATE(f"{prefix[:80]}bias_gain", _said(module, "bias_gain", MAPPING_RATE if mapping else 1.0))
    parameters = module.fields.get("_parameters")
    weight = parameters.get("weight") if isinstance(parameters, dict) else None
    if isinstance(weight, TensorInfo) and len(weight.shape) == 2 and weight.shape[1]:
        gain = rate / math.sqrt(weight.shape[1])
        _require(prefix, "weight_gain", _said(module, "weight_gain", gain), gain)
    if mapping:
        yield float(rate)
    else:
        _require(prefix, "bias_gain", rate, 1.0)


def _check_filters(prefix: str, module: Persistent) -> None:
    """Raise InputError unless the filters of a StyleGAN3's layer have the usual taps for each step of its rates."""
    for way in ("up", "down"):
        taps, factor = (_said(module, f"{way}_{name}", 1) for name in ("taps", "factor"))
        if taps != 1:
            _require(prefix, f"{way}_taps", taps, TAPS * factor if type(factor) is int else TAPS)


def _said(module: Persistent, name: str, default: Any) -> Any:
    """A field of a layer, whose numbers may be NumPy's."""
    return plain(module.fields.get(name, default))


def _require(prefix: str, name: str, value: Any, wanted: str | float) -> None:
    if isinstance(wanted, str):
        fine = isinstance(value, str) and value == wanted
    else:
        fine = type(value) in (int, float) and math.isclose(value, wanted, rel_tol=1e-5)
    if not fine:
        raise _refusal(prefix, name, value, wanted if isinstance(wanted, str) else f"{wanted:.4g}")


def _refusal(prefix: str, name: str, value: Any, wanted: str) -> InputError:
    layer = prefix.rstrip(".")[:80] or "the generator"
    said = reprlib.repr(value)[:40]
    return InputError(f"this generator is not supported, because {name} of {layer!r} is {said} instead of {wanted}")
