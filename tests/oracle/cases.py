"""Lifecycles and stocks (rules 17, 22, 23): the first thing that happens decides a case."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.oracle.climbing import Key, Node, Part, Reading, Said, climb, first_two, summed
from tests.oracle.grid import DAY, HOUR, MINUTE, LocalDays, Steps, Windows, same_date
from tests.oracle.told import Told

Found = dict[str, tuple[str, dict[Key, Reading]]]


@dataclass
class Case:
    """Earliest time of each milestone; attributes as they were said, in any order."""

    at: dict[str, int] = field(default_factory=dict)
    said: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)

    def first(self, name: str) -> Any:
        """The first value that is not null. Two at the same time would be told apart by the id: these data have none."""
        values = sorted(self.said.get(name, ()), key=lambda x: x[0])
        if not values:
            return None
        assert len({v for t, v in values if t == values[0][0]}) == 1, f"two values of {name} at one time"
        return values[0][1]

    def flag(self, name: str) -> bool:
        return any(v for _, v in self.said.get(name, ()))


def put_case(told: Told) -> Callable[[Any, tuple[Any, ...], int], Any]:
    """Cases are told to the stream; its panes keep only who was present."""

    def put(sums: Any, said: tuple[Any, ...], t: int) -> Any:
        case_id, milestone, attributes = said
        case = told.cases.setdefault(case_id, Case())
        case.at[milestone] = min(t, case.at.get(milestone, t))
        for name, value in attributes.items():
            if value is not None:
                case.said.setdefault(name, []).append((t, value))
        return None

    return put


class Fact(NamedTuple):
    t: int
    good: bool
    as_of: int
    coarse: bool


def race(case: Case, anchor: str, outcome: str, limit: int | None) -> Fact | None:
    """Decided at min(outcome, anchor + limit)."""
    begun, done = case.at.get(anchor), case.at.get(outcome)
    if begun is None or limit is None:
        return None
    if done is not None and done <= begun + limit:
        return Fact(done, True, max(begun, done), case.flag("coarse"))
    return Fact(begun + limit, False, begun, case.flag("coarse"))


def settled(case: Case, zone: str) -> Fact | None:
    fact = race(case, "report", "clear", 5 * MINUTE)
    return fact._replace(coarse=False) if fact and case.first("channel") == "online" else None


def approved(case: Case, zone: str) -> Fact | None:
    fact = race(case, "submit", "approve", 1000) if case.flag("auto") else None
    return None if fact and case.at.get("reject", fact.t) < fact.t else fact


def licence(case: Case, zone: str) -> Fact | None:
    begun, done = case.at.get("submit"), case.at.get("deliver")
    if begun is None or case.first("item") != "food_licence":
        return None
    same = done is not None and same_date(zone, begun, done)
    return Fact(LocalDays(zone).holding(begun) - 1, same, max(begun, done) if same and done else begun, False)


def unvisited(case: Case, zone: str) -> Fact | None:
    done = case.at.get("deliver")
    if done is None or "submit" not in case.at:
        return None
    channels = {v for t, v in case.said.get("channel", ()) if t <= done}
    return Fact(done, "counter" not in channels, done, False) if channels else None


def answered(case: Case, zone: str) -> Fact | None:
    fact = race(case, "ring", "answer", 15_000)
    return fact and fact._replace(coarse=False)


LIMITS = {"emergency": 2 * HOUR, "utility": 24 * HOUR, "normal": 7 * DAY, "complex": 15 * DAY}


def returned(case: Case, zone: str) -> Fact | None:
    fact = race(case, "assign", "close", LIMITS.get(case.first("class"))) if "ring" in case.at else None
    return fact and fact._replace(coarse=False)


class Rule(NamedTuple):
    id: str
    method: str
    windows: Callable[[str], Windows]
    fact: Callable[[Case, str], Fact | None]


def _slide(size: int, step: int) -> Callable[[str], Windows]:
    return lambda zone: Steps(size, step)


RULES = {
    "inc": (Rule("accident.settled_5min", "clear-report<=300 s, online", _slide(DAY, 5 * MINUTE), settled),),
    "case": (
        Rule("approval.one_second", "approve-submit<=1 s, auto", _slide(DAY, 5 * MINUTE), approved),
        Rule("licence.same_day", "local date of deliver = of submit", LocalDays, licence),
        Rule("case.zero_visit", "no counter up to deliver", LocalDays, unvisited),
    ),
    "tkt": (
        Rule("hotline.answer_15s", "answer-ring<=15 s", _slide(HOUR, 5 * MINUTE), answered),
        Rule("hotline.feedback_in_time", "close-assign<=limit(class)", _slide(HOUR, HOUR), returned),
    ),
}


def decided(told: Told) -> Found:
    """Every lifecycle indicator of a stream, and the stock of open cases."""
    found: Found = {}
    for rule in RULES[told.name]:
        facts: dict[str, list[Fact]] = {}
        for case in told.cases.values():
            fact = rule.fact(case, told.town.zone)
            if fact is not None:
                facts.setdefault(case.first("place"), []).append(fact)
        for mine in facts.values():
            mine.sort()
        times = {place: [f.t for f in mine] for place, mine in facts.items()}

        def count(
            place: str, begin: int, end: int, facts: Any = facts, times: Any = times
        ) -> tuple[Part, int, int | None]:
            at = times.get(place, [])
            mine = facts.get(place, [])[bisect_left(at, begin) : bisect_left(at, end)]
            part = sum(f.good for f in mine), len(mine), sum(f.coarse for f in mine)
            return part, len(mine), max((f.as_of for f in mine), default=None)

        found[rule.id] = rule.method, _climbed(told, rule.windows(told.town.zone), count, _share, False)
    if told.name == "case":
        found["case.overdue"] = (
            "open past due / open",
            _climbed(told, Steps(15 * MINUTE, 15 * MINUTE), _stock(told), _overdue, True),
        )
    return found


def _share(part: Part) -> Said:
    good, of, coarse = part
    return Said(100 * good / of if of else None, None, "coarse_time" if coarse else None)


def _overdue(part: Part) -> Said:
    return Said(100 * part[0] / part[1]) if part[1] else Said(None, "none_open")


def _stock(told: Told) -> Callable[[str, int, int], tuple[Part, int, int | None]]:
    """Open in the last millisecond of the window: submitted by then, not decided by then."""
    spans: dict[str, list[tuple[int, int | None, int | None]]] = {}
    for case in told.cases.values():
        begun = case.at.get("submit")
        done = min((case.at[m] for m in ("approve", "reject", "deliver") if m in case.at), default=None)
        if begun is not None and (done is None or done > begun):
            spans.setdefault(case.first("place"), []).append((begun, done, case.first("due_t")))
    events = {place: _events(mine) for place, mine in spans.items()}

    def count(place: str, begin: int, end: int) -> tuple[Part, int, int | None]:
        at, running = events.get(place, ([], []))
        k = bisect_left(at, end)
        overdue, still, newest = running[k - 1] if k else (0, 0, None)
        return (overdue, still), still, newest

    return count


def _events(spans: list[tuple[int, int | None, int | None]]) -> tuple[list[int], list[tuple[int, int, int | None]]]:
    """(instant, changes) played forward: overdue, open, and the newest opening or closing up to each instant."""
    changes: list[tuple[int, int, int, bool]] = []
    for begun, done, due in spans:
        changes.append((begun, 0, 1, True))
        if done is not None:
            changes.append((done, 0, -1, True))
        if due is not None and (done is None or max(begun, due) < done):
            changes.append((max(begun, due), 1, 0, False))
            if done is not None:
                changes.append((done, -1, 0, True))
    changes.sort()
    running: list[tuple[int, int, int | None]] = []
    overdue = still = 0
    newest: int | None = None
    for t, late, opened, moved in changes:
        overdue, still, newest = overdue + late, still + opened, t if moved else newest
        running.append((overdue, still, newest))
    return [c[0] for c in changes], running


def _climbed(
    told: Told,
    windows: Windows,
    count: Callable[[str, int, int], tuple[Part, int, int | None]],
    say: Callable[[Part], Said],
    stock: bool,
) -> dict[Key, Reading]:
    tails = set(told.tail_ends(windows))
    nodes: dict[tuple[str, int], Node] = {}
    for place in told.sites():
        for end in (*told.ends(place, windows), *told.tail_ends_of(place, windows)):
            begin = windows.begin(end)
            part, samples, as_of = count(place, begin, end)
            if samples or end <= told.final:
                nodes[place, end] = Node(begin, part, samples, 0, None, as_of)
    out: dict[Key, Reading] = {}
    climb(told, summed, say, first_two, False, (), nodes, tails, out, stock)
    return out
