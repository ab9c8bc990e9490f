"""Online services: errors, the 95th percentile on the preferred numbers R40, Apdex, event by event."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any

from tests.oracle.climbing import Part, Recipe, Said, first_two, no_ratio, summed
from tests.oracle.grid import MINUTE, Steps
from tests.oracle.told import Pane, Told

R40 = [
    1.00, 1.06, 1.12, 1.18, 1.25, 1.32, 1.40, 1.50, 1.60, 1.70, 1.80, 1.90, 2.00, 2.12, 2.24, 2.36, 2.50, 2.65, 2.80, 3.00,
    3.15, 3.35, 3.55, 3.75, 4.00, 4.25, 4.50, 4.75, 5.00, 5.30, 5.60, 6.00, 6.30, 6.70, 7.10, 7.50, 8.00, 8.50, 9.00, 9.50,
]  # fmt: skip
HOUR_US = 3_600_000_000
BOUNDS = sorted({min(round(r * 100) * 10**k, HOUR_US) for k in range(8) for r in R40})
WINDOWS = Steps(5 * MINUTE, MINUTE)


def put_http(sums: Any, said: tuple[Any, ...], t: int) -> Any:
    """All requests, with how often each came."""
    sums = Counter() if sums is None else sums
    sums[said] += 1
    return sums


def _all(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    requests: Counter[Any] = Counter()
    for _, pane in seen:
        requests.update(pane[2])
    return (requests,)


def _pooled(parts: list[Part]) -> Part:
    requests: Counter[Any] = Counter()
    for part in parts:
        requests.update(part[0])
    return (requests,)


def _errors(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    (requests,) = _all(told, site, begin, end, seen)
    return sum(n for (status, _), n in requests.items() if status >= 500), sum(requests.values())


def _ratio(part: Part) -> Said:
    return Said(100 * part[0] / part[1]) if part[1] else Said(None, "no_weight")


def _p95(part: Part) -> Said:
    timed: Counter[int] = Counter()
    for (_, us), n in part[0].items():
        if us is not None:
            timed[us] += n
    if not timed:
        return Said(None, "no_duration")
    left = -(-95 * sum(timed.values()) // 100)
    for us in sorted(timed):
        left -= timed[us]
        if left <= 0:
            return Said(BOUNDS[bisect_left(BOUNDS, us)] / 1_000_000)
    raise AssertionError("rank beyond the last")


def recipes(t_ms: int) -> tuple[Recipe, ...]:
    def apdex_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
        points = weight = 0
        for (status, us), n in _all(told, site, begin, end, seen)[0].items():
            if status >= 500 or us is not None:
                weight += 2 * n
            if status < 500 and us is not None:
                points += n * (2 if us <= t_ms * 1000 else 1 if us <= 4 * t_ms * 1000 else 0)
        return points, weight

    def apdex_say(part: Part) -> Said:
        return Said(part[0] / part[1]) if part[1] else Said(None, "no_weight")

    return (
        Recipe("http.error_ratio", "count(status>=500)/count", WINDOWS, _errors, summed, _ratio, first_two),
        Recipe("http.p95", "nearest rank, R40 histogram, at most 7.1% high", WINDOWS, _all, _pooled, _p95, no_ratio),
        Recipe("http.apdex", f"Apdex, T={t_ms} ms", WINDOWS, apdex_site, summed, apdex_say, first_two),
    )
