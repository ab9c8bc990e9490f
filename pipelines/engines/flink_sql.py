"""The rollups of a stream as Flink SQL (rules 13 to 16): one source, and for each rollup three inserts into the rows topic.

Time is in the data (rules 7, 8): the watermark of the source is the event's `wm`, so Flink closes a pane exactly when
`PolarsEngine` does, and `late` says which events are rows of their own. Nothing here knows of disorder, idleness or
order; no operator runs Python. All inserts of a stream belong into one STATEMENT SET: each event is parsed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, assert_never

from pipelines.expr import And, Arith, Col, Compare, Const, IsNull, Node, Not, Or, columns
from pipelines.rollup import PACK, Measure, Rollup
from pipelines.streams import Stream, Text

STAMPS: Final = ("t", "wm", "late")
OF_KAFKA: Final = (
    "`topic` STRING METADATA VIRTUAL",
    "`partition` INT METADATA VIRTUAL",
    "`part` AS `topic` || '/' || CAST(`partition` AS STRING)",
    "`off` BIGINT METADATA FROM 'offset' VIRTUAL",
)
"""The columns `part` and `off` where a broker knows them."""
OF_FILES: Final = ("`part` STRING", "`off` BIGINT")
"""The same where each record has them as fields."""
Options = Mapping[str, str]
"""Connector options of a table, as WITH (...) takes them."""


def quoted(name: str) -> str:
    """An identifier, whatever characters it has."""
    return "`" + name.replace("`", "``") + "`"


def literal(value: int | str) -> str:
    """A constant; beside a column, which is BIGINT, a number becomes BIGINT too."""
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


ONE: Final = "CAST(1 AS BIGINT)"


def translate(node: Node) -> str:
    """A SQL expression for a node; three-valued logic is SQL's own."""
    match node:
        case Col(name):
            return quoted(name)
        case Const(value):
            return literal(value)
        case Arith("//", left, right):
            # Of a non-negative by a positive, so truncating is flooring; by zero there is nothing.
            return f"({translate(left)} / NULLIF({translate(right)}, 0))"
        case Arith(op, left, right):
            return f"({translate(left)} {op} {translate(right)})"
        case Compare(op, left, right):
            sign = {"==": "=", "!=": "<>"}.get(op, op)
            return f"({translate(left)} {sign} {translate(right)})"
        case IsNull(of):
            return f"({translate(of)} IS NULL)"
        case And(left, right):
            return f"({translate(left)} AND {translate(right)})"
        case Or(left, right):
            return f"({translate(left)} OR {translate(right)})"
        case Not(of):
            return f"(NOT {translate(of)})"
    assert_never(node)


def bucket(rollup: Rollup) -> str:
    """Index of the first bound >= the value; the number of bounds above the last; -1 for null."""
    assert rollup.histogram is not None
    value, bounds = translate(rollup.histogram.of), rollup.histogram.bounds

    def searched(low: int, high: int) -> str:
        """Halves: some hundred bounds are nine comparisons."""
        if low == high:
            return str(low)
        middle = (low + high) // 2
        below, above = searched(low, middle), searched(middle + 1, high)
        return f"CASE WHEN {value} <= {literal(bounds[middle])} THEN {below} ELSE {above} END"

    return f"CASE WHEN {value} IS NULL THEN -1 ELSE {searched(0, len(bounds))} END"


def single(measure: Measure, rollup: Rollup) -> str:
    """What one event adds to a measure (NULL: nothing)."""
    if measure.of is None:
        value = ONE
    else:
        value = translate(measure.of)
        if measure.kind in ("first", "last"):
            assert isinstance(measure.of, Col)
            minimum = rollup.range_minimum(measure.of.name)
            value = f"(({quoted('t')} - {quoted('pane_start')}) * {literal(PACK)} + ({value} - {literal(minimum)}))"
    return value if measure.where is None else f"CASE WHEN {translate(measure.where)} THEN {value} END"


def folded(measure: Measure, value: str) -> str:
    """A measure over the events of a group: an empty sum is 0, an empty minimum NULL."""
    match measure.kind:
        case "count" | "sum":
            return f"COALESCE(SUM({value}), {literal(0)})"
        case "min" | "first":
            return f"MIN({value})"
        case "max" | "last":
            return f"MAX({value})"
    assert_never(measure.kind)


def table(options: Options, name: str, columns_: Sequence[str]) -> str:
    """A CREATE statement."""
    given = ",\n".join(f"  {literal(key)} = {literal(value)}" for key, value in options.items())
    inner = ",\n".join(f"  {column}" for column in columns_)
    return f"CREATE TEMPORARY TABLE {quoted(name)} (\n{inner}\n) WITH (\n{given}\n)"


def source_table(stream: Stream, rollups: Sequence[Rollup], options: Options, whence: Sequence[str]) -> str:
    """The canonical log of a stream: the columns that the rollups read, and the stamps. A tick has only `wm`. `whence`:
    the columns that make `part` and `off`."""
    used = {name for rollup in rollups for name in _read(rollup)} - {"t", stream.place}
    return table(
        options,
        f"events_{stream.name}",
        (
            *(f"{quoted(name)} {'BOOLEAN' if name == 'late' else 'BIGINT'}" for name in STAMPS),
            f"{quoted(stream.place)} STRING",
            *(
                f"{quoted(c.name)} {'STRING' if isinstance(c, Text) else 'BIGINT'}"
                for c in stream.columns
                if c.name in used
            ),
            *whence,
            "`at` AS TO_TIMESTAMP_LTZ(COALESCE(`t`, `wm`), 3)",
            # A pane ends when wm reaches its end; Flink closes one when the watermark reaches its last millisecond.
            "WATERMARK FOR `at` AS TO_TIMESTAMP_LTZ(`wm`, 3) - INTERVAL '0.001' SECOND",
        ),
    )


def views(rollup: Rollup) -> tuple[str, str]:
    """Of a rollup: its events with their pane and bucket, and those that its manifests count (ticks too, as nothing)."""
    stream, pane = rollup.stream, literal(rollup.pane_ms)
    start = f"(COALESCE(`t`, `wm`) - MOD(MOD(COALESCE(`t`, `wm`), {pane}) + {pane}, {pane}))"
    kept = "" if rollup.where is None else f" AND {translate(rollup.where)}"
    with_bucket = [f"{bucket(rollup)} AS `bucket`"] if rollup.histogram is not None else []
    named = ", ".join(
        [*(quoted(n) for n in sorted({"t", stream.place, *_read(rollup)})), f"{start} AS `pane_start`", *with_bucket,
         "`late`", "`part`", "`off`", "`at`"]
    )  # fmt: skip
    source = quoted(f"events_{stream.name}")
    return (
        f"CREATE TEMPORARY VIEW {quoted(f'of_{rollup.name}')} AS\nSELECT {named}\nFROM {source}\nWHERE `t` IS NOT NULL{kept}",
        f"CREATE TEMPORARY VIEW {quoted(f'counted_{rollup.name}')} AS\nSELECT `t`, {start} AS `pane_start`, `at`\n"
        f"FROM {source}\nWHERE `t` IS NULL OR (NOT `late`{kept})",
    )


def row_table(rollup: Rollup, options: Options, job: str = "") -> str:
    """The rows topic as one rollup writes it."""
    keys = ["`place` STRING", "`pane_start` BIGINT", *(["`bucket` INT"] if rollup.histogram is not None else [])]
    numbers = [f"{quoted(name)} BIGINT" for name in (*(m.name for m in rollup.measures), "n", "as_of")]
    stamps = ["`late` BOOLEAN", "`part` STRING", "`off` BIGINT"]
    return table(options, f"rows_{rollup.name}", (*_named(job), *keys, *numbers, *stamps))


def manifest_table(options: Options, job: str = "") -> str:
    """The rows topic as manifests are written: one subtask, so that they come in pane order."""
    named = {**options, "sink.parallelism": "1"}
    columns_ = (*_named(job), "`manifest` BOOLEAN", "`pane_start` BIGINT", "`n` BIGINT")
    return table(named, "manifests", columns_)


def inserts(rollup: Rollup, job: str = "") -> tuple[str, str, str]:
    """On-time rows, late rows, manifests."""
    name, pane = rollup.name, f"INTERVAL '{rollup.pane_ms / 1000:.3f}' SECOND({_digits(rollup.pane_ms)}, 3)"
    which = ", ".join(map(literal, (name, rollup.frame_hash, *([job] if job else []))))
    place = quoted(rollup.stream.place)
    keys = ["`bucket`"] if rollup.histogram is not None else []
    measured = [f"{folded(m, single(m, rollup))} AS {quoted(m.name)}" for m in rollup.measures]
    alone = [
        f"COALESCE({single(m, rollup)}, {literal(0)})" if m.kind in ("count", "sum") else single(m, rollup)
        for m in rollup.measures
    ]
    on_time = ", ".join([which, place, "MIN(`pane_start`)", *keys, *measured, "COUNT(*)", "MAX(`t`)"])
    late = ", ".join([which, place, "`pane_start`", *keys, *alone, ONE, "`t`"])
    tumbled = f"TABLE(TUMBLE(TABLE {{view}}, DESCRIPTOR(`at`), {pane}))"
    groups = ", ".join(["`window_start`", "`window_end`", place, *keys])
    of, counted = quoted(f"of_{name}"), quoted(f"counted_{name}")
    into = f"INSERT INTO {quoted(f'rows_{name}')}\nSELECT"
    in_panes = tumbled.format(view=quoted(f"on_time_{name}"))
    return (
        f"{into} {on_time}, FALSE, '', CAST(-1 AS BIGINT)\nFROM {in_panes}\nGROUP BY {groups}",
        f"{into} {late}, TRUE, `part`, `off`\nFROM {of}\nWHERE `late`",
        f"INSERT INTO `manifests`\nSELECT {which}, TRUE, MIN(`pane_start`), COUNT(`t`)\n"
        f"FROM {tumbled.format(view=counted)}\nGROUP BY `window_start`, `window_end`",
    )


def on_time_view(rollup: Rollup) -> str:
    """The events of a rollup that belong into its panes."""
    name = rollup.name
    return (
        f"CREATE TEMPORARY VIEW {quoted(f'on_time_{name}')} AS\nSELECT * FROM {quoted(f'of_{name}')}\nWHERE NOT `late`"
    )


def statements(
    rollups: Sequence[Rollup],
    source: Callable[[Stream], Options],
    sink: Callable[[Rollup | None], Options],
    whence: Sequence[str],
    job: str = "",
) -> tuple[list[str], list[str]]:
    """What is to be executed first, one by one, and the inserts of the STATEMENT SET. `source` and `sink` give the options
    of the log of a stream and of where the rows of a rollup, or all manifests (None), go; `job`: the id that they carry."""
    first, into = [manifest_table(sink(None), job)], list[str]()
    for stream in dict.fromkeys(rollup.stream for rollup in rollups):
        mine = [rollup for rollup in rollups if rollup.stream == stream]
        first.append(source_table(stream, mine, source(stream), whence))
        for rollup in mine:
            first += [*views(rollup), on_time_view(rollup), row_table(rollup, sink(rollup), job)]
            into += inserts(rollup, job)
    return first, into


def _read(rollup: Rollup) -> frozenset[str]:
    """The columns of an event that a rollup reads."""
    nodes = [node for m in rollup.measures for node in (m.of, m.where)] + [rollup.where]
    nodes.append(rollup.histogram.of if rollup.histogram is not None else None)
    return frozenset[str]().union(*(columns(node) for node in nodes if node is not None))


def _named(job: str) -> tuple[str, ...]:
    """The columns that say what a row is of."""
    return ("`rollup` STRING", "`frame` STRING", *(["`job` STRING"] if job else []))


def _digits(pane_ms: int) -> int:
    return len(str(pane_ms // 1000))
