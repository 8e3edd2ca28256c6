"""Published generators on the Hub: download one, look at the rules of one, list all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import OfflineModeIsEnabled

from rewriter.checkpoints.catalogue import PinnedFile, built_ins
from rewriter.checkpoints.client import LOG_IN, TRANSPORT, check_name, in_words, is_name
from rewriter.checkpoints.config import CONFIG, CONFIG_LIMIT, WEIGHTS
from rewriter.checkpoints.download import fetch as fetch_file
from rewriter.editing.rule import RULES, Rule
from rewriter.errors import InputError, OnStep
from rewriter.hub.repository import TAG, Config, read, rules_in

RULE_LIMIT = 64 << 20  # bytes of one file of rules; of all files when they are read for the public
COMMIT = re.compile(r"[0-9a-f]{40}")
ADVICE = {
    401: f"there is no such repository, or it is private: check the name; for one of your own, {LOG_IN}",
    403: f"its owner asks for an agreement first: accept it on its page, then {LOG_IN}",
    404: "it holds no generator of ours, or has no such revision, or was deleted: check the name",
}
PUBLIC_ADVICE = ADVICE | dict.fromkeys(
    (401, 403),
    "there is no such repository, or it is private: check the name; one of your own you can make public, or open on "
    "your own machine (rewriter demo --generator USER/NAME)",
)


def fetch(repo_id: str, revision: str | None = None, *, on_step: OnStep | None = None) -> tuple[Path, str]:
    """Download a published generator into the Hugging Face cache; returns the folder and the commit.

    `revision` is a branch, a tag or a commit; None: the newest, or offline the last one downloaded. `on_step` is called
    with the downloaded bytes of the weights and all their bytes. InputError if it is not there, refused or unusable.
    """
    check_name(repo_id)
    with in_words(f"open {repo_id} on the Hub (it is no path here)", HfApi(), ADVICE):
        folder, about = _Files(repo_id, RULE_LIMIT * RULES).fetch(revision)
        if about is None or about.weights:
            file = PinnedFile(id=repo_id, repository=repo_id, file=WEIGHTS, revision=folder.name)
            fetch_file(file, on_step=on_step)
    return folder, folder.name


def snapshot(repo_id: str, commit: str | None) -> Path | None:
    """The folder of a commit in the Hugging Face cache; None: it is no commit, or one of its files is missing."""
    found = try_to_load_from_cache(repo_id, CONFIG, revision=commit) if COMMIT.fullmatch(commit or "") else None
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    about = read(folder)
    return folder if all((folder / file).is_file() for file in (about.files if about else [WEIGHTS])) else None


def public_rules(repo_id: str) -> tuple[str | None, tuple[Rule, ...]]:
    """What a generator that everybody can open consists of: the catalogue's id of its base, and its rules."""
    with public_copy(repo_id) as folder:
        about = read(folder)
        if about is None:
            raise InputError(f"{repo_id} has no rules: it is a generator alone")
        return about.known, rules_in(folder, about)


@contextmanager
def public_copy(repo_id: str, more: Mapping[str, int] = MappingProxyType({})) -> Iterator[Path]:
    """The small files of a generator that everybody can open, in a folder for a while; `more` files, path → most bytes.

    Downloaded without any token and not into the cache, which may hold what only some people may see.
    """
    check_name(repo_id)
    with TemporaryDirectory(ignore_cleanup_errors=True) as place:  # tensors may still be mapped from its files
        try:
            with in_words(f"open {repo_id} on the Hub", HfApi(token=False), PUBLIC_ADVICE):
                files = _Files(repo_id, RULE_LIMIT, token=False, cache_dir=Path(place))
                folder, _ = files.fetch(None)
                for file, most in more.items():
                    files.get(file, folder.name, most)
            yield folder
        except InputError as error:  # a visitor need not know names of files here
            raise InputError(re.sub(rf"{re.escape(place)}\S*/snapshots/\w+", repo_id, str(error))) from error


@dataclass
class _Files:
    """The small files of a repository: config.json and the rules; `left` bytes of rules are still allowed."""

    repo_id: str
    left: int
    token: bool | None = None  # None: the user's own
    cache_dir: Path | None = None

    def fetch(self, revision: str | None) -> tuple[Path, Config | None]:
        """Download them; the folder's name is the commit."""
        folder = self.get(CONFIG, revision, CONFIG_LIMIT).parent
        about = read(folder)
        for file in about.rules if about else ():
            self.left -= self.get(file, folder.name, min(RULE_LIMIT, self.left)).stat().st_size
        return folder, about

    def get(self, file: str, revision: str | None, most: int) -> Path:
        """A file of a commit, which never changes; or the newest of a branch, or else the last one when offline."""
        kept = try_to_load_from_cache(self.repo_id, file, revision=revision, cache_dir=self.cache_dir)
        if isinstance(kept, str) and COMMIT.fullmatch(revision or ""):
            return Path(kept)
        try:
            size = get_hf_file_metadata(hf_hub_url(self.repo_id, file, revision=revision), token=self.token).size
            if size is None or size > most:
                limit = f"{file} should have at most {most >> 20} MB, and has {size or '?'} bytes"
                raise InputError(f"cannot open {self.repo_id}: {limit}")
            options: dict[str, Any] = {"token": self.token, "cache_dir": self.cache_dir}
            return Path(hf_hub_download(self.repo_id, file, revision=revision, **options))
        except (OfflineModeIsEnabled, TRANSPORT):
            if not isinstance(kept, str):
                raise
            return Path(kept)


@dataclass(frozen=True)
class Listed:
    """A published generator in a list."""

    repo_id: str
    base: str
    likes: int
    modified: str
    private: bool


def listed(
    *, most: int = 100, token: str | bool | None = None, endpoint: str | None = None, author: str | None = None
) -> list[Listed]:
    """Published generators on the Hub, those with our tag, the newest first; None: those of every author.

    InputError if the Hub cannot be asked.
    """
    api = HfApi(endpoint=endpoint, token=token)
    found = []
    with in_words("list published generators", api):
        for info in api.list_models(author=author, filter=TAG, sort="last_modified", limit=most, full=True):
            with suppress(InputError):
                check_name(info.id)
                if author and info.id.split("/")[0].lower() != author.lower():
                    continue
                bases = [tag.removeprefix("base_model:") for tag in info.tags or [] if tag.startswith("base_model:")]
                own = next((name for name in built_ins() if name in (info.tags or [])), "weights of its own")
                base = next(filter(is_name, bases), own)
                when = f"{info.last_modified:%Y-%m-%d}" if info.last_modified else ""
                found.append(Listed(info.id, base, info.likes or 0, when, bool(info.private)))
    return found
