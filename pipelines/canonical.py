"""The canonical log as bytes: one JSON object a record, integers as they are kept, the stamps of rule 7 beside them.

`{"t": 1772409600282, "wm": 1772409540000, "late": false, "id": 123, "link": "l0301", "tt_ms": 98273, "n": 19}`; a tick has
`wm` alone. `wm` is null before there is one. A record's partition and offset are its `part` and `off`: a broker knows them,
in a file they are fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from pipelines.model import NEVER, PlaceRegistry, Stamped
from pipelines.streams import Stream, Text

OPEN_TOPIC: Final = {"cleanup.policy": "delete", "retention.ms": "600000", "segment.ms": "600000"}
"""The settings of `open_topic`: nothing older is read."""


def topic(city: str, stream: str) -> str:
    """The topic of a stream's canonical log."""
    return f"events.{city}.{stream}"


def stream_of(topic_: str) -> str:
    """The stream of such a topic."""
    return topic_.rpartition(".")[2]


def rows_topic(city: str) -> str:
    """The topic of the rows of all engines of a city, and of their manifests."""
    return f"rows.{city}"


def open_topic(city: str) -> str:
    """The topic of what is grouped so far in panes that are open: for screens, nothing is lost with it (rules 15, 19)."""
    return f"open.{city}"


def dead_topic(city: str) -> str:
    """The topic of a city's dead letters."""
    return f"dead.{city}"


def control_topic(city: str) -> str:
    """The topic in which ingest tells its counters and engine jobs announce themselves."""
    return f"control.{city}"


def part_of(topic_: str, partition: int) -> str:
    """What the rows of a partition call it (rule 7: it contains the source's identity)."""
    return f"{topic_}/{partition}"


def encoded(events: pl.DataFrame, stream: Stream, places: pl.Series) -> list[bytes]:
    """The records of a run of stamped events (`Stamped.events`); `places` has the site ids by code."""
    lines = _named(events, stream, places).write_ndjson().encode().split(b"\n")
    if lines[-1:] == [b""]:
        lines.pop()
    if len(lines) != len(events):
        raise RuntimeError(f"{len(events)} events of {stream.name} make {len(lines)} records")
    return lines


def tick(wm: int) -> bytes:
    """A record with only a watermark (rule 8)."""
    return b'{"wm":%s}' % (b"null" if wm == NEVER else b"%d" % wm)


def encoded_file(block: Stamped, stream: Stream, places: pl.Series) -> bytes:
    """The same for a file, each with a newline, `part` and `off`. A tick that has no watermark yet says nothing and makes no
    record."""
    stamps = pl.lit(block.part).alias("part"), "off"
    if block.events is not None:
        return _named(block.events, stream, places, *stamps).write_ndjson().encode()
    if block.last_wm == NEVER:
        return b""
    return pl.DataFrame({"wm": [block.last_wm], "off": [block.off]}).select("wm", *stamps).write_ndjson().encode()


def _named(events: pl.DataFrame, stream: Stream, places: pl.Series, *more: pl.Expr | str) -> pl.DataFrame:
    wm = pl.when(pl.col("wm") > NEVER).then(pl.col("wm")).alias("wm")
    place = places.gather(events["place"]).alias(stream.place)
    return events.select("t", wm, "late", "id", place, *(column.name for column in stream.columns), *more)


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


def stamped(frame: pl.DataFrame, stream: Stream, part: str, registry: PlaceRegistry) -> Stamped:
    """A run that was `decoded`, not empty, as ingest stamped it; its places get codes. Its ticks say only how far time is."""
    events = frame.filter(pl.col("t").is_not_null())
    places = events[stream.place]
    known = places.unique(maintain_order=True)
    codes = pl.Series("place", [registry.code(place) for place in known], dtype=pl.UInt32)
    # Of nothing but ticks there is no place, and a text that is replaced by nothing stays one.
    each = places.replace_strict(known, codes, return_dtype=pl.UInt32).alias("place") if len(known) else codes
    coded = events.drop(stream.place).with_columns(each)
    columns = ["off", "t", "wm", "late", "id", "place", *(column.name for column in stream.columns)]
    last_wm = int(frame["wm"].max())  # type: ignore[arg-type]
    return Stamped(stream.name, part, coded.select(columns), int(frame["off"][0]), last_wm)


def decoded_file(content: bytes, stream: Stream) -> pl.DataFrame:
    """The same of records that carry their `off`."""
    frame = pl.read_ndjson(content, schema={**schema_of(stream), "off": pl.Int64})
    return frame.with_columns(pl.col("wm").fill_null(NEVER))
