"""How sure is a share? Wilson's interval, and a bootstrap over the people who judged and the pairs they judged."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

Interval = tuple[float, float]

Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations
RESAMPLES = 2000


def wilson(successes: int, n: int) -> Interval:
    """The 95 % score interval of a share of n independent trials (Wilson 1927); n is at least 1."""
    share = successes / n
    centre = share + Z**2 / (2 * n)
    reach = Z * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = ((centre + sign * reach) / (1 + Z**2 / n) for sign in (-1, 1))
    return (low if successes else 0.0), (high if successes < n else 1.0)


def crossed_bootstrap(raters: Sequence[str], pairs: Sequence[int], successes: Sequence[bool]) -> Interval:
    """The 95 % percentile interval of a share when both the raters and the pairs are drawn anew (Owen 2007).

    Answers of one rater resemble each other, and so do answers on one pair: Wilson's interval takes them for
    independent and is too narrow then. This one is rough for few raters. The same answers give the same interval.

    Args:
        raters: who gave each answer.
        pairs: on which pair.
        successes: whether it counts.
    """
    people, who = np.unique(np.asarray(raters), return_inverse=True)
    shown, what = np.unique(np.asarray(pairs), return_inverse=True)
    judged, won = np.zeros((2, len(people), len(shown)))
    np.add.at(judged, (who, what), 1)
    np.add.at(won, (who, what), np.asarray(successes, dtype=float))
    draw = np.random.default_rng(0)
    rater_weights, pair_weights = (draw.multinomial(m, [1 / m] * m, RESAMPLES).astype(float) for m in judged.shape)
    totals, counts = (((rater_weights @ table) * pair_weights).sum(1) for table in (judged, won))
    low, high = np.quantile(counts[totals > 0] / totals[totals > 0], [0.025, 0.975])
    return float(low), float(high)
