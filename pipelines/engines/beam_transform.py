"""The rollups of a stream as a Beam transform: few fat DoFns over Polars frames, one GroupByKey a rollup (rules 13 to 16).

A block of the canonical log becomes one partial frame a pane, grouped as the embedded engine groups it; the partials of a
pane meet in its FixedWindow (element time: its last millisecond) and are folded. Late events are rows of their own and pass
by. Beam decides nothing about lateness: the source's watermark follows the stamps, so a window fires when `wm` has passed it.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import polars as pl
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from pipelines.canonical import decoded, decoded_file
from pipelines.engines.polars_engine import Grouped, on_time_rows
from pipelines.engines.row_records import manifest_records, row_records
from pipelines.rollup import Rollup
from pipelines.streams import Stream

LATE: Final = "late"


@dataclass(frozen=True, slots=True)
class Block:
    """Records of one partition of a stream's canonical log, in order."""

    part: str
    offsets: tuple[int, ...]
    records: tuple[bytes, ...]

    def frame(self, stream: Stream) -> pl.DataFrame:
        """What `canonical.decoded` makes of it."""
        return decoded(self.records, self.offsets, stream)


@dataclass(frozen=True, slots=True)
class FileBlock:
    """The same in a file (gzip), where records have their `off` as a field."""

    part: str
    path: str

    def frame(self, stream: Stream) -> pl.DataFrame:
        with gzip.open(self.path, "rb") as file:
            return decoded_file(file.read(), stream)


class Partials(beam.DoFn):  # type: ignore[misc]
    """Blocks to (rollup and pane number % fan, (pane_start, partial rows as Arrow)); late rows, as records, to the output
    LATE."""

    def __init__(self, rollup: Rollup, fan: int, job: str) -> None:
        self.rollup, self.fan, self.job = rollup, fan, job

    def process(self, block: Block | FileBlock) -> Iterator[Any]:
        stream, pane = self.rollup.stream, self.rollup.pane_ms
        frame = block.frame(stream)
        grouped = Grouped(self.rollup)
        events = frame.filter(pl.col("t").is_not_null()).rename({stream.place: "place"})
        if len(events):
            grouped.add(events, block.part)
        for (wm,) in frame.filter(pl.col("t").is_null()).select(pl.col("wm") // pane * pane).unique().iter_rows():
            grouped.tick(wm)
        for late in grouped.late:
            yield from (beam.pvalue.TaggedOutput(LATE, record) for record in row_records(self.rollup, late, self.job))
        rows = {
            start: part
            for part in grouped.partials
            for (start,), part in part.partition_by("pane_start", as_dict=True).items()
        }
        for start in grouped.counts:
            partial = rows[start].write_ipc(None).getvalue() if start in rows else b""
            key = f"{self.rollup.name}/{start // pane % self.fan}"
            yield TimestampedValue((key, (start, partial)), Timestamp(micros=(start + pane - 1) * 1000))


class Fold(beam.DoFn):  # type: ignore[misc]
    """The partials of a pane to its rows and its manifest, as records."""

    def __init__(self, rollup: Rollup, job: str) -> None:
        self.rollup, self.job = rollup, job

    def process(self, keyed: tuple[str, Iterable[tuple[int, bytes]]]) -> Iterator[bytes]:
        partials = list(keyed[1])
        frames = [pl.read_ipc(io.BytesIO(partial)) for _, partial in partials if partial]
        grouped, count = Grouped(self.rollup), 0
        if frames:
            grouped.partials = frames
            rows = on_time_rows(grouped.merged())
            count = int(rows["n"].sum())
            yield from row_records(self.rollup, rows, self.job)
        yield from manifest_records(self.rollup, [(partials[0][0], count)], self.job)


class GroupRows(beam.PTransform):  # type: ignore[misc]
    """Blocks of one stream to the records of the rows topic, of all its rollups.

    `fan`: how many panes of a rollup may be folded side by side; with one, a runner that fires windows in order gives the
    manifests in order. `job`: the id that they carry.
    """

    def __init__(self, rollups: Sequence[Rollup], fan: int = 4, job: str = "") -> None:
        super().__init__()
        self.rollups, self.fan, self.job = tuple(rollups), fan, job

    def expand(self, blocks: Any) -> Any:
        out = []
        for rollup in self.rollups:
            partials = blocks | f"partials of {rollup.name}" >> beam.ParDo(
                Partials(rollup, self.fan, self.job)
            ).with_outputs(LATE, main="panes")
            panes = (
                partials["panes"]
                | f"panes of {rollup.name}" >> beam.WindowInto(FixedWindows(rollup.pane_ms / 1000))
                | f"meet in {rollup.name}" >> beam.GroupByKey()
                | f"rows of {rollup.name}" >> beam.ParDo(Fold(rollup, self.job))
                | f"out of panes of {rollup.name}" >> beam.WindowInto(beam.window.GlobalWindows())
            )
            out += [panes, partials[LATE]]
        return tuple(out) | beam.Flatten()
