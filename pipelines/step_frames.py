"""The frames of a step as the store takes them (rule 31): places by name, and the step that wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import polars as pl

from pipelines.brain import Step
from pipelines.episodes import transitions_frame
from pipelines.model import DEAD_LETTERS_SCHEMA, DeadLetter, PlaceRegistry, Rows, Stamped
from pipelines.retention import month_start
from pipelines.streams import Stream

Batch = Sequence[tuple[str, pl.DataFrame]]
"""Tables and what is written to them, in this order."""


class StepFrames:
    """Makes the batch of a step. `rollups` says which stream each rollup is of."""

    def __init__(
        self, streams: Mapping[str, Stream], rollups: Mapping[str, str], registries: Mapping[str, PlaceRegistry]
    ) -> None:
        self.streams, self.rollups, self.registries = streams, rollups, registries

    def batch(
        self,
        rows: Iterable[Rows],
        events: Iterable[Stamped],
        letters: Sequence[DeadLetter],
        step: Step,
        revision: int,
        now: int,
    ) -> Batch:
        """What there is of each table; empty frames are left out."""
        found = [(f"rows_{one.rollup}", self._rows(one, revision)) for one in rows if len(one.rows)]
        found += [
            (f"lifecycles_{block.stream}", self._cases(block, block.events, revision))
            for block in events
            if block.events is not None and len(block.events)
        ]
        if letters:
            found.append(("dead_letters", dead_letters_frame(letters, now)))
        found += [("readings", step.readings), ("episodes", step.episodes)]
        found.append(("transitions", transitions_frame(step.transitions)))
        return [(table, frame) for table, frame in found if len(frame)]

    def _rows(self, one: Rows, revision: int) -> pl.DataFrame:
        place = self._names(self.rollups[one.rollup], one.rows["place"])
        return one.rows.with_columns(place, pl.lit(revision, dtype=pl.Int64).alias("step"))

    def _cases(self, block: Stamped, events: pl.DataFrame, revision: int) -> pl.DataFrame:
        columns = [c.name for c in self.streams[block.stream].columns]
        return events.select(
            *columns, "t", "off", self._names(block.stream, events["place"]),
            pl.col("id").reinterpret(signed=True).alias("event_id"),
            pl.lit(block.part).alias("part"), pl.lit(revision, dtype=pl.Int64).alias("step"),
        )  # fmt: skip

    def _names(self, stream: str, codes: pl.Series) -> pl.Series:
        return pl.Series("place", self.registries[stream].ids, dtype=pl.String).gather(codes)


class KeptRows:
    """How many rows the finished steps of a run wrote, by table and UTC month: what a start compares with the store, so
    that a part which was lost is found there (rule 36). Of tables whose every row is a key of its own."""

    TIMES: Final = {"rows_": "pane_start", "lifecycles_": "t"}

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, int]] = {}

    def add(self, batch: Batch) -> None:
        for table, frame in batch:
            time = next((column for prefix, column in self.TIMES.items() if table.startswith(prefix)), None)
            if time is None:
                continue
            mine = self.rows.setdefault(table, {})
            first, last = (month_start(int(t)) for t in (frame[time].min(), frame[time].max()))  # type: ignore[arg-type]
            if first == last:
                mine[month_of(first)] = mine.get(month_of(first), 0) + len(frame)
                continue
            months = frame.select(pl.from_epoch(time, time_unit="ms").dt.strftime("%Y%m")).to_series().value_counts()
            for month, count in months.iter_rows():
                mine[month] = mine.get(month, 0) + count

    def drop(self, table: str, before: int) -> None:
        """The months before that instant are gone."""
        mine = self.rows.get(table, {})
        for month in [m for m in mine if m < month_of(before)]:
            del mine[month]


def month_of(t: int) -> str:
    """The UTC month of an instant as the store's partitions are named."""
    return datetime.fromtimestamp(t / 1000, UTC).strftime("%Y%m")


def dead_letters_frame(letters: Sequence[DeadLetter], now: int) -> pl.DataFrame:
    """The rows of the table `dead_letters`."""
    rows = [(x.source, x.position, x.stream, x.reason, x.detail, x.payload, x.seen_at or now) for x in letters]
    return pl.DataFrame(rows, DEAD_LETTERS_SCHEMA, orient="row")
