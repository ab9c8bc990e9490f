"""A frame on its way into a table: checked, then turned into what the store keeps.

The store is silent where it should not be: a null in a column without nulls becomes 0, a missing column its default,
NaN poisons every sum. So a frame is checked before it is sent, and refused as a whole.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Final

import polars as pl

from sinks.ddl import Field, Table
from sinks.errors import FrameRefused

EARLIEST_MS: Final = -2_208_988_800_000
"""1900-01-01, the first instant of a DateTime64."""
LATEST_MS: Final = 10_413_792_000_000
"""2300-01-01, the first instant after the last one."""
MONTHS_PER_INSERT: Final = 50
"""ClickHouse refuses blocks of more than 100 partitions with the code it also uses for too many parts (252)."""

ROWS_PER_INSERT: Final = 250_000
"""The store sorts a block in memory: of a million places with many indicators all at once would be too much."""


def stored(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the columns of the table in their order and the types that the insert needs.

    Raises FrameRefused when a column is missing, unknown, of another type, has a null where none is allowed, a number
    that is not finite, or a time outside 1900 to 2299.
    """
    names = [f.name for f in table.fields]
    for name in frame.columns:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise FrameRefused(f"table {table.name!r} has no column {name!r}; it has {', '.join(names)}.{hint}")
    missing = [n for n in names if n not in frame.columns]
    if missing:
        raise FrameRefused(f"table {table.name!r}: the frame has no column {missing[0]!r}; it needs {', '.join(names)}")
    return pl.DataFrame([_column(table, field, frame[field.name]) for field in table.fields])


def _column(table: Table, field: Field, values: pl.Series) -> pl.Series:
    where = f"table {table.name!r}, column {field.name!r}"
    if (nulls := values.null_count()) and not field.nullable:
        first = values.is_null().arg_max()
        raise FrameRefused(f"{where}: {nulls} nulls (the first in row {first}); this column has no nulls")
    dtype = values.dtype
    if dtype == pl.Null:
        values = values.cast(field.dtype)
        dtype = values.dtype
    match field.kind:
        case "text" | "word":
            if not isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
                raise FrameRefused(f"{where}: type {dtype}; it must be String, Categorical or Enum")
            # Arrow sends the dictionary of a categorical: cheap for few words (not for an Enum, whose dictionary
            # holds all of them), dearer than the strings themselves for many.
            if isinstance(dtype, pl.Enum) or (field.kind == "text" and not isinstance(dtype, pl.String)):
                values = values.cast(pl.String)
        case "time":
            if dtype != pl.Int64:
                raise FrameRefused(f"{where}: type {dtype}; times are Int64, UTC milliseconds since 1970")
            low, high = _extent(values)
            if low < EARLIEST_MS or high >= LATEST_MS:
                raise FrameRefused(f"{where}: {low} to {high} ms; times must be in the years 1900 to 2299")
            values = values.cast(pl.Datetime("ms", "UTC"))
        case "version":
            if dtype not in (pl.Int64, pl.UInt64):
                raise FrameRefused(f"{where}: type {dtype}; it must be Int64")
            low, _ = _extent(values)
            if low < 0:
                raise FrameRefused(f"{where}: {low}; a version is not negative")
            values = values.cast(pl.UInt64)
        case "float":
            if dtype != pl.Float64:
                raise FrameRefused(f"{where}: type {dtype}; it must be Float64")
            if values.is_finite().all() is False:
                found = values.filter(~values.is_finite())[0]
                raise FrameRefused(f"{where}: {found}; only finite numbers are stored (null = no value)")
        case _:
            if dtype != field.dtype:
                raise FrameRefused(f"{where}: type {dtype}; it must be {field.dtype}")
    return values


def _extent(values: pl.Series) -> tuple[int, int]:
    """Smallest and largest of integers; (0, 0) when there is none."""
    low, high = values.min(), values.max()
    return (low, high) if isinstance(low, int) and isinstance(high, int) else (0, 0)


def pieces(table: Table, frame: pl.DataFrame, months: int = MONTHS_PER_INSERT) -> Iterator[pl.DataFrame]:
    """The stored frame in pieces of at most so many partitions and rows; almost always one piece, the frame itself."""
    for part in _by_month(table, frame, months):
        yield from part.iter_slices(ROWS_PER_INSERT)


def _by_month(table: Table, frame: pl.DataFrame, months: int) -> Iterator[pl.DataFrame]:
    if frame.is_empty():
        return
    if table.month is None:
        yield frame
        return
    month = pl.col(table.month).dt.year().cast(pl.Int32) * 12 + pl.col(table.month).dt.month()
    low, high = (
        frame.select(pl.col(table.month).min()).select(month),
        frame.select(pl.col(table.month).max()).select(month),
    )
    if high.item() - low.item() < months:
        yield frame
        return
    marked = frame.with_columns(month.alias("__month"))
    known = marked["__month"].unique().sort()
    for i in range(0, len(known), months):
        part = known[i : i + months]
        yield marked.filter(pl.col("__month").is_between(part[0], part[-1])).drop("__month")
