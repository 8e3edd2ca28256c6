"""The page as a Hugging Face Space: which files that takes, and the one commit that brings them there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, SpaceInfo

from rewriter.checkpoints.catalogue import shipped
from rewriter.checkpoints.client import check_name, check_private, connect, in_words, look
from rewriter.errors import InputError

PACKAGE = Path(__file__).parents[1]
PAGE = ("*.py", "README.md", "pyproject.toml", "requirements.txt")
INSIDE = ("**/*.py", "py.typed", "worlds/*/*.safetensors", "worlds/*/examples/*.json", "worlds/*/examples/*.png")
LICENCE = "rewriter-*.dist-info/licenses/LICENSE"  # where a wheel puts it, beside the package
ADVICE = {
    402: "a Gradio Space on the free CPU takes a paid plan: subscribe, or ask for ZeroGPU with the hardware zero-a10g",
    403: "the token may not write there: use one that may write to this account's Spaces, or another name",
}


@dataclass(frozen=True)
class Deployed:
    """What became of a Space.

    url, commit: where it is, and what it now is.
    created: whether there was none before.
    changed: whether anything had to be sent.
    removed: stale files of an earlier version that are gone.
    """

    url: str
    commit: str
    created: bool
    changed: bool
    removed: tuple[str, ...]


def page_folder() -> Path:
    """The folder of the page: in the package when that is installed, beside it in a checkout.

    Raises:
        InputError: it is in neither.
    """
    for folder in (PACKAGE / "space", PACKAGE.parent / "space"):
        if (folder / "app.py").exists():
            return folder
    raise InputError("this installation lacks the page: install the package again")


def files() -> dict[str, Path]:
    """What a Space consists of: path in the Space → file here; the page at the root, the package beside it.

    Raises:
        InputError: this installation lacks the page.
    """
    page = page_folder()
    checkout = [] if page.parent == PACKAGE else [PACKAGE.parent / "LICENSE"]  # installed, that would be others'
    licences = [path for path in (*checkout, *PACKAGE.parent.glob(LICENCE)) if path.exists()]
    found = {"LICENSE": licences[0]} if licences else {}
    found |= {path.name: path for path in (*_matching(page, PAGE), shipped())}
    inside = (path for path in _matching(PACKAGE, INSIDE) if page not in path.parents)
    found |= {f"rewriter/{path.relative_to(PACKAGE).as_posix()}": path for path in inside}
    return dict(sorted(found.items()))


def deploy(
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    hardware: str | None = None,
    endpoint: str | None = None,
    on_step: Callable[[str], None] = lambda words: None,
) -> Deployed:
    """Make the page a Space, or bring one up to date, in one commit: all of it arrives, or nothing.

    What an earlier version left is removed: files below rewriter/ and Python files at the root that are not ours. All
    else in the Space stays.

    Args:
        repo_id: USER/NAME.
        token: None: the one in HF_TOKEN, or of `hf auth login`.
        private: whether a new Space is; None: it is public, and one that exists stays as it is.
        hardware: such as zero-a10g; None: what the Space has, the free CPU if it is new.
        endpoint: None: the one in HF_ENDPOINT, or Hugging Face itself.
        on_step: called with words on what is done next.

    Raises:
        InputError: a bad name, nobody logged in, a Space that holds something else, or whatever the Hub or the
            network refuses; the message says what to do next.
    """
    check_name(repo_id)
    ours = files()
    api = connect(token, endpoint=endpoint)
    on_step(f"looking for {repo_id}")
    space = look(api.space_info, api, repo_id)
    created = space is None
    if space is None:
        on_step(f"making the Space {repo_id}")
        space = _create(api, repo_id, bool(private), hardware)
    _check(space, repo_id, private)
    if hardware and (space.runtime is None or space.runtime.requested_hardware != hardware):
        with in_words(f"have {hardware} for {repo_id}", api):
            api.request_space_hardware(repo_id, hardware)  # type: ignore[arg-type]  # any new kind may be asked for
    removed = stale(_paths(space), ours)
    size = sum(path.stat().st_size for path in ours.values())
    on_step(f"sending what is new of {len(ours)} files ({size / 1e6:.1f} MB)")
    commit = _commit(api, repo_id, ours, removed, parent=space.sha)
    return Deployed(f"{api.endpoint}/spaces/{repo_id}", commit, created, commit != space.sha, removed)


def stale(there: Iterable[str], ours: Mapping[str, Path]) -> tuple[str, ...]:
    """Of the paths in a Space, those that an earlier version of ours left there."""
    left = (PurePosixPath(path) for path in there if path not in ours)
    return tuple(str(path) for path in left if path.parts[0] == "rewriter" or str(path) == f"{path.stem}.py")


def _matching(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """Files of a folder, less those in hidden folders such as an editor's."""
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _create(api: HfApi, repo_id: str, private: bool, hardware: str | None) -> SpaceInfo:
    with in_words(f"make the Space {repo_id}", api, ADVICE):
        api.create_repo(
            repo_id,
            repo_type="space",
            space_sdk="gradio",
            private=private,
            space_hardware=hardware,  # type: ignore[arg-type]  # any new kind may be asked for
            exist_ok=True,
        )
    space = look(api.space_info, api, repo_id)
    if space is None:
        raise InputError(f"the name {repo_id} is taken by something that is no Space: choose another")
    return space


def _paths(space: SpaceInfo) -> list[str]:
    return [file.rfilename for file in space.siblings or []]


def _check(space: SpaceInfo, repo_id: str, private: bool | None) -> None:
    """Refuse to write over somebody's other Space, and to publish what should be private."""
    paths = _paths(space)
    code = [path for path in paths if "/" not in path and path.endswith(".py")]
    if space.sdk not in (None, "gradio"):
        raise InputError(f"{repo_id} is a Space of another kind ({space.sdk}): choose another name")
    if code and "rewriter/__init__.py" not in paths:
        raise InputError(f"{repo_id} holds another app ({', '.join(code)}): choose another name, or delete these first")
    check_private(repo_id, space.private, private)


def _commit(api: HfApi, repo_id: str, ours: Mapping[str, Path], removed: Iterable[str], parent: str | None) -> str:
    """Commit on top of `parent` and nothing else; the commit, or the parent if nothing differs."""
    with in_words(f"bring the files to {repo_id}", api, {403: ADVICE[403]}):
        done = api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(path, file) for path, file in ours.items()),
                *(CommitOperationDelete(path, is_folder=False) for path in removed),
            ],
            commit_message="Deploy the page with the package",
            repo_type="space",
            parent_commit=parent,
        )
    return done.oid
