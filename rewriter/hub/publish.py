"""A rewritten generator goes to the Hub: drafted, then sent in one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from huggingface_hub import HfApi

from rewriter.checkpoints.client import check_name, connect
from rewriter.checkpoints.config import CONFIG
from rewriter.editing.rule import Rule
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.hub.card import slug
from rewriter.hub.draft import Draft, draft, outdated
from rewriter.hub.upload import Info, OnStatus, Target, Uploaded, silent

ADVICE = {
    402: "your private storage on the Hub is full: publish it as public, or use a paid plan",
    403: "this account or its token may not write there: name a repository of your own account, or propose the change "
    "with create_pr (--pr)",
    413: "this is more than the account may store: publish the rules only, or delete something",
}


def publish(
    generator: Generator,
    rules: Sequence[Rule] | None,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    title: str = "",
    description: str = "",
    weights: bool = True,
    export: Sequence[str] = (),
    licence: str = "",
    create_pr: bool = False,
    endpoint: str | None = None,
    on_status: OnStatus = silent,
) -> Uploaded:
    """Publish a generator with its rules in one commit: all of it arrives, or nothing does.

    Args:
        generator: the base.
        rules: in order, those that are off too; None: those that the generator brings along.
        repo_id: USER/NAME; created if it does not exist, and given another commit if it holds a generator of ours.
        token: None: the one in HF_TOKEN, or of `hf auth login`.
        private: whether a new repository is private; None: it is, and an existing one stays as it is.
        title: one line of at most 80 characters; "": from the rules' titles.
        description: plain text for the card, of at most 2,000 characters.
        weights: whether the base's weights go along; if not, they are downloaded from the base's own source.
        export: layouts for other people's tools in which folded weights go along: see `rewriter convert`.
        licence: the Hub's id of the licence, for a base whose licence is not known.
        create_pr: open a pull request, in a repository that one may not write to.
        endpoint: None: the one in HF_ENDPOINT, or Hugging Face itself.
        on_status: called with words about what is done next.

    Raises:
        InputError: a bad name, no rules, a base that others could not load, nobody logged in, a repository that holds
            something else, or whatever the Hub or the network refuses; the message says what to do next.
    """
    check_name(repo_id)
    to = target(repo_id, connect(token, endpoint=endpoint), private=private)
    to.find(create_pr=create_pr, on_status=on_status)
    on_status("drawing the pictures")
    made = draft(
        generator, rules, repo_id, title=title, description=description, weights=weights, export=export, licence=licence
    )
    return send(made, to, create_pr=create_pr, on_status=on_status)


def target(repo_id: str, api: HfApi, *, private: bool | None = None, advice: Mapping[int, str] = ADVICE) -> Target:
    """A repository to publish to; see `publish` for the arguments."""
    new = {"private": private is None or private}
    return Target(api=api, repo_id=repo_id, check=_check, private=private, options=new, advice=advice)


def send(made: Draft, to: Target, *, create_pr: bool = False, on_status: OnStatus = silent) -> Uploaded:
    """Send a draft to the Hub in one commit; see `publish` for the arguments."""
    return to.upload(
        {**made.files, **made.later},
        f"Publish: {slug(made.title) or 'rules'}",
        outdated=partial(outdated, made=made),
        create_pr=create_pr,
        on_status=on_status,
    )


def _check(found: Info) -> None:
    """Raise InputError for a repository that holds something else than a published generator."""
    paths = [file.rfilename for file in found.siblings or [] if file.rfilename != ".gitattributes"]
    ours = CONFIG in paths and any(path.startswith("rules/") for path in paths)
    if paths and not ours:
        raise InputError(f"the name {found.id} is taken by another model ({', '.join(paths[:3])} …): choose another")
