"""An experiment's outcome as JSON, CSV, Markdown and plots."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewriter.evaluation.judging import Estimate, Figure
from rewriter.evaluation.run import Outcome
from rewriter.files import replacing

FRECHET = Figure("fréchet", "", "", "", "less")
ARROWS = {"more": " ↑", "less": " ↓", "": ""}


def write(outcome: Outcome, folder: Path) -> list[Path]:
    """Write NAME.json, .csv, .md into a folder; returns their paths."""
    report, stem = outcome.to_json(), outcome.experiment.name
    texts: dict[str, Callable[[], str]] = {
        ".json": lambda: json.dumps(finite(report), ensure_ascii=False, indent=1) + "\n",
        ".csv": lambda: table_csv(report),
        ".md": lambda: markdown(outcome),
    }
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{stem}{suffix}")
        with replacing(paths[-1]) as temporary:
            temporary.write_text(text(), encoding="utf-8")
    return paths


def table_csv(report: dict[str, Any]) -> str:
    """A line for each method and figure, in the unit that stands beside it."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["experiment", "method", "figure", "unit", "value", "low", "high", "n", "seconds"])
    for method, made in report["methods"].items():
        for name, value in made["figures"].items():
            unit = report["figures"][name]["unit"]
            ends = [value["value"], value["low"], value["high"]]
            out.writerow([report["experiment"], method, name, unit, *ends, report["n"], made["seconds"]])
    return text.getvalue()


def markdown(outcome: Outcome) -> str:
    """The table of the figures to look at, each with its interval."""
    experiment = outcome.experiment
    known = {figure.name: figure for figure in experiment.judge.figures} | {"fréchet": FRECHET}
    shown = [known[name] for name in experiment.shown]
    heads = [f"{figure.name}{ARROWS[figure.better]}{_unit(figure)}" for figure in shown]
    lines = [
        f"**{experiment.name}**: {experiment.title}. {len(outcome.seeds):,} pictures, seeds {outcome.seeds[0]:,} to "
        f"{outcome.seeds[-1]:,}, on {outcome.device}; in brackets 95 % of bootstrap resamples.",
        "",
        f"| method | {' | '.join(heads)} | seconds |",
        f"| --- | {' | '.join('---:' for _ in shown)} | ---: |",
    ]
    for name, made in outcome.made.items():
        cells = [_cell(figure, outcome.figures[name][figure.name]) for figure in shown]
        lines.append(f"| {name} | {' | '.join(cells)} | {made.seconds:.2f} |")
    if experiment.name.startswith("hands-"):
        lines += ["", *(_spread(outcome, figure) for figure in shown)]
    return "\n".join(lines) + "\n"


def _spread(outcome: Outcome, figure: Figure) -> str:
    """The least, the middle and the most of a figure over all methods."""
    values = sorted(each[figure.name].value for each in outcome.figures.values())
    return f"{figure.name}: " + " … ".join(figure.words(values[i]) for i in (0, len(values) // 2, -1))


def _unit(figure: Figure) -> str:
    return "" if figure.unit in ("%", "") else f", {figure.unit}"


def _cell(figure: Figure, estimate: Estimate) -> str:
    if not math.isfinite(estimate.value):
        return "–"
    return f"{figure.words(estimate.value)} [{figure.words(estimate.low)}, {figure.words(estimate.high)}]"


def finite(data: Any) -> Any:
    """The same with null for what is not a number, which JSON does not have."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
