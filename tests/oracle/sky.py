"""Air (HJ 633 with GB 3095-2026 table 4), water on roads, rain; in fractions, rounded half to even where the text says."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from functools import cache
from typing import Any

from tests.oracle.climbing import Part, Recipe, Said, largest, no_ratio, only_num, summed
from tests.oracle.grid import HOUR, MINUTE, Steps
from tests.oracle.told import Pane, Told

POLLUTANTS = ("so2", "no2", "co", "o3", "pm10", "pm25")
IAQI = (0, 50, 100, 150, 200, 300, 400, 500)
TABLE: dict[str, tuple[int, ...]] = {
    # ug/m3; CO in 0.1 mg/m3
    "so2_24h": (0, 50, 150, 475, 800, 1600, 2100, 2620),
    "so2_1h": (0, 150, 500, 650, 800),
    "no2_1h": (0, 100, 200, 700, 1200, 2340, 3090, 3840),
    "co_1h": (0, 50, 100, 350, 600, 900, 1200, 1500),
    "o3_8h": (0, 100, 160, 215, 265, 800),
    "o3_1h": (0, 160, 200, 300, 400, 800, 1000, 1200),
    "pm10_2012": (0, 50, 150, 250, 350, 420, 500, 600),
    "pm10_2026": (0, 50, 120, 250, 350, 420, 500, 600),
    "pm25_2012": (0, 35, 75, 115, 150, 250, 350, 500),
    "pm25_2026": (0, 35, 60, 115, 150, 250, 350, 500),
}
ABOVE_2026 = {"so2_1h": 200, "o3_8h": 300}
"""Notes b and c: beyond the last point. By 2012 there is no index there."""
BILLION = 10**9


@cache
def index(column: str, edition: int, c: int) -> int | None:
    points = TABLE[f"{column.partition('_')[0]}_{edition}" if column.startswith("pm") else column]
    if c > points[-1]:
        return 500 if len(points) == len(IAQI) else ABOVE_2026[column] if edition == 2026 else None
    for (low, high), (under, over) in zip(itertools.pairwise(points), itertools.pairwise(IAQI), strict=False):
        if low <= c <= high:
            return math.ceil(Fraction(over - under, high - low) * (c - low) + under)
    raise AssertionError(f"{column}: {c}")


def overall(parts: dict[str, int | None]) -> tuple[int | None, list[str]]:
    """AQI and primary pollutants: NA where an index is missing, unless the others exceed 100."""
    known = [x for x in parts.values() if x is not None]
    top = max(known, default=0)
    if not known or (len(known) < len(parts) and top <= 100):
        return None, []
    aqi = min(max(top, 1), 500)
    return aqi, [p for p, x in parts.items() if x == aqi] if aqi > 50 else []


def put_air(sums: Any, said: tuple[Any, ...], t: int) -> Any:
    """By pollutant: concentration times covered time, covered time."""
    pollutant, ngm3, covered = said
    sums = {} if sums is None else sums
    total, ms = sums.get(pollutant, (0, 0))
    sums[pollutant] = total + ngm3 * covered, ms + covered
    return sums


def hourly(pane: Pane, pollutant: str) -> Fraction | None:
    """ug/m3, from 45 min of sampling."""
    total, ms = pane[2].get(pollutant, (0, 0))
    return Fraction(total, ms * 1000) if ms >= 45 * MINUTE else None


# A part is, for each item, (stations, sum of their means in 1e-9 ug/m3, the only station's own mean rounded).
def _of(item: str, mean: Fraction | None) -> tuple[int, int, int]:
    return (0, 0, 0) if mean is None else (1, round(mean * BILLION), round(mean / _unit(item)))


def _unit(item: str) -> int:
    return 100 if item.startswith("co") else 1


def _together(parts: list[Part]) -> Part:
    return tuple(tuple(sum(x) for x in zip(*items, strict=True)) for items in zip(*parts, strict=True))


def _amount(item: str, part: tuple[int, int, int]) -> int | None:
    stations, nano, own = part
    if stations <= 1:
        return own if stations else None
    return round(Fraction(nano, stations * BILLION * _unit(item)))


def _detail(primary: list[str], parts: dict[str, int | None], amounts: dict[str, int | None]) -> dict[str, Any]:
    shown = {i: x / 10 if x is not None and i.startswith("co") else x for i, x in amounts.items()}
    return {"primary": primary, "iaqi": parts, "concentration": shown}


def _six_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    return tuple(_of(p, hourly(seen[0][1], p) if seen else None) for p in POLLUTANTS)


def six(id: str, method: str, edition: int) -> Recipe:
    """Six 1-h means; particles by their daily column."""

    def say(part: Part) -> Said:
        amounts = {p: _amount(p, x) for p, x in zip(POLLUTANTS, part, strict=True)}
        parts = {
            p: None if c is None else index(p if p.startswith("pm") else f"{p}_1h", edition, c)
            for p, c in amounts.items()
        }
        aqi, primary = overall(parts)
        return Said(None if aqi is None else float(aqi), None if aqi else "NA", None, _detail(primary, parts, amounts))

    return Recipe(id, method, Steps(HOUR, HOUR), _six_site, _together, say, no_ratio, True)


NINE = {"so2_1h": 1, "so2_24h": 24, "no2_1h": 1, "co_1h": 1, "o3_1h": 1, "o3_8h": 8, "pm10_24h": 24, "pm25_24h": 24}
ENOUGH = {1: 1, 8: 6, 24: 20}


@cache
def _nano(total: int, ms: int) -> int:
    return round(Fraction(total * BILLION, ms * 1000))


def _nine_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    found = []
    for item, hours in NINE.items():
        p = item.partition("_")[0]
        sums = [pane[2][p] for start, pane in seen if start >= end - hours * HOUR and p in pane[2]]
        means = [_nano(total, ms) for total, ms in sums if ms >= 45 * MINUTE]
        mean = Fraction(sum(means), len(means) * BILLION) if len(means) >= ENOUGH[hours] else None
        found.append(_of(item, mean))
    return tuple(found)


def _nine_say(part: Part) -> Said:
    c = {i: _amount(i, x) for i, x in zip(NINE, part, strict=True)}
    each = {i: None if x is None else index(i, 2012, x) for i, x in c.items()}
    so2 = each["so2_24h"] if (c["so2_1h"] or 0) > 800 else each["so2_1h"]
    o3 = max((x for x in (each["o3_1h"], each["o3_8h"]) if x is not None), default=None)
    parts = {
        "so2": so2,
        "no2": each["no2_1h"],
        "co": each["co_1h"],
        "o3": o3,
        "pm10": each["pm10_24h"],
        "pm25": each["pm25_24h"],
    }
    aqi, primary = overall(parts)
    return Said(None if aqi is None else float(aqi), None if aqi else "NA", None, _detail(primary, parts, c))


AIR = (
    six("aqi.realtime", "HJ 633-2026/4.2.3", 2026),
    six("aqi.realtime_2012", "HJ 633-2012/as published", 2012),
    Recipe(
        "aqi.realtime_2012_literal",
        "HJ 633-2012/nine items",
        Steps(24 * HOUR, HOUR),
        _nine_site,
        _together,
        _nine_say,
        no_ratio,
        True,
    ),
)


# Water: the last level of each minute.
def put_last(sums: Any, said: tuple[Any, ...], t: int) -> Any:
    return max((t, said[0]), sums or (t, said[0]))


def _depth_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    level = {start: pane[2][1] for start, pane in seen}
    quiet = []
    for start in level:
        if start >= begin:
            near = [level[s] for s in (start, start - MINUTE, start - 2 * MINUTE) if s in level]
            quiet.append(sorted(near)[1] if len(near) == 3 else min(near))
    return (max(quiet, default=None),)


def _depth_say(part: Part) -> Said:
    return Said(part[0] / 10) if part[0] is not None else Said(None, "no_level")


def _rise_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    def at(instant: int) -> int | None:
        near = [pane[2][1] for start, pane in seen if instant - 2 * MINUTE <= start < instant]
        return near[-1] if near else None

    now, before = at(end), at(begin)
    return None if now is None or before is None else now - before, now


def _rise_say(part: Part) -> Said:
    rise, now = part
    if rise is None:
        return Said(None, "no_level_now" if now is None else "no_level_10_min_ago")
    return Said(rise / 100)


WATER = (
    Recipe(
        "water.depth", "max of the median of 3 last levels", Steps(5 * MINUTE, MINUTE), _depth_site, largest, _depth_say,
        only_num, lookback=2 * MINUTE,
    ),
    Recipe(
        "water.rise", "(d_t - d_t-10)/10, V=2 min", Steps(10 * MINUTE, MINUTE), _rise_site, largest, _rise_say, only_num,
        shown=("site",), lookback=2 * MINUTE,
    ),
)  # fmt: skip


def put_sum(sums: Any, said: tuple[Any, ...], t: int) -> Any:
    return (sums or 0) + said[0]


def _rain_site(told: Told, site: str, begin: int, end: int, seen: list[tuple[int, Pane]]) -> Part:
    return (sum(pane[2] for _, pane in seen),)


def _rain_say(part: Part) -> Said:
    return Said(part[0] / 1000)


def _rain(hours: int) -> Recipe:
    windows = Steps(hours * HOUR, 10 * MINUTE)
    return Recipe(
        f"rain.{hours}h", f"sum over {hours} h", windows, _rain_site, summed, _rain_say, only_num, shown=("site",)
    )


RAIN = (_rain(3), _rain(6), _rain(12))
