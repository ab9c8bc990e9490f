"""The nouns that ingest, engines, brain, connectors and sinks exchange, and the promises of their protocols.

Times are UTC milliseconds since 1970 as int; frames are Polars data frames; inside one process a place is a code
(UInt32) of the stream's `PlaceRegistry`. `NEVER` is minus infinity of a clock (null in exports).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, runtime_checkable

import polars as pl

NEVER: Final = -(10**18)

Reason = str
"""Why a record was refused: the closed list is `pipelines.ingest.REASONS`; the text after it names column and value."""


Parts = dict[str, Any]
"""State for a checkpoint (`pipelines.journal`) by name: plain data, arrays and frames; None says that a part is gone."""


def numbered(parts: Parts, prefix: str) -> list[tuple[int, Any]]:
    """The parts that are named by a prefix and a number, in the order of the numbers."""
    return sorted((int(name[len(prefix) :]), part) for name, part in parts.items() if name.startswith(prefix))


def under(parts: Parts, prefix: str) -> Parts:
    """The parts whose names begin so, without it."""
    return {name[len(prefix) :]: part for name, part in parts.items() if name.startswith(prefix)}


def prefixed(prefix: str, parts: Parts) -> Parts:
    return {prefix + name: part for name, part in parts.items()}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused record (rule 12), keyed by (source, position)."""

    source: str
    position: str
    """Record number (line of a file, from 1), with `:index` when one record makes several events."""
    stream: str
    reason: Reason
    detail: str
    payload: str
    """Redacted and bounded (2 KiB)."""
    kind: Literal["rejected", "quarantined"] = "rejected"
    seen_at: int = 0


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder made of a run of records of one input partition: good events in order, and the refused ones.

    `events` has, in this order: `record` Int64 (record number, from 1), `index` Int32 (0, or the number of the event
    within its record), `t` Int64, `id` UInt64 (hash of the dedup key; 0 where the stream has none), `place` String or
    Categorical (the site's id), then the stream's columns (Int64; Text as String; Flag and Time as Int64), and
    `arrival` Int64 only where the source records one. Values are validated, converted and redacted.
    """

    input: str
    stream: str
    events: pl.DataFrame
    refused: tuple[DeadLetter, ...] = ()
    next_position: int = 0
    """The position to read from next: with it in a checkpoint nothing of this run is read again."""
    records: int = 0
    """Records read (events made plus bad ones plus those that `where` left out)."""


@dataclass(frozen=True, slots=True)
class Stamped:
    """A run of the canonical log of one partition: events with their stamps (rule 7), or a tick (no events).

    `events`: `off` Int64, `t` Int64, `wm` Int64 (NEVER = minus infinity), `late` Boolean, `id` UInt64, `place` UInt32
    (code of the stream's registry), then the stream's columns. `last_wm` is the wm of the run's last record, tick
    included: what a reader of the log knows of this partition's watermark.
    """

    stream: str
    part: str
    events: pl.DataFrame | None
    off: int
    last_wm: int
    ended: bool = False


@dataclass(slots=True)
class PlaceRegistry:
    """Site ids of one stream and their codes, dense from 0 in the order of first sight; never renumbered (rule 10)."""

    known: dict[str, int] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def code(self, place: str) -> int:
        """The code of a site, given to it now if it has none."""
        code = self.known.setdefault(place, len(self.ids))
        if code == len(self.ids):
            self.ids.append(place)
        return code


NO_MANIFESTS: Final = pl.DataFrame(schema={"pane_start": pl.Int64, "n": pl.Int64})


@dataclass(frozen=True, slots=True)
class Rows:
    """Output of an engine for one rollup (rule 15).

    `rows`: `place` UInt32, `pane_start` Int64, `bucket` Int32 (only with a histogram), the measures Int64, `n` Int64,
    `as_of` Int64 (largest t), `late` Boolean, `part` String ('' when on time), `off` Int64 (-1 when on time).
    `manifests`: `pane_start` Int64, `n` Int64, in pane order. `watermark`: all panes that end at or before it are
    here or were handed over before.
    """

    rollup: str
    rows: pl.DataFrame
    manifests: pl.DataFrame
    watermark: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of an indicator for (place, window); the columns of the table `readings` (rule 31)."""

    indicator: str
    method_id: str
    place_kind: str
    place: str
    window_start: int
    window_end: int
    value: float | None
    unit: str
    state: Literal["ok", "degraded", "no_data"]
    completeness: float | None
    samples: int
    num: int | None
    den: int | None
    detail: str
    as_of: int | None
    revision: int


READINGS_SCHEMA: Final[dict[str, Any]] = {
    "indicator": pl.String,
    "method_id": pl.String,
    "place_kind": pl.String,
    "place": pl.String,
    "window_start": pl.Int64,
    "window_end": pl.Int64,
    "value": pl.Float64,
    "unit": pl.String,
    "state": pl.String,
    "completeness": pl.Float64,
    "samples": pl.Int64,
    "num": pl.Int64,
    "den": pl.Int64,
    "detail": pl.String,
    "as_of": pl.Int64,
    "revision": pl.Int64,
}
EPISODES_SCHEMA: Final[dict[str, Any]] = {
    "episode_id": pl.String,
    "rule": pl.String,
    "rule_version": pl.Int64,
    "indicator": pl.String,
    "place_kind": pl.String,
    "place": pl.String,
    "level": pl.String,
    "state": pl.String,
    "started_at": pl.Int64,
    "ended_at": pl.Int64,
    "last_value": pl.Float64,
    "threshold": pl.Float64,
    "detail": pl.String,
    "revision": pl.Int64,
}
TRANSITIONS_SCHEMA: Final[dict[str, Any]] = {
    "episode_id": pl.String,
    "seq": pl.Int64,
    "at": pl.Int64,
    "from_state": pl.String,
    "to_state": pl.String,
    "level": pl.String,
    "detail": pl.String,
}
DEAD_LETTERS_SCHEMA: Final[dict[str, Any]] = {
    "source": pl.String,
    "position": pl.String,
    "stream": pl.String,
    "reason": pl.String,
    "detail": pl.String,
    "payload": pl.String,
    "seen_at": pl.Int64,
}


class Source(Protocol):
    """An input partition, or several: totally ordered sequences of records (rule 4).

    Promises: `read` never blocks for longer than a quarter of a second and returns None when nothing is there now;
    it returns records in their order, each exactly once; `seek` makes the next `read` start at that position;
    `ended` is true only when the input is finite and its last record was returned. Positions are exposed, never
    committed here (rule 35).
    """

    input: str
    stream: str
    finite: bool

    def read(self) -> Decoded | None: ...
    def seek(self, position: int) -> None: ...
    @property
    def ended(self) -> bool: ...
    def close(self) -> None: ...


@runtime_checkable
class Remembering(Protocol):
    """A source for which a position is not enough to go on from: it adds to the checkpoint what else it needs.

    `saved` as everywhere: all, or what changed since the last call. `load` is called instead of `seek`; `at` is the run's
    clock up to which everything that had come was read.
    """

    def saved(self, whole: bool) -> Parts: ...
    def load(self, parts: Parts, position: int, at: int) -> None: ...
    def skip(self, now: int) -> None:
        """What would have come before that instant never comes."""
        ...


@runtime_checkable
class Limited(Protocol):
    """A source over a log of its own: reads no record of number `limit` or later, and keeps what is not committed."""

    limit: int | None

    def commit(self, position: int) -> None:
        """Records before that position are never read again."""
        ...


class Engine(Protocol):
    """Groups by place and pane, nothing else (rules 13 to 16).

    Promises: rows are the same whatever the cut of the blocks; `add` may be called with any interleaving of the
    partitions, each in its order; `take` returns what became final since the last call: on-time rows and manifests of
    the panes that the minimum of the partitions' wm has passed, and a row for every late event; `open_panes` shows
    what is grouped so far and changes nothing; `finish` closes every pane (end of a finite input). `watermark`: up to
    where `take` is complete; `closed`: up to where each rollup's panes were taken. `saved`, called after `take`, and
    `load` are as everywhere.
    """

    @property
    def watermark(self) -> int: ...
    def add(self, block: Stamped) -> None: ...
    def join(self, part: str) -> None:
        """A partition that was not there at the start; it is where the others are."""
        ...

    def take(self) -> list[Rows]: ...
    def open_panes(self) -> list[Rows]: ...
    def finish(self) -> list[Rows]: ...
    def closed(self) -> dict[str, int]: ...
    def saved(self, whole: bool) -> Parts: ...
    def load(self, parts: Parts) -> None: ...


class Sink(Protocol):
    """Writes keyed tables (rule 31, 33). Promises: writing the same frame again changes nothing that is read; a frame is
    durable when `write` returns; an error leaves the frame to be written again, whole."""

    def write(self, table: str, frame: pl.DataFrame) -> None: ...
    def close(self) -> None: ...


__all__ = [
    "DEAD_LETTERS_SCHEMA",
    "EPISODES_SCHEMA",
    "NEVER",
    "NO_MANIFESTS",
    "READINGS_SCHEMA",
    "TRANSITIONS_SCHEMA",
    "DeadLetter",
    "Decoded",
    "Engine",
    "Limited",
    "Parts",
    "PlaceRegistry",
    "Reading",
    "Remembering",
    "Rows",
    "Sink",
    "Source",
    "Stamped",
    "numbered",
    "prefixed",
    "under",
]
