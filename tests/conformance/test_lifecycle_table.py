"""Rules 17, 22, 23: boundaries, orders and corrections that the golden vectors leave out, one case a line."""

from __future__ import annotations

import random

from pipelines.streams import CASE
from tests.conformance.case_logs import (
    BACK,
    DAY,
    FIVE,
    LATE,
    ONE,
    RING,
    SHANGHAI,
    VISIT,
    decided,
    instant,
    kind_of,
    log,
    shuffled,
)  # fmt: skip

# name | indicator | events "milestone time attribute=value ...", in order of arrival | "num @ decision as_of" or "out"
# Times are ms, or local times of the zone.
TABLE: list[tuple[str, str, str, str]] = [
    ("exactly 1 s", ONE, "submit 0 auto=1; approve 1000", "1 @1000 as_of 1000"),
    ("1 ms over, decided at the limit", ONE, "submit 0 auto=1; approve 1001", "0 @1000 as_of 0"),
    ("never approved", ONE, "submit 0 auto=1", "0 @1000 as_of 0"),
    ("in the same millisecond", ONE, "submit 7 auto=1; approve 7", "1 @7 as_of 7"),
    ("approved before submitted: two clocks", ONE, "submit 50 auto=1; approve 40", "1 @40 as_of 50"),
    ("reject before the approval removes", ONE, "submit 0 auto=1; reject 500; approve 900", "out"),
    ("reject in the approval's ms", ONE, "submit 0 auto=1; reject 900; approve 900", "1 @900 as_of 900"),
    ("reject after the approval", ONE, "submit 0 auto=1; approve 900; reject 950", "1 @900 as_of 900"),
    ("reject 1 ms before the limit", ONE, "submit 0 auto=1; reject 999", "out"),
    ("reject at the limit: too late", ONE, "submit 0 auto=1; reject 1000", "0 @1000 as_of 0"),
    ("reject in time, then a late approval", ONE, "submit 0 auto=1; reject 10; approve 5000", "out"),
    ("by hand", ONE, "submit 0 auto=0; approve 10", "out"),
    ("unknown whether automatic", ONE, "submit 0; approve 10", "out"),
    ("said to be automatic only at its end", ONE, "submit 0; approve 5000 auto=1", "0 @1000 as_of 0"),
    ("flags merge by max", ONE, "submit 0 auto=0; approve 900 auto=1", "1 @900 as_of 900"),
    ("times coarser than the limit", ONE, "submit 0 auto=1 coarse=1; approve 900", "1 @900 as_of 900 coarse"),
    ("out of order", ONE, "approve 900; submit 0 auto=1", "1 @900 as_of 900"),
    ("corrected anchor", ONE, "submit 500 auto=1; approve 1200; submit 100", "0 @1100 as_of 100"),
    ("corrected outcome", ONE, "submit 0 auto=1; approve 1400; approve 800", "1 @800 as_of 800"),
    ("milestone twice", ONE, "submit 0 auto=1; approve 800; approve 1400; submit 300", "1 @800 as_of 800"),
    ("unanchored", ONE, "approve 900 auto=1", "out"),
    ("exactly 300 s", FIVE, "report 0 channel=online; clear 300000", "1 @300000 as_of 300000"),
    ("300 s and 1 ms", FIVE, "report 0 channel=online; clear 300001", "0 @300000 as_of 0"),
    ("filters apply after merging", FIVE, "report 0; arrive 9 channel=online; clear 99", "1 @99 as_of 99"),
    ("first channel counts", FIVE, "clear 99 channel=online; report 0 channel=patrol", "out"),
    ("channel unknown", FIVE, "report 0; clear 99", "out"),
    ("exactly 15 s", RING, "ring 0; answer 15000", "1 @15000 as_of 15000"),
    ("15 s and 1 ms", RING, "ring 0; answer 15001", "0 @15000 as_of 0"),
    ("abandoned", RING, "ring 3", "0 @15003 as_of 3"),
    ("answer without ring", RING, "answer 5", "out"),
    ("emergency in 2 h", BACK, "ring 0; assign 10 class=emergency; close 7200010", "1 @7200010 as_of 7200010"),
    ("emergency 1 ms over", BACK, "ring 0; assign 10 class=emergency; close 7200011", "0 @7200010 as_of 10"),
    ("utility in 24 h", BACK, "ring 0 class=utility; assign 10; close 86400010", "1 @86400010 as_of 86400010"),
    ("normal in 7 d", BACK, "ring 0 class=normal; assign 0; close 604800001", "0 @604800000 as_of 0"),
    ("complex in 15 d", BACK, "ring 0 class=complex; assign 0; close 1296000000", "1 @1296000000 as_of 1296000000"),
    ("reopened: first close counts", BACK, "ring 0 class=emergency; assign 0; close 5; close 7200001", "1 @5 as_of 5"),
    ("no class, no limit", BACK, "ring 0; assign 0; close 5", "out"),
    ("class told by the close", BACK, "ring 0; assign 0; close 7200001 class=emergency", "0 @7200000 as_of 0"),
    ("never assigned", BACK, "ring 0 class=normal; close 5", "out"),
    ("assigned, but the ring is missing", BACK, "assign 0 class=normal; close 5", "out"),
    ("counter before delivery", VISIT, "submit 0 channel=online; accept 5 channel=counter; deliver 9", "0 @9 as_of 9"),
    ("counter at delivery", VISIT, "submit 0 channel=online; deliver 9 channel=counter", "0 @9 as_of 9"),
    ("counter after delivery", VISIT, "submit 0 channel=online; deliver 9; approve 10 channel=counter", "1 @9 as_of 9"),
    ("corrected delivery", VISIT, "submit 0 channel=x; deliver 9; accept 5 channel=counter; deliver 4", "1 @4 as_of 4"),
    ("two channels, none a counter", VISIT, "submit 0 channel=app; deliver 9 channel=online", "1 @9 as_of 9"),
    ("channel never told", VISIT, "submit 0; deliver 9", "out"),
    ("not delivered", VISIT, "submit 0 channel=counter; approve 9", "out"),
    ("another item", DAY, "submit 0 item=other; deliver 9", "out"),
    ("item unknown", DAY, "submit 0; deliver 9", "out"),
    ("unanchored licence", DAY, "accept 0 item=food_licence; deliver 9", "out"),
    ("unanchored delivery", VISIT, "deliver 9 channel=online", "out"),
]  # fmt: skip
# name | zone | submitted | delivered | same day | the local day in whose last millisecond it is decided
DAYS: list[tuple[str, str, str, str | None, int, str]] = [
    ("last ms of the day", SHANGHAI, "2026-03-02T09:00", "2026-03-02T23:59:59.999", 1, "2026-03-02"),
    ("midnight is the next day", SHANGHAI, "2026-03-02T09:00", "2026-03-03T00:00", 0, "2026-03-02"),
    ("submitted at midnight", SHANGHAI, "2026-03-02T00:00", "2026-03-02T10:00", 1, "2026-03-02"),
    ("two UTC days, one local day", SHANGHAI, "2026-03-02T07:00", "2026-03-02T09:00", 1, "2026-03-02"),
    ("one UTC day, two local days", SHANGHAI, "2026-03-02T23:00", "2026-03-03T01:00", 0, "2026-03-02"),
    ("open", SHANGHAI, "2026-03-02T09:00", None, 0, "2026-03-02"),
    ("delivered the day before: two clocks", SHANGHAI, "2026-03-02T00:00", "2026-03-01T23:59", 0, "2026-03-02"),
    ("delivered before, same day: two clocks", SHANGHAI, "2026-03-02T09:00", "2026-03-02T08:59", 1, "2026-03-02"),
    ("a day of 23 h", "Europe/Copenhagen", "2026-03-29T00:30", "2026-03-29T23:59:59.999", 1, "2026-03-29"),
    ("after a day of 23 h", "Europe/Copenhagen", "2026-03-29T00:30", "2026-03-30T00:00", 0, "2026-03-29"),
    ("a day of 25 h", "Europe/Copenhagen", "2026-10-25T00:30", "2026-10-25T23:30", 1, "2026-10-25"),
    ("after a day of 25 h", "Europe/Copenhagen", "2026-10-25T00:30", "2026-10-26T00:00", 0, "2026-10-25"),
    ("a day that starts at 01:00", "America/Sao_Paulo", "2018-11-04T01:00", "2018-11-04T23:59", 1, "2018-11-04"),
    ("the evening before it", "America/Sao_Paulo", "2018-11-03T23:59", "2018-11-04T01:00", 0, "2018-11-03"),
]
# name | events | open from..to, overdue from
STOCKS: list[tuple[str, str, str]] = [
    ("open, not due", "submit 10", "10.. -"),
    ("due later", "submit 10 due_t=90", "10.. 90"),
    ("due before it was submitted", "submit 10 due_t=5", "10.. 10"),
    ("due told later", "submit 10; accept 20 due_t=90", "10.. 90"),
    ("first due date counts", "accept 20 due_t=90; submit 10 due_t=50", "10.. 50"),
    ("decided before due", "submit 10 due_t=90; approve 50", "10..50 90"),
    ("first of approve, reject, deliver", "submit 10; deliver 60; approve 50; reject 55", "10..50 -"),
    ("decided, undecided, decided again", "submit 10; approve 50; supplement 60; approve 70", "10..50 -"),
    ("closed before it was opened: never open", "submit 10; reject 5", "out"),
    ("closed as it is opened: never open", "submit 10; reject 10", "out"),
    ("opened, then an earlier close arrives", "submit 10; approve 50; reject 10", "out"),
    ("unanchored", "accept 10 due_t=5", "out"),
]


def test_facts_by_hand() -> None:
    rnd, compared = random.Random(3), 0
    for name, indicator, text, expected in TABLE:
        events = log(text, kind_of(indicator).stream)
        for runs in ([events], [[e] for e in events], shuffled(events, rnd)):
            fact = decided(kind_of(indicator), runs).get("c1")
            told = "out"
            if fact is not None:
                case_id, place, t, num, den, as_of, coarse = fact
                told = f"{num} @{t} as_of {as_of}{' coarse' if coarse else ''}"
                assert (case_id, place, den) == ("c1", "d1", 1), name
            assert told == expected, f"{indicator}: {name}"
            compared += 1
    print(f"\nfacts by hand: {compared} compared, {len(TABLE)} cases in three orders of arrival")
    assert compared == 3 * len(TABLE) > 140


def test_calendar_days_by_hand() -> None:
    compared = 0
    for name, zone, submitted, delivered, same, day in DAYS:
        text = f"submit {submitted} item=food_licence" + (f"; deliver {delivered}" if delivered else "")
        fact = decided(kind_of(DAY), [log(text, CASE, zone)], zone)["c1"]
        used = max(instant(x, zone) for x in (submitted, delivered if same and delivered else submitted))
        assert fact == ("c1", "d1", instant(f"{day}T23:59:59.999", zone), same, 1, used, False), name
        compared += 1
    print(f"\ncalendar days by hand: {compared} compared")
    assert compared == len(DAYS) > 10


def test_stocks_by_hand() -> None:
    rnd, compared = random.Random(4), 0
    for name, text, expected in STOCKS:
        row = decided(kind_of(LATE), shuffled(log(text, CASE), rnd)).get("c1")
        told = "out"
        if row is not None:
            _, place, opened, closed, marked, as_of = row
            told = f"{opened}..{'' if closed is None else closed} {'-' if marked is None else marked}"
            assert (place, as_of) == ("d1", opened), name
        assert told == expected, name
        compared += 1
    print(f"\nstocks by hand: {compared} compared")
    assert compared == len(STOCKS) > 10
