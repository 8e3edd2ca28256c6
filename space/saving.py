"""Files that visitors save: edits, sessions, rules, sheets of pictures and animations."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from rewriter import Rewriter, save_edits
from rewriter.errors import InputError
from rewriter.pictures import animation, data_url, save_png, stacked
from state import Shared, Visitor
from view import Shown, edits_of, look_up

KINDS = {  # the ending of the file's name, and its type
    "edit": (".json", "application/json"),
    "session": (".session.safetensors", "application/octet-stream"),
    "rule": (".rule.safetensors", "application/octet-stream"),
    "sheet": (".png", "image/png"),
    "animation": (".webp", "image/webp"),
    "gif": (".gif", "image/gif"),
}


@dataclass(frozen=True)
class Export:
    """A visitor's work as files; `index` is the number of the rule, for a rule's file."""

    shared: Shared
    visitor: Visitor
    session: Rewriter
    index: int = 0

    def file(self, what: str) -> Shown:
        """A file of one of KINDS for the browser, named after the rules; `whole` if it holds all of the work."""
        suffix, kind = look_up(what, KINDS)
        titles = [rule.title for rule in self.session.rules] or ["edit"]
        name = re.sub(r"[^A-Za-z0-9-]+", "-", "-and-".join(titles))[:60].strip("-") or "rules"
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}{suffix}"
            getattr(self, f"_write_{what}")(path)
            url = data_url(path.read_bytes(), kind)
        return {"name": path.name, "url": url, "whole": what in ("edit", "session"), "at": time.time_ns()}

    def _write_edit(self, path: Path) -> None:
        save_edits(edits_of(self.session), path)

    def _write_session(self, path: Path) -> None:
        self.session.save(path)

    def _write_rule(self, path: Path) -> None:
        rules = self.session.rules
        if not isinstance(self.index, int) or not 0 <= self.index < len(rules):
            raise InputError(f"there is no rule {self.index!r}: there are {len(rules)}, numbered from 0")
        rules[self.index].save(path)

    def _write_sheet(self, path: Path) -> None:
        captions = [f"{seed}" for seed in self.visitor.seeds]
        save_png(stacked(self._before_after(), captions, columns=6, title="before above after"), path)

    def _write_animation(self, path: Path) -> None:
        path.write_bytes(animation(*self._before_after()))

    def _write_gif(self, path: Path) -> None:
        path.write_bytes(animation(*self._before_after(), kind="gif"))

    def _before_after(self) -> tuple[Tensor, Tensor]:
        """The pictures in the filmstrip."""
        seeds = self.visitor.seeds
        return self.shared.pictures(self.session, seeds, []), self.shared.painted(self.session, seeds)
