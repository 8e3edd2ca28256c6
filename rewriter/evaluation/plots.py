"""The outcomes of an experiment as plots (PNG). They need matplotlib, which the extra `eval` installs.

The colours are Okabe and Ito's, which people with any kind of colour vision can distinguish (brown replaces their
yellow, which is too light on white); markers and lines differ as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewriter.errors import InputError
from rewriter.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rewriter.evaluation.run import Outcomes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS, STYLES = "os^Dv<>PX*", ("-", "--", ":")
UNITS = {"%": "", "1/255": " (1/255)", "": " (ratio)", "per 1,000": " (share of the pictures)"}
BETTER = {"more": ", higher is better", "less": ", lower is better", "": ""}


def write(outcomes: Outcomes, folder: Path) -> list[Path]:
    """Write an experiment's plots into a folder and return their paths; InputError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("no plots without matplotlib: pip install 'rewriter[eval]'") from None
    matplotlib.use("Agg")
    name, made = outcomes.experiment.name, outcomes.methods
    plots: dict[str, Callable[[Outcomes, Axes], None]] = {"": frontier if name == "frontier" else trade_off}
    if name != "frontier" and any(len(each.losses) > 1 for each in made.values()):
        plots["-losses"] = losses
    compared = {"unmodified", "least-squares"} <= made.keys()  # not where only some methods were asked for
    if compared and sum(method.startswith("zeroed") for method in made) > 1:
        plots["-units"] = zeroed_units
    return [_save(draw, outcomes, folder / f"{name}{suffix}.png") for suffix, draw in plots.items()]


def _save(draw: Callable[[Outcomes, Axes], None], outcomes: Outcomes, path: Path) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.2), dpi=130, layout="constrained")
    try:
        draw(outcomes, axes)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        note = f"{len(outcomes.seeds):,} pictures; bars: 95 %"
        figure.text(0.995, 0.005, note, ha="right", fontsize=7, color="#666666")
        with replacing(path) as temporary:
            figure.savefig(temporary)
    finally:
        pyplot.close(figure)
    return path


def trade_off(outcomes: Outcomes, axes: Axes) -> None:
    """Intended effect against damage, a point for each method."""
    for name, colour, marker in zip(outcomes.methods, cycle(COLOURS), cycle(MARKERS), strict=False):
        _point(axes, outcomes, name, label=name, color=colour, marker=marker)
    _label(axes, outcomes)
    if axes.containers:  # there is no point if a metric is not defined
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def frontier(outcomes: Outcomes, axes: Axes) -> None:
    """The same, with a line for each rank (over λ) and each learning rate (over steps)."""
    lines: dict[str, list[str]] = {}
    for name in outcomes.methods:
        lines.setdefault(name.rpartition(", ")[0], []).append(name)
    for (line, names), colour, marker in zip(lines.items(), COLOURS, MARKERS, strict=False):
        ours, points = line.startswith("least"), list[tuple[float, float]]()
        side: dict[str, Any] = {"xytext": (6, -9)} if ours else {"xytext": (-6, 4), "ha": "right"}
        for name in names:
            points.append(_point(axes, outcomes, name, label="" if points else line, color=colour, marker=marker))
            if not ours or line.endswith("rank 1"):  # the points of other ranks lie beside those of rank 1
                text = name.rpartition(", ")[2].removesuffix(" steps")
                axes.annotate(text, points[-1], fontsize=7, color=colour, textcoords="offset points", **side)
        axes.plot(*zip(*points, strict=True), "-" if ours else "--", color=colour, lw=1)
    _label(axes, outcomes)
    axes.set_yscale("log")
    for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis("{x:g}")
    axes.legend(fontsize=8, frameon=False, loc="upper left", title="along a line: λ, or steps", title_fontsize=8)


def losses(outcomes: Outcomes, axes: Axes) -> None:
    """The losses of the iterative methods, relative to the first step's."""
    iterative = {n: made.losses for n, made in outcomes.methods.items() if len(made.losses) > 1 and made.losses[0] > 0}
    for i, (name, values) in enumerate(iterative.items()):
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "ls": STYLES[i // len(COLOURS) % len(STYLES)]}
        axes.plot(range(1, len(values) + 1), [loss / values[0] for loss in values], label=name, lw=1, **style)
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="loss, as a share of the first step's")
    axes.set_title(f"{outcomes.experiment.title}: loss of the iterative methods", fontsize=10)
    axes.legend(fontsize=8, frameon=False)


def zeroed_units(outcomes: Outcomes, axes: Axes) -> None:
    """Effect and damage over the share of zeroed units; dotted lines show the rule by least squares."""
    made = [each for name, each in outcomes.methods.items() if name.startswith("zeroed")]
    shares = [each.settings["units"] / each.settings["of"] for each in made]
    metrics = dict.fromkeys((*outcomes.experiment.shown[:2], *reversed(outcomes.experiment.axes)))
    for metric, colour, marker in zip(metrics, COLOURS, MARKERS, strict=False):
        values = [each.metrics[metric] for each in made]
        start, own = (outcomes.methods[name].metrics[metric].value for name in ("unmodified", "least-squares"))
        scale = max(abs(start), *(abs(v.value) for v in values)) or 1.0
        bars = [[abs(v.value - v.low) / scale for v in values], [abs(v.high - v.value) / scale for v in values]]
        style: dict[str, Any] = {"color": colour, "marker": marker, "lw": 1, "label": metric}
        axes.errorbar(shares, [v.value / scale for v in values], bars, **style)
        axes.axhline(own / scale, color=colour, ls=":", lw=1)
    axes.set(xscale="log", xlabel="share of the layer's units set to zero", ylabel="relative to each metric's maximum")
    axes.set_xticks(shares, [f"{share:.1%}" for share in shares])
    axes.minorticks_off()
    axes.set_title(f"{outcomes.experiment.title}: zeroing units; dotted: the rule by least squares", fontsize=10)
    axes.legend(fontsize=8, frameon=False)


def _point(axes: Axes, outcomes: Outcomes, name: str, **style: Any) -> tuple[float, float]:
    """A method's place in the plane of the two axes, drawn with error bars if it is defined."""
    x, y = (outcomes.methods[name].metrics[metric] for metric in outcomes.experiment.axes)
    if math.isfinite(x.value) and math.isfinite(y.value):
        bars = [[[max(0.0, at.value - at.low)], [max(0.0, at.high - at.value)]] for at in (x, y)]
        axes.errorbar([x.value], [y.value], xerr=bars[0], yerr=bars[1], ms=6, lw=0, elinewidth=1, **style)
    return x.value, y.value


def _label(axes: Axes, outcomes: Outcomes) -> None:
    from matplotlib.ticker import PercentFormatter

    for axis, name in zip((axes.xaxis, axes.yaxis), outcomes.experiment.axes, strict=True):
        metric = outcomes.metrics[name]
        axis.set_label_text(f"{name}{UNITS[metric.unit]}{BETTER[metric.better]}")
        if metric.unit in ("%", "per 1,000"):
            axis.set_major_formatter(PercentFormatter(1.0))
    if max(made.metrics[outcomes.experiment.axes[1]].value for made in outcomes.methods.values()) > 10:
        axes.set_yscale("symlog", linthresh=1)
    axes.set_title(f"{outcomes.experiment.name}: {outcomes.experiment.title}", fontsize=10)
