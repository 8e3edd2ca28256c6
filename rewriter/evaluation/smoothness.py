"""Where the default smoothness comes from: both shipped edits over a range of λ, on seeds that nothing else reports.

`python -m rewriter.evaluation.smoothness` prints the table. For dome-to-spire λ = 10 costs one point of a hundred
against λ = 1 and nearly halves the change elsewhere: the default. remove-watermark asks for 2 itself: bars go only
below 3.
"""

from __future__ import annotations

from rewriter import townscape
from rewriter.evaluation.counterfactual import dome_to_spire
from rewriter.evaluation.examples import dome_to_spire as dome_edit
from rewriter.evaluation.examples import remove_watermark
from rewriter.evaluation.watermarks import count_marks
from rewriter.execute import replay
from rewriter.memory.statistics import Statistics

TUNING = range(50_000, 50_400)
SMOOTHNESS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def main() -> str:
    """A line for each λ: share of pixels that became spire and change elsewhere; marks gone and side effect."""
    generator = townscape.load()
    statistics = Statistics(generator)
    lines = ["| λ | became spire | elsewhere (1/255) | middle gone | bottom gone | side effect (1/255) |"]
    lines += ["| ---: | ---: | ---: | ---: | ---: | ---: |"]
    for smoothness in SMOOTHNESS:
        spire, clean = (
            replay(generator, make(generator).with_(smoothness=smoothness), statistics=statistics)
            for make in (dome_edit, remove_watermark)
        )
        tops, marks = dome_to_spire(generator, [spire], TUNING), count_marks(generator, [clean], TUNING)
        gone = " | ".join(f"{marks[kind].gone:.0%}" for kind in ("middle", "bottom"))
        assert clean.effect is not None  # replay measures it
        figures = f"{tops.changed:.1%} | {tops.elsewhere:.2f} | {gone} | {clean.effect.side_effect:.2f}"
        lines.append(f"| {smoothness:g} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(main())  # noqa: T201 (a command)
