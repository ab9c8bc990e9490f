"""The same events, judged by two shipped city packs: zone, rules, parameters, thresholds and weights decide.

Places are unknown to both packs, so nothing but the pack differs. Each test shows that the cities disagree, and that
the demo city with that one part of the other pack agrees with it: the part is the reason.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from commands.inputs import city_of
from pipelines import catalogue
from pipelines.city import City
from pipelines.delivery import Attached, Run
from pipelines.streams import DAY_MS, HOUR_MS, MINUTE_MS
from pipelines.watermark import Input
from sinks.memory import MemorySink
from tests.fakes.listed import DirectStore, ListedSource, Record

NOON = 1_772_452_800_000
"""2026-03-02 12:00 UTC, 20:00 in Yunchuan (Asia/Shanghai), 13:00 in Havnby (Europe/Copenhagen)."""
PARTS = ("zone", "rules", "weights", "thresholds", "parameters")


def events() -> dict[str, list[Record]]:
    """Five hours of one gauge, one service, one air station; a few cases, accidents and calls; two days later the last ones."""
    minutes = [NOON + m * MINUTE_MS for m in range(300)]
    service = [
        {"t": at + k * 3_000, "place": "portal", "status": 500 if k == 0 and 60 <= m < 64 else 200, "duration_us": 300_000}
        for m, at in enumerate(minutes)
        for k in range(20)
    ]  # fmt: skip
    station = [
        {"t": NOON + h * HOUR_MS - 1, "place": "roof", "pollutant": p, "ngm3": 60_000_000, "covered_ms": HOUR_MS}
        for h in range(1, 6)
        for p in ("pm25", "pm10", "no2", "so2", "o3", "co")
    ]
    case = {"item": "food_licence", "channel": "web", "auto": 1, "coarse": None, "due_t": None, "place": "west"}
    submitted = NOON + 3 * HOUR_MS + 30 * MINUTE_MS  # 23:30 in Yunchuan, 16:30 in Havnby
    milestones = {"submit": submitted, "approve": submitted + 700, "deliver": submitted + HOUR_MS}
    cases = [case | {"case_id": "c1", "milestone": m, "t": t} for m, t in milestones.items()]
    accident = {"place": "west", "kind": "minor", "channel": "online"}
    accidents = [
        accident | {"case_id": f"a{n}", "milestone": m, "t": NOON + n * HOUR_MS + after}
        for n in range(5)
        for m, after in (("report", 0), ("clear", (3 + n) * MINUTE_MS))
    ]
    call = {"place": "west", "class": "normal", "unit": None, "contacted": None, "solved": None, "satisfied": None}
    calls = [
        call | {"case_id": f"t{n}", "milestone": m, "t": NOON + n * 5 * MINUTE_MS + wait}
        for n in range(60)
        for m, wait in (("ring", 0), ("answer", 9_000 if n % 5 else 40_000))
    ]
    found = {
        "lvl": [{"t": at, "place": "underpass", "depth_mm": 120} for at in minutes],
        "http": service, "air": station, "case": cases, "inc": accidents, "tkt": calls,
    }  # fmt: skip
    for records in found.values():
        last = records[-1] | ({"case_id": "last"} if "case_id" in records[-1] else {})
        records += [last | {"t": NOON + 2 * DAY_MS + k} for k in range(4)]  # four, so that time jumps (rule 6)
    return found


@cache
def judged(*of_harbour: str) -> MemorySink:
    """A replay for the demo city with these parts of the harbour's pack; all of them is how the harbour judges."""
    demo, harbour = packs()
    city = replace(demo, **{part: getattr(harbour, part) for part in of_harbour})
    indicators = catalogue.for_city(city)
    streams = [s for s in catalogue.STREAMS if s.name in events()]
    store = MemorySink(catalogue.rollups(indicators), [s for s in streams if s.lifecycle])
    sources = [ListedSource(s.name, s, events()[s.name]) for s in streams]
    attached = [Attached(source, Input(source.input, source.stream)) for source in sources]
    Run(city, indicators, streams, attached, DirectStore(store), live=False, epoch=1).replay()
    return store


@cache
def packs() -> tuple[City, City]:
    # Sites are left out: their silence would raise alerts that have nothing to do with these events.
    demo, harbour = (replace(city_of(name), sites=(), districts=()) for name in ("demo", "harbour"))
    assert all(getattr(demo, part) != getattr(harbour, part) for part in PARTS)
    return demo, replace(harbour, id=demo.id)


def values(store: MemorySink, indicator: str, kind: str = "city") -> dict[datetime, float | None]:
    """The readings until the events end, by the end of their window."""
    frame = store.newest_readings(indicator=indicator, place_kind=kind, until_ms=NOON + DAY_MS)
    assert len(frame)
    return {
        datetime.fromtimestamp(e // 1000, ZoneInfo("UTC")): v for e, v in frame.select("window_end", "value").rows()
    }


def fired(store: MemorySink, rule: str) -> set[str]:
    """Levels that a rule reached, at places where anything was measured."""
    rows = store.episodes(rule=rule, until_ms=NOON + DAY_MS).filter(pl.col("level") != "no_data")
    return set(rows["level"].to_list())


HAVNBY = PARTS


def test_a_licence_delivered_after_midnight_in_yunchuan_is_the_same_day_in_havnby_because_of_the_zone() -> None:
    yunchuan, havnby, moved = (values(judged(*x), "licence.same_day") for x in ((), HAVNBY, ("zone",)))
    assert moved == havnby != yunchuan
    assert [(at.hour, v) for at, v in yunchuan.items() if v is not None] == [(16, 0.0)]
    assert [(at.hour, v) for at, v in havnby.items() if v is not None] == [(23, 100.0)]
    print(f"{len(yunchuan)} and {len(havnby)} days compared")


def test_twelve_centimetres_of_water_are_an_orange_alert_in_havnby_only_because_of_the_rules() -> None:
    assert values(judged(), "water.depth") == values(judged(*HAVNBY), "water.depth")
    assert (fired(judged(), "water.depth"), fired(judged(*HAVNBY), "water.depth")) == (set(), {"II"})
    assert fired(judged("rules"), "water.depth") == {"II"}


def test_four_minutes_of_errors_are_an_alert_in_yunchuan_only_because_havnby_waits_longer() -> None:
    assert values(judged(), "http.error_ratio") == values(judged(*HAVNBY), "http.error_ratio")
    assert (fired(judged(), "service.errors"), fired(judged(*HAVNBY), "service.errors")) == ({"IV"}, set())
    assert fired(judged("rules"), "service.errors") == set()


def test_answers_after_300_ms_satisfy_in_yunchuan_and_are_tolerated_in_havnby_because_of_the_parameters() -> None:
    yunchuan, havnby, moved = (values(judged(*x), "http.apdex") for x in ((), HAVNBY, ("parameters",)))
    assert moved == havnby
    assert {v for v in yunchuan.values() if v} == {1.0, 0.99, 0.98, 0.97, 0.96}
    assert {v for v in havnby.values() if v} == {0.5, 0.495, 0.49, 0.485, 0.48}


@pytest.mark.parametrize("part", ["weights", "thresholds"])
def test_the_vital_sign_of_the_same_readings_differs_because_of_the_weights_and_of_the_bands(part: str) -> None:
    base, moved = values(judged(), "city.vital_sign"), values(judged(part), "city.vital_sign")
    both = [at for at in base if base[at] is not None and moved[at] is not None]
    assert len(both) > 20 and all(abs(base[at] - moved[at]) > 1 for at in both)  # type: ignore[operator]
    print(f"{len(both)} vital signs differ by {part}: {base[both[0]]} and {moved[both[0]]}")


def test_all_parts_together_are_the_other_pack() -> None:
    """Nothing else of a pack judges; and one pack twice says the same: the differences above are no accident."""
    demo, harbour = packs()
    together: Any = replace(demo, **{part: getattr(harbour, part) for part in PARTS})
    assert replace(together, zh=harbour.zh, en=harbour.en, holidays=harbour.holidays, outlines="") == harbour
    names = ("licence.same_day", "city.vital_sign", "http.apdex")
    first = {name: values(judged(), name) for name in names}
    judged.cache_clear()
    assert {name: values(judged(), name) for name in names} == first
