"""The store in memory: the same promises as `sinks.clickhouse`, kept in Polars frames; nothing outlives the process."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import polars as pl

from pipelines.rollup import Rollup
from pipelines.streams import Stream
from sinks.ddl import Table, tables_of
from sinks.frames import stored
from sinks.reader import Some, order


class MemorySink:
    """Reads and writes as `ClickHouseSink` does, newest row by key; with `keep_revisions` the older ones stay too."""

    def __init__(
        self, rollups: Iterable[Rollup] = (), streams: Iterable[Stream] = (), *, keep_revisions: bool = False
    ) -> None:
        self.tables = tables_of(rollups, streams)
        self.keep_revisions = keep_revisions
        self._frames: dict[str, list[pl.DataFrame]] = {}
        self._turn = threading.Lock()

    def migrate(self) -> tuple[str, ...]:
        return ()

    def write(self, table: str, frame: pl.DataFrame) -> None:
        """As `ClickHouseSink.write`: the same frames are refused."""
        declared = self._table(table)
        ready = stored(declared, frame).with_columns(
            [pl.col(f.name).to_physical() for f in declared.fields if f.kind == "time"]
        )
        with self._turn:
            self._frames.setdefault(table, []).append(ready.cast(pl.Schema(declared.schema)))

    def newest_readings(
        self,
        *,
        indicator: Some = None,
        place_kind: Some = None,
        place: Some = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
        last: int | None = None,
    ) -> pl.DataFrame:
        frame = _among(self._newest("readings"), indicator=indicator, place_kind=place_kind, place=place)
        frame = _within(frame, "window_end", from_ms, until_ms)
        key = self.tables["readings"].key
        if last is not None:
            frame = frame.sort("window_end", "window_start").group_by(key[:4], maintain_order=True).tail(last)
        return frame.select(*self.tables["readings"].schema).sort(key)

    def latest_cells(self) -> pl.DataFrame:
        table = self.tables["readings"]
        frame = self._newest("readings").sort("window_end", "window_start", "method_id", "revision")
        return frame.unique(["indicator", "place_kind", "place"], keep="last", maintain_order=True).sort(table.key)

    def episodes(
        self,
        *,
        episode_id: Some = None,
        rule: Some = None,
        indicator: Some = None,
        place: Some = None,
        state: Some = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
        last: int | None = None,
    ) -> pl.DataFrame:
        frame = _among(
            self._newest("episodes"), episode_id=episode_id, rule=rule, indicator=indicator, place=place, state=state
        )
        frame = _within(frame, "started_at", None, until_ms)
        if from_ms is not None:
            frame = frame.filter(pl.col("ended_at").is_null() | (pl.col("ended_at") >= from_ms))
        if last is not None:
            frame = frame.sort("revision", "episode_id", descending=[True, False]).head(last).sort("episode_id")
        return frame

    def transitions(self, *, episode_id: Some = None) -> pl.DataFrame:
        return _among(self._newest("transitions"), episode_id=episode_id)

    def panes(self, rollup: Rollup | str, from_ms: int, until_ms: int) -> pl.DataFrame:
        name = rollup if isinstance(rollup, str) else rollup.name
        return _within(self._newest(f"rows_{name}"), "pane_start", from_ms, until_ms)

    def lifecycles(self, stream: Stream | str, *, case_id: Some = None) -> pl.DataFrame:
        name = stream if isinstance(stream, str) else stream.name
        return _among(self._newest(f"lifecycles_{name}"), case_id=case_id)

    def counts(self) -> dict[str, int]:
        return {name: self._newest(name).height for name in self.tables}

    def page(self, table: str, after: tuple[Any, ...] | None, limit: int, *, newest: bool = True) -> pl.DataFrame:
        frame = self._newest(table) if newest else self._all(table)
        names = order(self.tables[table], newest)
        if after is not None:
            beyond = pl.lit(False)
            for name, value in reversed(list(zip(names, after, strict=True))):
                beyond = (pl.col(name) > value) | ((pl.col(name) == value) & beyond)
            frame = frame.filter(beyond)
        return frame.head(limit)

    def drop_before(self, table: str, before_ms: int) -> int:
        declared = self._table(table)
        if declared.month is None:
            raise ValueError(f"table {table!r} is not partitioned by time; nothing of it is dropped")
        month = pl.from_epoch(pl.col(declared.month), time_unit="ms").dt.strftime("%Y%m")
        first = pl.select(pl.from_epoch(pl.lit(before_ms), time_unit="ms").dt.strftime("%Y%m")).item()
        frame = self._all(table)
        with self._turn:
            self._frames[table] = [frame.filter(month >= first)]
        return int(frame.filter(month < first).select(month.n_unique()).item())

    def close(self) -> None:
        """Nothing to let go of."""

    def _table(self, name: str) -> Table:
        if name not in self.tables:
            raise LookupError(f"there is no table {name!r}; there are {', '.join(self.tables)}")
        return self.tables[name]

    def _all(self, name: str) -> pl.DataFrame:
        """Every row kept, each (key, version) once, in order; folds what was written since."""
        table = self._table(name)
        with self._turn:
            frames = self._frames.get(name) or [pl.DataFrame(schema=table.schema)]
            names = order(table, newest=not self.keep_revisions)
            frame = pl.concat(frames)
            if table.version is not None:
                frame = frame.sort(table.version, maintain_order=True)
            frame = frame.unique(names, keep="last", maintain_order=True).sort(names)
            self._frames[name] = [frame]
        return frame

    def _newest(self, name: str) -> pl.DataFrame:
        table = self._table(name)
        return self._all(name).unique(table.key, keep="last", maintain_order=True)


def _among(frame: pl.DataFrame, **values: Some) -> pl.DataFrame:
    for name, some in values.items():
        if some is not None:
            frame = frame.filter(pl.col(name).is_in([some] if isinstance(some, str) else list(some)))
    return frame


def _within(frame: pl.DataFrame, name: str, from_ms: int | None, until_ms: int | None) -> pl.DataFrame:
    if from_ms is not None:
        frame = frame.filter(pl.col(name) >= from_ms)
    return frame if until_ms is None else frame.filter(pl.col(name) < until_ms)
