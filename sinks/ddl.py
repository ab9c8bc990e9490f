"""The tables of the store (semantics rules 31 and 33): declared once as typed data, from which the SQL, the checks of a
frame before it is written, the exports and `docs/data-model.md` are made.

Every table is a ReplacingMergeTree whose sorting key is the key of rule 31, so writing again is harmless. Tables that
grow with time are partitioned by month of a column of their key: the same key is always in the same partition, four
years of hourly rows are 48 parts and not 1,461 (a part costs 5 to 10 ms), and what is old goes as whole partitions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, assert_never

import polars as pl

from pipelines.records import PLACE_BYTES
from pipelines.rollup import Rollup
from pipelines.streams import Column, Flag, Int, Stream, Text, Time

Kind = Literal["text", "word", "int", "small", "float", "time", "flag", "version"]
"""`text`: any string; `word`: one of few strings; `int` Int64; `small` Int32; `time`: UTC ms in frames, DateTime64 in
the store; `flag`: boolean; `version`: what the newest of a key is decided by."""

NAME: Final = re.compile(r"[a-z][a-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a table, as frames carry it and as the store keeps it."""

    name: str
    kind: Kind
    nullable: bool = False
    note: str = ""

    @property
    def sql(self) -> str:
        """The ClickHouse type with its codec. T64 halves integers on disk and makes inserts faster, not slower."""
        match self.kind:
            case "text":
                return "Nullable(String)" if self.nullable else "String"
            case "word":
                return "LowCardinality(Nullable(String))" if self.nullable else "LowCardinality(String)"
            case "int":
                plain, codec = "Int64", " CODEC(T64, LZ4)"
            case "small":
                plain, codec = "Int32", " CODEC(T64, LZ4)"
            case "float":
                plain, codec = "Float64", ""
            case "time":
                plain, codec = "DateTime64(3, 'UTC')", " CODEC(T64, LZ4)"
            case "flag":
                plain, codec = "Bool", ""
            case "version":
                plain, codec = "UInt64", " CODEC(T64, LZ4)"
            case _:
                assert_never(self.kind)
        return (f"Nullable({plain})" if self.nullable else plain) + codec

    @property
    def type(self) -> str:
        """The type as `system.columns` spells it."""
        return self.sql.partition(" CODEC")[0]

    @property
    def dtype(self) -> Any:
        """The Polars type in frames that are read; texts may also be written as Categorical or Enum."""
        match self.kind:
            case "text" | "word":
                return pl.String
            case "int" | "time" | "version":
                return pl.Int64
            case "small":
                return pl.Int32
            case "float":
                return pl.Float64
            case "flag":
                return pl.Boolean
            case _:
                assert_never(self.kind)


@dataclass(frozen=True, slots=True)
class Table:
    """`key` names the columns by which a row is known, in the order in which the store sorts; `version` decides which
    row of a key is the newest (None: the one written last); `month` is the time column that partitions."""

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    version: str | None = None
    month: str | None = None
    note: str = ""
    definition: tuple[tuple[str, str], ...] = ()
    """Hashes of the definition it was made from: ('', frame) and (measure, hash) (rule 16)."""

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"table {self.name!r}: the name {twice[0]!r} is taken; rename that measure or column")
        for name in (self.name, *names):
            if not NAME.match(name):
                raise ValueError(f"table {self.name!r}: {name!r} is no name; use a-z, 0-9 and _, a letter first")

    @property
    def schema(self) -> dict[str, Any]:
        return {f.name: f.dtype for f in self.fields}

    def field(self, name: str) -> Field:
        return next(f for f in self.fields if f.name == name)

    def create(self, *, fsync: bool = True) -> str:
        """The CREATE statement. New parts are compact (one file to fsync, not two a column) up to 256 MiB."""
        columns = ",\n    ".join(f"{quoted(f.name)} {f.sql}" for f in self.fields)
        durable = f"fsync_after_insert = {int(fsync)}, fsync_part_directory = {int(fsync)}"
        partition = f"PARTITION BY toYYYYMM({quoted(self.month)})\n" if self.month else ""
        return (
            f"CREATE TABLE IF NOT EXISTS {quoted(self.name)} (\n    {columns}\n)\n"
            f"ENGINE = ReplacingMergeTree({quoted(self.version) if self.version else ''})\n"
            f"{partition}ORDER BY ({', '.join(quoted(k) for k in self.key)})\n"
            f"SETTINGS {durable}, min_bytes_for_wide_part = 268435456"
        )


def quoted(name: str) -> str:
    """A ClickHouse identifier: names come from declarations only, never from a user."""
    return f"`{name}`"


READINGS: Final = Table(
    "readings",
    (
        Field("indicator", "word", note="id of the indicator"),
        Field("method_id", "word", note="standard and edition it was computed by"),
        Field("place_kind", "word", note="site, district, city ..."),
        Field("place", "text", note="id of the place"),
        Field("window_start", "time", note="start of the window, inclusive"),
        Field("window_end", "time", note="end of the window, exclusive"),
        Field("value", "float", nullable=True, note="null when there is no data or a standard says NA (rule 21)"),
        Field("unit", "word"),
        Field("state", "word", note="ok, degraded, no_data (rule 21)"),
        Field("completeness", "float", nullable=True, note="0 to 1 in steps of 0.0001; null without an expectation"),
        Field("samples", "int", note="events merged; reduced and derived: inputs with a value"),
        Field("num", "int", nullable=True, note="numerator where the value is a ratio"),
        Field("den", "int", nullable=True, note="denominator where the value is a ratio"),
        Field("detail", "text", note="canonical JSON, or empty"),
        Field("as_of", "time", nullable=True, note="largest event time merged in"),
        Field("revision", "version", note="(epoch << 32) | step; the largest is the newest (rule 33)"),
    ),
    key=("indicator", "method_id", "place_kind", "place", "window_start", "window_end"),
    version="revision",
    month="window_start",
    note="One value of an indicator for a place and a window; a correction is a further revision (rules 18 to 25).",
)
EPISODES: Final = Table(
    "episodes",
    (
        Field("episode_id", "text", note="hash(city, rule, rule version, place, started_at) (rule 28)"),
        Field("rule", "word"),
        Field("rule_version", "int"),
        Field("indicator", "word"),
        Field("place_kind", "word"),
        Field("place", "text"),
        Field("level", "word", note="I red, II orange, III yellow, IV blue"),
        Field("state", "word"),
        Field("started_at", "time", note="window_end of the first firing window"),
        Field("ended_at", "time", nullable=True, note="null while it is open"),
        Field("last_value", "float", nullable=True),
        Field("threshold", "float", nullable=True),
        Field("detail", "text", note="canonical JSON, or empty"),
        Field("revision", "version", note="as in readings"),
    ),
    key=("episode_id",),
    version="revision",
    note="One raise-to-resolve life of a rule at a place (rules 27 to 29).",
)
TRANSITIONS: Final = Table(
    "transitions",
    (
        Field("episode_id", "text"),
        Field("seq", "int", note="from 0, without gap"),
        Field("at", "time", note="event time of the change"),
        Field("from_state", "word"),
        Field("to_state", "word"),
        Field("level", "word"),
        Field("detail", "text", note="canonical JSON, or empty"),
    ),
    key=("episode_id", "seq"),
    note="Every change of an episode, append-only (rule 30).",
)
DEAD_LETTERS: Final = Table(
    "dead_letters",
    (
        Field("source", "text", note="input the record came from"),
        Field("position", "text", note="record number, with :index where a record makes several events"),
        Field("stream", "word"),
        Field("reason", "word"),
        Field("detail", "text", note="column and value"),
        Field("payload", "text", note="the record, redacted, at most 2 KiB"),
        Field("seen_at", "time", note="the run's clock when it was refused; never compared"),
    ),
    key=("source", "position"),
    note="Refused records (rule 12).",
)
FIXED: Final = (READINGS, EPISODES, TRANSITIONS, DEAD_LETTERS)


def rows_table(rollup: Rollup) -> Table:
    """`rows_<rollup>` of rule 31. Measures are nullable: a min of nothing is null, and so are rows from before a
    measure was declared (`not_collected`, rule 16). Late rows are known by part and off too (rule 15)."""
    bucket = (Field("bucket", "small", note="histogram bucket; -1 = null value"),) if rollup.histogram else ()
    measures = tuple(Field(m.name, "int", nullable=True, note=m.kind) for m in rollup.measures)
    return Table(
        f"rows_{rollup.name}",
        (
            Field("place", "text"),
            Field("pane_start", "time"),
            *bucket,
            *measures,
            Field("n", "int", note="events in the row"),
            Field("as_of", "time", note="largest event time in the row"),
            Field("late", "flag"),
            Field("part", "word", note="partition of the canonical log for a late row, else empty"),
            Field("off", "int", note="offset in it for a late row, else -1"),
            Field("step", "version"),
        ),
        key=("pane_start", "place", *(("bucket",) if bucket else ()), "part", "off"),
        version="step",
        month="pane_start",
        note=f"Rows of rollup {rollup.name}: stream {rollup.stream.name}, pane {rollup.pane_ms} ms (rules 13 to 16).",
        definition=(("", rollup.frame_hash), *((m.name, m.hash) for m in rollup.measures)),
    )


def lifecycles_table(stream: Stream) -> Table:
    """`lifecycles_<stream>` of rule 31; keyed by case, part and off."""
    if not stream.lifecycle:
        raise ValueError(
            f"stream {stream.name!r} has no milestones; only lifecycle streams have such a table (rule 17)"
        )
    attributes: list[Field] = []
    for column in stream.columns:
        if column.name in ("case_id", "milestone"):
            continue
        match column:
            case Text():
                kind: Kind = "word" if column.values else "text"
            case Int() | Flag():
                kind = "int"
            case Time():
                kind = "time"
            case _:
                assert_never(column)
        attributes.append(Field(column.name, kind, nullable=True))
    return Table(
        f"lifecycles_{stream.name}",
        (
            Field("case_id", "text"),
            Field("milestone", "word"),
            Field("t", "time"),
            Field("place", "text"),
            *attributes,
            Field("event_id", "int", nullable=True, note="hash of the dedup key as a signed number, for ties in time"),
            Field("part", "word"),
            Field("off", "int"),
            Field("step", "version"),
        ),
        key=("case_id", "t", "part", "off"),
        version="step",
        month="t",
        note=f"Accepted events of stream {stream.name}: milestones and attributes of cases (rule 17).",
    )


def tables_of(rollups: Iterable[Rollup], streams: Iterable[Stream]) -> dict[str, Table]:
    """The fixed tables, one for every rollup, and one for every lifecycle stream among `streams`, by name."""
    tables = (*FIXED, *map(rows_table, rollups), *(lifecycles_table(s) for s in streams if s.lifecycle))
    return {t.name: t for t in tables}


def _allowed(column: Column) -> tuple[str, str, str]:
    """Type, null and values of a column of a stream's records, in words."""
    null = "yes" if column.nullable else ""
    match column:
        case Int():
            return "integer", null, f"{column.low} to {column.high}, in {column.unit}"
        case Text():
            return "text", null, ", ".join(column.values) or f"at most {column.max_bytes} bytes"
        case Flag():
            return "flag", null, "true, false, 0 or 1"
        case Time():
            return "time", null, "milliseconds since 1970, UTC"
        case _:
            assert_never(column)


def render_data_model(rollups: Iterable[Rollup] = (), streams: Iterable[Stream] = ()) -> str:
    """`docs/data-model.md`, generated from the declarations above."""
    lines = [
        "# Data model",
        "",
        "Generated from `sinks/ddl.py`; do not edit. Every table may be written again without harm: rows are known by",
        "their key, and the row with the largest version (without a version: the one written last) counts. Read with",
        "`FINAL`. Times are UTC, in milliseconds.",
    ]
    for table in tables_of(rollups, streams).values():
        lines += ["", f"## {table.name}", "", table.note, "", f"Key: {', '.join(table.key)}. "]
        lines[-1] += f"Version: {table.version}. " if table.version else "No version. "
        lines[-1] += f"Partitioned by month of {table.month}." if table.month else "Not partitioned."
        lines += ["", "| column | type | null | meaning |", "|---|---|---|---|"]
        for f in table.fields:
            plain = re.sub(r"Nullable\((.*?)\)(?=\)|\Z)", r"\1", f.type)
            note = f.note.replace("|", "\\|")
            lines.append(f"| {f.name} | {plain} | {'yes' if f.nullable else ''} | {note} |")
    lines += [
        "",
        "## Records of the streams",
        "",
        "What files and pushes bring: a record's columns by stream. Integers are the stored ones, in the unit that is named.",
    ]
    for stream in streams:
        lines += ["", f"### {stream.name}", "", "| column | type | null | allowed |", "|---|---|---|---|"]
        site = (Time("t", nullable=False), Text(stream.place, max_bytes=PLACE_BYTES))
        lines += [f"| {c.name} | {' | '.join(_allowed(c))} |" for c in (*site, *stream.columns)]
    lines += [
        "",
        "## schema_version and definitions",
        "",
        "`schema_version(version, applied_at)` holds the migrations that were applied. `definitions(name, part, hash)`",
        "holds the hashes of every rollup: when its frame (stream, filter, places, pane, buckets) changes, rows are",
        "set aside as `rows_<rollup>__<hash>`; when a measure changes its meaning, its column is set aside as",
        "`<measure>__<hash>`; a new measure becomes a new column that is null in older rows.",
        "",
        "## lease",
        "",
        "`lease(epoch, claim, owner, until, turn)`: who may write to the store, a row for every claim (rule 38); `claim` is",
        "its name and process, `until` is by the server's clock, 1970 in a claim that was withdrawn. `sinks/lease.py` says",
        "what is promised.",
    ]
    return "\n".join(lines) + "\n"
