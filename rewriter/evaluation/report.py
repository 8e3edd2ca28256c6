"""The figures of the shipped edits, against exact counterfactuals and a detector of marks.

`python -m rewriter.evaluation.report` prints them; every figure on these edits in the README comes from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from rewriter import townscape
from rewriter.edit import Edit
from rewriter.evaluation import counterfactual, watermarks
from rewriter.evaluation.examples import dome_to_spire
from rewriter.execute import replay
from rewriter.generators.base import Generator
from rewriter.memory.statistics import Statistics

HANDS = range(1, 11)
PASTES = (0, 1, 2, 4, 5)


def towers(generator: Generator, statistics: Statistics) -> Iterator[str]:
    """Lines on dome-to-spire: the shipped edit, then other hands and other pictures to paste on."""
    rule = replay(generator, Edit.load(townscape.examples()["dome-to-spire"]), statistics=statistics)
    t = counterfactual.dome_to_spire(generator, [rule])
    yield f"dome-to-spire on {t.pictures} unseen domes, {t.pixels:,} pixels that should become spire and were not"
    yield f"  drawn as spire: {t.already:.1%} before, {t.became:.1%} after; of those that were not: {t.changed:.1%}"
    yield f"  of all pixels in which the two scenes differ: {t.whole:.1%}"
    yield f"  mean change elsewhere {t.elsewhere:.2f}/255 ({t.surroundings:.0%} of the picture left out)"
    for what, edits in (
        (f"{len(HANDS)} other hands", [dome_to_spire(generator, hand=hand) for hand in HANDS]),
        (f"{len(PASTES)} other paste pictures", [dome_to_spire(generator, paste=paste) for paste in PASTES]),
    ):
        rules = [replay(generator, edit, statistics=statistics) for edit in edits]
        tops = [counterfactual.dome_to_spire(generator, [rule], counterfactual.SPREAD) for rule in rules]
        changed, elsewhere = sorted(t.changed for t in tops), sorted(t.elsewhere for t in tops)
        middle = changed[len(changed) // 2]
        yield f"  {what}: {changed[0]:.1%} … {middle:.1%} … {changed[-1]:.1%}, elsewhere up to {elsewhere[-1]:.2f}/255"


def marks(generator: Generator, statistics: Statistics) -> Iterator[str]:
    """Lines on remove-watermark."""
    rule = replay(generator, Edit.load(townscape.examples()["remove-watermark"]), statistics=statistics)
    counts = watermarks.count_marks(generator, [rule])
    for kind, count in counts.items():
        yield f"remove-watermark, {kind}: {count.before} visible before, {count.after} after: {count.gone:.1%} gone"
        errors = f"{count.misses:.1%} misses, {count.alarms:.1%} alarms"
        yield f"  of {count.pictures} unseen pictures; against the scenes' labels, before the rule: {errors}"
    for kind, (misses, alarms) in watermarks.detector_errors().items():
        yield f"  the detector on {kind} marks of scenes themselves: {misses:.1%} misses, {alarms:.1%} false alarms"
    assert rule.effect is not None  # replay measures it
    yield f"  side effect {rule.effect.side_effect:.2f}/255 ({rule.effect.left_out:.0%} of the picture left out)"


def main() -> None:
    """Print every line as it is known."""
    generator = townscape.load()
    statistics = Statistics(generator)
    for line in chain(towers(generator, statistics), marks(generator, statistics)):
        print(line, flush=True)  # noqa: T201 (a command)


if __name__ == "__main__":
    main()
