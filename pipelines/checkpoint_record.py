"""A record of the checkpoint: JSON, followed by the bytes of the arrays and frames in it, under one checksum.

Parts are plain data: None, booleans, integers, floats, texts, lists and mappings with text keys, NumPy arrays of
numbers, and Polars frames.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
import polars as pl

FRAME: Final = struct.Struct("<4sIII")
"""Mark, length of the JSON, length of what follows it, checksum of both."""
MARK: Final = b"REC\n"
LISTED: Final = frozenset({pl.String, pl.Boolean})
NUMBERS: Final = frozenset({pl.Int64, pl.Int32, pl.UInt32, pl.UInt64, pl.Float64})
"""Types of columns that need no format of their own."""


def encode(tree: Any) -> bytes:
    """One record: JSON, in which arrays and frames are numbers of the pieces that follow it."""
    blobs: list[bytes] = []

    def piece(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            blobs.append(np.ascontiguousarray(value).tobytes())
            return {"$array": [len(blobs[-1]), value.dtype.str, list(value.shape)]}
        if isinstance(value, pl.DataFrame):
            if all(map(_plain, columns := value.get_columns())):
                return {"$columns": [[c.name, str(c.dtype), _values(c)] for c in columns]}
            buffer = io.BytesIO()
            value.write_ipc(buffer)
            blobs.append(buffer.getvalue())
            return {"$frame": len(blobs[-1])}
        raise TypeError(f"a checkpoint cannot hold {type(value).__name__} {value!r:.80}")

    text = orjson.dumps(tree, default=piece)
    rest = b"".join(blobs)
    return FRAME.pack(MARK, len(text), len(rest), zlib.crc32(rest, zlib.crc32(text))) + text + rest


def decoded(data: bytes, at: int) -> tuple[dict[str, Any], int] | None:
    """The record that begins there, with arrays and frames still to be `made`, and where the next one begins; None when it
    is not whole."""
    if at + FRAME.size > len(data):
        return None
    mark, size, more, checksum = FRAME.unpack_from(data, at)
    at += FRAME.size
    text, rest = data[at : at + size], data[at + size : at + size + more]
    if mark != MARK or len(text) + len(rest) != size + more or zlib.crc32(rest, zlib.crc32(text)) != checksum:
        return None
    used = 0

    def found(value: Any) -> Any:
        nonlocal used
        if isinstance(value, list):
            return [found(x) for x in value]
        if not isinstance(value, dict):
            return value
        if "$array" in value:
            length, dtype, shape = value["$array"]
            used += length
            return _Piece(rest[used - length : used], dtype, shape)
        if "$frame" in value:
            used += value["$frame"]
            return _Piece(rest[used - value["$frame"] : used])
        if "$columns" in value:
            return _Columns([(name, dtype, found(values)) for name, dtype, values in value["$columns"]])
        return {name: found(x) for name, x in value.items()}

    return found(orjson.loads(text)), at + size + more


@dataclass(frozen=True, slots=True)
class _Piece:
    """An array or, without a `dtype`, a frame that was not made yet."""

    data: bytes
    dtype: str = ""
    shape: tuple[int, ...] = ()

    def made(self) -> Any:
        if self.dtype:
            return np.frombuffer(self.data, np.dtype(self.dtype)).reshape(self.shape).copy()
        return pl.read_ipc(self.data)


@dataclass(frozen=True, slots=True)
class _Columns:
    """A frame that was not made yet: names, types and values of its columns."""

    columns: list[tuple[str, str, Any]]

    def made(self) -> pl.DataFrame:
        return pl.DataFrame([pl.Series(name, made(values), getattr(pl, dtype)) for name, dtype, values in self.columns])


def _plain(column: pl.Series) -> bool:
    """Whether an array or JSON holds a column as it is. Polars' own format takes milliseconds for the smallest frame: it
    hands the work to other threads."""
    return column.dtype in LISTED or (column.dtype in NUMBERS and not (column.dtype.is_float() and column.null_count()))


def _values(column: pl.Series) -> Any:
    return column.to_list() if column.dtype in LISTED or column.null_count() else column.to_numpy()


def made(value: Any) -> Any:
    """The arrays and frames of what `decoded` returned."""
    if isinstance(value, list):
        return [made(x) for x in value]
    if isinstance(value, dict):
        return {name: made(x) for name, x in value.items()}
    return value.made() if isinstance(value, _Piece | _Columns) else value
