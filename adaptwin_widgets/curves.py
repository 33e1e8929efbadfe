"""Curves of a tune made short for the eye: fewer points, and the few values that matter."""

from __future__ import annotations

import math
from collections.abc import Sequence

POINTS = 300  # more than a chart of ordinary width has pixels for

Points = Sequence[Sequence[float]]  # [[step, value], ...]


def thin(points: Points, most: int = POINTS) -> list[list[float]]:
    """At most `most` points that draw the same curve: the lowest and the highest of every stretch, and both ends.

    Stretches double in length as the curve grows, so what is drawn does not flicker. Values keep four significant
    digits; what is not finite is left out, since neither a chart nor JSON can hold it.

    >>> curve = thin([[step, 1 / step] for step in range(1, 10_001)])
    >>> len(curve) <= 300, curve[0], curve[-1]
    (True, [1, 1.0], [10000, 0.0001])
    """
    finite = [[step, float(f"{value:.4g}")] for step, value in points if math.isfinite(value)]
    if len(finite) <= most:
        return finite
    length = 2 ** math.ceil(math.log2(2 * len(finite) / (most - 4)))
    kept = [finite[0]]
    for start in range(0, len(finite), length):
        stretch = finite[start : start + length]
        for point in sorted([min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])]):
            if point[0] > kept[-1][0]:
                kept.append(point)
    return kept if kept[-1][0] == finite[-1][0] else [*kept, finite[-1]]


def milestones(points: Points) -> tuple[float, float, float] | None:
    """The first, the lowest and the last value of a curve; None where there is none yet.

    >>> milestones([[0, 3.0], [10, 1.0], [20, 2.0]])
    (3.0, 1.0, 2.0)
    """
    if not points:
        return None
    finite = [value for _, value in points if math.isfinite(value)]
    return points[0][1], min(finite, default=math.nan), points[-1][1]
