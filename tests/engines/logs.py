"""Canonical logs for all engines: stamped records of every rollup's stream, made so as to be hard to group alike."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import polars as pl

from pipelines import canonical, catalogue
from pipelines.engines.polars_engine import PolarsEngine
from pipelines.expr import And, Arith, Col, Compare, Const, IsNull, Not, Or
from pipelines.model import PlaceRegistry, Rows, Stamped
from pipelines.rollup import Histogram, Measure, Rollup
from pipelines.streams import DAY_MS, Flag, Int, Stream, Text
from tests.conformance.toy import DEMO_ROLLUP

CITY: Final = "conformance"
START: Final = 1_774_742_400_000
"""2026-03-29 00:00 UTC: clocks change in Europe."""
PLACES: Final = ("p1", "p2", "大桥路口 3", 'l\'été "x"', "back\\slash", "🚦", " spaced ", "p" * 120, "rare")

ODD: Final = Stream(
    "odd",
    place="site",
    columns=(
        Int("a", "pieces", -1_000_000, 1_000_000, nullable=True),
        Int("b", "pieces", 1, 4_000_000_000),
        Text("kind", nullable=True),
        Flag("on"),
    ),
    disorder_ms=60_000,
    period_ms=None,
    dedup=None,
    horizon_ms=0,
)
"""A stream whose rollup below has every node of `pipelines.expr`, every kind of measure, a filter and buckets."""
A, B, KIND = Col("a"), Col("b"), Col("kind")
ODD_ROLLUP: Final = Rollup(
    "odd",
    ODD,
    60_000,
    (
        Measure("all", "count"),
        Measure("some", "count", None, Or(Compare("==", KIND, Const("it's")), IsNull(A))),
        Measure("total", "sum", Arith("-", Arith("*", A, Const(3)), B)),
        Measure("sevenths", "sum", Arith("//", B, Const(7)), Not(Compare("!=", KIND, Const("车")))),
        Measure("least", "min", Arith("+", A, B), And(Compare("<", A, Const(0)), Compare("<=", B, Const(10**9)))),
        Measure("most", "max", A, Compare(">", B, Const(5))),
        Measure("opened", "first", A),
        Measure("closed", "last", A, Compare(">=", Col("on"), Const(1))),
    ),
    Histogram(A, (-1_000_000, -1, 0, 1, 1000)),
    Or(Compare("!=", B, Const(3)), IsNull(KIND)),
)


def rollups() -> tuple[Rollup, ...]:
    """Every rollup of the catalogue, the toy of the golden vectors, and the odd one."""
    return (*catalogue.rollups(catalogue.CATALOGUE), DEMO_ROLLUP, ODD_ROLLUP)


@dataclass(frozen=True, slots=True)
class Log:
    """A stream's log: the records of each partition, in order, and where time ends in all of them."""

    stream: Stream
    partitions: tuple[tuple[bytes, ...], ...]
    closing: int

    def events(self) -> int:
        return sum(b'"t"' in record for records in self.partitions for record in records)


def made(stream: Stream, rnd: random.Random, events: int, pane_ms: int) -> Log:
    """One to four partitions, of different speed, some with nothing but ticks; up to a fifth of the events late."""
    parts, last = [], START
    for part in range(rnd.randint(1, 4)):
        share = 0 if part and rnd.random() < 0.2 else int(events * rnd.uniform(0.2, 1))
        late = rnd.choice([0.0, 0.01, 0.2])
        records: list[dict[str, Any]] = []
        largest, wm, ahead = START + rnd.randint(0, 5 * pane_ms), None, rnd.randint(1, 4) * pane_ms // 40 + 1
        for _ in range(share):
            largest += rnd.randint(0, 2 * ahead)
            if rnd.random() < 0.005:
                largest += 3 * pane_ms  # panes without anything
            if rnd.random() < 0.1:
                wm = max(wm or 0, largest - rnd.choice([1, pane_ms // 3, pane_ms]))
            if rnd.random() < 0.03 and wm is not None:
                records.append({"wm": wm})
                continue
            t = largest - (rnd.randint(0, 5 * pane_ms) if rnd.random() < late else rnd.randint(0, pane_ms // 5))
            if wm is not None and rnd.random() < 0.02:
                t = wm - rnd.choice([0, 1])  # the bound itself is on time
            is_late = (wm is not None and t < wm) or rnd.random() < late / 10
            place = PLACES[min(int(rnd.expovariate(0.6)), len(PLACES) - 1)]
            records.append(
                {
                    "t": t,
                    "wm": wm,
                    "late": is_late,
                    "id": rnd.getrandbits(64),
                    stream.place: place,
                    **values(stream, rnd),
                }
            )
        parts.append(records)
        last = max(last, largest)
    closing = (last + DAY_MS) // DAY_MS * DAY_MS
    ends = {"wm": closing}
    return Log(stream, tuple(tuple(orjson.dumps(r) for r in [*records, ends]) for records in parts), closing)


def values(stream: Stream, rnd: random.Random) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for column in stream.columns:
        if column.nullable and rnd.random() < 0.2:
            out[column.name] = None
        elif isinstance(column, Int):
            some = rnd.randint(column.low, column.high)
            out[column.name] = rnd.choice(
                [column.low, column.high, some, some, rnd.randint(column.low, column.low + 9)]
            )
        elif isinstance(column, Text):
            out[column.name] = rnd.choice(column.values or ("it's", "车", "", 'a"b', "\\"))
        else:
            out[column.name] = rnd.randint(0, 1)
    return out


def logs(seed: int, events: int) -> list[Log]:
    rnd, longest = random.Random(seed), dict[Stream, int]()
    for rollup in rollups():
        longest[rollup.stream] = max(rollup.pane_ms, longest.get(rollup.stream, 0))
    return [made(stream, rnd, events, pane_ms) for stream, pane_ms in longest.items()]


Row = tuple[Any, ...]


@dataclass(slots=True)
class Grouped:
    """What an engine made of a rollup: rows by key, and manifests in the order in which they came."""

    rows: dict[Row, Row]
    manifests: list[tuple[int, int]]


def columns_of(rollup: Rollup) -> tuple[list[str], list[str]]:
    """Key and values of a row (rule 15)."""
    key = ["place", "pane_start", *(["bucket"] if rollup.histogram else []), "late", "part", "off"]
    return key, [*(m.name for m in rollup.measures), "n", "as_of"]


def by_polars(log: Log, city: str = CITY) -> dict[str, Grouped]:
    """The rows of a log as the embedded engine makes them, from the bytes of the log."""
    mine = [r for r in rollups() if r.stream == log.stream]
    name = canonical.topic(city, log.stream.name)
    parts = [canonical.part_of(name, n) for n in range(len(log.partitions))]
    engine, places = PolarsEngine(mine, parts), PlaceRegistry()
    for part, records in zip(parts, log.partitions, strict=True):
        for block in blocks(log.stream, part, records, places):
            engine.add(block)
    return grouped(mine, engine.take(), places)


def blocks(
    stream: Stream, part: str, records: Sequence[bytes], places: PlaceRegistry, offsets: Sequence[int] | None = None
) -> Iterator[Stamped]:
    """The records as an engine takes them: runs of events, and ticks. `offsets`: theirs, unless they are numbered from 0."""
    frame = canonical.decoded(records, range(len(records)) if offsets is None else offsets, stream)
    run = frame["t"].is_null().rle_id()
    for piece in frame.with_columns(run.alias("run")).partition_by("run", maintain_order=True):
        first, wm = int(piece["off"][0]), int(piece["wm"][-1])
        if piece["t"][0] is None:
            for off, at in piece.select("off", "wm").iter_rows():
                yield Stamped(stream.name, part, None, off, at)
            continue
        codes = [places.code(place) for place in piece[stream.place]]
        events = piece.drop("run", stream.place).with_columns(pl.Series("place", codes, dtype=pl.UInt32))
        yield Stamped(stream.name, part, events, first, wm)


def grouped(of: Sequence[Rollup], taken: Sequence[Rows], places: PlaceRegistry) -> dict[str, Grouped]:
    found = {}
    for rollup in of:
        key, value = columns_of(rollup)
        out = Grouped({}, [])
        for part in (x for x in taken if x.rollup == rollup.name):
            named = part.rows.with_columns(pl.lit(pl.Series(places.ids)).gather(pl.col("place")).alias("place"))
            out.rows |= dict(zip(named.select(key).iter_rows(), named.select(value).iter_rows(), strict=True))
            out.manifests += [*part.manifests.iter_rows()]
        found[rollup.name] = out
    return found


def from_topic(records: Sequence[bytes]) -> dict[str, Grouped]:
    """What an engine wrote to the rows topic. A row seen again replaces; of two on-time rows the one with more events
    wins (rule 16)."""
    known = {r.name: (r, *columns_of(r)) for r in rollups()}
    found = {name: Grouped({}, []) for name in known}
    for record in map(orjson.loads, records):
        rollup, key, value = known[record["rollup"]]
        assert record["frame"] == rollup.frame_hash
        out = found[rollup.name]
        if record.get("manifest"):
            out.manifests.append((record["pane_start"], record["n"]))
            continue
        name, row = tuple(record[k] for k in key), tuple(record[v] for v in value)
        before = out.rows.get(name)
        if before is None or before[value.index("n")] <= row[value.index("n")]:
            out.rows[name] = row
    return found


def compared(
    wanted: dict[str, Grouped], found: dict[str, Grouped], closing: int, orderly: bool = True
) -> tuple[int, int, int]:
    """Rows, late ones among them, and manifests that are equal. Fails on the first difference.

    `closing`: where time ended; what says that is the pane of a tick, which an engine that ends may close or not.
    Manifests of an engine that was started again come again; those of a start are in order (`orderly`).
    """
    rows = late = manifests = 0
    for name, want in wanted.items():
        have = found[name]
        missing, more = want.rows.keys() - have.rows.keys(), have.rows.keys() - want.rows.keys()
        assert not missing and not more, f"{name}: missing {[*missing][:3]}, too many {[*more][:3]}"
        other = [(k, v, have.rows[k]) for k, v in want.rows.items() if have.rows[k] != v]
        assert not other, f"{name}: {other[:3]}"
        told, all_told = ([m for m in x.manifests if m[0] < closing] for x in (have, want))
        if not orderly:
            told = sorted(set(told))
        assert told == all_told, f"{name}: manifests {told[:5]} and {all_told[:5]}"
        rows, manifests = rows + len(want.rows), manifests + len(told)
        late += sum(dict(zip(columns_of(_of(name))[0], key, strict=True))["late"] for key in want.rows)
    return rows, late, manifests


def _of(name: str) -> Rollup:
    return next(r for r in rollups() if r.name == name)
