"""The demo city: an invented, seeded city of 12 districts that sends every stream, with everything that goes wrong.

Rush hours, rain with flooded underpasses, an accident, a dead sensor, a failing service; and records that come late,
twice or broken. Events are a function of (seed, stream, minute) alone, so the same minutes give the same events
whenever the simulation starts; the position of a source is the number of the event since `start`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import polars as pl

from pipelines.city import City, Site
from pipelines.streams import MINUTE_MS, POLLUTANTS

LONGEST_DELAY_MS: Final = 20 * MINUTE_MS
RUSH_HOURS: Final = ((8.0, 1.1, 0.9), (18.0, 1.4, 1.0), (12.5, 1.5, 0.35))
"""Local hour, width in hours, height: bell curves whose sum is the demand."""
BACKGROUND: Final[Mapping[str, float]] = {"so2": 9, "no2": 42, "co": 0.8, "o3": 88, "pm10": 71, "pm25": 44}
"""ug/m3, CO mg/m3."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How much goes wrong, as shares of the events."""

    late: float = 0.003
    duplicate: float = 0.002
    broken: float = 0.001


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens when, as a function of absolute time: the ground truth of the faults that a screen should show."""

    seed: int

    def accident(self, minute: int) -> tuple[int, float]:
        """District number that has an accident and how much of the road is left (1.0 = none); 35 of every 90 minutes."""
        round_, phase = divmod(minute + 20, 90)
        return (round_ * 5 + self.seed) % 12, (0.3 if phase < 35 else 1.0)

    def rain_um(self, minute: int) -> int:
        """Rain of that minute in 0.001 mm; 50 of every 240 minutes."""
        phase = (minute + 30) % 240
        return int(1500 * np.sin(np.pi * phase / 50)) if phase < 50 else 0

    def dead_gauge(self, minute: int) -> bool:
        """The first water gauge sends nothing in 45 of every 120 minutes."""
        return (minute + 60) % 120 < 45

    def outage(self, minute: int) -> bool:
        """The first service fails in 8 of every 60 minutes."""
        return (minute + 15) % 60 < 8


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute of simulated time: its number since 1970, the local hour, the generator of its events."""

    number: int
    hour: float
    rng: np.random.Generator
    scenario: Scenario

    @property
    def start_ms(self) -> int:
        return self.number * MINUTE_MS

    @property
    def demand(self) -> float:
        """Traffic demand, about 0 to 1.1."""
        return float(sum(h * np.exp(-(((self.hour - at) / width) ** 2)) for at, width, h in RUSH_HOURS))


Columns = dict[str, Any]


def link(minute: Minute, sites: list[Site], places: Places) -> Columns:
    """Every link once a minute: travel time of the vehicles seen."""
    n = len(sites)
    sensitivity = 0.35 + 0.5 * places.fixed
    district, left = minute.scenario.accident(minute.number)
    blocked = np.where((places.district == district) & (places.fixed > 0.5), left, 1.0)
    wet = 0.8 if minute.scenario.rain_um(minute.number) else 1.0
    share = np.clip((1.05 - sensitivity * minute.demand * 0.8) * wet * blocked, 0.08, 1.1)
    share = share * minute.rng.normal(1.0, 0.06, n).clip(0.7, 1.3)
    tt = places.attribute("free_ms") / share
    seen = minute.rng.poisson(3 + 25 * minute.demand, n)
    at = minute.start_ms + minute.rng.integers(0, MINUTE_MS, n)
    return {"t": at, "link": places.ids, "tt_ms": tt.astype(np.int64).clip(1, 36_000_000), "n": seen}


def det(minute: Minute, sites: list[Site], places: Places) -> Columns:
    n = len(sites)
    count = minute.rng.poisson(4 + 22 * minute.demand, n)
    speed = (700 - 350 * minute.demand + minute.rng.normal(0, 40, n)).clip(30, 1400).astype(np.int64)
    # A vehicle of 4.5 m covers the loop for 4.5 m / v; v is in 0.1 km/h, a minute has 60 s, the unit is 0.0001.
    occupancy = (count * 4.5 * 36 / speed / 60 * 10_000).clip(0, 9_900).astype(np.int64)
    end = np.full(n, minute.start_ms + MINUTE_MS - 1)
    return {"t": end, "lane": places.ids, "duration_ms": np.full(n, MINUTE_MS), "count": count} | {
        "speed_dmh": speed,
        "occ_e4": occupancy,
    }


def air(minute: Minute, sites: list[Site], places: Places) -> Columns:
    """Five-minute means of six pollutants."""
    if minute.number % 5:
        return {}
    k = len(POLLUTANTS)
    level = np.array([BACKGROUND[p] * (1000 if p == "co" else 1) for p in POLLUTANTS])
    swing = 1 + 0.35 * np.sin(minute.number / 260.0) + 0.3 * minute.demand
    value = np.outer(0.7 + 0.8 * places.fixed, level) * swing * minute.rng.lognormal(0, 0.1, (len(sites), k))
    return {
        "t": np.full(len(sites) * k, minute.start_ms + 5 * MINUTE_MS - 1),
        "station": np.repeat(places.ids, k),
        "pollutant": np.tile(np.array(POLLUTANTS), len(sites)),
        "ngm3": (value.ravel() * 1000).astype(np.int64),
        "covered_ms": np.full(len(sites) * k, 5 * MINUTE_MS),
    }


def lvl(minute: Minute, sites: list[Site], places: Places) -> Columns:
    """Water in underpasses: it rises with the rain of the last half hour."""
    fallen = sum(minute.scenario.rain_um(minute.number - k) * 0.96**k for k in range(60)) / 1000
    depth = fallen * 12 * places.fixed**3 + minute.rng.integers(0, 3, len(sites))
    alive = np.ones(len(sites), dtype=bool)
    alive[0] = not minute.scenario.dead_gauge(minute.number)
    at = minute.start_ms + minute.rng.integers(0, MINUTE_MS, len(sites))
    return {"t": at[alive], "gauge": places.ids[alive], "depth_mm": depth.astype(np.int64)[alive]}


def rain(minute: Minute, sites: list[Site], places: Places) -> Columns:
    """Ten-minute sums."""
    if minute.number % 10 != 9:
        return {}
    fallen = sum(minute.scenario.rain_um(minute.number - k) for k in range(10))
    amount = fallen * (0.6 + 0.8 * places.fixed) * minute.rng.normal(1, 0.05, len(sites)).clip(0.8, 1.2)
    end = np.full(len(sites), minute.start_ms + MINUTE_MS - 1)
    return {"t": end, "gauge": places.ids, "rain_um": amount.astype(np.int64).clip(0, 500_000)}


def park(minute: Minute, sites: list[Site], places: Places) -> Columns:
    total = places.attribute("capacity")
    busy = 0.35 + 0.6 * np.exp(-(((minute.hour - 14) / 5) ** 2))
    taken = total * np.clip(busy * (0.6 + 0.7 * places.fixed) + minute.rng.normal(0, 0.01, len(sites)), 0, 1)
    at = minute.start_ms + minute.rng.integers(0, MINUTE_MS, len(sites))
    return {"t": at, "lot": places.ids, "occupied": taken.astype(np.int64)} | {
        "total": total.astype(np.int64),
        "out_of_service": (total * 0.01).astype(np.int64),
    }


def http(minute: Minute, sites: list[Site], places: Places) -> Columns:
    """Requests to the city's services; the first service fails during an outage."""
    each = minute.rng.poisson(10 + 45 * np.exp(-(((minute.hour - 11) / 4.5) ** 2)), len(sites))
    service = np.repeat(np.arange(len(sites)), each)
    n = len(service)
    failing = (service == 0) & minute.scenario.outage(minute.number)
    status = np.where(minute.rng.random(n) < np.where(failing, 0.6, 0.004), 503, 200)
    seconds = minute.rng.lognormal(-1.6, 0.7, n) * np.where(failing, 9.0, 1.0)
    at = minute.start_ms + np.sort(minute.rng.integers(0, MINUTE_MS, n))
    return {"t": at, "service": places.ids[service], "status": status, "duration_us": (seconds * 1e6).astype(np.int64)}


def _cases(
    minute: Minute, places: Places, stream: str, per_minute: float
) -> tuple[int, np.ndarray, np.ndarray, list[str]]:
    n = int(minute.rng.poisson(per_minute))
    opened = minute.start_ms + np.sort(minute.rng.integers(0, MINUTE_MS, n))
    district = places.ids[minute.rng.integers(0, len(places.ids), n)]
    return n, opened, district, [f"{stream}-{minute.number}-{k}" for k in range(n)]


def _milestones(rows: list[Columns]) -> Columns:
    """Rows of single events as columns; every key of any row, null where a row has none."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    return {name: [row.get(name) for row in rows] for name in names} if rows else {}


def case(minute: Minute, sites: list[Site], places: Places) -> Columns:
    """Applications: automatic approvals within a second, food licences within the day, others in days."""
    n, opened, district, ids = _cases(minute, places, "case", 4 if 8 <= minute.hour < 18 else 1)
    rows: list[Columns] = []
    for k in range(n):
        auto, licence = minute.rng.random() < 0.5, minute.rng.random() < 0.3
        hours = float(minute.rng.lognormal(1.0, 1.2))
        same: Columns = {"district": district[k], "case_id": ids[k]}
        t = int(opened[k])
        channel = "counter" if minute.rng.random() < 0.15 else "online"
        item = "hukou" if auto else "food_licence" if licence else "other"
        submit = {"t": t, "milestone": "submit", "item": item, "channel": channel, "auto": auto}
        rows.append(same | submit | {"due_t": t + (4 if licence else 24) * 3_600_000})
        decided = t + (int(minute.rng.gamma(2, 220)) if auto else int(hours * 3_600_000 * 0.7))
        verdict = "reject" if minute.rng.random() < 0.04 else "approve"
        rows.append(same | {"t": decided, "milestone": verdict})
        if verdict == "approve":
            rows.append(same | {"t": decided + int(minute.rng.integers(1_000, 600_000)), "milestone": "deliver"})
    return _milestones(rows)


def tkt(minute: Minute, sites: list[Site], places: Places) -> Columns:
    """12345 calls: ring, answer, assign, contact, close."""
    n, opened, district, ids = _cases(minute, places, "tkt", 6 if 7 <= minute.hour < 22 else 2)
    rows: list[Columns] = []
    kinds, limits = ("emergency", "utility", "normal", "complex"), (2, 24, 168, 360)
    for k in range(n):
        kind = int(minute.rng.choice(4, p=[0.25, 0.35, 0.3, 0.1]))
        t, same = int(opened[k]), {"district": district[k], "case_id": ids[k]}
        rows.append(same | {"t": t, "milestone": "ring", "class": kinds[kind]})
        if minute.rng.random() < 0.03:
            continue  # the caller gave up
        answer = t + int(minute.rng.gamma(2, 3_800))
        assign = answer + int(minute.rng.integers(60_000, 400_000))
        contact = assign + int(minute.rng.gamma(2, 1_200_000))
        close = assign + int(limits[kind] * 3_600_000 * minute.rng.lognormal(-1.6, 0.8))
        steps = (("answer", answer), ("assign", assign), ("contact", contact), ("close", max(close, contact)))
        rows += [same | {"t": at, "milestone": name} for name, at in steps]
    return _milestones(rows)


def inc(minute: Minute, sites: list[Site], places: Places) -> Columns:
    """Road incidents; most minor ones are settled online within five minutes."""
    n, opened, district, ids = _cases(minute, places, "inc", 0.8 + minute.demand)
    rows: list[Columns] = []
    for k in range(n):
        online = minute.rng.random() < 0.7
        t, same = int(opened[k]), {"district": district[k], "case_id": ids[k]}
        rows.append(
            same | {"t": t, "milestone": "report", "kind": "minor", "channel": "online" if online else "patrol"}
        )
        took = int(minute.rng.gamma(4, 50_000 if online else 500_000))
        rows.append(same | {"t": t + took // 2, "milestone": "arrive"})
        rows.append(same | {"t": t + took, "milestone": "clear"})
    return _milestones(rows)


Generator = Callable[[Minute, list[Site], "Places"], Columns]
GENERATORS: Final[Mapping[str, Generator]] = {
    "link": link, "det": det, "air": air, "lvl": lvl, "rain": rain,
    "park": park, "http": http, "inc": inc, "case": case, "tkt": tkt,
}  # fmt: skip


class Places:
    """The sites of one stream as arrays; `fixed` is a number in [0, 1) that belongs to each site for good."""

    def __init__(self, city: City, stream: str, sites: list[Site]) -> None:
        self.sites = sites
        names = [d.id for d in city.districts]
        self.ids = np.array([s.id for s in sites] if sites else names, dtype=object)
        self.district = np.array([names.index(s.district) for s in sites] if sites else range(len(names)))
        self.fixed = np.random.default_rng([len(stream), 7]).random(len(self.ids))

    def attribute(self, name: str) -> np.ndarray:
        return np.array([float(s.attributes[name]) for s in self.sites])


class Simulation:
    """The lines that one stream of the city sends, minute by minute."""

    def __init__(self, city: City, stream: str, seed: int = 1, faults: Faults | None = None) -> None:
        if stream not in GENERATORS:
            raise LookupError(f"the simulator has no stream {stream!r}; it has {', '.join(GENERATORS)}")
        self.city, self.stream, self.seed = city, stream, seed
        self.faults = Faults() if faults is None else faults
        self.zone = ZoneInfo(city.zone)
        self.sites = [s for s in city.sites if s.stream == stream]
        self.places = Places(city, stream, self.sites)
        self.scenario = Scenario(seed)

    def truth(self, number: int) -> pl.DataFrame:
        """The events whose case or measurement starts in that minute, as they happened: no copies, nothing broken."""
        local = datetime.fromtimestamp(number * 60, UTC).astimezone(self.zone)
        rng = np.random.default_rng([self.seed, list(GENERATORS).index(self.stream), number])
        minute = Minute(number, local.hour + local.minute / 60, rng, self.scenario)
        columns = GENERATORS[self.stream](minute, self.sites, self.places)
        return pl.DataFrame(
            {k: list(v) if isinstance(v, np.ndarray) and v.dtype == object else v for k, v in columns.items()}
        )

    def sent(self, number: int) -> pl.DataFrame:
        """What is sent of that minute: `line` (bytes as text) and `arrival` (UTC ms), in the order of arrival."""
        events = self.truth(number)
        if events.is_empty():
            return pl.DataFrame(schema={"line": pl.String, "arrival": pl.Int64})
        rng = np.random.default_rng([self.seed, 99, list(GENERATORS).index(self.stream), number])
        n = len(events)
        late = rng.random(n) < self.faults.late
        delay = np.where(late, rng.integers(3 * MINUTE_MS, LONGEST_DELAY_MS, n), rng.gamma(2, 700, n).astype(np.int64))
        events = events.with_columns(arrival=pl.col("t") + 1 + pl.Series(delay.clip(0, LONGEST_DELAY_MS)))
        copies = events.filter(pl.Series(rng.random(n) < self.faults.duplicate))
        copies = copies.with_columns(pl.col("arrival") + 1_500)
        events = pl.concat([events, copies])
        drop_nulls = events.to_dicts() if events.null_count().sum_horizontal().item() else None
        if drop_nulls is None:
            lines = events.write_ndjson().splitlines()
        else:
            lines = [orjson.dumps({k: v for k, v in row.items() if v is not None}).decode() for row in drop_nulls]
        broken = rng.random(len(lines)) < self.faults.broken
        lines = [line[: len(line) // 2] if b else line for line, b in zip(lines, broken, strict=True)]
        return pl.DataFrame({"line": lines, "arrival": events["arrival"]}).sort("arrival", maintain_order=True)
