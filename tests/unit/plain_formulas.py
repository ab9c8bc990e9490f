"""Events of every stream at random, and every pane formula in a few lines of plain Python over the raw events.

Integers and fractions only; nothing is shared with the catalogue but its names.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from pipelines.streams import HOUR_MS, MINUTE_MS
from tests.unit.test_aqi_cn import twin

ORIGIN = 1_772_409_600_000
PLACES = 4
"""Sites of one parent."""
Event = dict[str, Any]
Oracle = Callable[[list[list[Event]], int, int], "float | Fraction | None"]
"""From the events of each site and a window [start, end) to the value of all those sites together."""
ATTRIBUTES: list[dict[str, int]] = [
    {"free_ms": 30_000, "length_m": 500},
    {"free_ms": 61_234, "length_m": 1203},
    {"free_ms": 9_999, "length_m": 88},
    {},  # a place of which the city knows nothing
]


def generate(name: str, rng: random.Random, hours: int) -> list[Event]:
    """Random events of a stream: gaps, several a pane, values that meet edges."""
    step = {"air": 20 * MINUTE_MS, "rain": 10 * MINUTE_MS}.get(name, MINUTE_MS // 2)
    out: list[Event] = []
    for t in range(ORIGIN - HOUR_MS, ORIGIN + hours * HOUR_MS, step):
        for place in range(PLACES):
            if rng.random() < 0.3:
                continue
            event: Event = {"t": t + rng.randrange(step), "place": place}
            if name == "link":
                free = ATTRIBUTES[place].get("free_ms", 10_000)
                slot = t // (15 * MINUTE_MS) + place
                # Whole slots at half of free flow, exactly on the edge of two levels, and whole slots above free flow.
                slowness = (2.0, 0.8)[slot % 3] if slot % 3 < 2 else rng.choice((0.8, 1, 10 / 7, 2, 3, 9))
                event |= {"tt_ms": int(free * slowness), "n": rng.choice((0, 1, 7, 40))}
            elif name == "det":
                event |= {"count": rng.randrange(60), "duration_ms": rng.choice((1000, 45_000, 60_000))}
                event |= {"speed_dmh": 500, "occ_e4": rng.randrange(10_001)}
            elif name == "lvl":
                event |= {"depth_mm": rng.choice((0, 100, 150, 151, 900, rng.randrange(400)))}
            elif name == "rain":
                event |= {"rain_um": rng.choice((0, 200, 12_345))}
            elif name == "park":
                out_of_service = rng.choice((0, 5, 50))
                event |= {"occupied": rng.randrange(60), "total": 50, "out_of_service": out_of_service}
            elif name == "http":
                event |= {"status": rng.choice((200, 404, 499, 500, 503))}
                event |= {"duration_us": rng.choice((None, 400_000, 500_000, 500_001, 2_000_000, 9_000_000))}
            else:
                covered = rng.choice((20 * MINUTE_MS, 15 * MINUTE_MS))
                for p, top in (("so2", 900), ("no2", 300), ("co", 40_000), ("o3", 500), ("pm10", 200), ("pm25", 150)):
                    if p == "so2" and rng.random() < 0.1:
                        continue
                    ug = rng.randrange(top) + rng.choice((0, 0.5, 0.499, 0.001))
                    out.append(event | {"pollutant": p, "ngm3": int(ug * 1000), "covered_ms": covered})
                continue
            out.append(event)
    return out


def inside(sites: list[list[Event]], start: int, end: int) -> list[Event]:
    return [e for events in sites for e in events if start <= e["t"] < end]


def attribute(event: Event, name: str) -> int:
    return ATTRIBUTES[event["place"]][name]


def known(sites: list[list[Event]], start: int, end: int) -> list[Event]:
    return [e for e in inside(sites, start, end) if ATTRIBUTES[e["place"]]]


def ratio(num: int | Fraction, den: int | Fraction, floor: int | None = None) -> Fraction | None:
    if not den:
        return None
    return Fraction(num) / den if floor is None else max(Fraction(floor), Fraction(num) / den)


def tti(sites: list[list[Event]], start: int, end: int) -> Fraction | None:
    events = known(sites, start, end)
    return ratio(sum(e["n"] * e["tt_ms"] for e in events), sum(e["n"] * attribute(e, "free_ms") for e in events), 1)


def speed(sites: list[list[Event]], start: int, end: int) -> Fraction | None:
    events = known(sites, start, end)
    metres = sum(e["n"] * attribute(e, "length_m") for e in events)
    return ratio(3600 * metres, sum(e["n"] * e["tt_ms"] for e in events))


def tpi(sites: list[list[Event]], start: int, end: int) -> float | None:
    num, den = Fraction(0), 0
    for events in sites:
        events = known([events], start, end)
        weight = sum(e["n"] * attribute(e, "length_m") for e in events)
        if weight:
            time = sum(e["n"] * e["tt_ms"] for e in events)
            num += weight * max(Fraction(0), 1 - Fraction(sum(e["n"] * attribute(e, "free_ms") for e in events), time))
            den += weight
    if not den:
        return None
    dtp, edges = num / den, [Fraction(x, 10) for x in (0, 3, 5, 6, 7, 10)]
    band = max(k for k in range(5) if dtp >= edges[k])
    return float(2 * band + 2 * (dtp - edges[band]) / (edges[band + 1] - edges[band]))


def mileage(sites: list[list[Event]], start: int, end: int) -> Fraction | None:
    jammed = total = 0
    for events in sites:
        events = known([events], start, end)
        if time := sum(e["n"] * e["tt_ms"] for e in events):
            length = attribute(events[0], "length_m")
            total += length
            jammed += length * (2 * sum(e["n"] * attribute(e, "free_ms") for e in events) <= time)
    return ratio(100 * jammed, total)


def flow(sites: list[list[Event]], start: int, end: int) -> Fraction | None:
    rates = [
        ratio(3_600_000 * sum(e["count"] for e in lane), sum(e["duration_ms"] for e in lane))
        for events in sites
        if (lane := inside([events], start, end))
    ]
    return sum((r for r in rates if r is not None), Fraction(0)) if rates else None


def occupancy(sites: list[list[Event]], start: int, end: int) -> Fraction | None:
    events = inside(sites, start, end)
    return ratio(sum(e["occ_e4"] * e["duration_ms"] for e in events), 100 * sum(e["duration_ms"] for e in events))


def newest(events: list[Event], start: int, end: int, *columns: str) -> list[int] | None:
    there = inside([events], start, end)
    return [max((e["t"], e[c]) for e in there)[1] for c in columns] if there else None


def parking(sites: list[list[Event]], start: int, end: int) -> Fraction | None:
    states = [newest(events, start, end, "occupied", "total", "out_of_service") for events in sites]
    lots = [(o, total - oos) for o, total, oos in (s for s in states if s) if total > oos]
    return ratio(100 * sum(o for o, _ in lots), sum(c for _, c in lots))


def depth(sites: list[list[Event]], start: int, end: int) -> Fraction | None:
    peaks = []
    for events in sites:
        for pane in range(start, end, MINUTE_MS):
            three = [newest(events, pane - k * MINUTE_MS, pane - (k - 1) * MINUTE_MS, "depth_mm") for k in range(3)]
            levels = sorted(level[0] for level in three if level)
            if three[0]:
                peaks.append(levels[(len(levels) - 1) // 2])
    return Fraction(max(peaks), 10) if peaks else None


def rise(sites: list[list[Event]], start: int, end: int) -> Fraction | None:
    (events,) = sites
    now, before = (newest(events, at - 2 * MINUTE_MS, at, "depth_mm") for at in (end, start))
    return Fraction(now[0] - before[0], 100) if now and before else None


def rain(sites: list[list[Event]], start: int, end: int) -> Fraction | None:
    events = inside(sites, start, end)
    return Fraction(sum(e["rain_um"] for e in events), 1000) if events else None


def errors(sites: list[list[Event]], start: int, end: int) -> Fraction | None:
    events = inside(sites, start, end)
    return ratio(100 * sum(e["status"] >= 500 for e in events), len(events))


def p95(sites: list[list[Event]], start: int, end: int) -> Fraction | None:
    timed = sorted(e["duration_us"] for e in inside(sites, start, end) if e["duration_us"] is not None)
    if not timed:
        return None
    exact = timed[(95 * len(timed) + 99) // 100 - 1]
    return Fraction({500_001: 530_000}.get(exact, exact), 1_000_000)  # 0.53 s is the bound above


def apdex(sites: list[list[Event]], start: int, end: int) -> Fraction | None:
    events = [e for e in inside(sites, start, end) if e["status"] >= 500 or e["duration_us"] is not None]
    good = [e["duration_us"] for e in events if e["status"] < 500]
    return ratio(2 * sum(d <= 500_000 for d in good) + sum(500_000 < d <= 2_000_000 for d in good), 2 * len(events))


def station_means(events: list[Event], start: int, end: int) -> dict[str, Fraction]:
    """Valid hourly means, ug/m3."""
    out = {}
    for p in ("so2", "no2", "co", "o3", "pm10", "pm25"):
        mine = [e for e in inside([events], start, end) if e["pollutant"] == p]
        if (covered := sum(e["covered_ms"] for e in mine)) >= 45 * MINUTE_MS:
            out[p] = Fraction(sum(e["ngm3"] * e["covered_ms"] for e in mine), 1000 * covered)
    return out


def rounded_mean(item: str, means: list[Fraction]) -> int | None:
    """In the standard's unit: a station's exact mean, or the mean of stations' means at 1e-9, rounded once."""
    unit = 100 if item.startswith("co") else 1
    if len(means) > 1:
        means = [Fraction(round(m * 10**9), 10**9) for m in means]
    return round(sum(means, Fraction(0)) / len(means) / unit) if means else None


def published(parts: list[int | None]) -> float | None:
    largest = max((p for p in parts if p is not None), default=0)
    return float(min(largest, 500)) if largest > 100 or None not in parts else None


def six(edition: int) -> Oracle:
    def of(sites: list[list[Event]], start: int, end: int) -> float | None:
        stations = [station_means(events, start, end) for events in sites]
        parts = []
        for p in ("so2", "no2", "co", "o3", "pm10", "pm25"):
            c = rounded_mean(p, [s[p] for s in stations if p in s])
            parts.append(None if c is None else twin(c, f"{p}_24h" if p.startswith("pm") else f"{p}_1h", edition))
        return published(parts)

    return of


def nine(sites: list[list[Event]], start: int, end: int) -> float | None:
    index: dict[str, int | None] = {}
    amount: dict[str, int | None] = {}
    for item, hours, enough in (
        ("so2_1h", 1, 1), ("so2_24h", 24, 20), ("no2_1h", 1, 1), ("co_1h", 1, 1), ("o3_1h", 1, 1), ("o3_8h", 8, 6),
        ("pm10_24h", 24, 20), ("pm25_24h", 24, 20),
    ):  # fmt: skip
        means = []
        for events in sites:
            hourly = [station_means(events, end - h * HOUR_MS, end - (h - 1) * HOUR_MS) for h in range(1, hours + 1)]
            valid = [Fraction(round(s[p] * 10**9), 10**9) for s in hourly if (p := item.split("_")[0]) in s]
            if len(valid) >= enough:
                means.append(sum(valid, Fraction(0)) / len(valid))
        amount[item] = c = rounded_mean(item, means)
        index[item] = None if c is None else twin(c, item, 2012)
    so2 = index["so2_24h"] if (amount["so2_1h"] or 0) > 800 else index["so2_1h"]
    o3 = max((i for i in (index["o3_1h"], index["o3_8h"]) if i is not None), default=None)
    return published([so2, index["no2_1h"], index["co_1h"], o3, index["pm10_24h"], index["pm25_24h"]])


ORACLES: dict[str, Oracle] = {
    "traffic.tti": tti,
    "traffic.speed": speed,
    "traffic.tpi": tpi,
    "traffic.congested_mileage": mileage,
    "traffic.flow": flow,
    "traffic.occupancy": occupancy,
    "parking.occupancy": parking,
    "aqi.realtime": six(2026),
    "aqi.realtime_2012": six(2012),
    "aqi.realtime_2012_literal": nine,
    "water.depth": depth,
    "water.rise": rise,
    "rain.3h": rain,
    "rain.6h": rain,
    "rain.12h": rain,
    "http.error_ratio": errors,
    "http.p95": p95,
    "http.apdex": apdex,
}
