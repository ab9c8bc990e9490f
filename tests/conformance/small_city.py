"""A city of a dozen places and two hours of events of six streams, seeded: what the invariance suite runs."""

from __future__ import annotations

import random
from collections.abc import Callable

from pipelines import catalogue
from pipelines.alerts import Level, NoData, Rule, Threshold
from pipelines.city import City, District, Site
from pipelines.indicator import Indicator
from pipelines.streams import CASE, HTTP, INC, LINK, LVL, MINUTE_MS, PARK, Stream
from tests.fakes.listed import Record

START = 1_772_461_800_000
"""2026-03-02 22:30 in Shanghai: the calendar day ends within the log."""
MINUTES = 100
END = START + MINUTES * MINUTE_MS
LONGEST_DELAY_MS = 22 * MINUTE_MS
"""Of late events. Less than J, so that no M has to jump (rule 6), which depends on what shares an input."""
STREAMS: tuple[Stream, ...] = (LINK, HTTP, LVL, PARK, INC, CASE)
Log = dict[str, list[Record]]
"""By stream, in the order of event time; `delay` is what a late event arrives after it, 0 for others."""


def rule(indicator: str, kind: str, raised: float, clear: float, for_min: int = 0, no_data: NoData = "hold") -> Rule:
    level = Threshold(Level.III, raised, clear, for_min * MINUTE_MS)
    direction = "below" if clear > raised else "above"
    return Rule(
        f"{indicator}.{kind}", 1, indicator, kind, (level,), 2 * MINUTE_MS, no_data, direction  # type: ignore[arg-type]
    )  # fmt: skip


CITY = City(
    "small",
    "小城",
    "Small",
    "Asia/Shanghai",
    (District("north", "北", "North"), District("south", "南", "South")),
    (
        *(
            Site("link", f"l{n}", "north" if n < 2 else "south", attributes={"length_m": 500 + n, "free_ms": 60_000})
            for n in range(4)
        ),
        Site("link", "l0", "north", attributes={"length_m": 900, "free_ms": 40_000}, valid_from=START + 3_600_000),
        Site("http", "portal", "north"),
        Site("lvl", "g0", "south"),
        Site("lvl", "g1", "north"),
        Site("park", "lot", "south"),
    ),
    (
        rule("traffic.tti", "site", 1.5, 1.3),
        rule("traffic.tpi", "city", 2, 1.8),
        rule("http.error_ratio", "site", 10, 5, 2, "raise"),
        rule("http.apdex", "city", 0.7, 0.75),
        rule("water.depth", "site", 20, 15, 0, "raise"),
        rule("parking.occupancy", "site", 80, 70, 3, "clear"),
        rule("accident.settled_5min", "city", 60, 70),
        rule("case.overdue", "district", 20, 10),
        rule("city.vital_sign", "city", 85, 90),
    ),
)
INDICATORS: tuple[Indicator, ...] = catalogue.for_city(CITY)


def log(seed: int, lates: bool = True) -> Log:
    """The events of every stream. Some are late by more than D, a few by most of an hour; none comes before START."""
    rnd = random.Random(seed)
    made = {s.name: GENERATORS[s.name](rnd) for s in STREAMS}
    for stream in STREAMS:
        records = made[stream.name] = sorted(made[stream.name], key=lambda r: r["t"])
        for record in records[8:]:
            record["delay"] = 0
            if lates and rnd.random() < 0.04:
                longest = LONGEST_DELAY_MS if rnd.random() < 0.5 else 4 * MINUTE_MS
                record["delay"] = rnd.randint(stream.disorder_ms + 1, longest)
    return made


def _every(rnd: random.Random, seconds: int, gaps: float = 0.05) -> list[int]:
    """Instants about so far apart; now and then one is missing."""
    steps = range(0, MINUTES * 60, seconds)
    return [START + (s * 1000 + rnd.randint(0, seconds * 999)) for s in steps if rnd.random() > gaps]


def _links(rnd: random.Random) -> list[Record]:
    jam = rnd.randint(20, 60)
    return [
        {"t": t, "place": f"l{n}", "n": rnd.randint(0, 20),
         "tt_ms": rnd.randint(50_000, 90_000) * (3 if jam < (t - START) // MINUTE_MS < jam + 30 else 1)}
        for n in range(5)
        for t in _every(rnd, 60)
    ]  # fmt: skip


def _requests(rnd: random.Random) -> list[Record]:
    outage = rnd.randint(20, 80)
    out = []
    for place in ("portal", "permits"):
        for t in _every(rnd, 10, 0.2):
            minute = (t - START) // MINUTE_MS
            if place == "portal" and outage + 5 < minute < outage + 14:
                continue
            failed = rnd.random() < (0.5 if outage < minute < outage + 20 else 0.02)
            us = None if rnd.random() < 0.05 else int(10 ** rnd.uniform(4, 6.5))
            out.append({"t": t, "place": place, "status": 503 if failed else 200, "duration_us": us})
    return out


def _levels(rnd: random.Random) -> list[Record]:
    rain = rnd.randint(10, 60)
    out = []
    for place in ("g0", "g1", "g2"):
        for t in _every(rnd, 25 if place == "g0" else 60, 0.1):
            minute = (t - START) // MINUTE_MS
            if place == "g1" and rain + 10 < minute < rain + 25:
                continue
            deep = max(0, 300 - 12 * abs(minute - rain - 20))
            out.append({"t": t, "place": place, "depth_mm": max(0, deep + rnd.randint(-40, 40))})
    return out


def _lots(rnd: random.Random) -> list[Record]:
    return [
        {"t": t, "place": place, "occupied": rnd.randint(40, 130), "total": 120, "out_of_service": rnd.randint(0, 9)}
        for place in ("lot", "yard")
        for t in _every(rnd, 120, 0.3)
    ]  # fmt: skip


def _incidents(rnd: random.Random) -> list[Record]:
    out = []
    for n in range(40):
        report = START + rnd.randrange(MINUTES * MINUTE_MS)
        who = {"case_id": f"i{n}", "place": rnd.choice(["north", "south", "elsewhere"]), "kind": "minor"}
        who["channel"] = rnd.choice(["online", "online", "patrol"])
        times = {"report": report, "arrive": report + 60_000, "clear": report + rnd.randint(100_000, 500_000)}
        out += [who | {"milestone": m, "t": t} for m, t in times.items() if t < END and rnd.random() < 0.9]
        if rnd.random() < 0.1:  # cleared twice: the first time counts
            out.append(who | {"milestone": "clear", "t": min(END - 1, report + 700_000)})
    return out


def _cases(rnd: random.Random) -> list[Record]:
    out = []
    for n in range(60):
        submit = START + rnd.randrange(MINUTES * MINUTE_MS)
        who = {"case_id": f"c{n}", "place": rnd.choice(["north", "south"]), "channel": rnd.choice(["web", "counter"])}
        who |= {"item": rnd.choice(["food_licence", "permit"]), "auto": rnd.choice([0, 1]), "coarse": None}
        who |= {"due_t": submit + rnd.choice([5, 20, 90]) * MINUTE_MS}
        end = rnd.choice(["approve", "approve", "approve", "reject"])
        times = {"submit": submit, end: submit + rnd.choice([500, 900, 2_000, 1_500_000, 3_000_000])}
        times["deliver"] = times[end] + rnd.choice([1_000, 1_200_000])
        out += [who | {"milestone": m, "t": t} for m, t in times.items() if t < END and rnd.random() < 0.9]
    return out


GENERATORS: dict[str, Callable[[random.Random], list[Record]]] = {
    "link": _links, "http": _requests, "lvl": _levels, "park": _lots, "inc": _incidents, "case": _cases,
}  # fmt: skip
