"""Parquet with a mapping: rows are records, numbered from 1.

A value becomes the text of a cell: numbers in decimal (the shortest text that gives the same double), true and false
as words, dates and times in ISO 8601, with their offset where the column has a zone. A mapped column of another type
(lists, structures, bytes) is refused when the file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from connectors.formats import Block, FormatError
from connectors.formats.foreign import Foreign, Texts
from connectors.mapped_rows import RECORD
from pipelines.model import Decoded

BYTES_PER_CELL: Final = 16
"""How the size of a block in bytes becomes a number of rows."""


def columns(file: BinaryIO) -> tuple[str, ...]:
    """The names of the file's top-level columns."""
    return tuple(_opened(file).schema_arrow.names)


def _opened(file: BinaryIO) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise FormatError(f"it is no Parquet file, or cut short: {error}") from None


@dataclass(frozen=True, slots=True)
class ParquetFormat:
    """Implements `connectors.formats.Format`; the file must be seekable."""

    foreign: Foreign

    def blocks(self, file: BinaryIO, size: int) -> Iterator[Block]:
        """With `order = "event_time"` the whole file is one block."""
        wanted = list(self.foreign.columns)
        opened = _opened(file)
        if self.foreign.order == "event_time":
            yield Block(1, pl.DataFrame(pl.from_arrow(opened.read(columns=wanted))))
            return
        rows = max(1, size // (BYTES_PER_CELL * max(1, len(wanted))))
        first = 1
        for batch in opened.iter_batches(rows, columns=wanted):
            frame = pl.DataFrame(pl.from_arrow(batch))
            yield Block(first, frame)
            first += frame.height

    def decode(self, block: Block, source: str) -> Decoded:
        return self.foreign.decoded(source, self.texts(block, source))

    def texts(self, block: Block, source: str) -> Texts:
        cells = _cells(block)
        return Texts(cells, (), block.first + cells.height, cells.height)

    def decode_reference(self, block: Block, source: str) -> Decoded:
        """As `decode`, one row after the other."""
        cells = _cells(block)
        rows = [(row.pop(RECORD), row) for row in cells.iter_rows(named=True)]
        return self.foreign.reference(source, rows, (), block.first + cells.height, cells.height)


def _cells(block: Block) -> pl.DataFrame:
    frame = block.payload
    if not isinstance(frame, pl.DataFrame):
        raise FormatError("a block of Parquet is a frame; a compressed Parquet file cannot be read")
    texts = [_text(series) for series in frame]
    records = pl.int_range(block.first, block.first + frame.height, dtype=pl.Int64, eager=True).alias(RECORD)
    return pl.DataFrame([records, *texts])


def _text(series: pl.Series) -> pl.Series:
    match series.dtype:
        case pl.Datetime(time_zone=zone):
            return series.dt.strftime("%Y-%m-%dT%H:%M:%S%.9f" + ("%:z" if zone else ""))
        case pl.Date():
            return series.dt.strftime("%Y-%m-%d")
        case dtype if dtype.is_nested() or dtype == pl.Binary:
            raise FormatError(
                f"column {series.name!r} is {dtype}; a mapping reads texts, numbers, flags, dates and times"
            )
    return series.cast(pl.String)
