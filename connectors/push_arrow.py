"""What an Arrow IPC stream would make of memory, read from its messages before anything is decoded.

A few bytes of Arrow can stand for any number of rows (columns of nulls) or bytes (compressed buffers), so both are
looked up in the flat buffers of the messages, which Arrow itself has verified by then (Message.fbs of the format).
"""

from __future__ import annotations

import struct
from typing import Final

import pyarrow as pa

from connectors.formats import FormatError

MAX_COLUMNS: Final = 1_000
_VERSION_HEADER_TYPE, _HEADER = 1, 2  # fields of Message
_DICTIONARY, _RECORDS = 2, 3  # values of header_type
_LENGTH, _COMPRESSION = 0, 3  # fields of RecordBatch
_DATA = 1  # field of DictionaryBatch


class Bounded(ValueError):
    """Arrow that is not taken, although it may be right; the text says what to send instead."""


class _Table:
    """A table of a flat buffer: fields by their number."""

    def __init__(self, raw: bytes, at: int) -> None:
        self._raw, self._at = raw, at
        self._fields = at - struct.unpack_from("<i", raw, at)[0]
        self._size: int = struct.unpack_from("<H", raw, self._fields)[0]

    def _where(self, field: int) -> int:
        """Where a field stands; 0 when it is left out."""
        entry = 4 + 2 * field
        if entry >= self._size:
            return 0
        offset: int = struct.unpack_from("<H", self._raw, self._fields + entry)[0]
        return offset and self._at + offset

    def has(self, field: int) -> bool:
        return bool(self._where(field))

    def number(self, field: int, form: str) -> int:
        where = self._where(field)
        found: int = struct.unpack_from(form, self._raw, where)[0] if where else 0
        return found

    def table(self, field: int) -> _Table:
        where = self._where(field)
        if not where:
            raise FormatError("a message of the Arrow stream lacks its content")
        return _Table(self._raw, where + struct.unpack_from("<I", self._raw, where)[0])


def refuse_unbounded(content: bytes, most: int) -> int:
    """The rows of all record batches of a stream. Raises Bounded for what would take more memory than the body itself
    and FormatError for what is not one whole Arrow stream; a dictionary may have `most` values, or one a byte of the body."""
    rows = 0
    try:
        source = pa.BufferReader(content)
        reader = pa.ipc.MessageReader.open_stream(source)
        while True:
            last = source.tell()
            try:
                message = reader.read_next_message()
            except StopIteration:
                break
            raw = message.metadata.to_pybytes()
            root = _Table(raw, struct.unpack_from("<I", raw)[0])
            kind = root.number(_VERSION_HEADER_TYPE, "<B")
            if kind not in (_DICTIONARY, _RECORDS):
                continue
            header = root.table(_HEADER)
            batch = header.table(_DATA) if kind == _DICTIONARY else header
            if batch.has(_COMPRESSION):
                raise Bounded("compressed Arrow buffers are not taken; use Content-Encoding: zstd instead")
            length = batch.number(_LENGTH, "<q")
            if kind == _DICTIONARY and length > max(most, len(content)):
                raise Bounded(f"a dictionary of {length} values is not taken; send only those that are used")
            if length < 0:
                raise FormatError("a record batch of the Arrow stream has a negative length")
            rows += length if kind == _RECORDS else 0
        with pa.ipc.open_stream(pa.BufferReader(content)) as stream:
            if len(stream.schema) > MAX_COLUMNS:
                raise Bounded(f"{len(stream.schema)} columns are not taken; at most {MAX_COLUMNS} are allowed")
    except (pa.ArrowException, struct.error, OSError) as error:
        raise FormatError(f"this is no Arrow IPC stream: {str(error)[:200]}") from None
    if (end := source.tell()) == last:
        raise FormatError(
            "the Arrow stream breaks off: it has no end-of-stream marker; close the writer, send all of it"
        )
    if end < len(content):
        raise FormatError(f"{len(content) - end} bytes follow the end of the Arrow stream; send one stream a request")
    return rows
