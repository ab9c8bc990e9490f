"""Canonical Arrow: IPC files (Feather) and IPC streams whose columns are the canonical record's.

Columns: `t` (event time, UTC ms), the place under the stream's own name (`link`, `lane`, ...; plain or dictionary
encoded), and the stream's columns, Int and Time as integers of any width, Text as strings, Flag as booleans or
integers. A nullable column may be absent; other columns are ignored. Values are the stored ones. A record's number is
its row, from 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, cast

import numpy as np
import polars as pl
import pyarrow as pa

from connectors.formats import Block, FormatError
from connectors.formats.decoded import dead_letter, finish, wanted
from pipelines.model import Decoded
from pipelines.records import Refused, check, check_record
from pipelines.streams import Stream

MAGIC: Final = b"ARROW1"
ROW_BYTES: Final = 48
"""About what a row of a canonical record takes, to turn a block size in bytes into rows."""
NAMES: Final = {"int": "an integer", "text": "a string", "flag": "a boolean or an integer"}


class ArrowIpc:
    """The format of canonical Arrow files of one stream; see `Format`.

    Wrong or missing columns concern the whole file and raise FormatError; a bad value costs only its row.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def blocks(self, file: BinaryIO, size: int) -> Iterator[Block]:
        rows = max(size // ROW_BYTES, 1)
        first = 1
        for frame in _gathered(self._frames(file), rows):
            for start in range(0, frame.height, rows):
                piece = frame.slice(start, rows)
                yield Block(first, piece)
                first += piece.height

    def _frames(self, file: BinaryIO) -> Iterator[pl.DataFrame]:
        for batch in _batches(file):
            self._check(batch.schema)
            names = [name for name in wanted(self.stream) if name in batch.schema.names]
            # Without the metadata of fields, which Polars would take for its own and trust.
            chosen = pa.RecordBatch.from_arrays([batch.column(name) for name in names], names=names)
            try:
                # Offsets and codes that lead outside a buffer would be followed.
                chosen.validate(full=True)
            except pa.ArrowInvalid as error:
                raise FormatError(f"this Arrow file or stream is damaged: {error}") from None
            yield cast(pl.DataFrame, pl.from_arrow(chosen))

    def _check(self, schema: pa.Schema) -> None:
        optional = {c.name for c in self.stream.columns if c.nullable}
        for name, kind in wanted(self.stream).items():
            if schema.names.count(name) > 1:
                raise FormatError(
                    f"column {name!r} is there {schema.names.count(name)} times; readers disagree on which counts"
                )
            if name not in schema.names:
                if name in optional:
                    continue
                near = difflib.get_close_matches(name, schema.names, 1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise FormatError(f"column {name!r} is missing; there are {', '.join(schema.names)}.{hint}")
            found = schema.field(name).type
            values = found.value_type if pa.types.is_dictionary(found) else found
            text = pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)
            whole = pa.types.is_integer(values)
            fits = text if kind == "text" else whole or (kind == "flag" and pa.types.is_boolean(values))
            if not fits and not pa.types.is_null(values):
                raise FormatError(f"column {name!r} is {found}; stream {self.stream.name!r} wants {NAMES[kind]}")

    def decode(self, block: Block, source: str) -> Decoded:
        given = pl.DataFrame() if isinstance(block.payload, bytes) else block.payload
        frame = _typed(given, self.stream, block.first)
        good, bad = check(frame, self.stream)
        refused = []
        for row, verdict in sorted(bad.items()):
            record = given.row(row, named=True)
            if pl.UInt64 in given.dtypes and isinstance(told := check_record(record, self.stream), Refused):
                verdict = told  # with the number that was sent, which `frame` cannot hold
            refused.append(dead_letter(source, block.first + row, self.stream, verdict, str(record).encode()))
        following = block.first + given.height
        return Decoded(source, self.stream.name, finish(good, self.stream), tuple(refused), following, given.height)


def _gathered(frames: Iterator[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """Frames of at least so many rows but the last: programs that write as they go write many small batches."""
    held: list[pl.DataFrame] = []
    height = 0
    for frame in frames:
        held.append(frame)
        height += frame.height
        if height >= rows:
            yield pl.concat(held)
            held, height = [], 0
    if held:
        yield pl.concat(held)


def _batches(file: BinaryIO) -> Iterator[pa.RecordBatch]:
    try:
        if file.seekable() and _starts(file):
            reader = pa.ipc.open_file(file)
            yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        elif file.peek(1) if hasattr(file, "peek") else True:
            yield from pa.ipc.open_stream(file)
    except pa.ArrowInvalid as error:
        raise FormatError(f"this is no Arrow IPC file or stream: {error}") from None


def _starts(file: BinaryIO) -> bool:
    magic = file.read(len(MAGIC))
    file.seek(0)
    return magic == MAGIC


def _typed(given: pl.DataFrame, stream: Stream, first: int) -> pl.DataFrame:
    """The columns in the types of `Decoded.events`. An integer beyond 64 bits signed becomes the largest there is,
    which no range allows."""
    rows = given.height
    columns: dict[str, Any] = {
        "record": pl.Series(np.arange(first, first + rows), dtype=pl.Int64),
        "index": pl.zeros(rows, dtype=pl.Int32, eager=True),
    }
    for name, kind in wanted(stream).items():
        dtype = pl.String if kind == "text" else pl.Int64
        series = given[name] if name in given.columns else pl.Series([None] * rows, dtype=dtype)
        if series.dtype == pl.UInt64:
            series = series.clip(upper_bound=2**63 - 1)
        if name == stream.place:
            # As categories each distinct site is checked once.
            columns["place"] = series.cast(pl.Categorical())
        else:
            columns[name] = series.cast(dtype)
    return pl.DataFrame(columns)
