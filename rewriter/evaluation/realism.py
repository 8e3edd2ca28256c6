"""Which looks more real? People judge pairs of pictures blind, as workers did for Bau et al. 2020.

A study is a folder: `study.json` says what is compared, `pairs/<method>/<seed>.png` are the pictures, `answers.jsonl`
is what people said. It can be interrupted anywhere; the same folder goes on.
"""

from __future__ import annotations

import json
import random
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from rewriter.errors import InputError
from rewriter.evaluation import realism_answers
from rewriter.evaluation.realism_answers import CANNOT_TELL, Answer, Answers
from rewriter.files import read_json, replacing
from rewriter.generators.latents import SEEDS
from rewriter.pictures import save_png

FORMAT = "rewriter-realism-1"
_NAME = re.compile(r"\w([\w .+-]{0,62}\w)?")  # of a method: it is a folder's name too
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)  # what Pillow says of pictures it cannot read

Draw = Callable[[str, int], Image.Image]  # the picture of a seed by a method


@dataclass(frozen=True)
class Showing:
    """A pair as a rater sees it: its number in the study, the methods on both sides, and that it is their n-th."""

    pair: int
    left: str
    right: str
    n: int


@dataclass(frozen=True)
class Study:
    """Pictures of the same seeds by a reference method and by others, to be judged pair by pair.

    folder: where it lies. reference: the method that each of `others` is compared with, such as "ours". seeds: of the
    pictures. order: the random number that the raters' orders and the sides come from. about: what else the pictures
    come from, as JSON, such as the fingerprints of the generator and the rules.
    """

    folder: Path
    reference: str
    others: tuple[str, ...]
    seeds: tuple[int, ...]
    order: int
    about: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def create(
        folder: str | Path,
        *,
        reference: str,
        others: Sequence[str],
        seeds: Sequence[int],
        pictures: Draw,
        about: Mapping[str, Any] | None = None,
        on_step: Callable[[int, int], object] | None = None,
    ) -> Study:
        """Begin a study in a new or empty folder, or go on in its own: only pictures that are not there are drawn.

        Raises:
            InputError: names, seeds or pictures that cannot be compared, or a folder that holds something else.
        """
        facts = json.loads(json.dumps(about or {}))
        study = Study(Path(folder), reference, tuple(others), tuple(seeds), secrets.randbits(53), facts)
        study._check()
        if (study.folder / "study.json").exists():
            study = study._found()
        else:
            study._begin()
        for done, (seed, method) in enumerate(wanted := [(s, m) for s in study.seeds for m in study.methods], 1):
            if not study._path(method, seed).exists():
                save_png(pictures(method, seed).convert("RGB"), study._path(method, seed))
            if on_step:
                on_step(done, len(wanted))
        study._check_pictures()
        return study

    @staticmethod
    def load(folder: str | Path) -> Study:
        """The study of a folder.

        Raises:
            InputError: there is none, it is damaged, or its pictures are not all there.
        """
        study = _read(Path(folder))
        study._check_pictures()
        return study

    @property
    def methods(self) -> tuple[str, ...]:
        """The reference, then the others."""
        return self.reference, *self.others

    @property
    def count(self) -> int:
        """How many pairs there are."""
        return len(self.others) * len(self.seeds)

    def pair(self, number: int) -> tuple[str, int]:
        """The method that a pair compares with the reference, and its seed; pairs count from 0, method by method."""
        return self.others[number // len(self.seeds)], self.seeds[number % len(self.seeds)]

    def picture(self, method: str, pair: int) -> Image.Image:
        """A pair's picture by one of its two methods; InputError if it cannot be read any more."""
        path = self._path(method, self.pair(pair)[1])
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except _BROKEN as error:
            raise InputError(f"{path} is missing or damaged: remove it and create the study again there") from error

    def next(self, rater: str) -> Showing | None:
        """What a rater is to judge next: of the pairs new to them, one judged least so far; None after the last."""
        given = self.answers().given
        own, counts = {one.pair for one in given if one.rater == rater}, Counter(one.pair for one in given)
        new = [sided for sided in self._order(rater) if sided[0] not in own]
        if not new:
            return None
        pair, first = min(new, key=lambda sided: counts[sided[0]])  # of several, the first in the rater's own order
        left, right = (self.reference, self.pair(pair)[0])[:: 1 if first else -1]
        return Showing(pair, left, right, len(own) + 1)

    def answers(self) -> Answers:
        """All answers so far; InputError if the file holds something else."""
        return realism_answers.read(self.folder / "answers.jsonl", self._belongs)

    def record(self, answer: Answer) -> bool:
        """Write an answer at once and for good; False if its rater has judged that pair already.

        Raises:
            InputError: it is no answer of this study, or cannot be written.
        """
        return realism_answers.append(self.folder / "answers.jsonl", answer, self._belongs)

    def _order(self, rater: str) -> list[tuple[int, bool]]:
        """A rater's own order: pairs, and whether the reference is on the left, as it is in half of each method's."""
        draw, order = random.Random(f"{self.order} {rater}"), []
        for start in range(0, self.count, len(self.seeds)):
            odd = draw.randrange(2)
            sides = [(i + odd) % 2 == 0 for i in range(len(self.seeds))]
            draw.shuffle(sides)
            order += list(enumerate(sides, start))
        draw.shuffle(order)
        return order

    def _belongs(self, answer: Answer) -> bool:
        if not 0 <= answer.pair < self.count:
            return False
        sides, methods = [answer.left, answer.right], [self.reference, self.pair(answer.pair)[0]]
        return sides in (methods, methods[::-1]) and answer.chosen in (*sides, CANNOT_TELL)

    def _path(self, method: str, seed: int) -> Path:
        return self.folder / "pairs" / method / f"{seed}.png"

    def _check(self) -> None:
        """Names and seeds that can be compared, or InputError."""
        for name in self.methods:
            if not _NAME.fullmatch(name) or name == CANNOT_TELL:
                raise InputError(f"method {name!r}: a name is letters, digits, spaces and . + -, 64 at most")
        if not self.others or len({name.casefold() for name in self.methods}) < len(self.methods):
            raise InputError(f"methods {', '.join(self.methods)}: name a reference and at least one other, each once")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError("give at least one seed, and each once")
        for seed in self.seeds:
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
                raise InputError(f"seed {seed!r} is not a whole number from 0 to {SEEDS - 1:,}")

    def _found(self) -> Study:
        """The same study as it lies in the folder."""
        found = _read(self.folder)
        differing = [name for name in vars(self) if name != "order" and getattr(self, name) != getattr(found, name)]
        if differing:
            raise InputError(f"{self.folder} holds a study with other {', '.join(differing)}: choose another folder")
        return found

    def _begin(self) -> None:
        try:
            there = [path.name for path in self.folder.iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            there = []
        except OSError as error:
            raise InputError(f"{self.folder} cannot hold a study ({error.strerror}): choose another folder") from error
        if there:
            raise InputError(f"{self.folder} holds {min(there)} but no study: choose a new or empty folder")
        said = {name: value for name, value in vars(self).items() if name != "folder"}
        with replacing(self.folder / "study.json") as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **said}, indent=1) + "\n", encoding="utf-8")

    def _check_pictures(self) -> None:
        """All are there, and those of a seed alike in size, which would tell them apart; or InputError."""
        for seed in self.seeds:
            sizes = [f"{method} {self._size(self._path(method, seed))}" for method in self.methods]
            if len({size.rpartition(" ")[2] for size in sizes}) > 1:
                raise InputError(f"the pictures of seed {seed} differ in size ({', '.join(sizes)}): draw them alike")

    @staticmethod
    def _size(path: Path) -> str:
        try:
            with Image.open(path) as image:
                return f"{image.width}×{image.height}"
        except _BROKEN as error:
            raise InputError(f"{path} is missing or damaged: remove it and create the study again there") from error


def _read(folder: Path) -> Study:
    path = folder / "study.json"
    if not path.exists():
        raise InputError(f"{folder} holds no study (no study.json): create one there first")
    said = read_json(path)
    if not isinstance(said, dict) or said.pop("format", None) != FORMAT:
        raise InputError(f"{path} is no study of this version ({FORMAT}): choose another folder")
    try:
        study = Study(folder, **said)
        study = replace(study, others=tuple(study.others), seeds=tuple(study.seeds))
        study._check()
    except TypeError as error:
        raise InputError(f"{path} is damaged ({error}): choose another folder") from error
    return study
