"""`rewriter generators --check FILE`: what a checkpoint is, how sure that is, and what cannot be done with it."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from typing import Any

from rewriter.checkpoints import store
from rewriter.checkpoints.doubts import SEEDS, doubts
from rewriter.checkpoints.download import hash_of
from rewriter.checkpoints.read import form_of
from rewriter.cli.common import load
from rewriter.cli.describe import kind_of
from rewriter.editing.provenance import default_layer
from rewriter.errors import InputError
from rewriter.generators.base import Generator

STATED = "its layers state their activations, gains and clamp, which were compared with what is drawn here"
NEXT = ("sample", "demo")
WIDTH = 13  # of the names of rows
FAST = 0.5  # seconds a picture that nobody minds


def check(file: Path, quiet: bool, **given: float | None) -> tuple[dict[str, Any], str]:
    """What a file is, as data and as one page; InputError with the reason if it cannot be used."""
    if not file.is_file():
        step = "name a file in it, or describe it with rewriter inspect" if file.is_dir() else "check the path"
        raise InputError(f"{file} is {'a folder' if file.is_dir() else 'no file'}: {step}")
    with file.open("rb") as opened:
        form = form_of(opened.read(512))
    if form == "safetensors" and (kind := kind_of(file)).startswith("rewriter"):
        raise InputError(f"{file} is no generator, but a file of this package ({kind}): see rewriter inspect {file}")
    model = load(str(file), "cpu", quiet, **given)
    started = time.perf_counter()
    drawn = model.sample(SEEDS)
    seconds = (time.perf_counter() - started) / len(SEEDS)
    begin = model.advice or {"objects": default_layer(model)}
    data: dict[str, Any] = {"file": str(file), "form": form, "bytes": file.stat().st_size, "sha256": hash_of(file)}
    data |= {"architecture": model.kind, "resolution": model.resolution, "fingerprint": model.fingerprint}
    data |= {"weights": sum(tensor.numel() for tensor in model.parameters()), "settings": model.settings()}
    data |= {"entry": model.origin.id, "licence": model.origin.licence and model.origin.licence.id}
    data |= {
        "sure": _how_sure(model),
        "doubts": [] if model.origin.id else doubts(model, drawn, mapping_rate=given.get("mapping_rate")),
    }
    data |= {"seconds": round(seconds, 3), "layers": list(model.layers), "begin": dict(begin)}
    data |= {"limits": _limits(model, seconds), "layouts": [*store.layouts_of(model)]}
    return data, _page(model, data)


def _how_sure(model: Generator) -> str:
    """How it is known what the file is."""
    if model.origin.id:
        return f"certain: its SHA-256 is that of {model.origin.id} in the catalogue"
    names = "every tensor has a name and a shape of this network, and none is left over"
    if model.described:
        return f"almost certain: {names}; {STATED}"
    return f"likely: {names}. Taken for granted, because tensors do not show it: {model.unseen}"


def _limits(model: Generator, seconds: float) -> list[str]:
    """What cannot be done with it, or only with patience."""
    said = [model.limits] if model.limits else []
    if not model.origin.licence:
        said.append("its licence is unknown: before you publish what you make of it, ask where it came from")
    if seconds > FAST:
        said.append(f"a picture takes {seconds:.1f} s on this CPU, and an edit draws hundreds: a GPU is better")
    return said


def _page(model: Generator, data: dict[str, Any]) -> str:
    """The data in words."""
    layers = list(model.layers.values())
    shown = f"{data['architecture']}, {model.resolution} px, {data['weights']:,} weights"
    begin = ", ".join(f"{layer} for {good}" for good, layer in data["begin"].items())
    clamp = data["settings"].get("conv_clamp")
    rows = [
        ("file", f"{data['form']}, {data['bytes'] / 1e6:,.1f} MB, SHA-256 {data['sha256'][:16]} …"),
        ("network", shown + (f"; features are clamped at {clamp:g}" if clamp else "")),
        ("how sure", data["sure"]),
        *(("careful", doubt) for doubt in data["doubts"]),
        ("licence", data["licence"] or "unknown"),
        ("layers", f"{len(layers)} can be rewritten, {layers[0].name} … {layers[-1].name}"),
        ("begin at", f"{begin}; rewriter suggest EDIT compares layers"),
        *(("limit", limit) for limit in data["limits"]),
        ("converts to", ", ".join(data["layouts"]) or "a folder of this package only"),
        *(("next" if i == 0 else "", f"rewriter {name} --generator {data['file']}") for i, name in enumerate(NEXT)),
    ]
    return "\n".join([data["file"], *(_lines(name, words) for name, words in rows)])


def _lines(name: str, words: str) -> str:
    """A row of the page, broken where it is long."""
    indent = " " * (WIDTH + 2)
    return textwrap.fill(
        words, 100, initial_indent=f"  {name:{WIDTH}}", subsequent_indent=indent, break_long_words=False
    )
