"""The canonical log as bytes: one JSON object a record, integers as they are kept, the stamps of rule 7 beside them.

`{"t": 1772409600282, "wm": 1772409540000, "late": false, "id": 123, "link": "l0301", "tt_ms": 98273, "n": 19}`; a tick has
`wm` alone. `wm` is null before there is one. A record's partition and offset are its `part` and `off`: a broker knows them,
in a file they are fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from pipelines.model import NEVER, Stamped
from pipelines.streams import Stream, Text


def topic(city: str, stream: str) -> str:
    """The topic of a stream's canonical log."""
    return f"events.{city}.{stream}"


def part_of(topic_: str, partition: int) -> str:
    """What the rows of a partition call it (rule 7: it contains the source's identity)."""
    return f"{topic_}/{partition}"


def schema_of(stream: Stream) -> dict[str, Any]:
    """The fields of a record."""
    columns = {c.name: pl.String if isinstance(c, Text) else pl.Int64 for c in stream.columns}
    return {"t": pl.Int64, "wm": pl.Int64, "late": pl.Boolean, "id": pl.UInt64, stream.place: pl.String, **columns}


def encoded(block: Stamped, stream: Stream, places: Sequence[str], *, stamps: bool = False) -> bytes:
    """The records of a run, each with its newline. `places`: names by code; `stamps` adds `part` and `off`, as files need
    them. A tick that has no watermark yet says nothing and makes no record."""
    if block.events is None:
        if block.last_wm == NEVER:
            return b""
        ticks = pl.DataFrame({"wm": [block.last_wm], "off": [block.off]})
        return _lines(ticks.select("wm", *(_stamps(block) if stamps else ())))
    columns = (c.name for c in stream.columns)
    wm = pl.when(pl.col("wm") > NEVER).then(pl.col("wm"))
    place = pl.Series(stream.place, places, dtype=pl.String).gather(block.events["place"])
    return _lines(
        block.events.select("t", wm.alias("wm"), "late", "id", place, *columns, *(_stamps(block) if stamps else ()))
    )


def _stamps(block: Stamped) -> tuple[pl.Expr, pl.Expr]:
    return pl.lit(block.part).alias("part"), pl.col("off")


def _lines(records: pl.DataFrame) -> bytes:
    return records.write_ndjson().encode()


def decoded(records: Sequence[bytes], offsets: Sequence[int], stream: Stream) -> pl.DataFrame:
    """A run of records of one partition with its `off`; ticks have a null `t`. Raises pl.exceptions.ComputeError for what
    is no record."""
    frame = pl.read_ndjson(b"\n".join(records), schema=schema_of(stream))
    if len(frame) != len(offsets):
        raise pl.exceptions.ComputeError(f"{len(offsets)} records of {stream.name} make {len(frame)} events")
    return frame.with_columns(pl.Series("off", offsets, dtype=pl.Int64), pl.col("wm").fill_null(NEVER))


def decoded_file(content: bytes, stream: Stream) -> pl.DataFrame:
    """The same of records that carry their `off`."""
    frame = pl.read_ndjson(content, schema={**schema_of(stream), "off": pl.Int64})
    return frame.with_columns(pl.col("wm").fill_null(NEVER))
