"""The builders of facts and intervals: what the catalogue does not use, empty input, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from pipelines.decisions import (
    FACTS,
    INTERVALS,
    Facts,
    LimitBy,
    first_seen,
    open_between,
    same_local_day,
    share_at,
    within,
)  # fmt: skip
from pipelines.lifecycle import CaseBook, case_schema
from pipelines.streams import CASE, LINK, TKT, Stream


def cases(stream: Stream, *rows: dict[str, Any]) -> pl.DataFrame:
    """Merged cases; a column that a row does not give is null."""
    schema = case_schema(stream)
    full = [{k: row.get(k) for k in schema} | {"case_id": f"c{n}", "place": "d1"} for n, row in enumerate(rows)]
    return pl.DataFrame(full, schema=schema)


def outcome(facts: Facts, frame: pl.DataFrame) -> dict[str, tuple[int, int, int]]:
    """case -> (t, num, as_of)."""
    made = facts(frame, "Asia/Shanghai")
    assert dict(made.schema) == FACTS
    assert made["den"].to_list() == [1] * len(made)
    return {row[0]: (row[2], row[3], row[5]) for row in made.iter_rows()}


def test_a_negative_outcome_fails_the_case_at_its_own_time() -> None:
    facts = within(CASE, "submit", "approve", 100, negatives=("reject", "supplement"))
    made = outcome(
        facts,
        cases(
            CASE,
            {"submit": 0, "approve": 50, "reject": 20},
            {"submit": 0, "approve": 50, "reject": 50},
            {"submit": 0, "reject": 99},
            {"submit": 0, "reject": 100},
            {"submit": 0, "reject": 90, "supplement": 30},
            {"submit": 40, "reject": 10},
        ),
    )
    assert made == {
        "c0": (20, 0, 20),
        "c1": (50, 1, 50),
        "c2": (99, 0, 99),
        "c3": (100, 0, 0),
        "c4": (30, 0, 30),
        "c5": (10, 0, 40),
    }


def test_a_decision_may_lie_in_the_future_and_changes_when_the_outcome_comes_in_time() -> None:
    facts = within(TKT, "ring", "answer", 15_000)
    assert outcome(facts, cases(TKT, {"ring": 1_000}))["c0"] == (16_000, 0, 1_000)
    assert outcome(facts, cases(TKT, {"ring": 1_000, "answer": 2_000}))["c0"] == (2_000, 1, 2_000)
    assert outcome(facts, cases(TKT, {"ring": 1_000, "answer": 99_000}))["c0"] == (16_000, 0, 1_000)


def test_a_share_at_a_milestone_may_compare_milestones() -> None:
    """Row 45, return for supplement: the cohort is the day of the decision."""
    facts = share_at(CASE, "approve", pl.col("supplement") <= pl.col("approve"))
    made = outcome(facts, cases(CASE, {"submit": 0, "approve": 9, "supplement": 9}, {"submit": 0, "approve": 9}))
    assert made == {"c0": (9, 1, 9), "c1": (9, 0, 9)}


def test_first_seen() -> None:
    seen = [{"t": 4, "value": "app"}, {"t": 7, "value": "counter"}]
    frame = cases(CASE, {"channel_seen": seen}, {"channel_seen": []}, {})
    assert frame.select(first_seen("channel", "counter")).to_series().to_list() == [7, None, None]
    assert frame.select(first_seen("channel")).to_series().to_list() == [4, None, None]


def test_an_interval_without_marks_and_with_a_filter() -> None:
    intervals = open_between(CASE, "accept", ("deliver",), where=pl.col("item") == "other")
    frame = cases(
        CASE, {"submit": 0, "accept": 5, "item": "other"}, {"submit": 0, "accept": 5}, {"accept": 5, "item": "other"}
    )
    made = intervals(frame, "UTC")
    assert dict(made.schema) == INTERVALS
    assert made.rows() == [("c0", "d1", 5, None, None, 5)]


BUILT: tuple[Facts, ...] = (
    within(CASE, "submit", "approve", 1_000, negatives=("reject",), negative="removes", coarse="coarse"),
    within(TKT, "assign", "close", LimitBy("class", {"normal": 5})),
    same_local_day(CASE, "submit", "deliver"),
    share_at(CASE, "deliver", first_seen("channel", "counter").is_null()),
    open_between(CASE, "submit", ("approve",), marked=pl.col("due_t")),
)


@pytest.mark.parametrize("build", BUILT)
def test_no_cases_give_no_facts_with_the_same_columns(build: Facts) -> None:
    stream = TKT if build is BUILT[1] else CASE
    made = build(pl.DataFrame(schema=case_schema(stream)), "Asia/Shanghai")
    assert made.is_empty()
    assert dict(made.schema) in (FACTS, INTERVALS)
    assert CaseBook(stream).merge(pl.DataFrame()).schema == pl.Schema(case_schema(stream))


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: within(CASE, "submitt", "approve", 1), r"stream 'case' has no milestone 'submitt'.*Did you mean 'submit'"),
    (lambda: within(CASE, "submit", "aprove", 1), r"no milestone 'aprove'.*Did you mean 'approve'"),
    (lambda: within(CASE, "submit", "approve", 1, negatives=("rejected",)), r"no milestone 'rejected'.*'reject'"),
    (lambda: within(CASE, "submit", "approve", 1, coarse="corse"), r"no column 'corse'.*Did you mean 'coarse'"),
    (lambda: within(CASE, "submit", "approve", 1, where=pl.col("chanel") == "x"), r"no column 'chanel'.*'channel'"),
    (lambda: within(CASE, "submit", "approve", 0), r"the limit from 'submit' is 0; it must be milliseconds above 0"),
    (lambda: within(TKT, "assign", "close", LimitBy("clas", {})), r"no column 'clas'"),
    (lambda: within(TKT, "assign", "close", LimitBy("class", {"norml": 1})), r"no class value 'norml'.*'normal'"),
    (
        lambda: within(TKT, "assign", "close", LimitBy("class", {"normal": 0})),
        r"class 'normal' is 0; it must be above 0",
    ),
    (lambda: same_local_day(CASE, "submit", "delivery"), r"no milestone 'delivery'.*'deliver'"),
    (lambda: share_at(CASE, "deliver", first_seen("chanel", "counter")), r"no column 'chanel_seen'.*'channel_seen'"),
    (lambda: open_between(CASE, "submit", ("approve", "closed")), r"no milestone 'closed'"),
    (lambda: open_between(CASE, "submit", ("approve",), marked=pl.col("due")), r"no column 'due'"),
    (lambda: CaseBook(TKT, latest=("closed",)), r"no milestone 'closed'; it has ring"),
    (lambda: case_schema(LINK), r"stream 'link' has no milestones"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises((LookupError, ValueError), match=message):
        build()
