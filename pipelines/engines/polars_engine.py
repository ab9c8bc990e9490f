"""The embedded engine: groups stamped events by place and pane with Polars, in this process (rules 13 to 16)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, assert_never

import polars as pl

from pipelines.expr import And, Arith, Col, Compare, Const, IsNull, Node, Not, Or
from pipelines.model import NEVER, NO_MANIFESTS, Parts, Rows, Stamped, numbered, prefixed
from pipelines.rollup import PACK, Measure, Rollup

MERGE: Final = {"count": "sum", "sum": "sum", "min": "min", "max": "max", "first": "min", "last": "max"}
DELTAS: Final = 32
"""So many parts of a checkpoint hold what the steps added to the open panes; then the panes are written whole."""


def translate(node: Node) -> pl.Expr:
    """A Polars expression for a node; integers stay Int64, nulls propagate as in SQL."""
    match node:
        case Col(name):
            return pl.col(name)
        case Const(value):
            return pl.lit(value, dtype=pl.Int64) if isinstance(value, int) else pl.lit(value)
        case Arith(op, left, right):
            a, b = translate(left), translate(right)
            return a + b if op == "+" else a - b if op == "-" else a * b if op == "*" else a // b
        case Compare(op, left, right):
            a, b = translate(left), translate(right)
            match op:
                case "==":
                    return a == b
                case "!=":
                    return a != b
                case "<":
                    return a < b
                case "<=":
                    return a <= b
                case ">":
                    return a > b
                case ">=":
                    return a >= b
        case IsNull(of):
            return translate(of).is_null()
        case And(left, right):
            return translate(left) & translate(right)
        case Or(left, right):
            return translate(left) | translate(right)
        case Not(of):
            return ~translate(of)
    assert_never(node)


def bucket(rollup: Rollup) -> pl.Expr:
    """Index of the first bound >= the value; len(bounds) above the last; -1 for null."""
    assert rollup.histogram is not None
    bounds = pl.Series(rollup.histogram.bounds, dtype=pl.Int64)
    value = translate(rollup.histogram.of)
    index = pl.lit(bounds).search_sorted(value, side="left").cast(pl.Int32)
    return pl.when(value.is_null()).then(pl.lit(-1, dtype=pl.Int32)).otherwise(index).alias("bucket")


def per_event(measure: Measure, rollup: Rollup) -> pl.Expr:
    """What one event adds to a measure (null: nothing)."""
    if measure.of is None:
        value = pl.col("t").is_not_null().cast(pl.Int64)  # a literal would count a group as one
    else:
        value = translate(measure.of)
        if measure.kind in ("first", "last"):
            assert isinstance(measure.of, Col)
            value = (pl.col("t") - pl.col("pane_start")) * PACK + (value - rollup.range_minimum(measure.of.name))
    return value if measure.where is None else pl.when(translate(measure.where)).then(value)


def combine(measure: Measure, value: pl.Expr) -> pl.Expr:
    """Folds the values of a measure, of events or of partial rows: an empty sum is 0, an empty minimum null."""
    match MERGE[measure.kind]:
        case "sum":
            return value.sum()
        case "min":
            return value.min()
        case _:
            return value.max()


class PolarsEngine:
    """One stream's rollups over its canonical partitions; see `pipelines.model.Engine` for what it promises."""

    def __init__(self, rollups: Iterable[Rollup], parts: Iterable[str]) -> None:
        self._grouped = [Grouped(rollup) for rollup in rollups]
        self._wm = dict.fromkeys(parts, NEVER)

    @property
    def watermark(self) -> int:
        """The minimum of the wm that the partitions' records have shown."""
        return min(self._wm.values(), default=NEVER)

    def add(self, block: Stamped) -> None:
        """Groups a run of one partition; a tick only moves time (and marks its pane in the manifests)."""
        for grouped in self._grouped:
            if block.events is None:
                grouped.tick(block.last_wm)
            else:
                grouped.add(block.events, block.part)
        self._wm[block.part] = max(self._wm.get(block.part, NEVER), block.last_wm)
        if block.ended and len(self._wm) > 1:
            del self._wm[block.part]

    def join(self, part: str) -> None:
        """A partition that was not there at the start; it is where the others are."""
        self._wm.setdefault(part, self.watermark)

    def take(self) -> list[Rows]:
        return [grouped.take(self.watermark) for grouped in self._grouped]

    def open_panes(self) -> list[Rows]:
        return [grouped.open_panes(self.watermark) for grouped in self._grouped]

    def finish(self) -> list[Rows]:
        return [grouped.take(None) for grouped in self._grouped]

    def closed(self) -> dict[str, int]:
        """By rollup, up to where its panes were handed over."""
        return {grouped.rollup.name: grouped.closed for grouped in self._grouped}

    def saved(self, whole: bool) -> Parts:
        """State by name for a checkpoint, to be called after `take`: all, or what changed since the last call (None: gone)."""
        rollups = {grouped.rollup.name: grouped.saved() for grouped in self._grouped}
        parts: Parts = {"at": {"wm": dict(self._wm), "rollups": rollups}}
        for grouped in self._grouped:
            parts |= prefixed(f"panes/{grouped.rollup.name}/", grouped.saved_panes(whole))
        return parts

    def load(self, parts: Parts) -> None:
        """Into a fresh engine. A rollup that is new, or groups in another way now, begins with the events that come."""
        self._wm |= parts["at"]["wm"]
        for grouped in self._grouped:
            mine = parts["at"]["rollups"].get(grouped.rollup.name)
            if mine is not None and mine["frame_hash"] == grouped.rollup.frame_hash:
                grouped.load(mine, [panes for _, panes in numbered(parts, f"panes/{grouped.rollup.name}/")])


class Grouped:
    """One rollup: partial rows of the open panes, late rows and manifests not handed over yet. Places are whatever column
    `place` of the events holds: codes here, names in a Beam worker."""

    def __init__(self, rollup: Rollup) -> None:
        self.rollup = rollup
        self.keys = ["place", "pane_start", *(["bucket"] if rollup.histogram else [])]
        self.partials: list[pl.DataFrame] = []
        self.unsaved: list[pl.DataFrame] | None = None
        """What was grouped since the last checkpoint; None before the first."""
        self.saves: list[int] = []
        """The numbers of the parts that the checkpoint has of the open panes."""
        self.late: list[pl.DataFrame] = []
        self.counts: dict[int, int] = {}
        self.closed = NEVER
        self.no_rows = on_time_rows(pl.DataFrame(schema=self.schema()))
        self.fold = [combine(m, pl.col(m.name)).alias(m.name) for m in rollup.measures]
        self.fold += [pl.col("n").sum(), pl.col("as_of").max()]
        self.single = [per_event(m, rollup).alias(m.name) for m in rollup.measures]
        self.zeros = [pl.col(m.name).fill_null(0) for m in rollup.measures if MERGE[m.kind] == "sum"]
        self.group = [combine(m, per_event(m, rollup)).alias(m.name) for m in rollup.measures]
        self.group += [pl.len().cast(pl.Int64).alias("n"), pl.col("t").max().alias("as_of")]

    def add(self, events: pl.DataFrame, part: str) -> None:
        pane = self.rollup.pane_ms
        frame = events.lazy()
        if self.rollup.where is not None:
            # Manifests count what the rows count, so a filter is applied before both.
            frame = frame.filter(translate(self.rollup.where))
        frame = frame.with_columns((pl.col("t") // pane * pane).alias("pane_start"))
        if self.rollup.histogram:
            frame = frame.with_columns(bucket(self.rollup))
        late, on_time = events["late"].any(), frame
        if late:
            on_time = frame.filter(~pl.col("late"))
            self.late.append(
                frame.filter(pl.col("late"))
                .select(
                    *self.keys,
                    *self.single,
                    pl.lit(1, dtype=pl.Int64).alias("n"),
                    pl.col("t").alias("as_of"),
                    "late",
                    pl.lit(part).alias("part"),
                    "off",
                )
                .with_columns(self.zeros)
                .collect()
            )
        partial = on_time.group_by(self.keys).agg(self.group).collect()
        self.partials.append(partial)
        if self.unsaved is not None:
            self.unsaved.append(partial)
        for start, n in partial.group_by("pane_start").agg(pl.col("n").sum()).iter_rows():
            self.counts[start] = self.counts.get(start, 0) + n

    def tick(self, wm: int) -> None:
        if wm > NEVER:
            self.counts.setdefault(wm // self.rollup.pane_ms * self.rollup.pane_ms, 0)

    def merged(self) -> pl.DataFrame:
        """The open panes as one frame, each key once."""
        if len(self.partials) > 1:
            self.partials = [pl.concat(self.partials).group_by(self.keys).agg(self.fold)]
        return self.partials[0] if self.partials else pl.DataFrame(schema=self.schema())

    def schema(self) -> dict[str, type[pl.DataType]]:
        keys: dict[str, type[pl.DataType]] = {"place": pl.UInt32, "pane_start": pl.Int64, "bucket": pl.Int32}
        numbers = [*(m.name for m in self.rollup.measures), "n", "as_of"]
        return {k: keys[k] for k in self.keys} | {name: pl.Int64 for name in numbers}

    def take(self, watermark: int | None) -> Rows:
        """Closes the panes that end at or before the watermark; None closes every pane."""
        pane = self.rollup.pane_ms
        last = max(self.counts, default=NEVER)
        until = (last + pane if last > NEVER else self.closed) if watermark is None else watermark // pane * pane
        self.closed = max(self.closed, until)
        ready = sorted(start for start in self.counts if start + pane <= until)
        rows = self.late
        self.late = []
        if ready and self.partials:
            grouped = self.merged()
            closing = pl.col("pane_start") + pane <= until
            rows.append(on_time_rows(grouped.filter(closing)))
            self.partials = [grouped.filter(~closing)]
        manifests = NO_MANIFESTS
        if ready:
            counts = [self.counts.pop(start) for start in ready]
            manifests = pl.DataFrame({"pane_start": ready, "n": counts}, schema=NO_MANIFESTS.schema)
        return Rows(self.rollup.name, pl.concat(rows) if rows else self.no_rows, manifests, self.closed)

    def saved(self) -> dict[str, Any]:
        assert not self.late, "rows that were not taken yet would be lost"
        counts = [[start, n] for start, n in self.counts.items()]
        return {"frame_hash": self.rollup.frame_hash, "closed": self.closed, "counts": counts}

    def saved_panes(self, whole: bool) -> dict[str, pl.DataFrame | None]:
        """Open panes by number, to be folded together: what was grouped since the last call, and all of it once in a while,
        so that a restart does not read more than `DELTAS` parts. Rows of panes that have closed may be among them."""
        parts: dict[str, pl.DataFrame | None] = {}
        following = self.saves[-1] + 1 if self.saves else 1
        if whole or self.unsaved is None or len(self.saves) > DELTAS:
            parts = {} if whole else {str(number): None for number in self.saves}
            self.saves, frames = [], [self.merged()]
        else:
            frames = self.unsaved
        frames, self.unsaved = [frame for frame in frames if len(frame)], []
        if frames:
            parts[str(following)] = frames[0] if len(frames) == 1 else pl.concat(frames)
            self.saves.append(following)
        return parts

    def load(self, saved: dict[str, Any], panes: Iterable[pl.DataFrame]) -> None:
        """A measure that is new is null, or 0, for the events that came before it."""
        self.closed, self.counts = saved["closed"], dict(saved["counts"])
        empty = pl.DataFrame(schema=self.schema())
        grouped = pl.concat(
            [empty, *(part.select(c for c in part.columns if c in empty.columns) for part in panes)], how="diagonal"
        )
        still = pl.col("pane_start") + self.rollup.pane_ms > self.closed
        self.partials = [grouped.filter(still).with_columns(self.zeros).group_by(self.keys).agg(self.fold)]

    def open_panes(self, watermark: int) -> Rows:
        """What is grouped so far in panes that are still open; nothing changes."""
        return Rows(self.rollup.name, on_time_rows(self.merged()), NO_MANIFESTS, watermark)


def on_time_rows(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(
        pl.lit(False).alias("late"), pl.lit("").alias("part"), pl.lit(-1, dtype=pl.Int64).alias("off")
    )
