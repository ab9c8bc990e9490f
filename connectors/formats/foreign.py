"""What the formats with a mapping share: cells of foreign records, and what a block of them becomes.

A format hands over, for each record that it could split into cells, its number and its columns as texts. Here cells
are trimmed (blanks, tabs, carriage returns), those that mean null become null, the mapping makes events of them, and
refused ones become dead letters that hold the mapped columns only: what a mapping does not name never leaves here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import orjson
import polars as pl

from connectors.fields import Cells, Value
from connectors.formats import Block
from connectors.formats.decoded import PAYLOAD_BYTES
from connectors.mapped_rows import CELL, INDEX, RECORD, MappedRows, Refusal
from pipelines.model import DeadLetter, Decoded
from pipelines.reasons import Reason
from pipelines.records import Refused
from pipelines.redact import redact

BLANKS: Final = " \t\r"
EVERY: Final = "*"
"""In `nulls`: the texts that mean null in every column."""


@dataclass(frozen=True, slots=True)
class Texts:
    """A block as texts: `record` Int64 and every column of `Foreign.columns` as String, untrimmed; a dead letter for
    each record that could not be split into cells; the number of the next record; how many records there were."""

    frame: pl.DataFrame
    letters: Sequence[DeadLetter]
    next_position: int
    records: int


@dataclass(frozen=True, slots=True)
class Foreign:
    """The mapping as a format needs it. `nulls`: texts that mean null, by column; the empty text always does."""

    rows: MappedRows
    nulls: Mapping[str, frozenset[str]] = field(default_factory=dict)
    order: Literal["arrival", "event_time"] = "arrival"

    @property
    def columns(self) -> tuple[str, ...]:
        return self.rows.columns

    def decoded(self, source: str, read: Texts) -> Decoded:
        cells = read.frame.select(pl.col(RECORD), *(self._cell(c) for c in self.columns))
        events, refusals = self.rows.events(cells)
        refused = list(read.letters)
        if refusals:
            wrong = {r.record for r in refusals}
            rows = cells.filter(pl.col(RECORD).is_in(list(wrong)))
            texts = {row[0]: dict(zip(self.columns, row[1:], strict=True)) for row in rows.iter_rows()}
            refused += [self._letter(source, r, texts[r.record]) for r in refusals]
        return self._whole(source, events, refused, read.next_position, read.records)

    def reference(
        self,
        source: str,
        rows: Sequence[tuple[int, Mapping[str, str | None]]],
        letters: Iterable[DeadLetter],
        next_position: int,
        records: int,
    ) -> Decoded:
        """The same, one record after the other."""
        events: list[tuple[int, int, dict[str, Value], Cells]] = []
        refused = list(letters)
        for record, raw in rows:
            cells = {c: self.trimmed(c, raw.get(c)) for c in self.columns}
            made = self.rows.one(cells)
            if isinstance(made, Refused):
                refused.append(self._letter(source, Refusal(record, None, made), cells))
                continue
            for index, event in made:
                if isinstance(event, Refused):
                    at = index if self.rows.branches else None
                    refused.append(self._letter(source, Refusal(record, at, event), cells))
                else:
                    events.append((record, index, event, cells))
        return self._whole(source, self.rows.frame(events), refused, next_position, records)

    def trimmed(self, column: str, text: str | None) -> str | None:
        if text is None:
            return None
        text = text.strip(BLANKS)
        null = not text or text in self.nulls.get(column, ()) or text in self.nulls.get(EVERY, ())
        return None if null else text

    def _cell(self, column: str) -> pl.Expr:
        text = pl.col(column).str.strip_chars(BLANKS)
        nulls = {"", *self.nulls.get(column, ()), *self.nulls.get(EVERY, ())}
        return pl.when(~text.is_in(sorted(nulls))).then(text).alias(CELL + column)

    def _letter(self, source: str, refusal: Refusal, cells: Cells) -> DeadLetter:
        position = str(refusal.record) if refusal.event is None else f"{refusal.record}:{refusal.event}"
        payload = orjson.dumps(dict(cells)).decode()
        return letter(source, position, self.rows.stream.name, refusal.why.reason, refusal.why.detail, payload)

    def _whole(
        self, source: str, events: pl.DataFrame, refused: list[DeadLetter], next_position: int, records: int
    ) -> Decoded:
        if self.order == "event_time":
            events = events.sort("t", RECORD, INDEX)
        refused.sort(key=lambda x: tuple(int(p) for p in x.position.split(":")))
        return Decoded(source, self.rows.stream.name, events, tuple(refused), next_position, records)


WHOLE: Final = 1 << 30
"""Bytes of the largest file that `order = "event_time"` sorts."""


class TooLargeToSort(ValueError):
    """A file that is to be sorted by event time, and is larger than `WHOLE`."""


def whole_file(blocks: Iterable[Block]) -> Iterator[Block]:
    """All blocks of a text file as one, for `order = "event_time"`; TooLargeToSort above `WHOLE` bytes."""
    parts: list[bytes] = []
    first, total = 0, 0
    for block in blocks:
        if not isinstance(block.payload, bytes):
            raise TypeError("blocks of a text file are bytes")
        first = first or block.first
        parts.append(block.payload)
        total += len(block.payload)
        if total > WHOLE:
            raise TooLargeToSort(
                f'order = "event_time" sorts files of up to {WHOLE >> 20} MiB; sort this one by time before, or cut it'
            )
    if parts:
        yield Block(first, b"".join(parts))


def letter(source: str, position: str, stream: str, reason: Reason, detail: str, payload: str) -> DeadLetter:
    """A dead letter, redacted and bounded."""
    detail, payload = redact(f"{detail}\n{payload}").split("\n", 1)
    cut = payload.encode("utf-8", "replace")[:PAYLOAD_BYTES].decode("utf-8", "ignore")
    return DeadLetter(source, position, stream, reason, detail, cut)
