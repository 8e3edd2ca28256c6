"""The command line, the only printer of the package: `rewriter --help`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rewriter.checkpoints.catalogue import VARIABLE
from rewriter.cli import draw, models, share, study
from rewriter.cli.evaluate import EPILOG, evaluate
from rewriter.cli.publish import publish
from rewriter.errors import RewriterError

app = typer.Typer(
    help="Rewrite the rules of a pretrained image generator.\n\n"
    "An edit says what to copy, where to paste it and in which context; applying it changes the model, "
    "not a picture.\n\n\b\nStart with:\n  rewriter apply dome-to-spire --out town.png",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (draw.sample, draw.apply, draw.inspect, study.suggest, study.search):
    app.command()(command)
app.command(
    epilog="\b\nOver several GPUs: accelerate launch -m rewriter stats --all-layers\n"
    "Over processes of one CPU: torchrun --nproc-per-node 2 -m rewriter stats --all-layers"
)(study.stats)
app.command()(study.benchmark)
app.command(epilog=EPILOG)(evaluate)
app.command()(models.generators)
app.command()(models.convert)
app.command()(publish)
app.command()(share.demo)
app.command()(share.deploy)


@app.callback()
def everywhere(
    own: Annotated[
        Path | None,
        typer.Option("--catalogue", help=f"Generators of your own, in the form of checkpoints.json; or ${VARIABLE}."),
    ] = None,
) -> None:
    """Options that stand before the command."""
    if own is not None:
        os.environ[VARIABLE] = str(own)  # so that whatever is started from here finds it too, such as the page


def main() -> None:
    """Run the command line: errors are one clear line and exit status 2."""
    try:
        app()
    except RewriterError as error:
        print(f"rewriter: {error}", file=sys.stderr)
        sys.exit(2)
