"""A rewritten generator goes to the Hub: what a repository is to hold, and the one commit that brings it there."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from PIL import Image

import rewriter
from rewriter import card, licences, published
from rewriter.card import Named
from rewriter.checkpoints import store
from rewriter.checkpoints.layouts import PROGGAN, STYLEGAN2
from rewriter.edit import Edit
from rewriter.effect import firing
from rewriter.errors import InputError
from rewriter.files import replacing
from rewriter.generators.base import Generator
from rewriter.history import RULES
from rewriter.pictures import before_after
from rewriter.remote import check_name, connect, in_words
from rewriter.rule import Rule

TITLE, DESCRIPTION = 80, 2000  # characters
OURS = ("rules", "edits", "pictures", "exported")  # folders of a repository that are ours to keep in order
TRIES = 3  # to commit on top of what others commit meanwhile
SLOW = 10e9  # operations of a picture, from where on fewer are drawn without a GPU
ADVICE = {
    402: "this needs a paid plan, or make it public: private storage has its limits",
    403: "this account or its token may not write there: name a repository of your own account, or propose the change "
    "with create_pr (--pr)",
    413: "this is more than the account's storage holds: publish the rules only, or make room",
}
OnStep = Callable[[str], object]


@dataclass(frozen=True)
class Draft:
    """What a repository is to hold, before anything is sent.

    files: path → content. later: path → what writes the file when it is sent, for what is large.
    sizes: bytes of each, near enough for those that are not written yet.
    """

    repo_id: str
    title: str
    files: Mapping[str, bytes]
    later: Mapping[str, Callable[[Path], None]] = field(default_factory=dict, repr=False)
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def card(self) -> str:
        """README.md."""
        return self.files["README.md"].decode()

    def save(self, folder: str | Path) -> None:
        """Write all of it into a folder, which `load_generator` takes."""
        folder = Path(folder)
        for path, data in self.files.items():
            with replacing(folder / path) as temporary:
                temporary.write_bytes(data)
        for path, write in self.later.items():
            write(folder / path)


@dataclass(frozen=True)
class Published:
    """What became of it.

    url, commit: where it is, and what it now is; of a proposal, the pull request's page.
    created: whether the repository is new. changed: whether anything had to be sent. proposed: as a pull request.
    """

    url: str
    commit: str
    created: bool
    changed: bool
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
    on_step("drawing the pictures")
    made = draft(
        generator, rules, repo_id, title=title, description=description, weights=weights, export=export, licence=licence
    )
    return send(made, api, private=private, create_pr=create_pr, on_step=on_step)


def draft(
    generator: Generator,
    rules: Sequence[Rule] | None,
    repo_id: str,
    *,
    title: str = "",
    description: str = "",
    weights: bool = True,
    export: Sequence[str] = (),
    licence: str = "",
    on_step: Callable[[int, int], object] = lambda done, of: None,
) -> Draft:
    """What `publish` would send; asks the network for nothing but a licence's text.

    Args:
        generator: the base.
        rules: in order; None: those that the generator carries.
        repo_id: where it is to go.
        title: "": from the rules' titles. At most 80 characters, on one line.
        description: a paragraph or more for the card, at most 2,000 characters.
        weights: whether the base's weights go along; without them they are fetched from where the base lives.
        export: layouts in which folded weights go along too, for other people's tools: see `rewriter convert`.
        licence: of a base whose licence is not known: its id on the Hub.
        on_step: called with (pictures done, of).

    Raises:
        InputError: no rules, rules of another generator, a name or words that cannot be used, a layout that does not
            exist, a base that is nowhere to be fetched from, or a licence that contradicts the one that is known.
    """
    check_name(repo_id)
    own = [rule for rule in generator.rules if isinstance(rule, Rule)] if rules is None else list(rules)
    _check(generator, own, title, description)
    base = _licensed(generator, licence)
    each = card.named(own)
    title = title.strip() or ", ".join(one.title for one in each)[:TITLE]
    layouts = _layouts(generator, export)
    listed = [f"rules/{one.slug}.safetensors" for one in each]
    config = published.config(base, listed, weights=weights)
    files: dict[str, bytes] = {store.CONFIG: config, "LICENSE": licences.text_of(base.origin)}
    files |= _pictures(base, each, on_step)
    for one in each:
        files[f"rules/{one.slug}.safetensors"] = _saved(one.rule)
        if one.rule.edit:
            edit = Edit.from_json(one.rule.edit).to_json()
            files[f"edits/{one.slug}.json"] = (json.dumps(edit, indent=1, ensure_ascii=False) + "\n").encode()
    text = card.write(
        base,
        each,
        repo_id,
        title=title,
        description=description,
        weights=weights,
        exported=layouts,
        version=rewriter.__version__,
    )
    files["README.md"] = text.encode()
    later: dict[str, Callable[[Path], None]] = {}
    if weights:
        later[store.WEIGHTS] = partial(store.write_weights, base)
    for layout, file in layouts.items():
        later[file] = partial(_export, base, own, layout)
    size = sum(tensor.nbytes for tensor in base.state_dict().values())
    sizes = {path: len(data) for path, data in files.items()} | dict.fromkeys(later, size)
    return Draft(repo_id, title, dict(sorted(files.items())), later, dict(sorted(sizes.items())))


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
    on_step(f"looking for {made.repo_id}")
    found = _look(api, made.repo_id)
    created = found is None
    if found is None:
        if create_pr:
            raise InputError(f"there is no {made.repo_id} to propose this to: publish it without create_pr")
        on_step(f"making {made.repo_id}")
        found = _create(api, made.repo_id, private is None or private, advice)
    with TemporaryDirectory() as folder:
        content: dict[str, str | bytes] = dict(made.files)
        for path, write in made.later.items():
            on_step(f"writing {path}")
            write(Path(folder) / path)
            content[path] = str(Path(folder) / path)
        on_step(f"sending what is new of {len(content)} files ({sum(made.sizes.values()) / 1e6:.1f} MB)")
        for left in reversed(range(TRIES)):
            _check_there(found, made.repo_id, (private is None or private) if created else private)
            try:
                return _commit(api, made, found, content, advice, created=created, create_pr=create_pr)
            except InputError as error:
                if not left or _status(error) != 412:
                    raise
            on_step("somebody committed in the meantime; trying again on top of that")
            again = _look(api, made.repo_id)
            if again is None:
                raise InputError(f"{made.repo_id} was deleted in the meantime: publish it again")
            found = again
    raise AssertionError("unreachable")


# --- what goes there ---


def _check(generator: Generator, rules: Sequence[Rule], title: str, description: str) -> None:
    if not rules:
        raise InputError("there is no rule to publish: execute an edit first, or give the rules")
    if len(rules) > RULES:
        raise InputError(f"at most {RULES} rules go into one repository, not {len(rules)}")
    for rule in rules:
        rule.check(generator)
        if rule.edit:
            Edit.from_json(rule.edit)
    if len(title) > TITLE or not title.isprintable():
        raise InputError(f"the title is one line of at most {TITLE} characters")
    printable = all(line.isprintable() for line in description.replace("\r\n", "\n").split("\n"))
    if len(description) > DESCRIPTION or not printable:
        raise InputError(f"the description is plain text of at most {DESCRIPTION:,} characters")


def _licensed(generator: Generator, licence: str) -> Generator:
    """The generator, with the licence that somebody stated where none is known."""
    known = generator.origin.get("licence")
    if not licence or known and known["id"] == licence:
        return generator
    if known:
        raise InputError(f"{generator.name} is under {known['id']}, which cannot be changed to {licence!r}: leave it")
    if licence not in licences.ON_HUB:
        raise InputError(f"licence {licence!r} is none of {', '.join(licences.ON_HUB)}")
    stated = generator.rewritten([])
    stated.origin = {**generator.origin, "licence": {"id": licence, "link": licences.ON_HUB[licence]}}
    stated.advice = dict(generator.advice)
    return stated


def _layouts(generator: Generator, export: Sequence[str]) -> dict[str, str]:
    """Layouts and the files that they go into."""
    there = STYLEGAN2 if store.architecture(generator) == "stylegan2" else PROGGAN
    if unknown := [layout for layout in export if layout not in there]:
        raise InputError(f"{generator.name} cannot be written as {unknown[0]!r}: choose {' or '.join(there)}")
    return {layout: f"exported/{layout}.pt" for layout in export}


def _export(generator: Generator, rules: Sequence[Rule], layout: str, path: Path) -> None:
    store.export(generator.rewritten(rules), path, layout)


def _saved(rule: Rule) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "rule.safetensors"
        rule.save(path)
        return path.read_bytes()


def _pictures(generator: Generator, rules: Sequence[Named], on_step: Callable[[int, int], object]) -> dict[str, bytes]:
    """Before and after: of all rules together, and of each with those before it on both sides."""
    slow = generator.device.type == "cpu" and generator.operations > SLOW
    hits, limit = (4, 64) if slow else (12, 384)
    steps, made = len(rules) + 1, {}
    every = [one.rule.to(generator.device) for one in rules]
    psi = next((float(rule.edit["truncation"]) for rule in every if "truncation" in rule.edit), 1.0)
    jobs: list[tuple[str, list[Rule], list[Rule]]] = [("comparison.png", [], every)]
    jobs += [(f"pictures/{one.slug}.png", every[:i], every[: i + 1]) for i, one in enumerate(rules) if every[i].active]
    for done, (path, before, after) in enumerate(jobs):
        on_step(done, steps)
        new = after[len(before) :]
        wanted = (hits, hits // 3) if not done else (hits // 2, 0)
        seeds, others = firing(generator, new, hits=wanted[0], misses=wanted[1], truncation=psi, limit=limit)
        fire = len(seeds)
        seeds += others or [*range(0 if seeds else hits // 2)]  # of a context that nothing answers to, any
        then, now = (generator.sample(seeds, truncation=psi, rules=own) for own in (before, after))
        made[path] = _png(before_after(then, now, seeds, firing=fire, columns=hits // 2))
    on_step(steps, steps)
    return made


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# --- how it gets there ---


def _look(api: HfApi, repo_id: str) -> ModelInfo | None:
    with in_words(f"look at {repo_id}", api):
        try:
            return api.model_info(repo_id)
        except RepositoryNotFoundError as error:
            if error.response.status_code != 404:
                raise
    return None


def _create(api: HfApi, repo_id: str, private: bool, advice: Mapping[int, str]) -> ModelInfo:
    with in_words(f"make {repo_id}", api, advice):
        api.create_repo(repo_id, private=private, exist_ok=True)
    found = _look(api, repo_id)
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
    if private is not None and found.private is not None and found.private != private:
        now, wanted = ("private", "public") if found.private else ("public", "private")
        raise InputError(f"{repo_id} is {now}: make it {wanted} in its settings on the Hub, or choose another name")


def _stale(there: Iterable[str], made: Draft) -> list[str]:
    """What an earlier version left: in our folders, and weights that are not published any more."""
    wanted = {*made.files, *made.later}
    gone = [path for path in there if path not in wanted]
    return [path for path in gone if PurePosixPath(path).parts[0] in OURS or path == store.WEIGHTS]


def _commit(
    api: HfApi,
    made: Draft,
    found: ModelInfo,
    content: Mapping[str, str | bytes],
    advice: Mapping[int, str],
    *,
    created: bool,
    create_pr: bool,
) -> Published:
    """Commit on top of what was found and nothing else; operations are new for each try: they remember the last."""
    operations = [CommitOperationAdd(path, data) for path, data in content.items()]
    gone = [CommitOperationDelete(path, is_folder=False) for path in _stale(_paths(found), made)]
    with in_words(f"publish {made.repo_id}", api, advice):
        done = api.create_commit(
            made.repo_id,
            [*operations, *gone],
            commit_message=f"Publish: {card.slug(made.title) or 'rules'}",
            parent_commit=found.sha,
            create_pr=create_pr,
        )
    url = done.pr_url or f"{api.endpoint}/{made.repo_id}"
    return Published(url, done.oid, created, done.oid != found.sha, bool(done.pr_url))


def _status(error: BaseException) -> int | None:
    cause = error.__cause__
    with suppress(AttributeError):
        if isinstance(cause, HfHubHTTPError):
            return int(cause.response.status_code)
    return None
