"""Published generators: what the files of a repository on the Hub, or of a copy of one, say about base and rules.

Rules are data, tensors and plain values, checked like any stranger's file. Nothing else in a repository is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import OfflineModeIsEnabled

from rewriter.checkpoints import store
from rewriter.checkpoints.catalogue import BUILT_IN, CHECKS, PinnedFile, catalogue
from rewriter.checkpoints.client import LOG_IN, TRANSPORT, check_name, in_words, is_name
from rewriter.checkpoints.download import fetch as fetch_file
from rewriter.checks import Check, fields, flag, list_of, matching, object_of, optional
from rewriter.editing.history import CELLS, RULES
from rewriter.editing.rule import Rule
from rewriter.errors import InputError, OnStep
from rewriter.files import as_json
from rewriter.generators.base import Generator
from rewriter.worlds import townscape

TAG = "rewritten-generator"
RULE_LIMIT = 64 << 20  # bytes of one file of rules; of all files when they are read for the public
COMMIT = re.compile(r"[0-9a-f]{40}")
ADVICE = {
    401: f"there is no such repository, or it is private: check the name; for one of your own, {LOG_IN}",
    403: f"its owner asks for an agreement first: accept it on its page, then {LOG_IN}",
    404: "it holds no generator of ours, or has no such revision, or was deleted: check the name",
}
_PRIVATE = (
    "there is no such repository, or it is private: check the name; one of your own you can make public, or open on "
    "your own machine (rewriter demo --generator USER/NAME)"
)
PUBLIC_ADVICE = {**ADVICE, 401: _PRIVATE, 403: _PRIVATE}
_BASE: dict[str, Check] = {
    name: CHECKS[name] for name in ("id", "repository", "file", "revision", "size", "sha256", "clamp")
}
_CONFIG: dict[str, Check] = {
    "fingerprint": matching(r"[0-9a-f]{64}", "a SHA-256 in hexadecimal digits"),
    "rules": list_of(matching(r"rules/[a-z0-9][a-z0-9-]{0,80}\.safetensors", "a file in rules/"), RULES),
    "weights": flag,
    "base": optional(object_of(_BASE)),
}


@dataclass(frozen=True)
class Config:
    """What config.json of a published generator says.

    Attributes:
        fingerprint: of the base.
        rules: their files, in order.
        weights: whether the base's weights are in the repository.
        base: where else the weights are; None: nowhere.
        clamp: of the base's features.
    """

    fingerprint: str
    rules: tuple[str, ...]
    weights: bool
    base: PinnedFile | None = None
    clamp: float | None = None

    @property
    def known(self) -> str | None:
        """The catalogue's id of the base, if it is the same file with the same clamp."""
        if self.base is None:
            return None
        if self.base.repository is None:
            return BUILT_IN
        own = self.base.repository, self.base.file, self.base.revision, self.clamp
        entries = catalogue().items()
        return next((id for id, e in entries if (e.repository, e.file, e.revision, e.clamp) == own), None)


def config(generator: Generator, rules: Sequence[str], *, weights: bool) -> bytes:
    """config.json for a generator with these files of rules, with its weights or without.

    Raises:
        InputError: without the weights nobody else could load it.
    """
    base = {name: getattr(generator.origin, name) for name in _BASE}
    try:
        file, _ = _base(object_of(_BASE)("base", base))
        elsewhere = is_built_in(generator) if file.repository is None else not generator.origin.rules
    except InputError:
        elsewhere = False
    if not weights and not elsewhere:
        raise InputError(f"others could not download {generator.name} from anywhere: publish it with its weights")
    about = store.config(generator) | {"version": store.VERSIONS[1], "rules": list(rules)}
    return as_json({**about, "weights": weights, "base": base if elsewhere else None}, indent=2).encode()


def is_built_in(generator: Generator) -> bool:
    """Whether this is the built-in generator: its name alone does not prove it."""
    return generator.origin.id == BUILT_IN and generator.fingerprint == _built_in_fingerprint()


@cache
def _built_in_fingerprint() -> str:
    return townscape.load().fingerprint


def read(folder: Path) -> Config | None:
    """Validate a folder's config.json; None: the folder holds a generator without rules.

    Raises:
        InputError: it is missing, damaged, or names what no repository of ours has.
    """
    about = store.read_config(folder)
    if "rules" not in about:
        return None
    try:
        told = fields("it", {name: about[name] for name in _CONFIG if name in about}, _CONFIG, optional=("base",))
        file, clamp = _base(told["base"]) if told.get("base") else (None, None)
        if not told["rules"]:
            raise InputError("rules is empty")
        if not told["weights"] and file is None:
            raise InputError("it has neither weights nor base")
    except InputError as error:
        raise InputError(f"{folder / store.CONFIG} cannot be used: {error}") from error
    return Config(told["fingerprint"], told["rules"], told["weights"], file, clamp)


def _base(values: dict[str, Any]) -> tuple[PinnedFile, float | None]:
    """The base's file and clamp, if it is built in or pinned by revision and hash."""
    file = PinnedFile(**{name: value for name, value in values.items() if name != "clamp"})
    if file.repository is None and file.id != BUILT_IN:
        raise InputError(f"its base {file.id!r} is in no repository")
    if file.repository and not (file.revision and file.sha256):
        raise InputError("its base lacks revision or sha256")
    return file, values["clamp"]


def add_rules(generator: Generator, folder: Path, about: Config) -> None:
    """Let a generator bring along the rules in a folder; InputError if they were made on another one."""
    if generator.fingerprint != about.fingerprint:
        raise InputError(
            f"the base {generator.name} is not the one that the rules in {folder} were made on: expected the "
            f"fingerprint {about.fingerprint[:12]}, found {generator.fingerprint[:12]}"
        )
    generator.rules = rules_in(folder, about)
    for rule in generator.rules:
        generator.check(rule)


def rules_in(folder: Path, about: Config) -> tuple[Rule, ...]:
    """The rules in a folder, in order, with their edits validated; InputError if one cannot be used."""
    found: list[Rule] = []
    for file in about.rules:
        rule = Rule.load(folder / file)
        if rule.fingerprint != about.fingerprint:
            raise InputError(f"{folder / file} belongs to another generator than {store.CONFIG} says: fetch both again")
        found.append(rule)
        check_edits(found)  # after each: masks are large once they are decoded
    return tuple(found)


def check_edits(rules: Sequence[Rule]) -> None:
    """Raise InputError for rules whose masks together are too large to decode in reasonable time."""
    if sum(rule.edit.cells for rule in rules if rule.edit) > CELLS:
        raise InputError(f"the masks of all rules together have more than {CELLS >> 20} million cells")


# --- the network ---


def fetch(repo_id: str, revision: str | None = None, *, on_step: OnStep | None = None) -> tuple[Path, str]:
    """Download a published generator into the Hugging Face cache; returns the folder and the commit.

    Args:
        repo_id: USER/NAME.
        revision: branch, tag or commit; None: the newest, or the last one downloaded when offline.
        on_step: called with the downloaded bytes of the weights and all their bytes; returning False cancels.

    Raises:
        InputError: no such repository or revision, not allowed, no network, or files that cannot be used.
        CancelledError: `on_step` returned False.
    """
    check_name(repo_id)
    with in_words(f"open {repo_id} on the Hub (it is no path here)", HfApi(), ADVICE):
        folder = _Files(repo_id, RULE_LIMIT * RULES).fetch(revision)
        about, commit = read(folder), folder.name
        if about is None or about.weights:
            file = PinnedFile(id=repo_id, repository=repo_id, file=store.WEIGHTS, revision=commit)
            fetch_file(file, on_step=on_step)
    return folder, commit


def snapshot(repo_id: str, commit: str | None) -> Path | None:
    """The folder of a commit in the Hugging Face cache; None if one of its files is missing."""
    if not COMMIT.fullmatch(commit or ""):
        return None
    found = try_to_load_from_cache(repo_id, store.CONFIG, revision=commit)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    about = read(folder)
    needed = [*about.rules, *([store.WEIGHTS] if about.weights else [])] if about else [store.WEIGHTS]
    return folder if all((folder / file).is_file() for file in needed) else None


def public_rules(repo_id: str) -> tuple[str | None, tuple[Rule, ...]]:
    """What a generator that is published for everybody consists of: the catalogue's id of its base, and its rules.

    Asked without any token and aside from the cache, which may hold what only some people may see.

    Raises:
        InputError: there is none, or it cannot be used.
    """
    check_name(repo_id)
    with TemporaryDirectory(ignore_cleanup_errors=True) as place:  # tensors may still be mapped from its files
        try:
            with in_words(f"open {repo_id} on the Hub", HfApi(token=False), PUBLIC_ADVICE):
                folder = _Files(repo_id, RULE_LIMIT, token=False, cache_dir=Path(place)).fetch(None)
            if (about := read(folder)) is None:
                raise InputError(f"{repo_id} has no rules: it is a generator alone")
            return about.known, rules_in(folder, about)
        except InputError as error:  # a visitor need not know names of files here
            raise InputError(re.sub(rf"{re.escape(place)}\S*/snapshots/\w+", repo_id, str(error))) from error


@dataclass
class _Files:
    """The small files of a repository: config.json and the rules; `left` bytes of rules are still allowed."""

    repo_id: str
    left: int
    token: bool | None = None  # None: the user's own
    cache_dir: Path | None = None

    def fetch(self, revision: str | None) -> Path:
        """Download them; the folder's name is the commit."""
        folder = self._get(store.CONFIG, revision, store.CONFIG_LIMIT).parent
        about = read(folder)
        for file in about.rules if about else ():
            self.left -= self._get(file, folder.name, min(RULE_LIMIT, self.left)).stat().st_size
        return folder

    def _get(self, file: str, revision: str | None, most: int) -> Path:
        """A file of a commit, which never changes; or the newest of a branch, or else the last one when offline."""
        kept = try_to_load_from_cache(self.repo_id, file, revision=revision, cache_dir=self.cache_dir)
        if isinstance(kept, str) and COMMIT.fullmatch(revision or ""):
            return Path(kept)
        try:
            size = get_hf_file_metadata(hf_hub_url(self.repo_id, file, revision=revision), token=self.token).size
            if size is None or size > most:
                raise InputError(
                    f"cannot open {self.repo_id}: {file} should have at most {most >> 20} MB, and has {size or '?'}"
                )
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


def listed(*, most: int = 100, token: str | bool | None = None, endpoint: str | None = None) -> list[Listed]:
    """Published generators on the Hub, the newest first: those with our tag.

    Raises:
        InputError: the Hub cannot be asked.
    """
    api = HfApi(endpoint=endpoint, token=token)
    found = []
    with in_words("list published generators", api):
        for info in api.list_models(filter=TAG, sort="last_modified", limit=most, full=True):
            with suppress(InputError):
                check_name(info.id)
                bases = [tag.removeprefix("base_model:") for tag in info.tags or [] if tag.startswith("base_model:")]
                base = next(filter(is_name, bases), BUILT_IN if BUILT_IN in (info.tags or []) else "weights of its own")
                when = f"{info.last_modified:%Y-%m-%d}" if info.last_modified else ""
                found.append(Listed(info.id, base, info.likes or 0, when, bool(info.private)))
    return found
