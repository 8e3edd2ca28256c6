"""The page as a Hugging Face Space: the page's files, with this package beside them, sent in one commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from huggingface_hub import SpaceInfo

from rewriter.checkpoints.catalogue import shipped
from rewriter.checkpoints.client import connect, in_words
from rewriter.errors import InputError
from rewriter.hub.upload import Info, OnStatus, Target, Uploaded, silent

PACKAGE = Path(__file__).parents[1]
EXAMPLES = ("worlds/*/examples/*/*.json", "worlds/*/examples/*/*.png")
PAGE = ("*.py", "page.html", "page.css", "*.js", "README.md", "pyproject.toml", "requirements.txt")
INSIDE = ("**/*.py", "py.typed", "worlds/*/*px.safetensors", "units/shipped/*.json", *EXAMPLES)
LICENCE = "rewriter-*.dist-info/licenses/LICENSE"  # where a wheel puts it, beside the package
FREE = "zero-a10g"  # of a new Space: a free personal account may have two Gradio Spaces on it, and none on cpu-basic
HARDWARE = (
    f"a free personal account may have two Gradio Spaces, on {FREE}, and everything else needs a paid plan: delete "
    "another Space, or subscribe; with a plan, --hardware cpu-basic is the plain CPU"
)
ADVICE = {
    400: f"if it is about the hardware: {HARDWARE}",
    402: HARDWARE,
    403: f"use a token that may write to this account's Spaces; if it is about the hardware: {HARDWARE}",
}


def page_folder() -> Path:
    """The folder of the page: in the package when that is installed, beside it in a checkout; else InputError."""
    for folder in (PACKAGE / "space", PACKAGE.parent / "space"):
        if (folder / "app.py").exists():
            return folder
    raise InputError("this installation lacks the page: install the package again")


def files() -> dict[str, Path]:
    """What a Space consists of, path in the Space → file here: the page at the root, the package beside it."""
    page = page_folder()
    checkout = [] if page.parent == PACKAGE else [PACKAGE.parent / "LICENSE"]  # else that is another package's
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
    on_status: OnStatus = silent,
) -> Uploaded:
    """Make the page a Space, or update one, in one commit: all of it arrives, or nothing does.

    What an earlier version left is deleted: files below rewriter/ and Python files at the root that are not ours. All
    other files in the Space stay. A new Space is public unless `private`; an existing one stays as it is. `hardware` is
    such as cpu-basic; None: what the Space has, or `FREE` for a new one. The other arguments, and the errors, are those
    of `publish`.
    """
    ours, api = files(), connect(token, endpoint=endpoint)
    new = {"space_sdk": "gradio", "private": bool(private), "space_hardware": hardware or FREE}
    target = Target(api=api, repo_id=repo_id, check=_check, kind="space", private=private, options=new, advice=ADVICE)
    if hardware and isinstance(found := target.find(on_status=on_status), SpaceInfo):
        if found.runtime is None or found.runtime.requested_hardware != hardware:
            with in_words(f"ask for the hardware {hardware} for {repo_id}", api, ADVICE):
                api.request_space_hardware(repo_id, hardware)  # type: ignore[arg-type]  # new kinds are allowed
    left = partial(outdated, ours=ours)
    return target.upload(ours, "Deploy the page with the package", outdated=left, on_status=on_status)


def outdated(there: Iterable[str], ours: Iterable[str]) -> list[str]:
    """Of the paths in a Space, those that an earlier version of ours left there."""
    left = (PurePosixPath(path) for path in there if path not in ours)
    return [str(path) for path in left if path.parts[0] == "rewriter" or str(path) == f"{path.stem}.py"]


def _matching(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """Files of a folder, without those in hidden folders such as an editor's."""
    for path in (path for pattern in patterns for path in folder.glob(pattern)):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _check(found: Info) -> None:
    """Raise InputError for somebody's other Space."""
    assert isinstance(found, SpaceInfo)
    paths: Sequence[str] = [file.rfilename for file in found.siblings or []]
    code = [path for path in paths if "/" not in path and path.endswith(".py")]
    if found.sdk not in (None, "gradio"):
        raise InputError(f"{found.id} is a Space of another kind ({found.sdk}): choose another name")
    if code and "rewriter/__init__.py" not in paths:
        app = f"another app ({', '.join(code)})"
        raise InputError(f"{found.id} holds {app}: choose another name, or delete these first")
