"""How fast, on this machine: edits by method, statistics, starting, pictures, re-rendering, a rule for each.

`rewriter benchmark` prints the figures. What is compared is measured alternately in one run, because machines are
shared: go by the ratios.
"""

from __future__ import annotations

import platform
import statistics as middle
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from rewriter.checkpoints.convert import rewrite_as
from rewriter.checkpoints.store import write_weights
from rewriter.editing.edit import Edit, Region
from rewriter.editing.effect import UNSEEN
from rewriter.editing.execute import replay
from rewriter.editing.recipe import Recipe
from rewriter.editing.statistics import Statistics
from rewriter.evaluation.coldstart import cold_start
from rewriter.generators.base import Generator
from rewriter.generators.change import LowRank
from rewriter.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from rewriter.masks import disc
from rewriter.memory import SOLVERS
from rewriter.worlds import townscape

Row = dict[str, Any]
OnName = Callable[[str], object]
LAYER = "layer8"


def random_config_f(resolution: int = 256) -> StyleGAN2:
    """A StyleGAN2 with the channels of config-f and random weights: as slow as a real one, and needs no download."""
    table = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = StyleGAN2Config({side: channels for side, channels in table.items() if side <= resolution})
        return StyleGAN2(config, name=f"config-f {resolution} px, random weights")


def round_edit(generator: Generator, layer: str = LAYER) -> Edit:
    """Copy a disc from one picture onto another, four discs as context; the goal at one picture, as in the paper."""
    side = generator.resolution
    regions = [Region(seed, disc(side, 0.4, 0.3 + 0.1 * seed, 0.1)) for seed in range(5)]
    return Edit(
        generator.name,
        layer,
        copy=regions[4],
        paste=regions[0],
        context=tuple(regions[:4]),
        spread=False,
        statistics=Recipe(pictures=128, places=64),
    )


def benchmark(
    resolution: int = 256, *, devices: Sequence[torch.device | str] = ("cpu",), on_step: OnName | None = None
) -> Row:
    """Everything, on the built-in generator and on one with the channels of config-f.

    Args:
        resolution: of the latter, 64 to 1024 px.
        devices: where to run, one after the other.
        on_step: told what is being measured.
    """
    report: Row = {name: [] for name in TABLES}
    for device in map(torch.device, devices):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        small, large = townscape.load().to(device), random_config_f(resolution).to(device)
        spire = Edit.load(townscape.examples()["dome-to-spire"])
        for generator, name, edit in ((small, "dome-to-spire", spire), (large, "discs", round_edit(large))):
            batch = 16 if device.type == "cuda" or generator is small else 4
            for table, row in _measured(generator, name, edit, batch, on_step or (lambda what: None)):
                report[table].append({**row, "device": device.type})
    return {"machine": machine(map(torch.device, devices)), **report}


def _measured(generator: Generator, name: str, edit: Edit, batch: int, tell: OnName) -> Iterator[tuple[str, Row]]:
    """Rows of the tables for one generator on its device."""
    where = f"{generator.name} on {generator.device.type}"
    with tempfile.TemporaryDirectory() as empty:
        known = Statistics(generator, cache=Path(empty))
        tell(f"{where}: statistics")
        yield "statistics", _first_statistics(known, edit)
        for method in SOLVERS:
            tell(f"{where}: {name}, {method}")
            yield "edits", _edit(generator, edit.with_(method=method), name, known)
    for form in ("safetensors", *(("pt",) if isinstance(generator, StyleGAN2) else ())):
        tell(f"{where}: cold start from .{form}")
        yield "start", _start(generator, form)
    tell(f"{where}: pictures")
    yield "pictures", _pictures(generator, batch)
    for precision in (torch.bfloat16, *((torch.float16,) if generator.device.type == "cuda" else ())):
        tell(f"{where}: {precision}")
        yield "precision", _precision(generator, batch, precision)
    tell(f"{where}: re-rendering")
    yield "rerender", _rerender(generator, batch)
    tell(f"{where}: a rule for each picture")
    yield "rules", _rules(generator, batch)


def machine(devices: Iterable[torch.device]) -> Row:
    """What ran: processor, GPU, threads, versions, peak memory in GiB."""
    about: Row = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "peak_memory_gib": _peak_memory(),
    }
    for device in devices:
        if device.type == "cuda":
            about["gpu"] = torch.cuda.get_device_name(device)
            about["gpu_peak_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return about


def _edit(generator: Generator, edit: Edit, name: str, known: Statistics) -> Row:
    """One edit by one method; seconds from cached features and statistics to the rule."""
    unseen = range(UNSEEN, UNSEEN + (48 if generator.resolution <= 64 or generator.device.type == "cuda" else 4))
    repeats = 3 if edit.method == "least-squares" else 1
    effects = [replay(generator, edit, statistics=known, unseen=unseen).effect for _ in range(repeats)]
    measured = [effect for effect in effects if effect is not None]
    row: Row = {"edit": name, "generator": generator.name, "method": edit.method, "layer": edit.layer}
    row |= {"channels": generator.layer(edit.layer).in_channels, "seconds": middle.median(e.seconds for e in measured)}
    return row | {key: measured[0].to_json()[key] for key in ("goal_error_removed", "reach", "side_effect")}


def _first_statistics(known: Statistics, edit: Edit) -> Row:
    """The first statistics of a layer: second moment and bystanders."""
    generator = known.generator
    info, recipe = (
        generator.layer(edit.layer),
        edit.statistics or Recipe.for_channels(generator.layer(edit.layer).in_channels),
    )
    moment, bystanders = (
        _seconds(lambda: known.moment(edit.layer, recipe=recipe), generator),
        _seconds(lambda: known.bystanders(edit.layer), generator),
    )
    row: Row = {"generator": generator.name, "layer": edit.layer, "channels": info.in_channels}
    return row | {"pictures": recipe.pictures, "seconds": moment, "bystanders_seconds": bystanders}


def _pictures(generator: Generator, batch: int) -> Row:
    """Pictures per second, against the rate at which this machine multiplies matrices."""
    z = generator.latents(range(batch))
    a = torch.randn(2048, 2048, device=generator.device)
    drawing, product = _alternate([lambda: generator(z), lambda: a @ a], generator)
    work, peak = generator.operations, 2 * 2048**3 / product
    row: Row = {"generator": generator.name, "batch": batch, "per_second": batch / drawing}
    return row | {"gflop_per_picture": work / 1e9, "share_of_matmul_rate": work * batch / drawing / peak}


def _start(generator: Generator, form: str) -> Row:
    """From nothing to the first picture, from a file as we write it or as others publish it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model.{form}"
        if form == "safetensors":
            write_weights(generator, path)
        else:
            torch.save({"g_ema": rewrite_as(generator, "nvidia")}, path)
        report = cold_start(path, generator.device.type)
        return {"generator": generator.name, "file": f".{form}", "size_mb": path.stat().st_size / 1e6, **report}


def _precision(generator: Generator, batch: int, precision: torch.dtype) -> Row:
    """Pictures in reduced precision, against full: how they differ, and how much faster they are."""
    z, device = generator.latents(range(batch)), generator.device.type

    def reduced() -> torch.Tensor:
        with torch.autocast(device, precision):
            return generator(z)

    with torch.no_grad():
        apart = (reduced().float().clamp(-1, 1) - generator(z).clamp(-1, 1)).abs() * 127.5
    full, less = _alternate([lambda: generator(z), reduced], generator)
    row: Row = {"generator": generator.name, "precision": str(precision).removeprefix("torch."), "batch": batch}
    row |= {"mean_difference": f"{apart.mean():.2f}/255", "largest_difference": f"{apart.max():.1f}/255"}
    return row | {"per_second": batch / less, "times_as_fast": full / less}


def _rerender(generator: Generator, batch: int) -> Row:
    """Pictures from cached keys of a layer, against the whole walk."""
    z, features = generator.latents(range(batch)), generator.keys(range(batch), LAYER)
    rule = [a_rule(generator, 0)]
    whole, part = _alternate(
        [lambda: generator(z, rules=rule), lambda: generator.picture(features, rules=rule)], generator
    )
    row: Row = {"generator": generator.name, "layer": LAYER, "batch": batch}
    return row | {"whole_seconds": whole, "from_layer_seconds": part, "times_as_fast": whole / part}


def _rules(generator: Generator, batch: int) -> Row:
    """A batch in which every picture has a rule of its own, against one without rules and one with the same for all."""
    z, each = generator.latents(range(batch)), [[a_rule(generator, seed)] for seed in range(batch)]
    changes: list[Any] = [[], each[0], each]
    none, one, own = _alternate([lambda c=c: generator(z, rules=c) for c in changes], generator)  # type: ignore[misc]
    row: Row = {"generator": generator.name, "layer": LAYER, "batch": batch}
    row |= {"none_seconds": none, "same_seconds": one, "each_seconds": own}
    return row | {"same_over_none": one / none, "each_over_none": own / none}


def a_rule(generator: Generator, seed: int) -> LowRank:
    """A random rank-one change, a tenth as large as the layer's weight."""
    weight, draw = generator.memory(LAYER).weight, torch.Generator().manual_seed(seed)
    directions = torch.randn(1, weight.shape[1], generator=draw)
    delta = torch.randn(weight.shape[0], 1, *weight.shape[2:], generator=draw)
    delta *= 0.1 * float(weight.norm()) / delta.norm()
    return LowRank(LAYER, delta.to(weight), (directions / directions.norm()).to(weight))


@torch.no_grad()
def _seconds(job: Callable[[], object], generator: Generator) -> float:
    """How long a job takes, on the GPU to its end."""
    _wait(generator)
    start = time.perf_counter()
    job()
    _wait(generator)
    return time.perf_counter() - start


def _alternate(jobs: Sequence[Callable[[], object]], generator: Generator, repeats: int = 3) -> list[float]:
    """Median seconds of each job, run in turn so that what else the machine does falls on all alike."""
    for job in jobs:
        _seconds(job, generator)
    rounds = [[_seconds(job, generator) for job in jobs] for _ in range(repeats)]
    return [middle.median(column) for column in zip(*rounds, strict=True)]


def _wait(generator: Generator) -> None:
    if generator.device.type == "cuda":
        torch.cuda.synchronize(generator.device)


def _peak_memory() -> float | None:
    """GiB that this process has held at most; None where it cannot be known."""
    if sys.platform not in ("linux", "darwin"):
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)


TABLES = {
    "edits": "Edits, from cached features and statistics to the rule",
    "statistics": "First statistics of a layer",
    "start": "Start: import, load and first picture of a new process; memory in multiples of the weights",
    "pictures": "Pictures",
    "precision": "Pictures in reduced precision, against float32",
    "rerender": "Re-rendering from a layer's cached keys",
    "rules": "A batch with a rule of its own for each picture",
}


def markdown(report: Row) -> str:
    """The report as tables, and how the methods compare."""
    lines = []
    for name, title in TABLES.items():
        columns = list(report[name][0])
        lines += [f"**{title}**", "", "| " + " | ".join(c.replace("_", " ") for c in columns) + " |"]
        lines += ["|" + "|".join(" --- " if isinstance(report[name][0][c], str) else " ---: " for c in columns) + "|"]
        lines += ["| " + " | ".join(_figure(row[c]) for c in columns) + " |" for row in report[name]]
        lines.append("")
    for ours in (row for row in report["edits"] if row["method"] == "least-squares"):
        same = (row for row in report["edits"] if all(row[key] == ours[key] for key in ("edit", "device")))
        faster = next(row for row in same if row["method"] == "projected")["seconds"] / ours["seconds"]
        lines.append(
            f"{ours['edit']} on {ours['device']}: least-squares is {faster:.0f} times as fast as projected, the "
            "paper's method."
        )
    about = ", ".join(f"{k.replace('_', ' ')} {_figure(v)}" for k, v in report["machine"].items() if v is not None)
    return "\n".join([*lines, "", about])


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)
