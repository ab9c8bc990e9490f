"""CSV and Parquet without a mapping: files whose columns already are the stream's own.

Columns are those of canonical NDJSON: `t` (event time, UTC ms), the place under the stream's own name, and the stream's
columns with their stored integers. A column that may be null may be absent; others are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from connectors.decompressed import decompressed
from connectors.fields import Field, Instant, Kind, Number, Truth, Words
from connectors.formats.csv import CsvFormat, CsvOptions, header
from connectors.formats.foreign import Foreign
from connectors.formats.parquet import ParquetFormat, columns
from connectors.mapped_rows import MappedRows
from connectors.mapping import MappingError, format_of, path_suffix, refuse_unknown
from connectors.times import TimeFormat
from pipelines.streams import Column, Flag, Int, Stream, Text, Time

MILLISECONDS = Instant(TimeFormat("unix_ms"))


def canonical_format(path: Path, stream: Stream) -> CsvFormat | ParquetFormat:
    """How to read this CSV or Parquet file; MappingError where a required column is missing."""
    name = format_of(path)
    if name == "ndjson":
        raise MappingError(f"{path} is NDJSON, which has a format of its own")
    options = CsvOptions("\t" if path_suffix(path) == ".tsv" else ",")
    with decompressed(path)[0] as file:
        names = header(file, options) if name == "csv" else columns(file)
    required = ["t", stream.place, *(c.name for c in stream.columns if not c.nullable)]
    refuse_unknown(f"{path}, read as stream {stream.name!r} without --map", "column", required, names)
    fields = tuple(
        Field(c.name, _kind(c), (c.name,)) if c.name in names else Field(c.name, _kind(c)) for c in stream.columns
    )
    time = Field("t", MILLISECONDS, ("t",))
    foreign = Foreign(MappedRows(stream, Field("place", Words(), (stream.place,)), time, fields))
    return CsvFormat(foreign, names, options) if name == "csv" else ParquetFormat(foreign)


def _kind(column: Column) -> Kind:
    match column:
        case Int():
            return Number()
        case Text():
            return Words()
        case Flag():
            return Truth()
        case Time():
            return MILLISECONDS
    assert_never(column)
