"""Rules 17, 22, 23 on any log of cases: the facts of a slow reference, the same book whatever the order of arrival.

Arrival is always shuffled, cut and partly repeated; facts are kept as the brain keeps them, replaced by case.
"""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.decisions import same_local_day, within
from pipelines.indicator import Cases, Indicator
from pipelines.lifecycle import CaseBook, case_schema
from pipelines.streams import CASE, INC, STREAMS, TKT, Stream
from tests.conformance.case_logs import (
    BACK,
    DAY,
    FIVE,
    INDICATORS,
    ONE,
    RING,
    SHANGHAI,
    Event,
    decided,
    frame,
    kind_of,
    log,
    shuffled,
)  # fmt: skip
from tests.conformance.slow_lifecycles import FACTS, Case, open_and_overdue

HOUR = 3_600_000
GRID = {
    CASE.name: (0, 1, 500, 999, 1000, 1001, 1499, 1500, 2000, 54_000_000, 57_599_999, 57_600_000, 140_000_000),
    INC.name: (0, 1, 60_000, 299_999, 300_000, 300_001, 360_000, 600_000),
    TKT.name: (0, 1, 14_999, 15_000, 15_001, 16_000, 2 * HOUR, 2 * HOUR + 1, 24 * HOUR, 168 * HOUR, 360 * HOUR),
}  # fmt: skip
VALUES: dict[str, tuple[Any, ...]] = {
    "item": ("food_licence", "food_licence", "other"), "channel": ("online", "counter", "app"), "auto": (0, 1),
    "coarse": (0, 1), "due_t": (0, 999, 1500, 60_000_000), "kind": ("minor",), "unit": ("u1", "u2"),
    "class": ("emergency", "utility", "normal", "complex"), "contacted": (0, 1), "solved": (0, 1), "satisfied": (0, 1),
}  # fmt: skip


@st.composite
def logs(draw: st.DrawFn) -> tuple[Stream, list[Event], random.Random]:
    stream = draw(st.sampled_from([CASE, INC, TKT]))
    rnd = draw(st.randoms(use_true_random=False))
    events = []
    attributes = [c.name for c in stream.columns if c.name not in ("case_id", "milestone")]
    for case in range(draw(st.integers(1, 12))):
        opened = [stream.milestones[0]] * (rnd.random() < 0.85)
        for milestone in opened + [rnd.choice(stream.milestones) for _ in range(rnd.randrange(8))]:
            t = rnd.choice(GRID[stream.name]) + rnd.choice((0, 0, 0, 1, 500))
            carried = tuple((a, rnd.choice(VALUES[a])) for a in attributes if rnd.random() < 0.4)
            events.append(Event(f"c{case}", milestone, t, rnd.randrange(3), rnd.choice(("d1", "d2")), carried))
    return stream, events, rnd


def reference(indicator: str, events: list[Event], zone: str) -> dict[str, tuple[Any, ...]]:
    cases: dict[str, list[Event]] = {}
    for event in events:
        cases.setdefault(event.case_id, []).append(event)
    made = {case_id: FACTS[indicator](Case(of), zone) for case_id, of in cases.items()}
    return {case_id: fact for case_id, fact in made.items() if fact is not None}


def check(indicator: str, kind: Any, events: list[Event], runs: list[list[Event]], zone: str = SHANGHAI) -> int:
    """Compares facts, or what is open and overdue at every instant that could differ; the number compared."""
    got = decided(kind, runs, zone)
    if isinstance(kind, Cases):
        expected = reference(indicator, events, zone)
        assert got == expected, indicator
        return len(expected)
    compared = 0
    for case_id in {e.case_id for e in events}:
        case = Case([e for e in events if e.case_id == case_id])
        row = got.get(case_id)
        for at in sorted({e.t + d for e in case.events for d in (-1, 0)} | {1499, 1500, 60_000_000}):
            is_open = row is not None and row[2] <= at and (row[3] is None or row[3] > at)
            overdue = is_open and row is not None and row[4] is not None and row[4] <= at
            assert (is_open, overdue) == open_and_overdue(case, at), (case_id, at)
            compared += 1
    return compared


def of_stream(stream: Stream) -> list[Indicator]:
    return [x for x in INDICATORS.values() if x.stream is stream]


def test_any_log_in_any_order_gives_the_facts_of_the_slow_reference() -> None:
    counts: dict[str, int] = dict.fromkeys(INDICATORS, 0)
    examples = [0]

    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(logs(), st.sampled_from([SHANGHAI, "America/Chicago"]))
    def run(given_: tuple[Stream, list[Event], random.Random], zone: str) -> None:
        stream, events, rnd = given_
        if events:
            examples[0] += 1
            for indicator in of_stream(stream):
                counts[indicator.id] += check(indicator.id, indicator.kind, events, shuffled(events, rnd), zone)

    run()
    print(f"\nlifecycles against the slow reference: {examples[0]} logs, compared {counts}")
    assert examples[0] >= 290
    assert all(n > 50 for n in counts.values())


def test_a_book_is_the_same_for_every_order_and_survives_a_restart_anywhere() -> None:
    compared = [0]

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(logs())
    def run(given_: tuple[Stream, list[Event], random.Random]) -> None:
        stream, events, rnd = given_
        once = CaseBook(stream)
        once.merge(frame(events, stream))
        book = CaseBook(stream)
        for part in shuffled(events, rnd):
            book.merge(frame(part, stream))
            if rnd.random() < 0.5:
                book = CaseBook.load(stream, book.dump())
        assert book.cases().equals(once.cases())
        assert book.dump()["marks"].equals(once.dump()["marks"])
        assert (len(book), book.unanchored) == (len(once), once.unanchored)
        assert len(book) == len({e.case_id for e in events})
        assert book.unanchored == len(book) - len(book.cases())
        assert book.cases().schema == pl.Schema(case_schema(stream))
        compared[0] += len(book)

    run()
    print(f"\nbooks: {compared[0]} cases compared")
    assert compared[0] > 50


def test_only_changed_cases_are_merged_again() -> None:
    stream = CASE
    book = CaseBook(stream)
    events = [e for n in range(200) for e in log("submit 5 channel=online; approve 90", stream, case_id=f"c{n}")]
    assert len(book.merge(frame(events, stream))) == 200
    assert book.merge(frame(events, stream)).is_empty(), "a copy changes nothing"
    assert book.merge(frame(log("approve 95", stream, case_id="c7"), stream)).is_empty(), "nor does a later approve"
    late = log("submit 3; accept 40 channel=counter", stream, case_id="c9")
    assert book.merge(frame(late, stream)).select("case_id", "submit", "channel", "as_of").rows() == [
        ("c9", 3, "online", 90)
    ]
    assert book.merge(frame(log("accept 1", stream, case_id="new"), stream)).is_empty(), "unanchored"
    assert (len(book), book.unanchored) == (201, 1)
    assert book.merge(frame(log("submit 2", stream, case_id="new"), stream))["case_id"].to_list() == ["new"]
    assert book.unanchored == 0
    assert book.cases(["c9", "c7", "nobody"])["case_id"].to_list() == ["c7", "c9"]


def test_a_milestone_may_be_merged_by_its_latest_time() -> None:
    for order in ("ring 0; close 5; close 90; close 70", "close 90; close 5; ring 0; close 70"):
        book = CaseBook(TKT, latest=("close",))
        for event in log(order, TKT):
            book.merge(frame([event], TKT))
        assert book.cases().select("ring", "close", "as_of").rows() == [(0, 90, 90)]
        assert CaseBook.load(TKT, book.dump(), latest=("close",)).cases().equals(book.cases())


def test_memory_of_a_case_is_what_the_docstring_says() -> None:
    text = "submit 1 channel=online item=other auto=1 due_t=9; accept 2; approve 3; deliver 4"
    events = frame(log(text, CASE), CASE)
    many = pl.concat([events.with_columns(pl.lit(f"case-{n:07}").alias("case_id")) for n in range(2_000)])
    book = CaseBook(CASE)
    for part in many.iter_slices(500):
        book.merge(part)
    held = book.bytes_held / len(book)
    print(f"\nmemory: {held:.0f} bytes a case")
    assert 300 < held < 600


def longer_limit(patch: pytest.MonkeyPatch) -> tuple[str, Any]:
    return RING, Cases(TKT, within(TKT, "ring", "answer", 15_001), SHARE)


def reject_ignored(patch: pytest.MonkeyPatch) -> tuple[str, Any]:
    facts = within(CASE, "submit", "approve", 1_000, where=pl.col("auto") == 1, coarse="coarse")
    return ONE, Cases(CASE, facts, SHARE)


def filter_left_out(patch: pytest.MonkeyPatch) -> tuple[str, Any]:
    return FIVE, Cases(INC, within(INC, "report", "clear", 300_000), SHARE)


def utc_day(patch: pytest.MonkeyPatch) -> tuple[str, Any]:
    day = same_local_day(CASE, "submit", "deliver", where=pl.col("item") == "food_licence")
    return DAY, Cases(CASE, lambda cases, zone: day(cases, "UTC"), SHARE)


def unanchored_counted(patch: pytest.MonkeyPatch) -> tuple[str, Any]:
    wide = CaseBook._wide

    def wide_of_all(book: CaseBook, marks: pl.DataFrame) -> pl.DataFrame:
        unopened = marks.filter((pl.col("field") == 0).any().over("case").not_())
        opening = unopened.unique("case").with_columns(field=pl.lit(0, pl.UInt8), value=pl.lit(0, pl.Int64))
        return wide(book, pl.concat([marks, opening]))

    patch.setattr(CaseBook, "_wide", wide_of_all)
    return BACK, kind_of(BACK)


def largest_kept(patch: pytest.MonkeyPatch) -> tuple[str, Any]:
    def largest(book: CaseBook, marks: pl.DataFrame) -> pl.DataFrame:
        return marks.sort("t", "id").unique(["case", "field", "value"], keep="last", maintain_order=True)

    patch.setattr(CaseBook, "_smallest", largest)
    return ONE, kind_of(ONE)


SHARE = pl.col("num") / pl.col("den")
BROKEN = (longer_limit, reject_ignored, filter_left_out, utc_day, unanchored_counted, largest_kept)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda f: f.__name__)
def test_negative_control(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        indicator, kind = broken(patch)
        stream, rnd, rows = kind.stream, random.Random(11), []
        names = [c.name for c in stream.columns if c.name not in ("case_id", "milestone")]
        for n in range(400):
            for milestone in [stream.milestones[0]] * (n % 7 > 0) + rnd.choices(stream.milestones, k=4):
                carried = tuple((a, rnd.choice(VALUES[a])) for a in names if rnd.random() < 0.5)
                rows.append(Event(f"c{n}", milestone, rnd.choice(GRID[stream.name]), rnd.randrange(3), "d1", carried))
        with pytest.raises(AssertionError):
            check(indicator, kind, rows, [rows])
    assert check(indicator, kind_of(indicator), rows, [rows]) > 50, "the unbroken code passes"


def test_every_lifecycle_stream_has_an_opening() -> None:
    lifecycles = [s for s in STREAMS if s.lifecycle]
    assert [s.name for s in lifecycles] == ["inc", "case", "tkt"]
    assert all(s.opening in s.milestones for s in lifecycles)
