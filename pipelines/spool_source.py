"""A spool as a source: its durable batches in order, as they were decoded when they came (rule 34)."""

from __future__ import annotations

import os
from typing import Final

import numpy as np
import polars as pl

from pipelines import spool_segment as segments
from pipelines.model import DeadLetter, Decoded
from pipelines.spool import Spool
from pipelines.spool_segment import Batch, Segment

READ_BYTES: Final = 4 << 20
READ_BATCHES: Final = 200
"""A read joins small batches, up to so many and so many bytes of them."""


class SpoolSource:
    """See `pipelines.model.Source`. Begins with the oldest record held; events carry `arrival`.

    `limit`: no record of that number or a later one is read; None reads all that is durable. Raises SpoolDamaged where a
    batch does not have its checksum, LookupError where the position was trimmed.
    """

    def __init__(self, spool: Spool) -> None:
        self.input, self.stream = spool.input, spool.stream
        self.finite = False
        self.limit: int | None = None
        self._spool = spool
        self._position = spool.start
        self._segment: Segment | None = None
        self._fd, self._offset, self._bytes = -1, segments.START, 0
        self._batch: Batch | None = None

    def seek(self, position: int) -> None:
        """The next `read` starts with that record (0 and 1: the first of all)."""
        self.close()
        self._position = max(position, 1)

    def read(self) -> Decoded | None:
        """The next batches, joined; the first and the last may be parts of one."""
        stop = self._spool.end if self.limit is None else min(self.limit, self._spool.end)
        frames: list[pl.DataFrame] = []
        batches: list[Batch] = []
        refused: list[DeadLetter] = []
        self._bytes = 0
        position = self._position
        while position < stop and self._bytes < READ_BYTES and len(frames) < READ_BATCHES:
            batch = self._batch_at(position)
            if batch is None or batch.first >= stop or (frames and batch.events.schema != frames[0].schema):
                break
            until = min(batch.end, stop)
            frames.append(_part(batch, position, until))
            batches.append(batch)
            refused += (x for x in batch.refused if position <= _record(x) < until)
            position = until
        if not frames:
            return None
        self._position = position
        events = _numbered(frames, batches)
        return Decoded(self.input, self.stream, events, tuple(refused), position, events.height + len(refused))

    def _batch_at(self, position: int) -> Batch | None:
        """The batch with a durable record, or where that one is lost the next there is, if any."""
        held = self._batch
        if held is not None and held.first <= position < held.end:
            return held
        segment = self._spool.segment(position)
        if segment is None:
            return None
        if self._segment is None or self._segment.path != segment.path:
            self.close()
            self._fd = os.open(segment.path, os.O_RDONLY)
        self._segment = segment
        while True:
            header = segments.read_header(segment.path, self._fd, self._offset, segment.length)
            if header.end > position:
                break
            self._offset = header.next
        body = segments.read_body(segment.path, self._fd, header)
        self._offset = header.next
        self._bytes += len(body)
        self._batch = segments.unpacked(header, body, self.input, self.stream)
        return self._batch

    @property
    def ended(self) -> bool:
        return False

    def commit(self, position: int) -> None:
        """Files whose records all lie before that position are deleted."""
        self._spool.trim(position)

    def close(self) -> None:
        """Lets go of the file; the next `read` opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._segment, self._batch = None, None
        self._fd, self._offset = -1, segments.START


def _record(letter: DeadLetter) -> int:
    return int(letter.position.partition(":")[0])


def _part(batch: Batch, position: int, until: int) -> pl.DataFrame:
    """The events of records [position, until)."""
    if position <= batch.first and until == batch.end:
        return batch.events
    record, before = batch.events["record"], batch.first - 1
    low, high = int(record.search_sorted(position - before)), int(record.search_sorted(until - before))
    return batch.events[low:high]


def _numbered(frames: list[pl.DataFrame], batches: list[Batch]) -> pl.DataFrame:
    """Parts of batches as one frame, with the record numbers of the spool and each batch's arrival."""
    heights = [frame.height for frame in frames]
    before = pl.Series(np.repeat([batch.first - 1 for batch in batches], heights), dtype=pl.Int64)
    arrival = pl.Series(np.repeat([batch.arrival for batch in batches], heights), dtype=pl.Int64)
    joined = pl.concat(frames, rechunk=True)
    return joined.with_columns(
        pl.col("record") + before, pl.col("place").cast(pl.Categorical()), arrival.alias("arrival")
    )
