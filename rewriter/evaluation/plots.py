"""Plots of an experiment's outcome (PNG): needs matplotlib, which the `eval` extra brings.

Colours are those of Okabe and Ito, which people with any kind of colour vision tell apart (their yellow, too light on
white, is left out for a brown); markers and lines differ as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewriter.errors import InputError
from rewriter.evaluation.judging import Estimate
from rewriter.evaluation.run import Outcome
from rewriter.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = "os^Dv<>PX*"
STYLES = ("-", "--", ":")
UNITS = {"%": "", "1/255": " (1/255)", "": " (ratio)", "per 1,000": " (share of the pictures)"}
BEST = {"more": ", higher is better", "less": ", lower is better", "": ""}


def write(outcome: Outcome, folder: Path) -> list[Path]:
    """Write the plots that an experiment has; returns their paths.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError("there are no plots without matplotlib: pip install 'rewriter[eval]'") from None
    matplotlib.use("Agg")
    plots: dict[str, Callable[[Outcome, Axes], None]] = {"": trade}
    if outcome.experiment.name == "frontier":
        plots[""] = frontier
    elif any(len(made.losses) > 1 for made in outcome.made.values()):
        plots["-losses"] = losses
    if sum(name.startswith("zeroed") for name in outcome.made) > 1:
        plots["-units"] = sweep
    return [_save(draw, outcome, folder / f"{outcome.experiment.name}{suffix}.png") for suffix, draw in plots.items()]


def _save(draw: Callable[[Outcome, Axes], None], outcome: Outcome, path: Path) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.2), dpi=130, layout="constrained")
    try:
        draw(outcome, axes)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        figure.text(
            0.995, 0.005, f"{len(outcome.seeds):,} pictures; bars: 95 %", ha="right", fontsize=7, color="#666666"
        )
        with replacing(path) as temporary:
            figure.savefig(temporary)
    finally:
        pyplot.close(figure)
    return path


def trade(outcome: Outcome, axes: Axes) -> None:
    """What was meant against what was not, a point for each method."""
    for i, name in enumerate(outcome.made):
        _point(axes, outcome, name, colour=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)])
    _label(axes, outcome)
    if axes.containers:  # nothing is drawn of figures that no judge could give
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def frontier(outcome: Outcome, axes: Axes) -> None:
    """The same, with a line for each rank, or learning rate; along it λ, or the steps."""
    from matplotlib.ticker import StrMethodFormatter

    lines: dict[str, list[str]] = {}
    for name in outcome.made:
        lines.setdefault(name.rpartition(", ")[0], []).append(name)
    across, up = outcome.experiment.axes
    for i, (line, names) in enumerate(lines.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        points = [outcome.figures[name] for name in names]
        style = "-" if line.startswith("least") else "--"
        axes.plot([p[across].value for p in points], [p[up].value for p in points], style, color=colour, lw=1)
        told = names if "rank" not in line or line.endswith("rank 1") else names[:0]  # other ranks lie beside the first
        for j, name in enumerate(names):
            _point(axes, outcome, name, colour=colour, marker=marker, label=line if not j else None)
            if name in told:
                at, text = outcome.figures[name], name.rpartition(", ")[2].removesuffix(" steps")
                side = {"xytext": (6, -9)} if style == "-" else {"xytext": (-6, 4), "ha": "right"}
                axes.annotate(
                    text, (at[across].value, at[up].value), fontsize=7, color=colour, textcoords="offset points", **side
                )
    _label(axes, outcome)
    axes.set_yscale("log")
    for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        ticks(StrMethodFormatter("{x:g}"))
    axes.legend(fontsize=8, frameon=False, loc="upper left", title="along a line: λ, or steps", title_fontsize=8)


def losses(outcome: Outcome, axes: Axes) -> None:
    """How the methods that iterate came down, each as a share of where it began."""
    iterating = {name: made for name, made in outcome.made.items() if len(made.losses) > 1 and made.losses[0] > 0}
    for i, (name, made) in enumerate(iterating.items()):
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "ls": STYLES[i // len(COLOURS) % len(STYLES)]}
        steps = range(1, len(made.losses) + 1)
        axes.plot(steps, [loss / made.losses[0] for loss in made.losses], label=name, lw=1, **style)
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="loss, as a share of the first step's")
    axes.set_title(f"{outcome.experiment.title}: loss of the methods that iterate", fontsize=10)
    axes.legend(fontsize=8, frameon=False)


def sweep(outcome: Outcome, axes: Axes) -> None:
    """How much goes, and how much is damaged, as more units are zeroed; level lines for the default."""
    across, up = outcome.experiment.axes
    made = {name: each for name, each in outcome.made.items() if name.startswith("zeroed")}
    shares = [each.settings["units"] / each.settings["of"] for each in made.values()]
    for i, figure in enumerate(dict.fromkeys((*outcome.experiment.shown[:2], up, across))):
        values = [outcome.figures[name][figure] for name in made]
        start, own = (outcome.figures[name][figure] for name in ("unmodified", "least-squares"))
        scale = max([abs(start.value), *(abs(v.value) for v in values)]) or 1.0
        bars = [[abs(v.value - v.low) / scale for v in values], [abs(v.high - v.value) / scale for v in values]]
        axes.errorbar(
            shares, [v.value / scale for v in values], bars, color=COLOURS[i], marker=MARKERS[i], lw=1, label=figure
        )
        axes.axhline(own.value / scale, color=COLOURS[i], ls=":", lw=1)
    axes.set(xscale="log", xlabel="share of the layer's units that is zeroed", ylabel="each as a share of its most")
    axes.set_xticks(shares, [f"{share:.1%}" for share in shares])
    axes.minorticks_off()
    axes.set_title(f"{outcome.experiment.title}: zeroing units; dotted: the rule by least squares", fontsize=10)
    axes.legend(fontsize=8, frameon=False)


def _point(axes: Axes, outcome: Outcome, name: str, **style: Any) -> None:
    at = [outcome.figures[name][figure] for figure in outcome.experiment.axes]
    if not all(math.isfinite(each.value) for each in at):
        return
    label = style.get("label", name)
    bars = [_bar(each) for each in at]
    axes.errorbar(
        [at[0].value],
        [at[1].value],
        xerr=bars[0],
        yerr=bars[1],
        color=style["colour"],
        marker=style["marker"],
        ms=6,
        lw=0,
        elinewidth=1,
        label=label,
    )


def _bar(estimate: Estimate) -> Sequence[Sequence[float]]:
    """Lengths of the bar below and above."""
    return [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]


def _label(axes: Axes, outcome: Outcome) -> None:
    from matplotlib.ticker import PercentFormatter

    known = {figure.name: figure for figure in outcome.experiment.judge.figures}
    across, up = (known[name] for name in outcome.experiment.axes)
    for axis, figure in ((axes.xaxis, across), (axes.yaxis, up)):
        axis.set_label_text(f"{figure.name}{UNITS[figure.unit]}{BEST[figure.better]}")
        if figure.unit in ("%", "per 1,000"):
            axis.set_major_formatter(PercentFormatter(1.0))
    if max(outcome.figures[name][up.name].value for name in outcome.made) > 10:
        axes.set_yscale("symlog", linthresh=1)
    axes.set_title(f"{outcome.experiment.name}: {outcome.experiment.title}", fontsize=10)
