"""Air quality (stream `air`): the real-time AQI of HJ 633, 2026 and, in two readings, 2012.

A pollutant's hour is valid from 45 min covered (GB 3095-2026, Table 4). A station's concentration is its exact sum over
its covered time, rounded half to even once; a parent's is the mean of its stations' means, each rounded to 1e-9 ug/m3,
rounded half to even once. Their sum fits Int64 for 9,000 stations at the top of the declared range, and for 18 million
at 500 ug/m3. A missing pollutant leaves the index null, reason `NA`, unless the others exceed 100 (5.3.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import polars as pl

from pipelines.catalogue.rollups import STATIONS
from pipelines.indicator import NANO, Case, Indicator, Panes, Thresholds
from pipelines.methods import aqi_cn
from pipelines.methods.aqi_cn import Edition, iaqi
from pipelines.methods.rounding import half_even, half_even_scaled
from pipelines.streams import HOUR_MS, MINUTE_MS, POLLUTANTS
from pipelines.windows import Slide, tumble

VALID_MS: Final = 45 * MINUTE_MS
HOURLY: Final = {p: f"{p}_24h" if p.startswith("pm") else f"{p}_1h" for p in POLLUTANTS}
"""The column by which a 1-h mean is judged: particles have a daily one only (2026, 4.2.3)."""
LITERAL: Final = {
    "so2_1h": 1, "so2_24h": 24, "no2_1h": 1, "co_1h": 1, "o3_1h": 1, "o3_8h": 8, "pm10_24h": 24, "pm25_24h": 24,
}  # fmt: skip
"""Items of the 2012 text and the hours that each is the mean of."""
ENOUGH: Final = {1: 1, 8: 6, 24: 20}
"""Valid hours that a mean needs (GB 3095-2026, Table 4)."""


def unit(item: str) -> int:
    """The unit to which the standard rounds, in ug/m3: CO is given in 0.1 mg/m3."""
    return 100 if item.startswith("co") else 1


def at_station(item: str, total: pl.Expr, weight: pl.Expr, per_ug: int, valid: pl.Expr) -> tuple[pl.Expr, ...]:
    """Partials of one concentration, `total / weight / per_ug` in ug/m3: itself in the standard's unit (`item`), in
    1e-9 ug/m3 (`item:nano`), and 1 for a station that has it (`item:of`)."""
    nano = half_even(total, weight) if per_ug == NANO else half_even_scaled(total, weight, NANO // per_ug)
    return (
        pl.when(valid).then(half_even(total, weight * (per_ug * unit(item)))).alias(item),
        pl.when(valid).then(nano).alias(f"{item}:nano"),
        pl.when(valid).then(pl.lit(1, dtype=pl.Int64)).alias(f"{item}:of"),
    )


def concentration(item: str) -> pl.Expr:
    """The concentration at any level, in the standard's unit; null where no station has it."""
    stations = pl.col(f"{item}:of")
    mean = half_even(pl.col(f"{item}:nano"), stations * (NANO * unit(item)))
    return pl.when(stations == 1).then(pl.col(item)).otherwise(mean)


def kind(
    columns: Mapping[str, str],
    edition: Edition,
    parts: Mapping[str, pl.Expr],
    aggregate: Sequence[pl.Expr],
    partial: Sequence[pl.Expr],
) -> Panes:
    """An AQI. `columns`: the table's column by which each item is judged; `parts`: each pollutant's index, of the
    columns `item:mean` (concentration) and `item:index`. `detail`: primary pollutants, indices, concentrations (ug/m3;
    CO mg/m3)."""
    index = pl.col("aqi")
    each = {p: pl.col(f"iaqi:{p}") for p in parts}
    mean = {item: pl.col(f"{item}:mean") for item in columns}
    judged = (iaqi(mean[item], column, edition).alias(f"{item}:index") for item, column in columns.items())
    # Polars divides by a constant with its reciprocal, so 12 / 10 is 1.2000000000000002; rounding makes it 1.2.
    amounts = (((c / 10).round(1) if unit(item) > 1 else c).alias(item) for item, c in mean.items())
    return Panes(
        STATIONS,
        aggregate=tuple(aggregate),
        partial=tuple(partial),
        steps=(
            tuple(concentration(item).alias(f"{item}:mean") for item in columns),
            tuple(judged),
            tuple(part.alias(f"iaqi:{p}") for p, part in parts.items()),
            (aqi_cn.aqi(list(each.values())).alias("aqi"),),
        ),
        value=index.cast(pl.Float64),
        num=None,
        den=None,
        reason=pl.when(index.is_null()).then(pl.lit("NA")),
        detail=(
            aqi_cn.primary(index, each).alias("primary"),
            pl.struct(part.alias(p) for p, part in each.items()).alias("iaqi"),
            pl.struct(amounts).alias("concentration"),
        ),
        reduce=True,
    )


def six_means(edition: Edition) -> Panes:
    """Six 1-h means: the text of 2026, and what the national platform has published under 2012."""
    aggregate: list[pl.Expr] = []
    partial: list[pl.Expr] = []
    for p in POLLUTANTS:
        total, covered = pl.col(f"{p}_sum"), pl.col(f"{p}_covered")
        aggregate += [total.sum(), covered.sum()]
        # ngm3 is in 0.001 ug/m3, so a sum over its time is 1000 per ug/m3.
        partial += at_station(p, total, covered, 1000, covered >= VALID_MS)
    return kind(HOURLY, edition, {p: pl.col(f"{p}:index") for p in POLLUTANTS}, aggregate, partial)


def nine_items() -> Panes:
    """The text of 2012: 1-h gases, O3 also over 8 h, particles over 24 h, all moving; means of hourly means that are
    rounded to 1e-9 ug/m3. 1-h particles, the other two of its nine items, have no index. Above 800 ug/m3 the 24-h SO2
    and the 1-h O3 index count (notes b and c)."""
    aggregate: list[pl.Expr] = []
    partial: list[pl.Expr] = []
    for item, hours in LITERAL.items():
        p = item.partition("_")[0]
        covered = pl.col(f"{p}_covered")
        counts = (covered >= VALID_MS) & (pl.col("pane_start") >= pl.col("window_end") - hours * HOUR_MS)
        mean = half_even_scaled(pl.col(f"{p}_sum"), covered, NANO // 1000)
        valid_hours = counts.sum().cast(pl.Int64)
        aggregate += [pl.when(counts).then(mean).sum().alias(f"{item}:sum"), valid_hours.alias(f"{item}:hours")]
        hours_there = pl.col(f"{item}:hours")
        partial += at_station(item, pl.col(f"{item}:sum"), hours_there, NANO, hours_there >= ENOUGH[hours])
    day_above_800 = pl.when(pl.col("so2_1h:mean") > 800).then(pl.col("so2_24h:index"))
    parts = {p: pl.col(f"{column}:index") for p, column in HOURLY.items()} | {
        "so2": day_above_800.otherwise(pl.col("so2_1h:index")),
        "o3": pl.max_horizontal("o3_1h:index", "o3_8h:index"),
    }
    return kind({item: item for item in LITERAL}, 2012, parts, aggregate, partial)


CLEAN: Final = {"so2": 10, "no2": 30, "co": 800, "o3": 60, "pm10": 60, "pm25": 20}
"""ug/m3."""


def hourly(hour: int, **ug: int) -> dict[str, int]:
    """A pane of a clean hour, but for these pollutants (ug/m3), all covered for 60 min: for worked cases."""
    row = {"pane_start": hour * HOUR_MS}
    for p, value in (CLEAN | ug).items():
        row |= {f"{p}_sum": value * 1000 * HOUR_MS, f"{p}_covered": HOUR_MS}
    return row


BOUNDS: Final = tuple(float(band.upper) for band in aqi_cn.BANDS[:-1])
REALTIME = Indicator(
    id="aqi.realtime",
    method_id="HJ 633-2026/4.2.3",
    zh="AQI实时报",
    en="AQI real-time",
    unit="index",
    domain="environment",
    window=tumble(HOUR_MS),
    kind=six_means(2026),
    thresholds=Thresholds(BOUNDS, "V", "HJ 633-2026"),
    case=Case((hourly(0, pm25=75),), 114.0, "Table 3: 75 ug/m3 of PM2.5 lie 15/55 above 100: 113.6, rounded up"),
    good="down",
    decimals=0,
)
PUBLISHED_2012 = Indicator(
    id="aqi.realtime_2012",
    method_id="HJ 633-2012/as published",
    zh="AQI实时报（HJ 633-2012，发布口径）",
    en="AQI real-time (HJ 633-2012, as published)",
    unit="index",
    domain="environment",
    window=tumble(HOUR_MS),
    kind=six_means(2012),
    thresholds=Thresholds(BOUNDS, "V", "HJ 633-2012"),
    case=Case((hourly(0, pm25=75),), 100.0, "Table 1: 75 ug/m3 of PM2.5 are 100"),
    good="down",
    decimals=0,
)
LITERAL_2012 = Indicator(
    id="aqi.realtime_2012_literal",
    method_id="HJ 633-2012/nine items",
    zh="AQI实时报（HJ 633-2012，九项条文口径）",
    en="AQI real-time (HJ 633-2012, nine items)",
    unit="index",
    domain="environment",
    window=Slide(24 * HOUR_MS, HOUR_MS),
    kind=nine_items(),
    thresholds=Thresholds(BOUNDS, "V", "HJ 633-2012"),
    case=Case(
        tuple(hourly(h, pm25=70 if h < 23 else 190) for h in range(24)),
        100.0,
        "23 h at 70 and one at 190 ug/m3 of PM2.5 have the mean 75: 100; the last hour alone would be 240",
    ),
    good="down",
    decimals=0,
)

INDICATORS: Final = (REALTIME, PUBLISHED_2012, LITERAL_2012)
