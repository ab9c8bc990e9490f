"""How long rows are kept (rule 26): `fine_for` of event time behind the watermark, then whole months of them go.

A window is computed from whole panes or not at all. So a month goes only when no window that an event of the last
`fine_for` may still change reads it, and a late row counts only while every window that holds its pane has its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import polars as pl

from pipelines.model import NEVER, Rows
from pipelines.streams import DAY_MS

FINE_FOR_MS = 35 * DAY_MS


class Retention:
    """Of one stream. `reach_ms`: how far back the longest window of each rollup reads."""

    def __init__(self, reach_ms: Mapping[str, int], fine_for_ms: int | None) -> None:
        """`fine_for_ms` None: everything is kept."""
        self.reach_ms, self.fine_for_ms = reach_ms, fine_for_ms
        self.dropped = dict.fromkeys(reach_ms, NEVER)
        """By rollup: rows of panes that start before it are gone, or going."""

    def due(self, watermark: int) -> list[tuple[str, int]]:
        """(rollup, start of a month) whose rows before it are to be dropped now that the stream is so far."""
        if self.fine_for_ms is None or watermark == NEVER:
            return []
        found = []
        for rollup, reach_ms in self.reach_ms.items():
            month = month_start(watermark - self.fine_for_ms - reach_ms)
            if month > self.dropped[rollup]:
                self.dropped[rollup] = month
                found.append((rollup, month))
        return found

    def applied(self, one: Rows) -> tuple[Rows, int]:
        """The rows without those that come too late to be applied, and how many events those are."""
        gone = self.dropped[one.rollup]
        if gone == NEVER or one.rows.is_empty():
            return one, 0
        too_late = pl.col("pane_start") < gone + self.reach_ms[one.rollup]
        unapplied = one.rows.filter(too_late)
        if unapplied.is_empty():
            return one, 0
        return Rows(one.rollup, one.rows.filter(~too_late), one.manifests, one.watermark), int(unapplied["n"].sum())


def month_start(t: int) -> int:
    """The first millisecond of the UTC month of an instant, as the store's partitions have it."""
    at = datetime.fromtimestamp(t / 1000, UTC)
    return int(datetime(at.year, at.month, 1, tzinfo=UTC).timestamp()) * 1000
