"""Logs of cases for tests: events written as text, shuffled arrivals, and facts kept as the brain keeps them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from pipelines.catalogue import government, incidents
from pipelines.indicator import Cases, Indicator, Stock
from pipelines.lifecycle import CaseBook
from pipelines.streams import Stream, Text

INDICATORS: dict[str, Indicator] = {x.id: x for x in (*government.INDICATORS, *incidents.INDICATORS)}
SHANGHAI = "Asia/Shanghai"
ONE, DAY, VISIT, LATE = "approval.one_second", "licence.same_day", "case.zero_visit", "case.overdue"
FIVE, RING, BACK = "accident.settled_5min", "hotline.answer_15s", "hotline.feedback_in_time"


@dataclass(frozen=True)
class Event:
    case_id: str
    milestone: str
    t: int
    id: int = 0
    place: str = "d1"
    attributes: tuple[tuple[str, Any], ...] = field(default=())


def instant(text: str, zone: str = SHANGHAI) -> int:
    if text.isdigit():
        return int(text)
    at = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return int(at.timestamp()) * 1000 + at.microsecond // 1000


def log(text: str, stream: Stream, zone: str = SHANGHAI, case_id: str = "c1") -> list[Event]:
    out = []
    for number, part in enumerate(text.split("; ")):
        milestone, at, *attributes = part.split()
        pairs = [tuple(x.split("=")) for x in attributes]
        texts = {c.name for c in stream.columns if isinstance(c, Text)}
        values = tuple((k, v if k in texts else int(v)) for k, v in pairs)
        out.append(Event(case_id, milestone, instant(at, zone), number, "d1", values))
    return out


def frame(events: Iterable[Event], stream: Stream) -> pl.DataFrame:
    schema: dict[str, Any] = {"t": pl.Int64, "id": pl.UInt64, "place": pl.String}
    schema |= {c.name: pl.String if isinstance(c, Text) else pl.Int64 for c in stream.columns}
    rows = [
        {"t": e.t, "id": e.id, "place": e.place, "case_id": e.case_id, "milestone": e.milestone, **dict(e.attributes)}
        for e in events
    ]
    return pl.DataFrame([{k: row.get(k) for k in schema} for row in rows], schema=schema)


def shuffled(events: list[Event], rnd: random.Random) -> list[list[Event]]:
    """All events in some order, a third of them twice, in one to three runs."""
    arrived = events + [e for e in events if rnd.random() < 0.3]
    rnd.shuffle(arrived)
    cuts = sorted(rnd.randrange(len(arrived) + 1) for _ in range(rnd.randrange(3)))
    return [arrived[a:b] for a, b in zip([0, *cuts], [*cuts, len(arrived)], strict=True)]


def decided(kind: Cases | Stock, runs: list[list[Event]], zone: str = SHANGHAI) -> dict[str, tuple[Any, ...]]:
    """Facts or intervals by case after all runs, replaced by case whenever it changes."""
    book, kept = CaseBook(kind.stream), {}
    for run in runs:
        cases = book.merge(frame(run, kind.stream))
        for case_id in cases["case_id"]:
            kept.pop(case_id, None)
        made = kind.facts(cases, zone) if isinstance(kind, Cases) else kind.intervals(cases, zone)
        kept |= {row[0]: row for row in made.iter_rows()}
    return kept


def kind_of(indicator: str) -> Any:
    return INDICATORS[indicator].kind
