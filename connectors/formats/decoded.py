"""What every decoder ends with: the frame of events in its promised columns, and dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import polars as pl

from pipelines.event_id import event_ids
from pipelines.model import DeadLetter
from pipelines.records import Refused
from pipelines.redact import redact, redact_series
from pipelines.streams import Flag, Stream, Text

Kind = Literal["int", "text", "flag"]

PAYLOAD_BYTES: Final = 2048
"""How much of a refused record its dead letter keeps."""
MARGIN: Final = 64
"""So much more is redacted before it is cut, so that no number is cut in two and then not recognised."""


def schema(stream: Stream) -> dict[str, Any]:
    """The columns of `Decoded.events` without `id`."""
    out: dict[str, Any] = {"record": pl.Int64, "index": pl.Int32, "t": pl.Int64, "place": pl.String}
    return out | {c.name: pl.String if isinstance(c, Text) else pl.Int64 for c in stream.columns}


def wanted(stream: Stream) -> dict[str, Kind]:
    """The keys of a canonical record and how their values are written."""
    kinds: dict[str, Kind] = {"t": "int", stream.place: "text"}
    for column in stream.columns:
        kinds[column.name] = "text" if isinstance(column, Text) else "flag" if isinstance(column, Flag) else "int"
    return kinds


def frame_of(records: Sequence[tuple[int, Mapping[str, object]]], stream: Stream) -> pl.DataFrame:
    """The events of single records, given as (record number, values of `check_record`); without `id`."""
    columns = schema(stream)
    data: dict[str, Any] = {"record": [n for n, _ in records], "index": [0] * len(records)}
    data |= {name: [values[name] for _, values in records] for name in columns if name not in data}
    return pl.DataFrame(data, schema=columns)


def finish(frame: pl.DataFrame, stream: Stream) -> pl.DataFrame:
    """Redacts free text, adds the ids and puts the columns in order. The place becomes Categorical, so that its hash
    and its code are looked up once per site and not once per event."""
    changed = [pl.col("place").cast(pl.Categorical())]
    for column in stream.columns:
        match column:
            case Text(name=name, pii="drop"):
                changed.append(pl.lit(None, pl.String).alias(name))
            case Text(name=name, pii="redact"):
                frame = frame.with_columns(redact_series(frame[name]).alias(name))
            case _:
                pass
    frame = frame.with_columns(changed)
    names = ["record", "index", "t", "id", "place", *(c.name for c in stream.columns)]
    return frame.with_columns(event_ids(frame, stream).alias("id")).select(names)


def dead_letter(source: str, position: int, stream: Stream, refused: Refused, raw: bytes) -> DeadLetter:
    """The dead letter of one record; `raw` is the record as read, of which the first `PAYLOAD_BYTES` are kept."""
    payload = raw[: PAYLOAD_BYTES + MARGIN].decode("utf-8", "backslashreplace").strip("\r\n")
    detail, payload = redact(f"{refused.detail}\n{payload}").split("\n", 1)
    payload = payload.encode()[:PAYLOAD_BYTES].decode("utf-8", "ignore")
    return DeadLetter(source, str(position), stream.name, refused.reason, detail, payload)


def in_order(letters: Iterable[DeadLetter]) -> tuple[DeadLetter, ...]:
    return tuple(sorted(letters, key=lambda letter: int(letter.position)))
