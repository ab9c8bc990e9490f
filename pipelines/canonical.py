"""The canonical log as bytes: one JSON object a record, integers as they are kept, the stamps of rule 7 beside them.

`{"t": 1772409600282, "wm": 1772409540000, "late": false, "id": 123, "link": "l0301", "tt_ms": 98273, "n": 19}`; a tick has
`wm` alone. `wm` is null before there is one. A record's partition and offset are its `part` and `off`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from pipelines.model import NEVER
from pipelines.streams import Stream, Text


def topic(city: str, stream: str) -> str:
    """The topic of a stream's canonical log."""
    return f"events.{city}.{stream}"


def rows_topic(city: str) -> str:
    """The topic of the rows of all engines of a city, and of their manifests."""
    return f"rows.{city}"


def dead_topic(city: str) -> str:
    """The topic of a city's dead letters."""
    return f"dead.{city}"


def control_topic(city: str) -> str:
    """The topic in which ingest tells its counters."""
    return f"control.{city}"


def part_of(topic_: str, partition: int) -> str:
    """What the rows of a partition call it (rule 7: it contains the source's identity)."""
    return f"{topic_}/{partition}"


def encoded(events: pl.DataFrame, stream: Stream, places: pl.Series) -> list[bytes]:
    """The records of a run of stamped events (`Stamped.events`); `places` has the site ids by code."""
    frame = events.select(
        "t",
        pl.when(pl.col("wm") != NEVER).then(pl.col("wm")).alias("wm"),
        "late",
        "id",
        places.gather(events["place"]).alias(stream.place),
        *(column.name for column in stream.columns),
    )
    lines = frame.write_ndjson().encode().split(b"\n")
    if lines[-1:] == [b""]:
        lines.pop()
    if len(lines) != len(events):
        raise RuntimeError(f"{len(events)} events of {stream.name} make {len(lines)} records")
    return lines


def tick(wm: int) -> bytes:
    """A record with only a watermark (rule 8)."""
    return b'{"wm":%s}' % (b"null" if wm == NEVER else b"%d" % wm)


def schema_of(stream: Stream) -> dict[str, Any]:
    """The fields of a record."""
    columns = {c.name: pl.String if isinstance(c, Text) else pl.Int64 for c in stream.columns}
    return {"t": pl.Int64, "wm": pl.Int64, "late": pl.Boolean, "id": pl.UInt64, stream.place: pl.String, **columns}


def decoded(records: Sequence[bytes], offsets: Sequence[int], stream: Stream) -> pl.DataFrame:
    """A run of records of one partition with its `off`; ticks have a null `t`. Raises pl.exceptions.ComputeError for what
    is no record."""
    frame = pl.read_ndjson(b"\n".join(records), schema=schema_of(stream))
    if len(frame) != len(offsets):
        raise pl.exceptions.ComputeError(f"{len(offsets)} records of {stream.name} make {len(frame)} events")
    return frame.with_columns(pl.Series("off", offsets, dtype=pl.Int64), pl.col("wm").fill_null(NEVER))
