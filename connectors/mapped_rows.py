"""Foreign records become events of a stream: the work that a mapping describes, for a frame of cells or one record.

`MappedRows.events` reads a frame in vectorised passes, `MappedRows.one` a single record; both give the same events
and refusals (rule 12). What all events of a record share is read first: if that is bad the record is refused, once.
Then each branch of `unpivot` is read on its own: a bad cell there costs only its event, `record:index`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import polars as pl

from connectors.conditions import Condition
from connectors.fields import Cells, Field, Value
from connectors.formats.decoded import finish, schema
from pipelines.event_id import event_ids
from pipelines.records import Refused, check, check_record
from pipelines.streams import Stream

RECORD: Final = "record"
INDEX: Final = "index"
CELL: Final = "cell:"
"""Prefix of the columns of cells in a frame, so that they never meet the names of a stream."""


class Refusal(NamedTuple):
    """Why an event (or, with `event` None, a record) is refused."""

    record: int
    event: int | None
    why: Refused


@dataclass(frozen=True, slots=True)
class Branch:
    """One event that a record may make. Its own time and fields go before the shared ones.

    A branch makes no event where `where` says so, or where a cell that its own time or one of its own required fields
    reads is null: that milestone was not reached, that instrument measured nothing.
    """

    time: Field | None = None
    fields: tuple[Field, ...] = ()
    where: tuple[Condition, ...] = ()
    needs: tuple[str, ...] = ()
    """The columns that must not be null."""


@dataclass(frozen=True, slots=True)
class MappedRows:
    """The compiled mapping: `time`, `place` and `fields` are shared; without `branches` a record makes one event."""

    stream: Stream
    place: Field
    time: Field | None = None
    fields: tuple[Field, ...] = ()
    branches: tuple[Branch, ...] = ()
    where: tuple[Condition, ...] = ()
    key: tuple[str, ...] | None = None
    """Columns of the source's own event id; None: the stream's dedup key."""
    shared: Stream = field(init=False)
    """The stream with the shared columns only: what is checked once per record."""

    def __post_init__(self) -> None:
        names = {f.name for f in self.fields}
        object.__setattr__(
            self, "shared", replace(self.stream, columns=tuple(c for c in self.stream.columns if c.name in names))
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the source that are read, each once."""
        read: dict[str, None] = dict.fromkeys(self.key or ())
        shared = [self.place, *self.fields, *([self.time] if self.time else [])]
        for f in [*shared, *(f for b in self.branches for f in (*b.fields, *([b.time] if b.time else [])))]:
            read |= dict.fromkeys(f.reads)
        for condition in [*self.where, *(c for b in self.branches for c in b.where)]:
            read[condition.column] = None
        return tuple(read)

    # One record ----------------------------------------------------------------------------------------------------

    def one(self, cells: Cells) -> list[tuple[int, dict[str, Value] | Refused]] | Refused:
        """The events of a record and the refused ones by index, or why the whole record is refused."""
        taken = _taken(self.where, cells)
        if taken is not True:
            return taken if isinstance(taken, Refused) else []
        shared = _read([*([self.time] if self.time else []), self.place, *self.fields], cells)
        if isinstance(shared, Refused):
            return shared
        verdict = self._verdict(shared, self.shared if self.branches else self.stream)
        if isinstance(verdict, Refused):
            return verdict
        if not self.branches:
            return [(0, verdict)]
        events = ((i, self._branch(branch, shared, cells)) for i, branch in enumerate(self.branches))
        return [(i, event) for i, event in events if event is not None]

    def _branch(self, branch: Branch, shared: dict[str, Value], cells: Cells) -> dict[str, Value] | Refused | None:
        taken = _taken(branch.where, cells)
        if taken is not True:
            return taken or None
        if any(cells.get(c) is None for c in branch.needs):
            return None
        own = _read([*([branch.time] if branch.time else []), *branch.fields], cells)
        return own if isinstance(own, Refused) else self._verdict(shared | own, self.stream)

    def _verdict(self, values: dict[str, Value], stream: Stream) -> dict[str, Value] | Refused:
        record = {"t": 0, **values, stream.place: values["place"]}
        return check_record(record, stream)

    # A frame -------------------------------------------------------------------------------------------------------

    def events(self, cells: pl.DataFrame) -> tuple[pl.DataFrame, list[Refusal]]:
        """The events of a frame with `record` Int64 and the columns of `columns` as String (prefixed `CELL`), by
        (record, index), in the columns that `Decoded` promises; and the refusals, in the same order."""
        refusals: list[Refusal] = []
        cells = _filtered(cells, self.where, None, refusals)
        shared = [*([self.time] if self.time else []), self.place, *self.fields]
        cells = _converted(cells, shared, self.shared if self.branches else self.stream, None, refusals)
        parts = [self._branch_events(i, b, cells, refusals) for i, b in enumerate(self.branches)] or [
            cells.with_columns(pl.lit(0, pl.Int32).alias(INDEX))
        ]
        events = pl.concat(parts)
        if len(parts) > 1:
            events = events.sort(RECORD, INDEX)
        refusals.sort(key=lambda r: (r.record, -1 if r.event is None else r.event))
        return self._finish(events), refusals

    def _branch_events(self, index: int, branch: Branch, cells: pl.DataFrame, out: list[Refusal]) -> pl.DataFrame:
        cells = _filtered(cells, branch.where, index, out)
        for column in branch.needs:
            cells = cells.filter(pl.col(CELL + column).is_not_null())
        own = [*([branch.time] if branch.time else []), *branch.fields]
        cells = _converted(cells, own, self.stream, index, out).with_columns(pl.lit(index, pl.Int32).alias(INDEX))
        return cells.select(RECORD, INDEX, "t", "place", *(c.name for c in self.stream.columns), *self._key_cells())

    def _key_cells(self) -> list[str]:
        return [CELL + c for c in self.key or ()]

    def _finish(self, events: pl.DataFrame) -> pl.DataFrame:
        """Redacts, adds the ids, orders the columns. With a key of the source an event's index belongs to its key."""
        if self.key is None or self.stream.dedup is None:
            return finish(events, self.stream)
        ids = event_ids(events, replace(self.stream, dedup=(*self._key_cells(), INDEX)))
        return finish(events, replace(self.stream, dedup=None)).with_columns(ids)

    def frame(self, rows: Sequence[tuple[int, int, dict[str, Value], Cells]]) -> pl.DataFrame:
        """Events that `one` made, as `events` gives them: (record, index, values, cells of the record)."""
        columns = schema(self.stream)
        data: dict[str, list[Value]] = {RECORD: [r[0] for r in rows], INDEX: [r[1] for r in rows]}
        data |= {name: [r[2][name] for r in rows] for name in columns if name not in data}
        for column_name in self.key or ():
            data[CELL + column_name] = [r[3].get(column_name) for r in rows]
            columns[CELL + column_name] = pl.String
        return self._finish(pl.DataFrame(data, columns))


def _taken(conditions: Sequence[Condition], cells: Cells) -> bool | Refused:
    for condition in conditions:
        verdict = condition.one(cells)
        if verdict is not True:
            return verdict
    return True


def _read(fields: Sequence[Field], cells: Cells) -> dict[str, Value] | Refused:
    out: dict[str, Value] = {}
    for each in fields:
        value = each.one(cells)
        if isinstance(value, Refused):
            return value
        out[each.name] = value
    return out


def _filtered(
    cells: pl.DataFrame, conditions: Sequence[Condition], index: int | None, out: list[Refusal]
) -> pl.DataFrame:
    for condition in conditions:
        mask, refused = condition.column_mask(cells.select(pl.col(CELL + condition.column).alias(condition.column)))
        records = cells[RECORD]
        out += [Refusal(records[row], index, why) for row, why in refused.items()]
        cells = cells.filter(mask)
    return cells


def _converted(
    cells: pl.DataFrame, fields: Sequence[Field], stream: Stream, index: int | None, out: list[Refusal]
) -> pl.DataFrame:
    """Adds the fields' values and drops the rows that are refused, by a conversion or by the stream's check."""
    plain = cells.select(pl.col(f"^{CELL}.*$").name.map(lambda n: n.removeprefix(CELL)))
    refused: dict[int, Refused] = {}
    values = []
    for each in fields:
        series, wrong = each.column(plain)
        values.append(series)
        refused = wrong | refused
    cells = cells.with_columns(values)
    if "t" not in cells.columns:
        cells = cells.with_columns(pl.lit(0, pl.Int64).alias("t"))
    records = cells[RECORD]
    out += [Refusal(records[row], index, why) for row, why in refused.items()]
    if refused:
        bad = pl.Series(sorted(refused), dtype=pl.UInt32).implode()
        cells = cells.filter(~pl.int_range(cells.height, dtype=pl.UInt32, eager=True).is_in(bad))
    good, wrong = check(cells, stream)
    records = cells[RECORD]
    out += [Refusal(records[row], index, why) for row, why in wrong.items()]
    return good
