"""Water on roads (stream `lvl`) and rain (stream `rain`)."""

from __future__ import annotations

from typing import Final

import polars as pl

from pipelines.catalogue.rollups import GAUGES, RAIN_GAUGES, packed, unpacked
from pipelines.indicator import Case, Indicator, Panes, Thresholds
from pipelines.methods.rounding import over
from pipelines.streams import HOUR_MS, MINUTE_MS
from pipelines.windows import Slide

DEPTH_MM: Final = unpacked(GAUGES, "depth").sort_by("pane_start")
PANE: Final = pl.col("pane_start").sort_by("pane_start")
SAME_GAP_MS: Final = 2 * MINUTE_MS
"""How far back a pane's two predecessors may lie, and how old a level may be to stand for an instant (V)."""


def despiked() -> pl.Expr:
    """Each pane's level, in the order of time: the median of it and its two predecessors, the lower of two where one is
    missing, itself where both are. A single spike never passes; a true rise passes one pane later."""
    now = DEPTH_MM
    before, earlier = (pl.when(PANE - PANE.shift(k) <= SAME_GAP_MS).then(DEPTH_MM.shift(k)) for k in (1, 2))
    low, high = pl.min_horizontal(now, before), pl.max_horizontal(now, before)
    middle = pl.max_horizontal(low, pl.min_horizontal(high, earlier))
    return pl.when(earlier.is_null()).then(low).otherwise(middle)


def level_at(instant: pl.Expr) -> pl.Expr:
    """The last level in the two minutes before an instant; null where there is none."""
    age = instant.sort_by("pane_start") - PANE
    return DEPTH_MM.filter((age > 0) & (age <= SAME_GAP_MS)).last()


def gauge(*levels_mm: int | None, first: int = 0) -> tuple[dict[str, int], ...]:
    """Panes of one-minute levels, null = no event: for worked cases."""
    return tuple(
        {"pane_start": (first + minute) * MINUTE_MS, "depth": packed(GAUGES, "depth", mm)}
        for minute, mm in enumerate(levels_mm)
        if mm is not None
    )


DEPTH = Indicator(
    id="water.depth",
    method_id="max of the median of 3 last levels",
    zh="道路积水深度",
    en="Road water depth",
    unit="cm",
    domain="environment",
    window=Slide(5 * MINUTE_MS, MINUTE_MS),
    kind=Panes(
        GAUGES,
        aggregate=(despiked().filter(pl.col("window_start").first() <= PANE).max().alias("num"),),
        value=over(pl.col("num"), 10),
        den=None,
        reason=pl.when(pl.col("num").is_null()).then(pl.lit("no_level")),
        combine="max",
        lookback_ms=SAME_GAP_MS,
    ),
    thresholds=Thresholds(
        (15.0, 25.0, 30.0, 60.0),
        "S",
        "15, 30, 60 cm [V] weather.gov/lot/hydrology_education_safety; 25 cm [S] Shenyang closes the road, 2015-07-29",
    ),
    case=Case(
        gauge(120, 130, 140, 900, 150, 160, 170, first=-2), 16.0, "120 to 170 mm with one spike of 900: median 160"
    ),
    good="down",
)
RISE = Indicator(
    id="water.rise",
    method_id="(d_t - d_t-10)/10, V=2 min",
    zh="积水上涨速率",
    en="Water rise rate",
    unit="cm/min",
    domain="environment",
    window=Slide(10 * MINUTE_MS, MINUTE_MS),
    kind=Panes(
        GAUGES,
        aggregate=(
            (level_at(pl.col("window_end")) - level_at(pl.col("window_start"))).alias("num"),
            level_at(pl.col("window_end")).alias("now"),
        ),
        value=over(pl.col("num"), 100),
        den=None,
        reason=pl.when(pl.col("now").is_null())
        .then(pl.lit("no_level_now"))
        .when(pl.col("num").is_null())
        .then(pl.lit("no_level_10_min_ago")),
        levels=("site",),
        lookback_ms=SAME_GAP_MS,
    ),
    thresholds=Thresholds((1.0, 2.0), "P", "ours"),
    case=Case(
        gauge(100, None, 120, 130, first=-1) + gauge(300, first=8), 2.0, "100 mm at T - 10 min, 300 mm at T: 20 cm"
    ),
    good="down",
    decimals=2,
)


def rain(hours: int, bounds_mm: tuple[float, ...], grades: str) -> Indicator:
    """Millimetres over the last hours. A gap counts as no rain: see `completeness`."""
    return Indicator(
        id=f"rain.{hours}h",
        method_id=f"sum over {hours} h",
        zh=f"滚动雨量（{hours}小时）",
        en=f"Rain accumulation ({hours} h)",
        unit="mm",
        domain="environment",
        window=Slide(hours * HOUR_MS, 10 * MINUTE_MS),
        kind=Panes(
            RAIN_GAUGES,
            aggregate=(pl.col("fallen").sum().alias("num"),),
            value=over(pl.col("num"), 1000),
            den=None,
            reason=pl.lit(None, dtype=pl.String),
            levels=("site",),
        ),
        thresholds=Thresholds(bounds_mm, "S", f"rain warning signals of China's weather service, {grades}"),
        case=Case(
            ({"pane_start": 0, "fallen": 20_500}, {"pane_start": HOUR_MS, "fallen": 30_000}), 50.5, "20.5 mm and 30 mm"
        ),
        good="down",
    )


INDICATORS: Final = (
    DEPTH,
    RISE,
    rain(3, (50.0, 100.0), "orange and red"),
    rain(6, (50.0,), "yellow"),
    rain(12, (50.0,), "blue"),
)
