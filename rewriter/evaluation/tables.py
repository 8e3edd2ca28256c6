"""The outcomes of an experiment as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewriter.evaluation.metrics import Estimate, Metric
from rewriter.files import read_json, write_json, write_text

if TYPE_CHECKING:
    from rewriter.evaluation.run import Outcomes

ARROWS = {"more": " ↑", "less": " ↓", "": ""}


def write(outcomes: Outcomes, folder: Path) -> None:
    """Write NAME.csv and NAME.md into a folder, then NAME.json, which says that the experiment is complete."""
    report, stem = finite(outcomes.to_json()), folder / outcomes.experiment.name
    write_text(table_csv(report), f"{stem}.csv")
    write_text(markdown(outcomes), f"{stem}.md")
    write_json(report, f"{stem}.json")


def stored(folder: Path, name: str, request: str) -> dict[str, Any] | None:
    """The report of an experiment that is complete in a folder, if it belongs to the same request."""
    path = folder / f"{name}.json"
    report: dict[str, Any] = read_json(path) if path.exists() else {}
    return report if report.get("request") == request else None


def table_csv(report: dict[str, Any]) -> str:
    """One line for each method and metric."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["experiment", "method", "metric", "unit", "value", "low", "high", "n", "seconds"])
    for method, made in report["methods"].items():
        for name, value in made["metrics"].items():
            unit = report["metrics"][name]["unit"]
            out.writerow([report["experiment"], method, name, unit, *value.values(), report["n"], made["seconds"]])
    return text.getvalue()


def markdown(outcomes: Outcomes) -> str:
    """The experiment's main metrics as a table, each with its interval."""
    experiment, seeds = outcomes.experiment, outcomes.seeds
    shown = [outcomes.metrics[name] for name in experiment.shown]
    heads = [f"{m.name}{ARROWS[m.better]}{f', {m.unit}' if m.unit not in ('%', '') else ''}" for m in shown]
    rows = []
    for name, made in outcomes.methods.items():
        rows.append([name, *(_cell(metric, made.metrics[metric.name]) for metric in shown), f"{made.seconds:.2f}"])
    title = (
        f"**{experiment.name}**: {experiment.title}. {len(seeds):,} pictures, seeds {seeds[0]:,} to {seeds[-1]:,}, on "
        f"{outcomes.machine['device']}; in brackets 95 % of bootstrap resamples."
    )
    lines = [title, "", *markdown_table(["method", *heads, "seconds"], rows)]
    if experiment.name.startswith("hands-"):
        lines += ["", *(_spread(outcomes, metric) for metric in shown)]
    return "\n".join(lines) + "\n"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; all columns but the first are aligned to the right."""
    return [f"| {' | '.join(row)} |" for row in (heads, ["---", *["---:"] * (len(heads) - 1)], *rows)]


def overview(reports: Sequence[dict[str, Any]]) -> str:
    """Several experiments on faces in one table of Markdown: the share that took an edit, and the change elsewhere."""
    methods, rows = list(reports[0]["methods"]), []
    for report in reports:
        cells = (_pair(report, method, ("took", "elsewhere")) for method in methods)
        rows.append([report["experiment"], *cells])
    return "\n".join(markdown_table(["took, elsewhere in 1/255", *methods], rows)) + "\n"


def _pair(report: dict[str, Any], method: str, names: tuple[str, str]) -> str:
    share, change = (report["methods"][method]["metrics"][name]["value"] for name in names)
    return "–" if share is None else f"{share:.0%}, {change:.2f}"


def _spread(outcomes: Outcomes, metric: Metric) -> str:
    """The smallest, the middle and the largest value of a metric over all methods."""
    values = sorted(made.metrics[metric.name].value for made in outcomes.methods.values())
    return f"{metric.name}: " + " … ".join(metric.text(values[i]) for i in (0, len(values) // 2, -1))


def _cell(metric: Metric, estimate: Estimate) -> str:
    value, low, high = (metric.text(each) for each in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]" if math.isfinite(estimate.value) else value


def finite(data: Any) -> Any:
    """The same data with null for NaN and infinity, which JSON does not have."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
