"""A rewritten generator goes to the Hub, in one commit: all of it arrives, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import HfHubHTTPError

from rewriter.checkpoints import store
from rewriter.checkpoints.client import check_name, check_private, connect, in_words, look
from rewriter.editing.rule import Rule
from rewriter.errors import InputError
from rewriter.generators.base import Generator
from rewriter.hub import card
from rewriter.hub.draft import Draft, draft, stale

TRIES = 3  # to commit on top of what others commit meanwhile
ADVICE = {
    402: "this needs a paid plan, or make it public: private storage has its limits",
    403: "this account or its token may not write there: name a repository of your own account, or propose the change "
    "with create_pr (--pr)",
    413: "this is more than the account's storage holds: publish the rules only, or make room",
}
OnStep = Callable[[str], object]


@dataclass(frozen=True)
class Published:
    """What became of it.

    url, commit: where it is, and what it now is; of a proposal, the pull request's page.
    created: whether the repository is new. changed: whether anything had to be sent. private: whether only its owner
    sees it. removed: what an earlier version had left there. proposed: as a pull request.
    """

    url: str
    commit: str
    created: bool
    changed: bool
    private: bool
    removed: tuple[str, ...] = ()
    proposed: bool = False


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
    on_step: OnStep = lambda words: None,
) -> Published:
    """Publish a generator with its rules: all of it arrives in one commit, or nothing does.

    Args:
        generator: the base.
        rules: in order, those that are off too; None: those that the generator carries.
        repo_id: USER/NAME; made if there is none, and given another commit if it holds a generator of ours.
        token: None: the one in HF_TOKEN, or of `hf auth login`.
        private: whether a new repository is; None: it is, and one that exists stays as it is.
        title: see `draft`, which takes it.
        description: likewise.
        weights: likewise.
        export: likewise.
        licence: likewise.
        create_pr: propose the commit to a repository that one may not write to.
        endpoint: None: the one in HF_ENDPOINT, or Hugging Face itself.
        on_step: called with words on what is done next.

    Raises:
        InputError: a bad name, no rules, a base that others could not have, nobody logged in, a repository that holds
            something else, or whatever the Hub or the network refuses; the message says what to do next.
    """
    check_name(repo_id)
    api = connect(token, endpoint=endpoint)
    on_step(f"looking for {repo_id}")
    find(repo_id, api, private=private, create_pr=create_pr)
    on_step("drawing the pictures")
    made = draft(
        generator, rules, repo_id, title=title, description=description, weights=weights, export=export, licence=licence
    )
    return send(made, api, private=private, create_pr=create_pr, on_step=on_step)


def send(
    made: Draft,
    api: HfApi,
    *,
    private: bool | None = None,
    create_pr: bool = False,
    advice: Mapping[int, str] = ADVICE,
    on_step: OnStep = lambda words: None,
) -> Published:
    """Bring a draft to the Hub in one commit; see `publish`.

    Args:
        made: what is to be there.
        api: a client of `remote.connect`.
        private: see `publish`.
        create_pr: likewise.
        advice: what to do next where the Hub refuses, by status.
        on_step: called with words on what is done next.
    """
    found = find(made.repo_id, api, private=private, create_pr=create_pr, advice=advice)
    if found is not None:
        return _send(made, api, found, private, create_pr, advice, on_step)
    on_step(f"making {made.repo_id}")
    private = private is None or private
    found = _create(api, made.repo_id, private, advice)
    try:
        return replace(_send(made, api, found, private, create_pr, advice, on_step), created=True)
    except InputError as error:
        refused = _status(error) in range(400, 500) and _status(error) != 412
        left = f" ({made.repo_id} was made, and is empty)" if refused else ""
        raise InputError(f"{error}{left}") from error.__cause__


def find(
    repo_id: str,
    api: HfApi,
    *,
    private: bool | None = None,
    create_pr: bool = False,
    advice: Mapping[int, str] = ADVICE,
) -> ModelInfo | None:
    """What there is under a name, if one may publish there; None: it is free.

    Raises:
        InputError: it holds something else, is for other eyes than is wanted, or cannot be looked at.
    """
    found = look(api.model_info, api, repo_id, advice)
    if found is None and create_pr:
        raise InputError(f"there is no {repo_id} to propose this to: publish it without create_pr (--pr)")
    if found is not None:
        _check_there(found, repo_id, private)
    return found


def _send(
    made: Draft,
    api: HfApi,
    found: ModelInfo,
    private: bool | None,
    create_pr: bool,
    advice: Mapping[int, str],
    on_step: OnStep,
) -> Published:
    """Write what is large, and commit on top of what was found, or of what others commit meanwhile."""
    with TemporaryDirectory() as folder:
        content: dict[str, str | bytes] = dict(made.files)
        for path, write in made.later.items():
            on_step(f"writing {path}")
            write(Path(folder) / path)
            content[path] = str(Path(folder) / path)
        on_step(f"sending what is new of {len(content)} files ({sum(made.sizes.values()) / 1e6:.1f} MB)")
        for left in reversed(range(TRIES)):
            try:
                return _commit(api, made, found, content, advice, create_pr=create_pr)
            except InputError as error:
                if not left or _status(error) != 412:
                    raise
            on_step("somebody committed in the meantime; trying again on top of that")
            again = find(made.repo_id, api, private=private, advice=advice)
            if again is None:
                raise InputError(f"{made.repo_id} was deleted in the meantime: publish it again")
            found = again
    raise AssertionError("unreachable")


def _create(api: HfApi, repo_id: str, private: bool, advice: Mapping[int, str]) -> ModelInfo:
    with in_words(f"make {repo_id}", api, advice):
        api.create_repo(repo_id, private=private, exist_ok=True)
    found = find(repo_id, api, private=private, advice=advice)
    if found is None:
        raise InputError(f"the name {repo_id} is taken by something else: choose another")
    return found


def _paths(found: ModelInfo) -> list[str]:
    return [file.rfilename for file in found.siblings or []]


def _check_there(found: ModelInfo, repo_id: str, private: bool | None) -> None:
    """Refuse to write over something else, and to publish what should be private."""
    paths = [path for path in _paths(found) if path != ".gitattributes"]
    ours = store.CONFIG in paths and any(path.startswith("rules/") for path in paths)
    if paths and not ours:
        raise InputError(f"the name {repo_id} is taken by another model ({', '.join(paths[:3])} …): choose another")
    check_private(repo_id, found.private, private)


def _commit(
    api: HfApi,
    made: Draft,
    found: ModelInfo,
    content: Mapping[str, str | bytes],
    advice: Mapping[int, str],
    *,
    create_pr: bool,
) -> Published:
    """Commit on top of what was found and nothing else; operations are new for each try: they remember the last."""
    operations = [CommitOperationAdd(path, data) for path, data in content.items()]
    gone = [CommitOperationDelete(path, is_folder=False) for path in stale(_paths(found), made)]
    with in_words(f"publish {made.repo_id}", api, advice):
        done = api.create_commit(
            made.repo_id,
            [*operations, *gone],
            commit_message=f"Publish: {card.slug(made.title) or 'rules'}",
            parent_commit=found.sha,
            create_pr=create_pr,
        )
    url = done.pr_url or f"{api.endpoint}/{made.repo_id}"
    changed, removed = done.oid != found.sha, tuple(sorted(stale(_paths(found), made)))
    return Published(url, done.oid, False, changed, bool(found.private), removed, bool(done.pr_url))


def _status(error: BaseException) -> int | None:
    """Of the Hub's answer that an error tells of."""
    return error.__cause__.response.status_code if isinstance(error.__cause__, HfHubHTTPError) else None
