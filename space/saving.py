"""Files that visitors keep: edits, sessions, rules, sheets of pictures and animations."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from rewriter import Edit, Rule, save_edits
from rewriter.errors import InputError
from rewriter.pictures import animation, save_png, stacked
from studio import Studio, Visitor
from view import Shown, chosen, data_url

Write = Callable[["Belongings", Path], object]


class Belongings:
    """What there is to keep of a visitor's; `index`: which rule, where one is asked for."""

    def __init__(self, studio: Studio, visitor: Visitor, index: int) -> None:
        self.studio, self.visitor, self.index, self.session = studio, visitor, index, studio.session(visitor)

    @property
    def edits(self) -> list[Edit]:
        """The requests behind the rules, then the one in progress if it has led to none; at least one."""
        edit, edits = self.session.edit, list(self.session.edits)
        started = self.session.history.present.made is None and (edit.copy or edit.paste or edit.context)
        return [*edits, *([edit] if started or not edits else [])]

    @property
    def rule(self) -> Rule:
        """One of the rules; InputError if there is none of that number."""
        rules = self.session.rules
        if not isinstance(self.index, int) or not 0 <= self.index < len(rules):
            raise InputError(f"there is no rule {self.index!r}: there are {len(rules)}, numbered from 0")
        return rules[self.index]

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """The pictures on screen, before and after."""
        before, after = (self.studio.pictures(self.session, self.visitor.seeds, rules) for rules in ([], None))
        return before, after


def _sheet(own: Belongings, path: Path) -> None:
    captions = [f"{seed}" for seed in own.visitor.seeds]
    save_png(stacked(own.pair, captions, columns=6, title="before above after"), path)


KINDS: dict[str, tuple[str, str, Write]] = {  # the file's ending, its type, and how it is written
    "edit": (".json", "application/json", lambda own, path: save_edits(own.edits, path)),
    "session": (".session.safetensors", "application/octet-stream", lambda own, path: own.session.save(path)),
    "rule": (".rule.safetensors", "application/octet-stream", lambda own, path: own.rule.save(path)),
    "sheet": (".png", "image/png", _sheet),
    "animation": (".webp", "image/webp", lambda own, path: path.write_bytes(animation(*own.pair))),
}


def saved(own: Belongings, what: str) -> Shown:
    """A file for the browser to keep, of one of KINDS; `whole`: whether nothing would be lost with the page."""
    suffix, kind, write = chosen(what, KINDS)
    titles = [rule.title for rule in own.session.rules] or ["edit"]
    name = re.sub(r"[^A-Za-z0-9-]+", "-", "-and-".join(titles))[:60].strip("-") or "rules"
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}{suffix}"
        write(own, path)
        url = data_url(path.read_bytes(), kind)
        return {"name": path.name, "url": url, "whole": what in ("edit", "session"), "at": time.time_ns()}
