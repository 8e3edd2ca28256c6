"""What a study of realism has found: how often each method was judged more real than the reference, and how surely."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rewriter.errors import InputError
from rewriter.evaluation.intervals import Interval, crossed_bootstrap, wilson
from rewriter.evaluation.realism import Study
from rewriter.evaluation.realism_answers import CANNOT_TELL, Answer


@dataclass(frozen=True)
class Comparison:
    """One method against the reference.

    more_real: how often its picture was chosen, of n answers that chose one; cannot_tell: answers beside these.
    share: more_real / n, None where n is 0. wilson: its 95 % interval if all answers were independent. bootstrap: the
    95 % interval over raters and pairs, None for a single rater. raters, pairs: how many gave and got an answer.
    """

    method: str
    more_real: int
    n: int
    cannot_tell: int
    share: float | None
    wilson: Interval | None
    bootstrap: Interval | None
    raters: int
    pairs: int


@dataclass(frozen=True)
class Summary:
    """All comparisons with the reference.

    answers, raters: how many. pairs: how many there are to judge. left: the share of choices that fell on the left
    picture; as methods change sides, a habit there makes no method look better. damaged: numbers of unreadable lines.
    """

    reference: str
    comparisons: tuple[Comparison, ...]
    answers: int
    raters: int
    pairs: int
    left: float | None
    damaged: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def markdown(self) -> str:
        """As a table, and what must be known to read it."""
        head = ["method", f"more real than {self.reference}", "95 % (Wilson)", "95 % (raters, pairs)", "n"]
        rows = [[*head, "cannot tell"], ["---", *["---:"] * 5], *map(_row, self.comparisons)]
        people = f"{self.raters} people" if self.raters > 1 else "one person"
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines += ["", f"{self.answers} answers by {people}, {self.pairs} pairs to judge."]
        if self.left is not None:
            lines[-1] += f" The left picture was chosen in {self.left:.0%}."
        if self.raters == 1:
            lines.append("One person's eye: the interval says nothing of other people; ask more of them.")
        if self.damaged:
            listed = ", ".join(map(str, self.damaged))
            lines.append(f"Left out: line {listed} of answers.jsonl, cut short when the program was stopped.")
        return "\n".join(lines)


def summary(study: Study) -> Summary:
    """What the answers so far say.

    Raises:
        InputError: there are none yet.
    """
    answers = study.answers()
    if not answers.given:
        raise InputError(f"{study.folder} has no answers yet: open the study's page and let people judge the pairs")
    chosen = [one for one in answers.given if one.chosen != CANNOT_TELL]
    return Summary(
        reference=study.reference,
        comparisons=tuple(_comparison(method, study, answers.given) for method in study.others),
        answers=len(answers.given),
        raters=len({one.rater for one in answers.given}),
        pairs=study.count,
        left=sum(one.chosen == one.left for one in chosen) / len(chosen) if chosen else None,
        damaged=answers.damaged,
    )


def _comparison(method: str, study: Study, given: tuple[Answer, ...]) -> Comparison:
    said = [one for one in given if method in (one.left, one.right)]
    chosen = [one for one in said if one.chosen != CANNOT_TELL]
    wins, n = [one.chosen == method for one in chosen], len(chosen)
    raters, pairs = [one.rater for one in chosen], [one.pair for one in chosen]
    return Comparison(
        method=method,
        more_real=sum(wins),
        n=n,
        cannot_tell=len(said) - n,
        share=sum(wins) / n if n else None,
        wilson=wilson(sum(wins), n) if n else None,
        bootstrap=crossed_bootstrap(raters, pairs, wins) if len(set(raters)) > 1 else None,
        raters=len({one.rater for one in said}),
        pairs=len({one.pair for one in said}),
    )


def _row(one: Comparison) -> list[str]:
    spans = [f"{100 * span[0]:.1f} – {100 * span[1]:.1f} %" if span else "–" for span in (one.wilson, one.bootstrap)]
    share = f"{one.share:.1%}" if one.share is not None else "–"
    return [one.method, share.replace("%", " %"), *spans, str(one.n), str(one.cannot_tell)]
