"""A gallery of published generators, as a static Space: one page of cards, and the page of each, all in one commit.

Nothing of a repository is passed on as it is: its pictures are decoded and drawn anew, and its words are escaped.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import SpaceInfo

from rewriter.checkpoints.client import connect, is_name
from rewriter.editing.rule import Rule
from rewriter.errors import InputError
from rewriter.files import read_bytes
from rewriter.generators.base import Generator
from rewriter.generators.origin import Licence
from rewriter.hub import browse, player, repository
from rewriter.hub.card import JOINER, named, slug
from rewriter.hub.draft import compare, facts_of
from rewriter.hub.licences import KNOWN
from rewriter.hub.look import document, escaped
from rewriter.hub.pairs import COMPARISON, LIMIT, Pair, pairs, walls
from rewriter.hub.upload import Info, OnStatus, Target, Uploaded, silent
from rewriter.pictures import data_url, webp

FOLDER = "generators"  # of a Space: one page each; what else is in it is ours, of an earlier time
CARD, CARD_LIMIT = "README.md", 1 << 20  # bytes
MOST = 100  # generators in one gallery
WALL = {"columns": 3, "rows": 2, "side": 144}
ADVICE = {403: "the token may not write there: use one that may write to this account's Spaces, or another name"}
STYLE = """
.cards { display: grid; gap: clamp(18px, 2.4vw, 34px);
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); padding: 0; margin: 28px 0 0;
  list-style: none; }
.cards a { display: block; height: 100%; background: var(--card); color: var(--ink); text-decoration: none;
  border: 1px solid var(--line); border-radius: var(--round); overflow: hidden;
  transition: translate .2s, box-shadow .2s; }
.cards a:is(:hover, :focus-visible) { translate: 0 -4px; box-shadow: 0 14px 34px rgb(0 0 0 / .18); }
.wall { position: relative; --at: 50%; }
.wall img + img { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--at)); }
.wall::after { content: ""; position: absolute; inset: 0 auto 0 var(--at); width: 3px; margin-left: -1.5px;
  background: #fff; box-shadow: 0 0 6px rgb(0 0 0 / .5); }
.words { padding: 14px 18px 18px; }
.words h2 { font-size: 21px; color: var(--ink); margin: 0 0 .2em; letter-spacing: -.01em; line-height: 1.25; }
.words p { margin: 0; font-size: 15px; }
@property --at { syntax: "<percentage>"; inherits: true; initial-value: 50%; }
@media (prefers-reduced-motion: no-preference) { .wall { animation: travel 7s ease-in-out infinite; } }
@media (prefers-reduced-motion: reduce) { .cards a { transition: none; } }
@keyframes travel { 0%, 12% { --at: 100%; } 45%, 62% { --at: 0%; } 95%, 100% { --at: 100%; } }
"""
DESCRIPTION = r"^\*Before above after.*\n\n", r"\n\n(One rule|\d+ rules) of the generator "  # before it, and after
ABOUT = {  # what else our card says, as Markdown
    "title": r"^# (.+)$",
    "base": r"^(?:One rule|\d+ rules) of the generator \*\*(.+?)\*\*",
    "repo_id": r'^generator = rewriter\.load_generator\("([^"]+)"\)$',
    "attribution": r"^- made by: (.+)$",
    "licence": r"^- licence: \[([\w.-]+)\]\(https://",
}


@dataclass(frozen=True)
class Shown:
    """A generator in the gallery: a name for its file, what is told of it, and its pictures."""

    name: str
    facts: player.Facts
    pictures: Sequence[Pair]


# --- what is shown ---


def published(repo_id: str) -> Shown:
    """A generator that everybody can open on the Hub; InputError if there is none, or it cannot be shown."""
    more = {CARD: CARD_LIMIT, COMPARISON: LIMIT}
    with browse.public_copy(repo_id, more) as folder:
        return in_folder(folder, repo_id=repo_id)


def by_account(account: str, on_status: OnStatus = silent) -> list[Shown]:
    """What an account published for everybody, the newest first; what cannot be shown is told and left out."""
    shown = []
    for one in browse.listed(token=False, author=account):
        on_status(f"looking at {one.repo_id}")
        try:
            shown.append(published(one.repo_id))
        except InputError as error:
            on_status(f"left out: {error}")
    return shown


def in_folder(folder: Path, *, repo_id: str = "") -> Shown:
    """A generator as `Draft.save` writes it; InputError if the folder holds something else."""
    about = repository.read(folder)
    if about is None:
        raise InputError(f"{folder} holds a generator without rules: there is nothing to show before and after")
    text = _read(folder / CARD, CARD_LIMIT).decode("utf-8", "replace")
    facts = facts_in(text, repository.rules_in(folder, about), repo_id)
    return Shown(slug(facts.repo_id or folder.name), facts, pairs(_read(folder / COMPARISON, LIMIT)))


def of_rule(generator: Generator, rule: Rule, name: str) -> Shown:
    """A rule that is published nowhere, on the generator that it was made on."""
    title = rule.title[:1].upper() + rule.title[1:200]
    facts = facts_of(generator, [rule], "", title, "")
    return Shown(slug(name), facts, pairs(compare(generator, named([rule]), 0)))


def facts_in(text: str, rules: Sequence[Rule], repo_id: str = "") -> player.Facts:
    """What a card tells, where it is written like ours; the words are a stranger's."""
    found = {what: re.search(pattern, text, re.MULTILINE) for what, pattern in ABOUT.items()}
    said = {what: _typed(one[1]) if one else "" for what, one in found.items()}
    licence, before = said.pop("licence"), re.search(DESCRIPTION[0], text, re.MULTILINE)
    rest = text[before.end() :][: 1 << 15] if before else ""
    after = re.search(DESCRIPTION[1], rest)
    said["description"] = _typed(rest[: after.start()]) if after else ""
    said["repo_id"] = repo_id or (said["repo_id"] if is_name(said["repo_id"]) else "")
    said["title"] = said["title"][:200] or ", ".join(rule.title for rule in rules)[:200]
    link = KNOWN.get(licence, "")
    return player.Facts(**said, rules=player.told(rules), licence=Licence(licence, link) if licence else None)


def _typed(words: str) -> str:
    """What somebody typed, out of the Markdown that shows it."""
    return html.unescape(words[: 1 << 15]).replace(JOINER, "")[:2000]


def _read(path: Path, most: int) -> bytes:
    try:
        return read_bytes(path, limit=most)
    except InputError as error:
        raise InputError(f"{error}: publish the rules again") from error


# --- the Space ---


def files(name: str, shown: Sequence[Shown]) -> dict[str, bytes]:
    """The files of the Space `name`, by path; InputError for nothing to show, or too much."""
    if not 1 <= len(shown) <= MOST:
        hint = "publish one first (rewriter publish), or name repositories, folders or rule files"
        raise InputError(f"a gallery shows 1 to {MOST} generators, not {len(shown)}: {hint}")
    paths: list[str] = []
    for one in shown:
        tries = (f"{FOLDER}/{one.name or 'rule'}{'' if n == 1 else f'-{n}'}.html" for n in range(1, MOST + 1))
        paths.append(next(path for path in tries if path not in paths))
    title = name.split("/")[-1].replace("-", " ").replace("_", " ").capitalize()
    pages = {path: player.page(one.facts, one.pictures) for path, one in zip(paths, shown, strict=True)}
    return {CARD: _card(title), player.PAGE: _page(title, shown, paths), **dict(sorted(pages.items()))}


def _card(title: str) -> bytes:
    shown = re.sub(r"[^\w .-]", "", title) or "Gallery"
    head = f'title: "{shown}"\nsdk: static\ncolorFrom: green\ncolorTo: yellow\npinned: false'
    body = "Image generators whose rules were rewritten, before and after. Made by `rewriter deploy --static`."
    return f"---\n{head}\n---\n# {shown}\n{body}\n".encode()


def _page(title: str, shown: Sequence[Shown], paths: Sequence[str]) -> bytes:
    cards = "\n".join(_entry(one, path) for one, path in zip(shown, paths, strict=True))
    body = f"""<main>
<header><h1>{escaped(title)}</h1>
<p class="soft">Image generators with rewritten rules: each model was changed, and so is every picture it draws.</p>
</header>
<ul class="cards">
{cards}
</ul>
<footer>Made with rewriter. The pictures are inventions of networks and show nobody and nothing real.</footer>
</main>"""
    return document(title, body, style=STYLE)


def _entry(one: Shown, path: str) -> str:
    before, after = (data_url(webp(wall, 80)) for wall in walls(one.pictures, **WALL))
    whose = one.facts.repo_id or ", ".join(title for title, _, _ in one.facts.rules)
    return (
        f'<li><a href="{escaped(path)}"><div class="wall"><img alt="" src="{before}"><img alt="" src="{after}"></div>'
        f'<div class="words"><h2>{escaped(one.facts.title)}</h2>'
        f'<p class="soft">{escaped(whose, 200)} · {escaped(one.facts.base, 200)}</p></div></a></li>'
    )


def deploy(
    repo_id: str,
    contents: dict[str, bytes],
    *,
    token: str | None = None,
    private: bool | None = None,
    endpoint: str | None = None,
    on_status: OnStatus = silent,
) -> Uploaded:
    """Make `files` a static Space, or update one, in one commit: all of it arrives, or nothing does.

    Pages of an earlier time in generators/ are deleted; all other files stay. A new Space is public unless `private`.
    The other arguments, and the errors, are those of `publish`.
    """
    api, new = connect(token, endpoint=endpoint), {"space_sdk": "static", "private": bool(private)}
    target = Target(api=api, repo_id=repo_id, check=_check, kind="space", private=private, options=new, advice=ADVICE)
    if target.find(on_status=on_status) is None:
        target = replace(target, check=_check_kind)  # the Hub may put a page of its own into a new one

    def outdated(there: Iterable[str]) -> list[str]:
        return [path for path in there if path.startswith(f"{FOLDER}/") and path not in contents]

    return target.upload(contents, "Deploy the gallery", outdated=outdated, on_status=on_status)


def _check_kind(found: Info) -> None:
    assert isinstance(found, SpaceInfo)
    if found.sdk not in (None, "static"):
        raise InputError(f"{found.id} is a Space of another kind ({found.sdk}): choose another name")


def _check(found: Info) -> None:
    """Raise InputError for somebody's other Space."""
    _check_kind(found)
    paths = [file.rfilename for file in found.siblings or []]
    others = [path for path in paths if path not in (".gitattributes", CARD)]
    if others and not any(path.startswith(f"{FOLDER}/") for path in paths):
        hint = "choose another name, or delete these first"
        raise InputError(f"{found.id} holds another site ({', '.join(others[:3])}): {hint}")
