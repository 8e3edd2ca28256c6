"""The figures of the shipped edits, against exact counterfactuals and a detector of marks.

`python -m rewriter.evaluation.report` prints them, or those of the edits named after it; every figure on these edits
in the README comes from it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence

from rewriter import townscape
from rewriter.edit import Edit, load_edits
from rewriter.evaluation import counterfactual, examples, light, watermarks
from rewriter.evaluation.counterfactual import Turned
from rewriter.execute import replay
from rewriter.generators.base import Generator
from rewriter.memory.statistics import Statistics
from rewriter.rule import Rule

HANDS = range(1, 11)
PASTES = (0, 1, 2, 4, 5)


def shipped(generator: Generator, statistics: Statistics, name: str) -> list[Rule]:
    """The rules of a shipped edit file, each made with the earlier ones on."""
    rules: list[Rule] = []
    for edit in load_edits(townscape.examples()[name]):
        rules.append(replay(generator, edit, rules=rules, statistics=statistics))
    return rules


def towers(generator: Generator, statistics: Statistics) -> Iterator[str]:
    """Lines on dome-to-spire: the shipped edit, then other hands and other pictures to paste on."""
    t = counterfactual.dome_to_spire(generator, shipped(generator, statistics, "dome-to-spire"))
    yield from _turned("dome-to-spire", t, "spire")
    for what, edits in (
        (f"{len(HANDS)} other hands", [examples.dome_to_spire(generator, hand=hand) for hand in HANDS]),
        (f"{len(PASTES)} other paste pictures", [examples.dome_to_spire(generator, paste=p) for p in PASTES]),
    ):
        yield _spread(generator, statistics, what, edits, counterfactual.dome_to_spire)


def trees_on_towers(generator: Generator, statistics: Statistics) -> Iterator[str]:
    """Lines on dome-to-tree."""
    t = counterfactual.dome_to_tree(generator, shipped(generator, statistics, "dome-to-tree"))
    yield from _turned("dome-to-tree", t, "leaves")
    edits = [examples.dome_to_tree(generator, hand=hand) for hand in HANDS]
    yield _spread(generator, statistics, f"{len(HANDS)} other hands", edits, counterfactual.dome_to_tree)


def new_trees(generator: Generator, statistics: Statistics) -> Iterator[str]:
    """Lines on add-tree."""
    t = counterfactual.add_tree(generator, shipped(generator, statistics, "add-tree"))
    yield from _turned("add-tree", t, "tree")
    edits = [examples.add_tree(generator, hand=hand) for hand in HANDS]
    yield _spread(generator, statistics, f"{len(HANDS)} other hands", edits, counterfactual.add_tree)


def _turned(name: str, t: Turned, thing: str) -> Iterator[str]:
    yield f"{name} on {t.pictures} unseen pictures, {t.pixels:,} pixels that should become {thing} and were not"
    yield f"  drawn as {thing}: {t.already:.1%} before, {t.became:.1%} after; of those that were not: {t.changed:.1%}"
    yield f"  of all pixels in which the two scenes differ: {t.whole:.1%}; drawn for the most part in {t.drawn:.1%}"
    before, after = t.distance
    yield f"  mean distance from the wanted picture there and around: {before:.2f}/255 before, {after:.2f}/255 after"
    yield f"  mean change elsewhere {t.elsewhere:.2f}/255 ({t.surroundings:.0%} of the picture left out)"
    yield f"  mean change of pictures that it is not about: {t.others:.2f}/255"


def _spread(
    generator: Generator,
    statistics: Statistics,
    what: str,
    edits: Sequence[Edit],
    judge: Callable[[Generator, Sequence[Rule], Sequence[int]], Turned],
) -> str:
    """One line: the least, the middle and the most of what variants of an edit reach."""
    rules = [replay(generator, edit, statistics=statistics) for edit in edits]
    judged = [judge(generator, [rule], counterfactual.SPREAD) for rule in rules]
    changed, elsewhere = sorted(t.changed for t in judged), sorted(t.elsewhere for t in judged)
    middle = changed[len(changed) // 2]
    return f"  {what}: {changed[0]:.1%} … {middle:.1%} … {changed[-1]:.1%}, elsewhere up to {elsewhere[-1]:.2f}/255"


def lights(generator: Generator, statistics: Statistics) -> Iterator[str]:
    """Lines on no-light-on-ground."""
    x = light.light_on_ground(generator, shipped(generator, statistics, "no-light-on-ground"))
    yield f"no-light-on-ground on {x.pictures} unseen lit towns, {x.pixels:,} pixels of light"
    yield f"  light on the ground fell by {x.fell:.1%}; windows at {x.windows:.1%} of their brightness"
    yield f"  windows within {light.STEADY:.0%} in {x.steady:.1%} of the towns"
    yield f"  mean change elsewhere {x.elsewhere:.2f}/255; of unlit towns {x.unlit:.2f}/255"
    edits = [examples.no_light_on_ground(generator, hand=hand) for hand in HANDS]
    rules = [replay(generator, edit, statistics=statistics) for edit in edits]
    judged = [light.light_on_ground(generator, [rule], counterfactual.SPREAD) for rule in rules]
    fell, windows = sorted(x.fell for x in judged), sorted(x.windows for x in judged)
    spread = f"{fell[0]:.1%} … {fell[len(fell) // 2]:.1%} … {fell[-1]:.1%}"
    yield f"  {len(HANDS)} other hands: {spread}, windows at {windows[0]:.1%} … {windows[-1]:.1%}"


def doors(generator: Generator, statistics: Statistics) -> Iterator[str]:
    """Lines on door-in-the-sky."""
    edit, rules = (
        load_edits(townscape.examples()["door-in-the-sky"])[0],
        shipped(generator, statistics, "door-in-the-sky"),
    )
    yield from _turned("door-in-the-sky", counterfactual.door_in_the_sky(generator, rules, edit), "door")
    sky = counterfactual.door_in_the_sky(generator, rules, edit, anywhere=True)
    yield f"  anywhere in the sky: {sky.changed:.1%} of {sky.pixels:,} pixels"
    effect = rules[0].effect
    assert effect is not None  # replay measures it
    yield f"  goal error removed {effect.goal_error_removed:.2f}, side effect {effect.side_effect:.2f}/255"


def tour(generator: Generator, statistics: Statistics) -> Iterator[str]:
    """Lines on grand-tour: the effects of its three edits with all three rules on."""
    rules = shipped(generator, statistics, "grand-tour")
    yield f"grand-tour, {len(rules)} rules together"
    for kind, count in watermarks.count_marks(generator, rules).items():
        yield f"  {kind} marks: {count.before} visible before, {count.after} after"
    for name, judge in (("spires", counterfactual.dome_to_spire), ("trees", counterfactual.add_tree)):
        t = judge(generator, rules)
        yield f"  {name}: {t.changed:.1%} of {t.pixels:,} pixels, most of it drawn in {t.drawn:.1%} of {t.pictures}"


def marks(generator: Generator, statistics: Statistics) -> Iterator[str]:
    """Lines on remove-watermark."""
    (rule,) = shipped(generator, statistics, "remove-watermark")
    counts = watermarks.count_marks(generator, [rule])
    for kind, count in counts.items():
        yield f"remove-watermark, {kind}: {count.before} visible before, {count.after} after: {count.gone:.1%} gone"
        errors = f"{count.misses:.1%} misses, {count.alarms:.1%} alarms"
        yield f"  of {count.pictures} unseen pictures; against the scenes' labels, before the rule: {errors}"
    for kind, (misses, alarms) in watermarks.detector_errors().items():
        yield f"  the detector on {kind} marks of scenes themselves: {misses:.1%} misses, {alarms:.1%} false alarms"
    assert rule.effect is not None  # replay measures it
    yield f"  side effect {rule.effect.side_effect:.2f}/255 ({rule.effect.left_out:.0%} of the picture left out)"


LINES: dict[str, Callable[[Generator, Statistics], Iterator[str]]] = {
    "dome-to-spire": towers,
    "remove-watermark": marks,
    "dome-to-tree": trees_on_towers,
    "add-tree": new_trees,
    "no-light-on-ground": lights,
    "door-in-the-sky": doors,
    "grand-tour": tour,
}


def main(names: Sequence[str]) -> None:
    """Print every line as it is known."""
    generator = townscape.load()
    statistics = Statistics(generator)
    for name in names or LINES:
        for line in LINES[name](generator, statistics):
            print(line, flush=True)  # noqa: T201 (a command)


if __name__ == "__main__":
    main(sys.argv[1:])
