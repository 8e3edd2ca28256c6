"""The command that publishes a rewritten generator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rewriter.checkpoints.client import check_name, connect, quiet
from rewriter.checkpoints.config import CONFIG
from rewriter.cli import common
from rewriter.cli.describe import kind_of
from rewriter.editing.history import FORMAT, History
from rewriter.editing.rule import Rule, carried_rules
from rewriter.errors import InputError
from rewriter.files import check_writable
from rewriter.hub.draft import Draft, base_of, draft
from rewriter.hub.publish import send, target
from rewriter.hub.upload import Uploaded


def publish(
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="Your account or organisation, and a name.")],
    rules: Annotated[list[Path], typer.Argument(metavar="RULES …", help="Rule files in order, or a saved session.")],
    generator: Annotated[str | None, typer.Option(help="The base; default: what the rules were made on.")] = None,
    title: Annotated[str, typer.Option(help="Title of the card; default: the rules' titles.")] = "",
    description: Annotated[str, typer.Option(help="A paragraph for the card; plain text.")] = "",
    private: Annotated[bool | None, typer.Option("--private/--public", help="Default: private.")] = None,
    rules_only: Annotated[
        bool, typer.Option("--rules-only", help="Without the base's weights, which are downloaded from their source.")
    ] = False,
    export: Annotated[
        list[str] | None,
        typer.Option(help="Add weights for rosinality, nvidia, genforce, gandissect, pytorch or huggan; repeatable."),
    ] = None,
    licence: Annotated[str, typer.Option(help="The base's, if it is not in the catalogue: the Hub's id.")] = "",
    pr: Annotated[bool, typer.Option("--pr", help="Open a pull request on somebody else's repository.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the files into this folder instead, to check them.")] = None,
    device: common.Device = None,
    as_json: common.Json = False,
) -> None:
    """Publish a rewritten generator on Hugging Face, with a card and pictures.

    Everything is sent in one commit, so a failure changes nothing and you can always run this again. The base keeps
    its licence, which the card states. Make rules with `rewriter apply … --save-rule FILE`. Anybody loads the result
    with rewriter.load_generator("USER/NAME"), or with --generator USER/NAME.

    Log in first with `hf auth login`, or set HF_TOKEN to a token that may write to your repositories.
    """
    check_name(name)
    found, whole = _rules(rules)
    if out is not None:
        check_writable(out / CONFIG)
    else:
        to = target(name, connect(), private=private)
        to.find(create_pr=pr)
    model = common.load(generator or base_of(found), device, as_json)
    earlier = [] if whole else carried_rules(model)
    common.check_new(found, earlier)
    with common.progress(as_json) as job:
        all_rules = [*earlier, *(rule.to(model.device) for rule in found)]
        card: dict[str, Any] = {"title": title, "description": description, "licence": licence}
        contents: dict[str, Any] = {"weights": not rules_only, "export": export or ()}
        made = draft(model, all_rules, name, **card, **contents, on_step=job("pictures"))
    data = {"name": name, "files": dict(made.sizes)}
    listed = "".join(f"{size / 1000:11,.1f} kB  {path}\n" for path, size in made.sizes.items())
    if out is not None:
        made.save(out)
        total = f"{sum(made.sizes.values()) / 1000:11,.1f} kB  in {out}; its card is {out / 'README.md'}"
        common.say(as_json, {**data, "out": str(out)}, listed + total)
        return
    quiet(bars=sys.stderr.isatty() and not as_json)  # an upload may take long
    done = send(made, to, create_pr=pr, on_status=lambda words: typer.echo(f"{words} …", err=True))
    common.say(as_json, {**data, **vars(done)}, f"{listed}{_said(made, done)}:\n{done.url}")


def _said(made: Draft, done: Uploaded) -> str:
    if done.proposed:
        return f"{made.repo_id}: proposed"
    if not done.changed:
        return f"{made.repo_id} is up to date already"
    seen = "only you see it" if done.private else "everybody can open it"
    gone = f"; removed: {', '.join(done.removed)}" if done.removed else ""
    return f"{made.repo_id} is {'published' if done.created else 'updated'}, {seen}{gone}"


def _rules(files: list[Path]) -> tuple[list[Rule], bool]:
    """The rules in files, and whether one is a session, which includes the rules that its generator brought along."""
    sessions = [path for path in files if path.suffix == ".safetensors" and path.is_file() and kind_of(path) == FORMAT]
    loaded = [History.load(path).present.rules if path in sessions else (Rule.load(path),) for path in files]
    found = [rule for rules in loaded for rule in rules]
    if not found:
        raise InputError("these files hold no rule: execute an edit first (rewriter apply EDIT --save-rule FILE)")
    return found, bool(sessions)
