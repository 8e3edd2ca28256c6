"""How fast: the same edits by the default method and by the paper's, on one machine in one run.

`python -m rewriter.evaluation.benchmark` prints a table. Seconds go from cached features and statistics to the rule,
for both.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from rewriter import townscape
from rewriter.edit import Edit, Region
from rewriter.evaluation.examples import dome_to_spire
from rewriter.execute import replay
from rewriter.generators.base import Generator
from rewriter.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from rewriter.masks import disc
from rewriter.memory.statistics import Recipe, Statistics
from rewriter.pictures import before_after

METHODS = ("least-squares", "projected")


@dataclass(frozen=True)
class Timing:
    """One edit by one method: seconds for the rule, seconds with features and measuring, and its effect."""

    edit: str
    method: str
    channels: int
    seconds: float
    whole: float
    goal_error_removed: float
    side_effect: float


def random_config_f(resolution: int = 256) -> StyleGAN2:
    """A StyleGAN2 with the channels of config-f and random weights: as slow as a real one, and needs no download."""
    torch.manual_seed(0)
    table = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
    return StyleGAN2(StyleGAN2Config({k: v for k, v in table.items() if k <= resolution}), name="random config-f")


def round_edit(generator: Generator, layer: str) -> Edit:
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


def compare(generator: Generator, edit: Edit, name: str) -> list[Timing]:
    """The edit by each method, features and statistics cached before the clock starts."""
    statistics = Statistics(generator)
    replay(generator, edit.with_(method="least-squares"), statistics=statistics)  # warms every cache
    timings = []
    for method in METHODS:
        start = time.perf_counter()
        effect = replay(generator, edit.with_(method=method), statistics=statistics).effect
        assert effect is not None  # replay measures it
        whole, channels = time.perf_counter() - start, generator.layer(edit.layer).in_channels
        removed, side = effect.goal_error_removed, effect.side_effect
        timings.append(Timing(name, method, channels, effect.seconds, whole, removed, side))
    return timings


def chores(generator: Generator) -> str:
    """Seconds for the first statistics of layer8, for an edit with them at hand, and for a sheet of 24 pictures."""
    with tempfile.TemporaryDirectory() as empty:
        statistics = Statistics(generator, cache=Path(empty))
        start = time.perf_counter()
        statistics.moment("layer8")
        statistics.bystanders("layer8")
        ready = time.perf_counter()
        rule = replay(generator, dome_to_spire(generator), statistics=statistics)
        edited = time.perf_counter()
        before, after = generator.sample(range(24)), generator.sample(range(24), rules=[rule])
        before_after(before, after, range(24), firing=24)
        drawn = time.perf_counter()
    assert rule.effect is not None  # replay measures it
    return (
        f"{generator.name}: first statistics of layer8 {ready - start:.1f} s; an edit {rule.effect.seconds:.2f} s, "
        f"{edited - ready:.1f} s with measuring its effect; 24 pictures before and after {drawn - edited:.1f} s"
    )


def table(timings: list[Timing]) -> str:
    """Markdown, a line for each timing, and the ratio of the methods for each edit."""
    lines = ["| edit | channels | method | seconds | with measuring | goal error removed | side effect (1/255) |"]
    lines += ["| --- | ---: | --- | ---: | ---: | ---: | ---: |"]
    for t in timings:
        figures = f"{t.seconds:.3f} | {t.whole:.1f} | {t.goal_error_removed:.2f} | {t.side_effect:.2f}"
        lines.append(f"| {t.edit} | {t.channels} | {t.method} | {figures} |")
    for ours, paper in zip(timings[::2], timings[1::2], strict=True):
        lines.append(f"\n{ours.edit}: least-squares is {paper.seconds / ours.seconds:.0f} times as fast")
    return "\n".join(lines)


def main() -> str:
    """Run both comparisons and describe the machine."""
    world, large = townscape.load(), random_config_f()
    timings = compare(world, dome_to_spire(world), "dome-to-spire, built-in")
    timings += compare(large, round_edit(large, "layer8"), "discs, random config-f 256 px")
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"{table(timings)}\n\n{chores(world)}\n{machine}{_peak_memory()}"


def _peak_memory() -> str:
    if sys.platform != "linux":
        return ""  # elsewhere the unit differs, or there is no such figure
    import resource

    return f"; peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"


if __name__ == "__main__":
    print(main())  # noqa: T201 (a command)
