"""Road congestion by GB/T 33171-2016: TTI, DTP, segment levels and the annex-C index TPI.

The standard allows three routes to a TPI (annex A severe-mileage ratio, B TTI, C DTP); this is annex C. The reading
that Beijing publishes (extra time against free flow, 0.2/0.5/0.8/1.1 times) is another method: it calls TTI 1.6 slight
congestion where annex C calls it basically free. Never compare two numbers of different `method_id`.
Times are sums in vehicle-milliseconds: `time` as driven, `free` at free flow (7.2.1.2), both over the same vehicles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from pipelines.methods.rounding import over


@dataclass(frozen=True, slots=True)
class Level:
    """A congestion level of clause 8.1. `above` is the percentage of free-flow speed that a segment must exceed."""

    code: int
    zh: str
    en: str
    above: int


LEVELS: Final = (
    Level(1, "畅通", "unobstructed", 70),
    Level(2, "基本畅通", "basically free", 50),
    Level(3, "轻度拥堵", "slight congestion", 40),
    Level(4, "中度拥堵", "moderate congestion", 30),
    Level(5, "严重拥堵", "severe congestion", -1),
)
CONGESTED: Final = 3
"""Level from which a segment counts as congested mileage."""
DTP_BANDS: Final = (0.0, 0.3, 0.5, 0.6, 0.7, 1.0)
"""Annex C: band k of DTP is [DTP_BANDS[k], DTP_BANDS[k + 1]), the last one closed; TPI covers [2k, 2k + 2] in it."""


def tti(time: pl.Expr, free: pl.Expr) -> pl.Expr:
    """Travel time index (7.2.2.1): mean over free-flow time, at least 1. Null where `free` is 0 or either is null."""
    return pl.when(free > 0).then((time / free).clip(lower_bound=1.0))


def dtp(time: pl.Expr, free: pl.Expr) -> pl.Expr:
    """Delay time proportion (7.2.2.2): (time - free) / time, at least 0. Null where `time` is 0 or either is null."""
    return pl.when(time > 0).then(((time - free) / time).clip(lower_bound=0.0))


def level(time: pl.Expr, free: pl.Expr) -> pl.Expr:
    """Code 1 to 5 by V / V_f = free / time (8.1), compared in integers. Null where `time` is 0 or either is null."""
    code = pl.lit(LEVELS[-1].code, dtype=pl.Int64)
    for each in reversed(LEVELS[:-1]):
        code = pl.when(free * 100 > time * each.above).then(pl.lit(each.code, dtype=pl.Int64)).otherwise(code)
    return pl.when((time > 0) & free.is_not_null()).then(code)


def tpi(delay: pl.Expr) -> pl.Expr:
    """Traffic performance index, 0 to 10 (annex C): linear within each band of DTP."""
    index = pl.lit(10.0)
    for band in range(len(DTP_BANDS) - 2, -1, -1):
        low, high = DTP_BANDS[band], DTP_BANDS[band + 1]
        inside = (2 * band + over(2 * (delay - low), high - low)).clip(2 * band, 2 * band + 2)
        # The last band is closed above: DTP = 1 would mean that nobody arrives.
        index = pl.when(delay < high).then(inside).otherwise(index)
    return pl.when(delay.is_not_null()).then(index)
