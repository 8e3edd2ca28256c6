"""The command line, the only printer of the package: `rewriter --help`.

A command's module is imported when the command runs: `rewriter --help` need not wait for torch.
"""

from __future__ import annotations

import ast
import os
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rewriter.cli import ending

# the file beside this one that holds each command
FILES = {
    "draw": "sample apply inspect",
    "units": "units",
    "photo": "photo",
    "study": "suggest search stats benchmark",
    "evaluate": "evaluate",
}
FILES |= {"models": "generators convert", "publish": "publish", "share": "demo deploy"}
MODULES = {command: module for module, commands in FILES.items() for command in commands.split()}


class Commands(TyperGroup):
    """Commands by name; the list of them is read from their source, without importing it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All of them, in the order of a first visit."""
        return list(MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command."""
        if cmd_name not in MODULES:
            return None
        module = import_module(f"rewriter.cli.{MODULES[cmd_name]}")
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(cmd_name, epilog=getattr(module, "EPILOGS", {}).get(cmd_name))(getattr(module, cmd_name))
        return typer.main.get_command(single)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One line for each."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_line(name)) for name in MODULES])


def _first_line(command: str) -> str:
    source = Path(__file__).with_name(f"{MODULES[command]}.py").read_text(encoding="utf-8")
    functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    return (ast.get_docstring(next(each for each in functions if each.name == command)) or "").split("\n")[0]


app = typer.Typer(
    cls=Commands,
    help="Rewrite the rules of a pretrained image generator.\n\n"
    "An edit says what to copy, where to paste it and in which context; applying it changes the model, "
    "not a picture.\n\n\b\nStart with:\n  rewriter apply frown-to-smile --out smiles.png",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def everywhere(
    own: Annotated[
        Path | None,
        typer.Option("--catalogue", help="Your own generators, a file like checkpoints.json; or $REWRITER_CATALOGUE."),
    ] = None,
) -> None:
    """Options that stand before the command."""
    if own is not None:
        os.environ["REWRITER_CATALOGUE"] = str(own)  # so that processes started from here find it too


def main() -> Any:
    """Run the command line: an error is one clear line and exit status 2; see `ending` for what else ends it."""
    with ending.stoppable(), ending.in_words():
        app()
