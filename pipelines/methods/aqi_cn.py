"""China's air quality index: HJ 633-2026 (in force since 2026-03-01) and HJ 633-2012, in exact integers.

Concentrations are integers as the standard rounds them before it interpolates (4.2.2, 4.2.3: half to even): ug/m3, and
0.1 mg/m3 for CO. The index is rounded up (4.2.6); with doubles `ceil` is off by one at 23 concentrations (CO 2.2 mg/m3
over 24 h gives 56 instead of 55), so a segment gives (dI * (C - Lo) + dC - 1) // dC with dC = Hi - Lo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import polars as pl

Edition = Literal[2012, 2026]
INDEX: Final = (0, 50, 100, 150, 200, 300, 400, 500)
_SHARED: Final[dict[str, tuple[int, ...]]] = {
    "so2_24h": (0, 50, 150, 475, 800, 1600, 2100, 2620),
    "so2_1h": (0, 150, 500, 650, 800),
    "no2_24h": (0, 40, 80, 180, 280, 565, 750, 940),
    "no2_1h": (0, 100, 200, 700, 1200, 2340, 3090, 3840),
    "co_24h": (0, 20, 40, 140, 240, 360, 480, 600),
    "co_1h": (0, 50, 100, 350, 600, 900, 1200, 1500),
    "o3_8h": (0, 100, 160, 215, 265, 800),
    "o3_1h": (0, 160, 200, 300, 400, 800, 1000, 1200),
}
BREAKPOINTS: Final[dict[int, dict[str, tuple[int, ...]]]] = {
    2012: _SHARED
    | {"pm10_24h": (0, 50, 150, 250, 350, 420, 500, 600), "pm25_24h": (0, 35, 75, 115, 150, 250, 350, 500)},
    2026: _SHARED
    | {"pm10_24h": (0, 50, 120, 250, 350, 420, 500, 600), "pm25_24h": (0, 35, 60, 115, 150, 250, 350, 500)},
}
"""Concentrations at `INDEX`, Table 3 of 2026 and Table 1 of 2012; the shorter columns end where the notes begin.
1-h columns are for the real-time report only, where 1-h means of PM10 and PM2.5 use the daily column (4.2.3)."""
COLUMNS: Final = tuple(BREAKPOINTS[2026])


@dataclass(frozen=True, slots=True)
class Band:
    """A category of the index: from the `upper` of the band before (exclusive) to its own (inclusive)."""

    upper: int
    level: str
    zh: str
    en: str
    rgb: tuple[int, int, int]


BANDS: Final = (
    Band(50, "一级", "优", "excellent", (0, 228, 0)),
    Band(100, "二级", "良", "good", (255, 255, 0)),
    Band(150, "三级", "轻度污染", "lightly polluted", (255, 126, 0)),
    Band(200, "四级", "中度污染", "moderately polluted", (255, 0, 0)),
    Band(300, "五级", "重度污染", "heavily polluted", (153, 0, 76)),
    Band(500, "六级", "严重污染", "severely polluted", (126, 0, 35)),
)


def iaqi(concentration: pl.Expr, column: str = "pm25_24h", edition: Edition = 2026) -> pl.Expr:
    """Individual index, Int64, at most 500, of a concentration (Int64, from 0) in the column's unit; null stays null.

    Above 800 ug/m3 of SO2 over 1 h it is 200, of O3 over 8 h 300 (notes b and c of 2026). By 2012 neither exists there:
    null, and the 24-h SO2 or 1-h O3 index is reported instead. LookupError names the columns there are.
    """
    known = table(column, edition)
    return pl.lit(known).gather(concentration.clip(0, len(known) - 1))


@cache
def table(column: str, edition: Edition = 2026) -> pl.Series:
    """The index of every concentration from 0 to the column's last breakpoint, and one more: that of all beyond."""
    points = _points(column, edition)
    at = pl.int_range(points[-1] + 2, dtype=pl.Int64)
    # A segment adds what of it lies below the concentration, rounded up: all of a passed one, nothing of a later one.
    segments = zip(points, points[1:], INDEX, INDEX[1:], strict=False)
    index = pl.sum_horizontal(
        ((at - low).clip(0, high - low) * (above - base) + (high - low - 1)) // (high - low)
        for low, high, base, above in segments
    )
    noted = edition == 2012 and len(points) < len(INDEX)
    return pl.select(pl.when(at <= points[-1]).then(index) if noted else index).to_series()


def aqi(parts: Sequence[pl.Expr]) -> pl.Expr:
    """The index of a place from its pollutants' individual ones: the largest, within 1 to 500 (4.1.1).

    Null means "NA" (5.3.1): where a pollutant has no index the others' is published only above 100. The rule is the
    2026 edition's; for 2012 it is used alike.
    """
    largest = pl.max_horizontal(parts)
    complete = pl.all_horizontal(part.is_not_null() for part in parts)
    return pl.when(complete | (largest > 100)).then(largest.clip(1, 500))


def primary(index: pl.Expr, parts: Mapping[str, pl.Expr]) -> pl.Expr:
    """The primary pollutants (4.3): those whose individual index is the AQI, ties together, where it is above 50; else
    an empty list."""
    named = [pl.when((index > 50) & (part == index)).then(pl.lit(name)) for name, part in parts.items()]
    return pl.concat_list(named).list.drop_nulls()


def band(index: int) -> Band:
    """The category of an index from 0 to 500."""
    return next(b for b in BANDS if index <= b.upper)


def _points(column: str, edition: int) -> tuple[int, ...]:
    if edition not in BREAKPOINTS:
        raise LookupError(f"HJ 633 has no edition {edition!r} here; known are {', '.join(map(str, BREAKPOINTS))}")
    if column not in BREAKPOINTS[edition]:
        raise LookupError(f"HJ 633-{edition} has no column {column!r}; it has {', '.join(BREAKPOINTS[edition])}")
    return BREAKPOINTS[edition][column]
