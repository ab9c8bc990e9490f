"""The panes of one rollup that the brain holds: rows as they came, each pane of a place once when read (rules 15, 16, 26)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import polars as pl

from pipelines.model import NEVER
from pipelines.rollup import Rollup

Older = Callable[[Rollup, int, int], pl.DataFrame]
"""Loads the rows (columns of a rollup's rows, `place` as code) of panes that start in [from, until) from the store."""

FOLD = {"count": "sum", "sum": "sum", "min": "min", "max": "max", "first": "min", "last": "max"}
MOST_ROWS_KEPT = 2_000_000
"""Beyond this many rows of a rollup the panes that only corrections need are left to the store."""


class _Segment:
    """Rows of panes in [first, last], as received; folded when first read."""

    def __init__(self, rows: pl.DataFrame, first: int, last: int) -> None:
        self.rows, self.first, self.last = rows, first, last
        self.folded: pl.DataFrame | None = None


class PaneMemory:
    """Promises: `read` gives every (place, pane[, bucket]) once, on-time and late rows folded; a row seen again replaces,
    of two on-time rows of one key the one with more events wins (rule 16); what was evicted is read from the store."""

    def __init__(self, rollup: Rollup, older: Older | None = None, repeats: bool = False) -> None:
        self.rollup, self.older, self.repeats = rollup, older, repeats
        self.keys = ["place", "pane_start", *(["bucket"] if rollup.histogram else [])]
        self.columns = [*self.keys, *(m.name for m in rollup.measures), "n", "as_of"]
        self.segments: list[_Segment] = []
        self.horizon = NEVER
        """Panes that start before it were evicted."""
        self.stray: pl.DataFrame | None = None
        """Rows of the running step for evicted panes: the store does not have them yet."""
        self.version = 0
        """Changes whenever rows come."""

    def add(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Takes rows in. Returns those that changed what was known (all, unless the transport repeats rows)."""
        self.stray = None
        if rows.is_empty():
            return rows
        self.version += 1
        if self.repeats:
            rows = self._replace(rows)
        late = rows["late"].any()
        fresh = rows.filter(~pl.col("late")) if late else rows
        if len(fresh):
            panes = fresh["pane_start"]
            self.segments.append(_Segment(fresh, panes.min(), panes.max()))  # type: ignore[arg-type]
        if late:
            rest = rows.filter("late")
            oldest, newest = int(rest["pane_start"].min()), int(rest["pane_start"].max())  # type: ignore[arg-type]
            for segment in self.segments:
                if segment.last < oldest or segment.first > newest:
                    continue
                inside = pl.col("pane_start").is_between(segment.first, segment.last)
                mine = rest.filter(inside)
                if len(mine):
                    segment.rows, segment.folded = pl.concat([segment.rows, mine]), None
                    rest = rest.filter(~inside)
            self.stray = rest.filter(pl.col("pane_start") < self.horizon)
            rest = rest.filter(pl.col("pane_start") >= self.horizon)
            if len(rest):
                panes = rest["pane_start"]
                self.segments.append(_Segment(rest, panes.min(), panes.max()))  # type: ignore[arg-type]
        return rows

    def load(self, since: int) -> None:
        """Into a fresh memory: the stored panes that start at `since` or later."""
        if self.older is None:
            raise ValueError(f"the panes of rollup {self.rollup.name!r} cannot be read back; give the run its store")
        self.horizon = since // self.rollup.pane_ms * self.rollup.pane_ms
        self.add(self.older(self.rollup, self.horizon, -NEVER).select(*self.columns, "late", "part", "off"))

    def _replace(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Drops from `rows` what is known already, and from memory what they replace."""
        key = [*self.keys, "late", "part", "off"]
        known = [s.rows for s in self.segments]
        if known:
            before = pl.concat(known).select(*key, pl.col("n").alias("n_before"))
            rows = (
                rows.join(before, on=key, how="left")
                .filter(pl.col("n_before").is_null() | (pl.col("n") > pl.col("n_before")))
                .drop("n_before")
            )
        rows = rows.sort("n", descending=True).unique(key, keep="first", maintain_order=True)
        for segment in self.segments:
            kept = segment.rows.join(rows, on=key, how="anti")
            if len(kept) < len(segment.rows):
                segment.rows, segment.folded = kept, None
        return rows

    def read(self, since: int, until: int) -> pl.DataFrame:
        """Folded rows of the panes that start in [since, until)."""
        frames = []
        if since < self.horizon and self.older is not None:
            stored = [self.older(self.rollup, since, min(until, self.horizon))]
            if self.stray is not None:
                stored.append(self.stray.filter(pl.col("pane_start").is_between(since, until, closed="left")))
            frames.append(self._group(pl.concat([rows.select(self.columns) for rows in stored])))
        overlapping = [s for s in self.segments if s.first < until and s.last >= since]
        shared = _overlap(overlapping)
        for segment in overlapping:
            if segment.folded is None:
                segment.folded = self._fold(segment.rows)
            rows = segment.folded
            if segment.first < since or segment.last >= until:
                rows = rows.filter(pl.col("pane_start").is_between(since, until, closed="left"))
            frames.append(rows)
        if not frames:
            return self.empty()
        rows = pl.concat(frames) if len(frames) > 1 else frames[0]
        return self._group(rows) if shared else rows

    def _fold(self, rows: pl.DataFrame) -> pl.DataFrame:
        if not rows["late"].any():
            return rows.select(self.columns)
        return self._group(rows.select(self.columns))

    def _group(self, rows: pl.DataFrame) -> pl.DataFrame:
        fold = []
        for m in self.rollup.measures:
            column = pl.col(m.name)
            fold.append(
                column.sum() if FOLD[m.kind] == "sum" else column.min() if FOLD[m.kind] == "min" else column.max()
            )
        return rows.group_by(self.keys, maintain_order=True).agg(*fold, pl.col("n").sum(), pl.col("as_of").max())

    def empty(self) -> pl.DataFrame:
        schema: dict[str, pl.DataType] = {"place": pl.UInt32(), "pane_start": pl.Int64(), "bucket": pl.Int32()}
        return pl.DataFrame(schema={c: schema.get(c, pl.Int64()) for c in self.columns})

    def evict(self, needed: int, wished: int) -> None:
        """Forgets panes that start before `needed`, and, with many rows, those before `wished` (>= needed is kept)."""
        before = min(needed, wished) if sum(len(s.rows) for s in self.segments) <= MOST_ROWS_KEPT else needed
        kept = [s for s in self.segments if s.last >= before]
        if len(kept) < len(self.segments):
            self.horizon = max(
                [self.horizon, *(s.last + self.rollup.pane_ms for s in self.segments if s.last < before)]
            )
            self.segments = []
            for segment in kept:
                if segment.first < self.horizon:  # a late row's segment may span the horizon: the store has those panes
                    segment.rows = segment.rows.filter(pl.col("pane_start") >= self.horizon)
                    segment.first, segment.folded = self.horizon, None
                if len(segment.rows):
                    self.segments.append(segment)
        if len(self.segments) > 64:
            self._compact()

    def _compact(self) -> None:
        """Joins small neighbours: a live run adds one segment a pane."""
        joined: list[_Segment] = []
        for segment in sorted(self.segments, key=lambda s: s.first):
            if joined and len(joined[-1].rows) + len(segment.rows) < 50_000:
                last = joined[-1]
                last.rows, last.folded = pl.concat([last.rows, segment.rows]), None
                last.last = max(last.last, segment.last)
            else:
                joined.append(segment)
        self.segments = joined


def _overlap(segments: list[_Segment]) -> bool:
    """Whether a pane may lie in two segments (a late row came before its pane closed, or after its segment)."""
    ordered = sorted(segments, key=lambda s: (s.first, s.last))
    return any(b.first <= a.last for a, b in pairwise(ordered))
