"""The composite (rule 24): as of T, each part gives its newest reading with window_end <= T - 5 min, younger than 2 h."""

from __future__ import annotations

import itertools
from bisect import bisect_right

from tests.oracle.climbing import Key, Reading, share
from tests.oracle.grid import HOUR, MINUTE
from tests.oracle.town import Town

METHOD = "weighted mean of scores, null above 30 % missing"
STEP, LAG, VALID = 5 * MINUTE, 5 * MINUTE, 2 * HOUR
PARTS: dict[str, tuple[int, list[float], list[tuple[float, float]]]] = {
    # weight; thresholds; value -> score, straight between the points
    "traffic.tpi": (20, [2, 4, 6, 8], [(0, 100), (2, 90), (4, 75), (6, 50), (8, 25), (10, 0)]),
    "aqi.realtime": (20, [50, 100, 150, 200, 300], [(0, 100), (50, 90), (100, 75), (150, 50), (200, 25), (300, 0)]),
    "water.depth": (15, [15, 25, 30, 60], [(0, 100), (15, 75), (25, 50), (30, 25), (60, 0)]),
    "http.error_ratio": (10, [1, 5], [(0, 100), (1, 75), (5, 25), (20, 0)]),
    "http.apdex": (5, [0.7, 0.85], [(0, 0), (0.7, 50), (0.85, 75), (1, 100)]),
    "approval.one_second": (10, [80, 95], [(0, 0), (80, 50), (95, 90), (100, 100)]),
    "accident.settled_5min": (10, [80, 95], [(0, 0), (80, 50), (95, 90), (100, 100)]),
    "hotline.answer_15s": (10, [90, 95], [(0, 0), (90, 50), (95, 90), (100, 100)]),
}


def points_of(town: Town, name: str) -> list[tuple[float, float]]:
    """A city that moves a threshold moves the bend."""
    _, shipped, points = PARTS[name]
    moved = dict(zip(shipped, town.thresholds.get(name, shipped), strict=True))
    return [(moved.get(x, x), y) for x, y in points]


def score(points: list[tuple[float, float]], value: float) -> float:
    if value <= points[0][0]:
        return points[0][1]
    for (a, high), (b, low) in itertools.pairwise(points):
        if a <= value <= b:
            return high + (low - high) * (value - a) / (b - a)
    return points[-1][1]


def vital_sign(town: Town, parts: dict[str, dict[Key, Reading]], until: int) -> dict[Key, Reading]:
    """`parts`: the readings of those indicators that the run has; `until`: the smallest watermark of its streams."""
    weights = {name: town.weights.get(name, weight) for name, (weight, _, _) in PARTS.items()}
    if 10 * (sum(weights.values()) - sum(weights[name] for name in parts)) > 3 * sum(weights.values()):
        return {}  # The run's streams can never give it a value, so it is no indicator of this run.
    series: dict[tuple[str, str], dict[str, list[tuple[int, Reading]]]] = {}
    for name, readings in parts.items():
        for (kind, place, end), reading in readings.items():
            if kind in ("district", "city"):
                series.setdefault((kind, place), {}).setdefault(name, []).append((end, reading))
    out: dict[Key, Reading] = {}
    for (kind, place), mine in series.items():
        for told in mine.values():
            told.sort(key=lambda x: x[0])
        ends = {name: [end for end, _ in told] for name, told in mine.items()}
        oldest = min(x[0] for x in ends.values())
        for t in range((oldest // STEP) * STEP, until + 1, STEP):
            young = {}
            for name, told in mine.items():
                k = bisect_right(ends[name], t - LAG)
                if k and told[k - 1][0] > t - LAG - VALID:
                    young[name] = told[k - 1][1]
            if young:
                out[kind, place, t] = _joined(town, weights, young, t)
    return out


def _joined(town: Town, weights: dict[str, int], young: dict[str, Reading], t: int) -> Reading:
    scores = {n: score(points_of(town, n), r.value) for n, r in young.items() if r.value is not None}
    there, total = sum(weights[n] for n in scores), sum(weights.values())
    value = (
        sum(weights[n] * s for n, s in scores.items()) / there if there and 10 * (total - there) <= 3 * total else None
    )
    as_of = max((r.as_of for r in young.values() if r.as_of is not None), default=None)
    reason = "weight_missing" if scores and value is None else None
    state = "degraded" if reason else "ok" if scores else "no_data"
    detail = {"scores": scores} | ({"reason": reason} if reason else {})
    return Reading(t - STEP, value, None, None, len(scores), state, share(len(scores), len(young)), as_of, detail)
