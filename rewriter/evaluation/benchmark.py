"""Times on this machine: edits by method, the statistics of a layer, and pictures drawn in different ways.

Ways that are compared run alternately, because other work on the machine then slows all of them: trust the ratios more
than the seconds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from rewriter import worlds
from rewriter.checkpoints import store
from rewriter.checkpoints.layouts import suffixes_of
from rewriter.editing.edit import Edit, Region
from rewriter.editing.execute import prepare, replay
from rewriter.editing.forms import gated
from rewriter.editing.recipe import Recipe
from rewriter.editing.statistics import Statistics
from rewriter.evaluation.run import machine
from rewriter.evaluation.tables import markdown_table
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank
from rewriter.generators.latents import UNSEEN
from rewriter.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from rewriter.masks import disc
from rewriter.memory import SOLVERS
from rewriter.pictures import difference

Row = dict[str, Any]
LAYER, ROUNDS = "layer8", 3
GATED = "gated"  # least squares for a memory beside W
OURS = ("least-squares", "closed-form", GATED)
CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}  # of config-f
TABLES = {
    "edits": "Edits, from cached features and statistics to the rule; of ours, also solving alone",
    "statistics": "First statistics of a layer",
    "loading": "Loading a generator on the CPU, against `torch.load` of the same weights",
    "pictures": "Pictures, compared with whole pictures without a rule in float32",
    "machine": "Machine",
}


def random_config_f(resolution: int = 256) -> StyleGAN2:
    """A StyleGAN2 with the channels of config-f and random weights: as slow as a real one, without a download."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = StyleGAN2Config({side: channels for side, channels in CHANNELS.items() if side <= resolution})
        return StyleGAN2(config, name=f"config-f {resolution} px, random weights")


def disc_edit(generator: Generator) -> Edit:
    """Copy a disc from one picture to another, with four discs as context and one goal, as in the paper."""
    *context, copy = (Region(seed, disc(generator.resolution, 0.4, 0.3 + 0.1 * seed, 0.1)) for seed in range(5))
    edit = Edit(generator.name, LAYER, copy=copy, paste=context[0], context=tuple(context))
    return edit.with_(title="discs", spread=False, statistics=Recipe(pictures=128, places=64))


def benchmark(
    resolution: int = 256, *, devices: Sequence[torch.device | str] = ("cpu",), on_row: Callable[[str], object] = str
) -> dict[str, list[Row]]:
    """The rows of all tables, for the built-in generator and for one of `resolution` px with config-f's channels.

    `on_row` is called with a description of each measurement when it is done.
    """
    report: dict[str, list[Row]] = {name: [] for name in TABLES}
    for device in map(torch.device, devices):
        small, large = worlds.load().to(device), random_config_f(resolution).to(device)
        for generator, edit in (
            (small, Edit.load(worlds.examples("townscape")["dome-to-spire"])),
            (large, disc_edit(large)),
        ):
            for table, row in measured(generator, edit):
                report[table].append({"generator": generator.name, "device": device.type, **row})
                on_row(f"{generator.name} on {device.type}: {table}")
        report["machine"].append(machine(device) | {"peak_memory_gib": _peak_memory(device)})
    return report


def measured(generator: Generator, edit: Edit) -> Iterator[tuple[str, Row]]:
    """The rows of one generator on its device, each with the table that it belongs to."""
    fast, info = generator.device.type == "cuda" or generator.resolution <= 64, generator.layer(edit.layer)
    recipe = edit.statistics or Recipe.for_channels(info.in_channels)
    about = {"layer": info.name, "channels": info.in_channels}
    with tempfile.TemporaryDirectory() as empty:
        known = Statistics(generator, cache=Path(empty))
        moment = _seconds(lambda: known.moment(info.name, recipe=recipe), generator)
        bystanders = _seconds(lambda: known.bystanders(info.name), generator)
        around = _seconds(lambda: _factorised(known, edit), generator)
        row = {"pictures": recipe.pictures, "seconds": moment, "bystanders_seconds": bystanders}
        yield "statistics", {**about, **row, "neighbourhoods_seconds": around}
        variants = {method: edit.with_(form="weight", method=method) for method in SOLVERS}
        variants[GATED] = edit.with_(form="gated")
        for method, own in variants.items():
            unseen = range(UNSEEN, UNSEEN + (48 if fast else 4))
            repeats = ROUNDS if method in OURS else 1
            rules = [replay(generator, own, statistics=known, unseen=unseen) for _ in range(repeats)]
            effects = [rule.effect for rule in rules if rule.effect]
            shown = {name: effects[0].to_json()[name] for name in ("goal_error_removed", "reach", "side_effect")}
            seconds = median(effect.seconds for effect in effects)
            alone = median(_solving(generator, own, known) for _ in range(ROUNDS)) if method in OURS else seconds
            took = {"method": method, "seconds": seconds, "solving": alone}
            yield "edits", {"edit": edit.title, **about, **took, **shown}
    for row in _loading(generator):
        yield "loading", row
    for row in _pictures(generator, 16 if fast else 4):
        yield "pictures", row


def _factorised(known: Statistics, edit: Edit) -> None:
    """Measure the second moment of neighbourhoods and invert it."""
    moment = known.neighbourhoods(edit.layer, recipe=edit.statistics)
    for group in range(len(moment.taps)):
        moment.inverse(group)


def _solving(generator: Generator, edit: Edit, known: Statistics) -> float:
    """The seconds that one of our methods takes to solve, once goal and directions are there."""
    job = prepare(generator, edit, statistics=known)
    goal, _ = job.goal(), job.directions
    return _seconds(lambda: gated(job, goal) if edit.form == "gated" else job.solve(goal), generator)


def _loading(generator: Generator) -> Iterator[Row]:
    """Forms of a file: the seconds that each takes, also as a multiple of `torch.load`'s."""
    with tempfile.TemporaryDirectory() as folder:
        plain, older = Path(folder, "plain.pt"), Path(folder, "older.pt")
        forms = {"safetensors": Path(folder, "ours.safetensors"), "torch.save": plain, "older torch.save": older}
        store.write_weights(generator, forms["safetensors"])
        torch.save(state := {name: value.cpu() for name, value in generator.state_dict().items()}, plain)
        torch.save(state, older, _use_new_zipfile_serialization=False)
        for layout in store.layouts_of(generator):
            forms[layout] = Path(folder, f"{layout}{suffixes_of(layout)[0]}")
            store.export(generator, forms[layout], layout)
        del state
        ways = {name: partial(store.read_file, path, name="model") for name, path in forms.items()}
        ways["torch.load"] = partial(torch.load, plain, weights_only=True)
        rounds = [[_seconds(load) for load in ways.values()] for _ in range(ROUNDS + 1)][1:]  # one to warm up
        *seconds, usual = map(median, zip(*rounds, strict=True))
        for (name, path), each in zip(forms.items(), seconds, strict=True):
            size = path.stat().st_size / 1e6
            yield {"form": name, "megabytes": size, "seconds": each, "times_as_long_as_torch_load": each / usual}


@torch.no_grad()
def _pictures(generator: Generator, batch: int) -> Iterator[Row]:
    """Ways to draw a batch, and the share of this machine's rate of matrix multiplication that each reaches."""
    z, features = generator.latents(range(batch)), generator.keys(range(batch), LAYER, rules=[])
    rules, a = [[_random_rule(generator, seed)] for seed in range(batch)], torch.randn(2048, 2048).to(z)
    whole, precisions = partial(generator, z, rules=[]), ("bfloat16", "float16") if z.is_cuda else ("bfloat16",)
    ways: dict[str, Callable[[], Tensor]] = {
        "whole": whole,
        f"from the keys of {LAYER}": lambda: generator.picture(features, rules=[]),
        "one rule": lambda: generator(z, rules=rules[0]),
        "one rule for each": lambda: generator(z, rules=rules),
        **{f"in {name}": torch.autocast(z.device.type, getattr(torch, name))(whole) for name in precisions},
        "2048 × 2048 matrix product": lambda: a @ a,
    }
    rounds = [[_seconds(draw, generator) for draw in ways.values()] for _ in range(ROUNDS + 1)][1:]  # one to warm up
    seconds = dict(zip(ways, map(median, zip(*rounds, strict=True)), strict=True))
    rate, expected = 2 * 2048**3 / seconds.popitem()[1], whole()
    for name, each in seconds.items():
        row = {"way": name, "batch": batch, "per_second": batch / each, "times_as_fast": seconds["whole"] / each}
        apart = float(difference(ways[name]().float(), expected).mean())
        yield row | {"difference_255": apart, "share_of_matmul_rate": generator.operations * batch / each / rate}


def _random_rule(generator: Generator, seed: int) -> LowRank:
    """A random rank-one change, a tenth as large as the layer's weight."""
    weight, draw = generator.memory(LAYER).weight, torch.Generator().manual_seed(seed)
    directions = torch.randn(1, weight.shape[1], generator=draw)
    delta = torch.randn(weight.shape[0], 1, *weight.shape[2:], generator=draw)
    delta *= 0.1 * float(weight.norm()) / delta.norm()
    return LowRank(LAYER, delta.to(weight), (directions / directions.norm()).to(weight))


@torch.no_grad()
def _seconds(job: Callable[[], object], generator: Generator | None = None) -> float:
    """How long a job takes, until the GPU of a generator has finished it."""
    wait = torch.cuda.synchronize if generator and generator.device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    job()
    wait()
    return time.perf_counter() - start


def _peak_memory(device: torch.device) -> float | None:
    """The most memory in use so far, in GiB: the GPU's, or the process's; None where it is unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform not in ("linux", "darwin"):
        return None
    from resource import RUSAGE_SELF, getrusage

    return getrusage(RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)


def markdown(report: dict[str, list[Row]]) -> str:
    """The report as tables, and how much faster our methods are than the paper's."""
    lines = []
    for name, title in TABLES.items():
        heads, rows = [key.replace("_", " ") for key in report[name][0]], report[name]
        lines += [f"**{title}**", "", *markdown_table(heads, [[_text(v) for v in row.values()] for row in rows]), ""]
    seconds = {(row["edit"], row["device"], row["method"]): row["solving"] for row in report["edits"]}
    for (edit, device, method), alone in seconds.items():
        if method in OURS:
            faster = seconds[edit, device, "projected"] / alone
            lines.append(f"{edit} on {device}: {method} solves {faster:.0f} times as fast as projected (the paper's).")
    return "\n".join(lines)


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)
