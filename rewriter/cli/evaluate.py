"""The command that runs the paper's experiments."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from rewriter import townscape
from rewriter.cli.common import Device, Json, progress, say
from rewriter.errors import InputError, RewriterError
from rewriter.evaluation import plots, tables
from rewriter.evaluation.experiments import Experiment, by_name
from rewriter.evaluation.judging import JUDGED
from rewriter.evaluation.run import OnPart, run
from rewriter.generators.latents import SEEDS
from rewriter.hub import default_device
from rewriter.stats import processes

QUICK, USUAL, MANY = 150, 1000, 10_000  # pictures: --quick, on a CPU, on a GPU
HELP = "dome-to-spire, dome-to-tree, watermark, light, frontier, another of the list below, or all."


def evaluate(
    names: Annotated[list[str], typer.Argument(metavar="EXPERIMENT…", help=HELP)],
    out: Annotated[Path, typer.Option(help="Where tables, plots and what is needed to go on are kept.")] = Path(
        "evaluation"
    ),
    n: Annotated[
        int | None, typer.Option("--n", help=f"Pictures; default {USUAL:,} on a CPU, {MANY:,} on a GPU.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"{QUICK} pictures, and tuning all weights for a tenth of the steps.")
    ] = False,
    first: Annotated[int, typer.Option(help="First seed; what is chosen is chosen from 50,000 on.")] = JUDGED,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Does it do what the paper says? Compare methods, with figures, intervals and plots.

    Every table is written as JSON, CSV and Markdown, with a plot where matplotlib is installed. A stopped run goes on
    where it was; several processes that share the folder divide the work.
    """
    experiments = chosen(names)
    together = processes(device)
    kind = device or default_device().type
    number = n or (QUICK if quick else MANY if kind == "cuda" else USUAL)
    if number < 1 or not 0 <= first <= SEEDS - number:
        raise InputError(f"{number} pictures from seed {first}: seeds go from 0 to {SEEDS - 1:,}")
    generator = townscape.load().to(kind if device or kind != "mps" else "cpu")
    main = together.is_main_process
    reports = []
    try:
        for experiment in experiments:
            experiment = experiment.quickly() if quick else experiment
            with _bar(as_json or not main) as on_part:
                outcome = run(
                    experiment, generator, range(first, first + number), out / experiment.name, on_part=on_part
                )
            if main:
                reports.append(outcome.to_json())
                paths = tables.write(outcome, out)
                try:
                    paths += plots.write(outcome, out)
                except InputError as error:  # tables are worth having without
                    print(f"rewriter: {error}", file=sys.stderr)
                say(as_json, {}, f"{tables.markdown(outcome)}\n{', '.join(map(str, paths))}\n") if not as_json else None
    except RewriterError:
        if main:
            raise
        raise typer.Exit(2) from None  # the main process says it for all
    if main and as_json:
        print(json.dumps(tables.finite({"experiments": reports}), allow_nan=False))
    together.destroy_process_group()
