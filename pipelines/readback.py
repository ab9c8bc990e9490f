"""What a run reads back of its own store: rows of panes that memory has given up, and the cases after a restart.

Told by positions, not by revisions (docs/decisions/0012): what the finished steps have written counts, whatever else the
store holds of a step that is under way or was cut off, or of an older run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import polars as pl

from pipelines.model import NEVER, PlaceRegistry
from pipelines.rollup import Rollup
from pipelines.stream_run import InRun

Panes = Callable[[Rollup, int, int], pl.DataFrame]
Cases = Callable[[str], pl.DataFrame]


class ReadBack:
    """`panes` and `cases` read the store; `flush` waits until everything that was handed over is in it. `born` is the
    epoch in which the run began: rows of older ones are not its own."""

    def __init__(
        self,
        registries: Mapping[str, PlaceRegistry],
        panes: Panes | None,
        cases: Cases | None,
        flush: Callable[[], None],
        born: int,
    ) -> None:
        self._registries, self._panes, self._cases, self._flush, self.born = registries, panes, cases, flush, born
        self._events: dict[str, pl.Expr] = {}
        self._late: dict[str, pl.Expr] = {}
        """By stream, and for late rows by rollup: which are handed over."""
        self._closed: dict[str, int] = {}
        """By rollup how far its panes are handed over."""

    def look(self, streams: Mapping[str, InRun]) -> None:
        """A step is finished, or a checkpoint was loaded: what these streams have handed over counts from now on."""
        self._events = {name: stream.seen(None) for name, stream in streams.items()}
        self._late = {r.name: stream.seen(r.name) for stream in streams.values() for r in stream.rollups}
        self._closed = {r: end for stream in streams.values() for r, end in stream.closed().items()}

    def panes(self, rollup: Rollup, since: int, until: int) -> pl.DataFrame:
        """Rows of panes that start in [since, until), with codes for places (rule 26)."""
        assert self._panes is not None
        self._flush()
        closed = self._closed.get(rollup.name, NEVER)
        on_time = pl.col("pane_start") + rollup.pane_ms <= closed
        seen = pl.when("late").then(self._late[rollup.name]).otherwise(on_time)
        rows = self._panes(rollup, since, until).filter(pl.col("step") >= self.born << 32, seen)
        registry = self._registries[rollup.stream.name]
        return rows.with_columns(pl.Series("place", [registry.code(p) for p in rows["place"]], dtype=pl.UInt32))

    def cases(self, stream: str) -> Iterable[pl.DataFrame]:
        """Events of a lifecycle stream."""
        if self._cases is None:
            raise ValueError(f"the cases of stream {stream!r} cannot be read back; give the run its store")
        stored = self._cases(stream).filter(pl.col("step") >= self.born << 32, self._events[stream])
        yield stored.with_columns(pl.col("event_id").fill_null(0).reinterpret(signed=False).alias("id"))
