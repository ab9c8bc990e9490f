"""The last day of what screens draw as lines, in memory: opening a screen asks the store nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from typing import Any, Final

import polars as pl

KEPT_MS: Final = 24 * 3_600_000
MOST: Final = 500
"""Points of one line: a day of five minutes, and room."""
Point = tuple[int, float | None, int]
"""End of the window (UTC ms), value (None: no data), revision."""


class Series:
    """The final readings of the city, of the indicators that are drawn. The newest `KEPT_MS` by each line's own time."""

    def __init__(self, charted: Collection[str]) -> None:
        self.charted = frozenset(charted)
        self._points: dict[str, list[Point]] = {}

    def add(self, finals: pl.DataFrame) -> dict[str, list[Point]]:
        """Takes readings in (READINGS_SCHEMA); returns the points that are new or corrected."""
        changed: dict[str, list[Point]] = {}
        mine = finals.filter(pl.col("place_kind") == "city", pl.col("indicator").is_in(list(self.charted)))
        for name, *point in mine.select("indicator", "window_end", "value", "revision").iter_rows():
            if self._take(name, (point[0], point[1], point[2])):
                changed.setdefault(name, []).append((point[0], point[1], point[2]))
        return changed

    def _take(self, name: str, point: Point) -> bool:
        line = self._points.setdefault(name, [])
        at = bisect_left(line, point[0], key=lambda p: p[0])
        if at < len(line) and line[at][0] == point[0]:
            if line[at][2] >= point[2]:
                return False
            line[at] = point
            return True
        oldest = line[-1][0] - KEPT_MS if line else point[0]
        if point[0] < oldest:
            return False
        line.insert(at, point)
        first = bisect_left(line, line[-1][0] - KEPT_MS, key=lambda p: p[0])
        del line[: max(first, len(line) - MOST)]
        return True

    def items(self) -> Iterator[tuple[str, Any]]:
        return iter(self._points.items())
