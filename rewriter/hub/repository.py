"""Generators that were rewritten and published: from a repository, or a copy of one, to a base and its rules.

Rules are data: tensors and plain values, checked like any stranger's file. Nothing else in a repository is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import OfflineModeIsEnabled

from rewriter.checkpoints import store
from rewriter.checkpoints.catalogue import CHECKS, Source, catalogue
from rewriter.checkpoints.client import LOG_IN, TRANSPORT, check_name, in_words, is_name
from rewriter.checkpoints.download import fetch as fetch_file
from rewriter.checks import flag
from rewriter.editing.history import CELLS, RULES
from rewriter.editing.rule import Rule
from rewriter.errors import InputError
from rewriter.files import read_json
from rewriter.generators.base import Generator
from rewriter.worlds import townscape

BUILT_IN, TAG = "townscape", "rewritten-generator"
CONFIG_LIMIT, RULE_LIMIT = 1 << 20, 64 << 20  # bytes
RULE = re.compile(r"rules/[a-z0-9][a-z0-9-]{0,80}\.safetensors")
COMMIT = re.compile(r"[0-9a-f]{40}")
SOURCE = ("id", "repository", "file", "revision", "size", "sha256", "clamp")
ADVICE = {
    401: f"there is no such repository, or it is not for everybody: check the name; for one of your own, {LOG_IN}",
    403: f"its owner asks for an agreement first: accept it on its page, then {LOG_IN}",
    404: "it is no generator of ours, or has no such revision, or is not there any more: check the name",
}
_PRIVATE = (
    "there is no such repository, or it is not for everybody: check the name; one of your own you can make public, or "
    "open on your own machine (rewriter demo --generator USER/NAME)"
)
PUBLIC = {**ADVICE, 401: _PRIVATE, 403: _PRIVATE}
OnStep = Callable[[int, int], Any]


@dataclass(frozen=True)
class Config:
    """What config.json says of a published generator.

    fingerprint: of the base. rules: files, in order. weights: whether the base's weights lie beside them. base: where
    else these are; None: nowhere. clamp: of the base's features.
    """

    fingerprint: str
    rules: tuple[str, ...]
    weights: bool
    base: Source | None = None
    clamp: float | None = None

    @property
    def known(self) -> str | None:
        """The id of the base where it is built in or in our catalogue, in that version and with that clamp."""
        if self.base is None:
            return None
        if self.base.repository is None:
            return BUILT_IN
        own = self.base.repository, self.base.file, self.base.revision, self.clamp
        entries = catalogue().items()
        return next((id for id, e in entries if (e.repository, e.file, e.revision, e.clamp) == own), None)


def config(generator: Generator, rules: Sequence[str], *, weights: bool) -> bytes:
    """config.json of a generator published with these files of rules, with its weights or without.

    Raises:
        InputError: without them others could not have it.
    """
    base = {name: getattr(generator.origin, name) for name in SOURCE}
    try:
        source, _ = _source(base)
        elsewhere = is_built_in(generator) if source.repository is None else not generator.origin.rules
    except InputError:
        elsewhere = False
    if not weights and not elsewhere:
        raise InputError(f"others could not fetch {generator.name} from anywhere: publish it with its weights")
    about = store.config(generator) | {"version": store.VERSIONS[1], "rules": list(rules)}
    return store.written({**about, "weights": weights, "base": base if elsewhere else None}).encode()


def is_built_in(generator: Generator) -> bool:
    """Whether this is the built-in generator, rather than something that says so."""
    return generator.origin.id == BUILT_IN and generator.fingerprint == _built_in()


@cache
def _built_in() -> str:
    return townscape.load().fingerprint


def is_published(folder: str | Path) -> bool:
    """Whether a folder holds rules beside its config, rather than a generator alone."""
    about = read_json(Path(folder) / store.CONFIG, limit=CONFIG_LIMIT)
    return isinstance(about, dict) and "rules" in about


def read(folder: Path) -> Config:
    """Validate a folder's config.json.

    Raises:
        InputError: it is missing, damaged, or names what no repository of ours has.
    """
    path = folder / store.CONFIG
    about = read_json(path, limit=CONFIG_LIMIT)
    store.check(about, path)
    try:
        rules, base = about.get("rules"), about.get("base")
        if not isinstance(rules, list) or not 0 < len(rules) <= RULES:
            raise InputError(f"rules is not a list of 1 to {RULES} files")
        if odd := [each for each in rules if not isinstance(each, str) or not RULE.fullmatch(each)]:
            raise InputError(f"{str(odd[0])[:60]!r} is no file of rules")
        if not re.fullmatch(r"[0-9a-f]{64}", str(about.get("fingerprint"))):
            raise InputError("it has no fingerprint")
        source, clamp = (None, None) if base is None else _source(base)
        weights = flag("weights", about.get("weights"))
        if not weights and source is None:
            raise InputError("it has neither weights nor base")
        return Config(about["fingerprint"], tuple(rules), weights, source, clamp)
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}") from error


def _source(data: Any) -> tuple[Source, float | None]:
    if not isinstance(data, Mapping) or set(data) != set(SOURCE):
        raise InputError(f"base is not an object with {', '.join(SOURCE)}")
    values = {name: CHECKS[name](name, value) for name, value in data.items()}
    clamp = values.pop("clamp")
    source = Source(**values)
    if source.repository is None and source.id != BUILT_IN:
        raise InputError(f"its base {source.id!r} is on no repository")
    if source.repository and not (source.revision and source.sha256):
        raise InputError("its base lacks revision or sha256")
    return source, clamp


def rules_in(folder: Path, about: Config) -> tuple[Rule, ...]:
    """The rules of a folder, in order, with their edits validated; InputError if one cannot be used."""
    found = []
    for file in about.rules:
        rule = Rule.load(folder / file)
        if rule.fingerprint != about.fingerprint:
            raise InputError(f"{folder / file} belongs to another generator than {store.CONFIG} says: fetch both again")
        found.append(rule)
        check_edits(found)  # after each: masks are large once they are decoded
    return tuple(found)


def check_edits(rules: Sequence[Rule]) -> None:
    """Raise InputError for rules whose masks together are too large to be looked at in reasonable time."""
    if sum(rule.edit.cells for rule in rules if rule.edit) > CELLS:
        raise InputError(f"the masks of all rules together have more than {CELLS >> 20} million cells")


# --- the network ---


def fetch(
    repo_id: str, revision: str | None = None, *, apart: Path | None = None, on_step: OnStep = lambda done, of: None
) -> tuple[Path, str]:
    """A published generator's files on this machine: the folder, and the commit that it is.

    Args:
        repo_id: USER/NAME.
        revision: branch, tag or commit; None: the newest.
        apart: a folder for the rules alone, which may not be large, asked for as nobody; None: with the token in
            HF_TOKEN, or of `hf auth login`, into the Hugging Face cache, and the weights too.
        on_step: told how many bytes of the weights are there, and of how many.

    Raises:
        InputError: no such repository or revision, not allowed, no network, or files that cannot be used.
    """
    check_name(repo_id)
    token = False if apart else None
    left = RULE_LIMIT if apart else RULE_LIMIT * RULES
    doing = f"open {repo_id} on the Hub{'' if apart else ' (it is no path here)'}"
    with in_words(doing, HfApi(token=token), PUBLIC if apart else ADVICE):
        path = _get(repo_id, store.CONFIG, revision, CONFIG_LIMIT, apart)
        folder, commit = path.parent, path.parent.name
        store.check(read_json(path, limit=CONFIG_LIMIT), path)
        about = read(folder) if is_published(folder) else None
        for file in about.rules if about else ():
            left -= _get(repo_id, file, commit, min(RULE_LIMIT, left), apart).stat().st_size
        if not apart and (about is None or about.weights):
            source = Source(id=repo_id, repository=repo_id, file=store.WEIGHTS, revision=commit, size=None, sha256=None)
            fetch_file(source, on_step=on_step)
    return folder, commit


def _get(repo_id: str, file: str, revision: str | None, most: int, apart: Path | None) -> Path:
    """A small file in the cache: what a commit holds never changes; of a branch the newest, the last one if offline.

    What is for the public goes into a folder of its own: in the cache may be what somebody may see, and not everybody.
    """
    kept = None if apart else try_to_load_from_cache(repo_id, file, revision=revision)
    token = False if apart else None
    if isinstance(kept, str) and COMMIT.fullmatch(revision or ""):
        return Path(kept)
    try:
        size = get_hf_file_metadata(hf_hub_url(repo_id, file, revision=revision), token=token).size
        if size is None or size > most:
            raise InputError(
                f"cannot open {repo_id}: {file} should have at most {most >> 20} MB, and has {size or '?'}"
            )
        return Path(hf_hub_download(repo_id, file, revision=revision, token=token, cache_dir=apart))
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
    """Generators on the Hub that carry our tag, the newest first.

    Raises:
        InputError: the Hub cannot be asked.
    """
    api = HfApi(endpoint=endpoint, token=token)
    found = []
    with in_words("list what was published", api):
        for info in api.list_models(filter=TAG, sort="last_modified", limit=most, full=True):
            with suppress(InputError):
                check_name(info.id)
                bases = [tag.removeprefix("base_model:") for tag in info.tags or [] if tag.startswith("base_model:")]
                base = next(filter(is_name, bases), BUILT_IN if BUILT_IN in (info.tags or []) else "weights of its own")
                when = f"{info.last_modified:%Y-%m-%d}" if info.last_modified else ""
                found.append(Listed(info.id, base, info.likes or 0, when, bool(info.private)))
    return found
