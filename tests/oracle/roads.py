"""Traffic: GB/T 33171-2016 (links), detectors, car parks, by the text of the standard, in integers."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

from tests.oracle.climbing import Key, Part, Reading, Recipe, Said, first_two, no_ratio, recipe_readings, share, summed
from tests.oracle.grid import MINUTE, Steps
from tests.oracle.told import Pane, Told

FIVE, QUARTER = Steps(5 * MINUTE, 5 * MINUTE), Steps(15 * MINUTE, 15 * MINUTE)
BILLION = 10**9


def put_link(sums: Any, said: tuple[Any, ...], t: int) -> Any:
    """Vehicles, and vehicle-milliseconds."""
    tt, n = said
    return (n, n * tt) if sums is None else (sums[0] + n, sums[1] + n * tt)


def put_det(sums: Any, said: tuple[Any, ...], t: int) -> Any:
    duration, count, occupied = said
    if sums is None:
        sums = (0, 0, 0)
    return sums[0] + count, sums[1] + duration, sums[2] + occupied * duration


def put_park(sums: Any, said: tuple[Any, ...], t: int) -> Any:
    """The last of each: by (time, value)."""
    now = tuple((t, x) for x in said)
    return now if sums is None else tuple(map(max, sums, now))


def driven(told: Told, site: str, seen: list[tuple[int, Pane]], *needed: str) -> dict[str, int] | None:
    """Sums over the panes at whose start all needed attributes are known; None where there is no such pane."""
    time = free = metres = panes = length = 0
    for start, pane in seen:
        free_ms = told.town.attribute("link", site, "free_ms", start)
        length_m = told.town.attribute("link", site, "length_m", start)
        length = max(length, length_m or 0)
        if (free_ms is None and "free_ms" in needed) or (length_m is None and "length_m" in needed):
            continue
        vehicles, ms = pane[2]
        panes += 1
        time += ms
        free += vehicles * (free_ms or 0)
        metres += vehicles * (length_m or 0)
    return {"time": time, "free": free, "metres": metres, "length": length} if panes else None


def missing(num: int | None, den: int | None, known: int | None) -> str | None:
    return "no_attribute" if not known else None if den else "no_weight"


# 1: mean travel time over free-flow time, both weighted by vehicles; at least 1.
def _tti_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    sums = driven(told, site, seen, "free_ms")
    return (sums["time"], sums["free"], 1) if sums else (0, 0, 0)


def _tti_say(part: Part) -> Said:
    time, free, known = part
    return Said(max(1.0, time / free) if free else None, missing(time, free, known))


TTI = Recipe("traffic.tti", "GB/T 33171-2016/7.2.2.1", FIVE, _tti_site, summed, _tti_say, first_two)


def derived(told: Told, base: dict[Key, Reading]) -> dict[str, tuple[str, dict[Key, Reading]]]:
    """2 (delay share, 1 - 1/TTI) and 4 (level of V / V_f), of the readings of 1."""
    delay: dict[Key, Reading] = {}
    state: dict[Key, Reading] = {}
    for key, tti in base.items():
        has = tti.value is not None
        time, free = tti.num, tti.den
        level = late = None
        if has and time and free is not None:
            late = max(0.0, (time - free) / time)
            level = float(segment(time, free))
        for out, value in ((delay, late), (state, level)):
            if out is delay or key[0] == "site":
                reason = None if value is not None else tti.detail.get("reason")
                kind = "ok" if value is not None else "degraded" if reason else "no_data"
                detail = {"reason": reason} if reason else {}
                if value is not None and tti.detail.get("reason") == "input_ended":
                    kind, detail = "degraded", {"reason": "input_ended"}
                n = int(has)
                out[key] = Reading(tti.begin, value, None, None, n, kind, share(n, 1), tti.as_of, detail)
    return {
        "traffic.dtp": ("GB/T 33171-2016/7.2.2.2", delay),
        "traffic.segment_state": ("GB/T 33171-2016/8.1", state),
    }


def segment(time: int, free: int) -> int:
    """8.1: V / V_f = free / time above 70, 50, 40, 30 %."""
    return 1 + sum(100 * free <= x * time for x in (70, 50, 40, 30))


# 3: annex C of the delay share, floored per link, weighted by vehicles times length.
def _tpi_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    sums = driven(told, site, seen, "free_ms", "length_m")
    if sums is None:
        return None, None, 0
    if not sums["metres"]:
        return None, None, 1
    late = max(Fraction(0), Fraction(sums["time"] - sums["free"], sums["time"]))
    return round(late * BILLION) * sums["metres"] // 1000, sums["metres"], 1


def annex_c(late: Fraction) -> Fraction:
    edges = [Fraction(x, 10) for x in (0, 3, 5, 6, 7, 10)]
    for band, (low, high) in enumerate(itertools.pairwise(edges)):
        if late < high:
            return 2 * band + 2 * (late - low) / (high - low)
    return Fraction(10)


def _tpi_say(part: Part) -> Said:
    num, den, known = part
    value = float(annex_c(Fraction(num, 10**6 * den))) if den else None
    return Said(value, missing(num, den, known))


UP = ("district", "city")
TPI = Recipe(
    "traffic.tpi", "GB/T 33171-2016/annex C, weight n*L", QUARTER, _tpi_site, summed, _tpi_say, first_two, True, UP
)


# 5: length of links from level 3 over length of links.
def _jam_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    sums = driven(told, site, seen, "free_ms", "length_m")
    if sums is None or not sums["time"]:
        return None, None, int(sums is not None)
    return sums["length"] * (segment(sums["time"], sums["free"]) >= 3), sums["length"], 1


def _percent(part: Part) -> Said:
    num, den, known = part
    return Said(100 * num / den if den else None, missing(num, den, known))


JAM = Recipe(
    "traffic.congested_mileage",
    "GB/T 33171-2016/7.2.2.3, levels 3 to 5",
    QUARTER,
    _jam_site,
    summed,
    _percent,
    first_two,
    True,
    UP,
)


# 6: distance over time.
def _speed_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    sums = driven(told, site, seen, "length_m")
    return (sums["metres"], sums["time"], 1) if sums else (0, 0, 0)


def _speed_say(part: Part) -> Said:
    metres, ms, known = part
    return Said(3600 * metres / ms if ms else None, missing(metres, ms, known))


SPEED = Recipe("traffic.speed", "GB/T 33171-2016/7.2.1.3", FIVE, _speed_site, summed, _speed_say, first_two)


# 7, 8: detectors.
def _flow_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    vehicles, ms = sum(p[2][0] for _, p in seen), sum(p[2][1] for _, p in seen)
    return (round(Fraction(vehicles * 3_600_000 * BILLION, ms)), 1) if ms else (None, 0)


def _flow_say(part: Part) -> Said:
    return Said(part[0] / BILLION) if part[1] else Said(None, "no_weight")


FLOW = Recipe(
    "traffic.flow",
    "count*3600/s per lane, summed",
    FIVE,
    _flow_site,
    summed,
    _flow_say,
    no_ratio,
    True,
    ("lane", "site"),
)


def _occupied_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    return sum(p[2][2] for _, p in seen), sum(p[2][1] for _, p in seen)


def _occupied_say(part: Part) -> Said:
    return Said(float(Fraction(part[0], 100 * part[1]))) if part[1] else Said(None, "no_weight")


OCCUPANCY = Recipe("traffic.occupancy", "time-weighted mean", FIVE, _occupied_site, summed, _occupied_say, first_two)


# 17: the last state of each lot.
def _lot_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    if not seen:
        return None, None
    (_, occupied), (_, total), (_, out) = seen[-1][1][2]
    return (occupied, total - out) if total > out else (None, None)


def _lot_say(part: Part) -> Said:
    taken, usable = part
    if not usable:
        return Said(None, "no_capacity")
    return Said(100 * taken / usable, None, "above_capacity" if taken > usable else None)


def parking(minutes: int) -> Recipe:
    windows = Steps(minutes * MINUTE, MINUTE)
    return Recipe(
        "parking.occupancy",
        f"occupied/(total-oos), V={minutes} min",
        windows,
        _lot_site,
        summed,
        _lot_say,
        first_two,
        True,
    )


def links(told: Told) -> dict[str, tuple[str, dict[Key, Reading]]]:
    found = {r.id: (r.method, recipe_readings(r, told)) for r in (TTI, TPI, JAM, SPEED)}
    return found | derived(told, found["traffic.tti"][1])
