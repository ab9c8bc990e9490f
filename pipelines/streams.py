"""Streams: the named, typed kinds of event that a city sends, and how each may be trusted.

A stream's declaration is the one place that says what its columns are, in which unit and scale the integers are
kept, what a plausible value is, which end of an interval its source stamps, how late its events may come (D), what
makes two records the same event, and what may be kept of it (raw and PII policy). Rules 2 to 6 and 17 of
`docs/semantics.md` read it; nothing else decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000

Stamp = Literal["instant", "start", "end"]
RawPolicy = Literal["keep", "sample", "off"]
PiiPolicy = Literal["none", "redact", "drop"]


@dataclass(frozen=True, slots=True)
class Int:
    """A scaled integer: the stored value is the physical value times 10**scale. `low` and `high` bound the stored value."""

    name: str
    unit: str
    low: int
    high: int
    scale: int = 0
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A short text; with `values` only those are valid. Free text is redacted (`pii`) before it is stored anywhere."""

    name: str
    values: tuple[str, ...] = ()
    max_bytes: int = 128
    nullable: bool = False
    pii: PiiPolicy = "none"


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean that is kept as 0 or 1. Lifecycles merge it by `max` (rule 17)."""

    name: str
    nullable: bool = True


@dataclass(frozen=True, slots=True)
class Time:
    """A further point in time (a due date), UTC milliseconds since 1970."""

    name: str
    nullable: bool = True


Column = Int | Text | Flag | Time


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of event.

    `place` is the text column that names the site an event belongs to; `levels` are the place kinds from the site up.
    `milestones` is set for lifecycle streams (rule 17): their events are (case_id, milestone, t, attributes).
    `dedup` names the columns of the key (`t` and the place may be among them), or is None for `dedup = none`.
    """

    name: str
    place: str
    columns: tuple[Column, ...]
    disorder_ms: int
    period_ms: int | None
    dedup: tuple[str, ...] | None
    horizon_ms: int
    stamp: Stamp = "instant"
    length_ms: int = 0
    future_ms: int = 5 * MINUTE_MS
    idle_timeout_ms: int = 30_000
    retire_after_ms: int = DAY_MS
    raw: RawPolicy = "off"
    levels: tuple[str, ...] = ("site", "district", "city")
    milestones: tuple[str, ...] = ()
    opening: str | None = None
    attributes: tuple[str, ...] = field(default=())
    """Place attributes that indicators of this stream need (lengths, free-flow speeds, capacities)."""

    @property
    def lifecycle(self) -> bool:
        return bool(self.milestones)

    @property
    def jump_ms(self) -> int:
        """J of rule 6: the larger of 1 h and three periods."""
        return max(HOUR_MS, 3 * (self.period_ms or 0))

    @property
    def max_lag_ms(self) -> int:
        """Rule 7: the larger of 1 h and three periods."""
        return max(HOUR_MS, 3 * (self.period_ms or 0))

    def column(self, name: str) -> Column:
        """The column of that name; LookupError names the columns there are."""
        for column in self.columns:
            if column.name == name:
                return column
        raise LookupError(
            f"stream {self.name!r} has no column {name!r}; it has {', '.join(c.name for c in self.columns)}"
        )


LINK = Stream(
    "link",
    place="link",
    columns=(Int("tt_ms", "ms", 1, 36_000_000), Int("n", "vehicles", 0, 10_000)),
    disorder_ms=MINUTE_MS,
    period_ms=MINUTE_MS,
    dedup=("link", "t"),
    horizon_ms=10 * MINUTE_MS,
    attributes=("length_m", "free_ms"),
)
DET = Stream(
    "det",
    place="lane",
    columns=(
        Int("duration_ms", "ms", 1_000, 900_000),
        Int("count", "vehicles", 0, 10_000),
        Int("speed_dmh", "0.1 km/h", 0, 3_000, scale=1, nullable=True),
        Int("occ_e4", "0.0001", 0, 10_000, scale=4),
    ),
    disorder_ms=MINUTE_MS,
    period_ms=MINUTE_MS,
    dedup=("lane", "t"),
    horizon_ms=10 * MINUTE_MS,
    stamp="end",
    length_ms=MINUTE_MS,
    levels=("lane", "site", "district", "city"),
)
POLLUTANTS: Final = ("so2", "no2", "co", "o3", "pm10", "pm25")
AIR = Stream(
    "air",
    place="station",
    columns=(
        Text("pollutant", values=POLLUTANTS),
        Int("ngm3", "0.001 ug/m3", 0, 1_000_000_000, scale=3),
        Int("covered_ms", "ms", 1, HOUR_MS),
    ),
    disorder_ms=5 * MINUTE_MS,
    period_ms=HOUR_MS,
    dedup=("station", "pollutant", "t"),
    horizon_ms=2 * HOUR_MS,
    stamp="start",
    length_ms=HOUR_MS,
)
LVL = Stream(
    "lvl",
    place="gauge",
    columns=(Int("depth_mm", "mm", 0, 20_000),),
    disorder_ms=MINUTE_MS,
    period_ms=MINUTE_MS,
    dedup=("gauge", "t"),
    horizon_ms=10 * MINUTE_MS,
)
RAIN = Stream(
    "rain",
    place="gauge",
    columns=(Int("rain_um", "0.001 mm", 0, 500_000, scale=3),),
    disorder_ms=2 * MINUTE_MS,
    period_ms=10 * MINUTE_MS,
    dedup=("gauge", "t"),
    horizon_ms=HOUR_MS,
    stamp="end",
    length_ms=10 * MINUTE_MS,
)
PARK = Stream(
    "park",
    place="lot",
    columns=(
        Int("occupied", "spaces", 0, 100_000),
        Int("total", "spaces", 1, 100_000),
        Int("out_of_service", "spaces", 0, 100_000),
    ),
    disorder_ms=MINUTE_MS,
    period_ms=MINUTE_MS,
    dedup=("lot", "t"),
    horizon_ms=10 * MINUTE_MS,
)
HTTP = Stream(
    "http",
    place="service",
    columns=(Int("status", "HTTP status", 100, 599), Int("duration_us", "us", 0, 3_600_000_000, nullable=True)),
    disorder_ms=10_000,
    period_ms=MINUTE_MS,
    dedup=None,
    horizon_ms=0,
)
INC = Stream(
    "inc",
    place="district",
    columns=(
        Text("case_id"),
        Text("milestone", values=("report", "arrive", "clear")),
        Text("kind", nullable=True),
        Text("channel", nullable=True),
    ),
    disorder_ms=MINUTE_MS,
    period_ms=None,
    dedup=("case_id", "milestone", "t"),
    horizon_ms=DAY_MS,
    raw="keep",
    levels=("district", "city"),
    milestones=("report", "arrive", "clear"),
    opening="report",
)
CASE = Stream(
    "case",
    place="district",
    columns=(
        Text("case_id"),
        Text("milestone", values=("submit", "accept", "supplement", "approve", "reject", "deliver")),
        Text("item", nullable=True),
        Text("channel", nullable=True),
        Flag("auto"),
        Flag("coarse"),
        Time("due_t"),
    ),
    disorder_ms=MINUTE_MS,
    period_ms=None,
    dedup=("case_id", "milestone", "t"),
    horizon_ms=DAY_MS,
    raw="keep",
    levels=("district", "city"),
    milestones=("submit", "accept", "supplement", "approve", "reject", "deliver"),
    opening="submit",
)
TKT = Stream(
    "tkt",
    place="district",
    columns=(
        Text("case_id"),
        Text("milestone", values=("ring", "answer", "assign", "contact", "close", "visit")),
        Text("class", values=("emergency", "utility", "normal", "complex"), nullable=True),
        Text("unit", nullable=True),
        Flag("contacted"),
        Flag("solved"),
        Flag("satisfied"),
    ),
    disorder_ms=MINUTE_MS,
    period_ms=None,
    dedup=("case_id", "milestone", "t"),
    horizon_ms=DAY_MS,
    raw="keep",
    levels=("district", "city"),
    milestones=("ring", "answer", "assign", "contact", "close", "visit"),
    opening="ring",
)

STREAMS: Final[tuple[Stream, ...]] = (LINK, DET, AIR, LVL, RAIN, PARK, INC, HTTP, CASE, TKT)
