"""A source over a list of records, and a store that writes at once: the smallest things that keep their protocols."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any

import polars as pl

from pipelines.delivery import Batch
from pipelines.event_id import event_ids
from pipelines.model import DeadLetter, Decoded, Sink
from pipelines.streams import Stream, Text

Record = dict[str, Any]
"""`t`, `place` and the columns of the stream, `arrival`; or `bad` with the reason why it is refused."""


class ListedSource:
    """An input partition that delivers a list of records in its order (see `pipelines.model.Source`).

    `blocks` gives the number of records of each block, for ever. With a `clock` a record is delivered once it has
    arrived and the source never ends; without one it is finite, and arrival is unknown, as in a file.
    """

    def __init__(
        self,
        name: str,
        stream: Stream,
        records: Sequence[Record],
        *,
        blocks: Iterator[int] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.input, self.stream, self.finite, self.clock = name, stream.name, clock is None, clock
        self._records, self._declared, self._next = records, stream, 0
        # Where blocks end does not depend on where reading began: so it is with files.
        sizes, self._ends = blocks or repeat(1000), [0]
        while self._ends[-1] < len(records):
            self._ends.append(min(self._ends[-1] + next(sizes), len(records)))

    def read(self) -> Decoded | None:
        if self._next >= len(self._records):
            return None
        end = self._ends[bisect_right(self._ends, self._next)]
        if self.clock is not None:
            now = self.clock()
            end = next((k for k in range(self._next, end) if self._records[k]["arrival"] > now), end)
        if end == self._next:
            return None
        first, self._next = self._next, end
        return self._decoded(first, self._records[first:end])

    def _decoded(self, first: int, records: Sequence[Record]) -> Decoded:
        good = [{"record": first + n, "index": 0} | r for n, r in enumerate(records, 1) if "bad" not in r]
        refused = tuple(
            DeadLetter(self.input, str(first + n), self.stream, "json", r["bad"], "{")
            for n, r in enumerate(records, 1)
            if "bad" in r
        )
        schema: dict[str, Any] = {"record": pl.Int64, "index": pl.Int32, "t": pl.Int64, "place": pl.String}
        schema |= {c.name: pl.String if isinstance(c, Text) else pl.Int64 for c in self._declared.columns}
        frame = pl.DataFrame(good, schema=schema | ({} if self.finite else {"arrival": pl.Int64}), orient="row")
        frame = frame.insert_column(3, event_ids(frame, self._declared))
        return Decoded(self.input, self.stream, frame, refused, first + len(records), len(records))

    def seek(self, position: int) -> None:
        self._next = position

    @property
    def ended(self) -> bool:
        return self.finite and self._next >= len(self._records)

    def close(self) -> None:
        """Nothing is held."""


class Crash(RuntimeError):
    """The process is gone: nothing after this write was written."""


class DirectStore:
    """A store's writer without a thread: what `submit` returned from is written. With `writes` it crashes after that
    many tables, between steps or within one."""

    def __init__(self, sink: Sink, writes: int | None = None) -> None:
        self.sink, self.writes, self.written = sink, writes, 0
        self.read = 0
        """How often panes were read back; counted by whoever reads."""

    def submit(self, batch: Batch) -> None:
        for table, frame in batch:
            self._count()
            self.sink.write(table, frame)

    def _count(self) -> None:
        if self.written == self.writes:
            raise Crash(f"after {self.written} writes")
        self.written += 1

    def call(self, action: Callable[[], None]) -> None:
        """An action counts as a write: a crash before it is a crash before the plan, the checkpoint, the publishing."""
        self._count()
        action()

    def flush(self) -> None:
        """Everything is written."""
