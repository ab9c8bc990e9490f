"""Rules 17, 22, 23 in plain Python, from the standard's words: the first thing that happens decides a case.

Shares no code with `pipelines.lifecycle` and `pipelines.decisions`; one function per indicator, one case at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from tests.conformance.case_logs import Event

Fact = tuple[str, str, int, int, int, int, bool]
"""case_id, place, t, num, den, as_of, coarse."""


class Case:
    """Events of one case, looked at in the order (t, id)."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events

    def time(self, milestone: str) -> int | None:
        found = None
        for event in self.events:
            if event.milestone == milestone and (found is None or event.t < found):
                found = event.t
        return found

    def first(self, name: str) -> Any:
        best = None
        for event in self.events:
            value = event.place if name == "place" else dict(event.attributes).get(name)
            if value is not None and (best is None or (event.t, event.id, value) < best):
                best = (event.t, event.id, value)
        return best[2] if best else None

    def flag(self, name: str) -> bool:
        return any(dict(event.attributes).get(name) == 1 for event in self.events)

    def fact(self, t: int, num: bool, as_of: int, coarse: bool = False) -> Fact:
        return self.events[0].case_id, self.first("place"), t, int(num), 1, as_of, coarse


def race(case: Case, opening: str, anchor: str, outcome: str, limit: int | None, negative: str = "") -> Any:
    """What happens first after the anchor: (time, "outcome" | "deadline" | "negative"); a tie goes in this order."""
    if case.time(opening) is None or case.time(anchor) is None or limit is None:
        return None
    runners = [(case.time(anchor) + limit, 1, "deadline")]
    if case.time(outcome) is not None:
        runners.append((case.time(outcome), 0, "outcome"))
    if negative and case.time(negative) is not None:
        runners.append((case.time(negative), 2, "negative"))
    at, _, what = min(runners)
    return at, what


def counted(case: Case, anchor: str, decision: Any, coarse: bool = False) -> Fact | None:
    if decision is None:
        return None
    at, what = decision
    used = case.time(anchor) if what == "deadline" else max(at, case.time(anchor))
    return case.fact(at, what == "outcome", used, coarse)


def settled(case: Case, zone: str) -> Fact | None:
    decision = race(case, "report", "report", "clear", 300_000)
    return counted(case, "report", decision) if case.first("channel") == "online" else None


def approval(case: Case, zone: str) -> Fact | None:
    decision = race(case, "submit", "submit", "approve", 1_000, "reject")
    if not case.flag("auto") or (decision and decision[1] == "negative"):
        return None
    return counted(case, "submit", decision, case.flag("coarse"))


def licence(case: Case, zone: str) -> Fact | None:
    submitted, delivered = case.time("submit"), case.time("deliver")
    if submitted is None or case.first("item") != "food_licence":
        return None
    day = datetime.fromtimestamp(submitted / 1000, ZoneInfo(zone)).date()
    tomorrow = day + timedelta(days=1)
    midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=ZoneInfo(zone))
    same = delivered is not None and datetime.fromtimestamp(delivered / 1000, ZoneInfo(zone)).date() == day
    last = int(midnight.timestamp()) * 1000 - 1
    return case.fact(last, same, max(submitted, delivered) if same and delivered is not None else submitted)


def zero_visit(case: Case, zone: str) -> Fact | None:
    delivered = case.time("deliver")
    if delivered is None or case.time("submit") is None:
        return None
    channels = {dict(e.attributes).get("channel") for e in case.events if e.t <= delivered} - {None}
    return case.fact(delivered, "counter" not in channels, delivered) if channels else None


def answer(case: Case, zone: str) -> Fact | None:
    return counted(case, "ring", race(case, "ring", "ring", "answer", 15_000))


HOURS = {"emergency": 2, "utility": 24, "normal": 24 * 7, "complex": 24 * 15}


def feedback(case: Case, zone: str) -> Fact | None:
    kind = case.first("class")
    limit = HOURS[kind] * 3_600_000 if kind else None
    return counted(case, "assign", race(case, "ring", "assign", "close", limit))


def open_and_overdue(case: Case, at: int) -> tuple[bool, bool]:
    """Open at an instant, and overdue then (44)."""
    submitted = case.time("submit")
    if submitted is None or submitted > at:
        return False, False
    for milestone in ("approve", "reject", "deliver"):
        done = case.time(milestone)
        if done is not None and done <= at:
            return False, False
    due = case.first("due_t")
    return True, due is not None and due <= at


FACTS: dict[str, Callable[[Case, str], Fact | None]] = {
    "accident.settled_5min": settled,
    "approval.one_second": approval,
    "licence.same_day": licence,
    "case.zero_visit": zero_visit,
    "hotline.answer_15s": answer,
    "hotline.feedback_in_time": feedback,
}
