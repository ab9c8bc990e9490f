"""Traffic on links (stream `link`): travel time, delay, congestion, speed. Detectors and car parks have own files.

Lengths and free-flow times are place attributes with `valid_from`; a link without them gives no value, reason
`no_attribute`. `free_ms` is the free-flow travel time 3600 * L / V_f of GB/T 33171-2016, 7.2.1.2.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from pipelines.catalogue.rollups import LINKS
from pipelines.indicator import NANO, Case, Derived, Indicator, Panes, Thresholds, nanos
from pipelines.methods import congestion
from pipelines.streams import MINUTE_MS
from pipelines.windows import tumble

GBT: Final = "GB/T 33171-2016"
MILLION: Final = 1_000_000
NUM, DEN = pl.col("num"), pl.col("den")
SLOW: Final = {"pane_start": 0, "veh": 10, "veh_tt": 1_000_000, "free_ms": 60_000, "length_m": 1000}
"""Ten vehicles over 1 km in 100 s each, 60 s at free flow."""
JAM: Final = SLOW | {"pane_start": 5 * MINUTE_MS, "veh": 20, "veh_tt": 4_000_000}


def driven(of: pl.Expr, *attributes: str) -> pl.Expr:
    """The sum over the panes in which all these attributes are known."""
    return pl.when(pl.all_horizontal(pl.col(a).is_not_null() for a in attributes)).then(of).sum()


def known(*attributes: str) -> pl.Expr:
    """The panes in which all these attributes are known, for `reason`."""
    return pl.all_horizontal(pl.col(a).is_not_null() for a in attributes).sum().cast(pl.Int64).alias("known")


REASON: Final = (
    pl.when(pl.col("known").fill_null(0) == 0)
    .then(pl.lit("no_attribute"))
    .when(DEN.fill_null(0) == 0)
    .then(pl.lit("no_weight"))
)
VEH, VEH_TT, FREE_MS, LENGTH_M = (pl.col(c) for c in ("veh", "veh_tt", "free_ms", "length_m"))

TTI = Indicator(
    id="traffic.tti",
    method_id=f"{GBT}/7.2.2.1",
    zh="行程时间比",
    en="Travel time index",
    unit="1",
    domain="traffic",
    window=tumble(5 * MINUTE_MS),
    kind=Panes(
        LINKS,
        aggregate=(
            driven(VEH_TT, "free_ms").alias("num"),
            driven(VEH * FREE_MS, "free_ms").alias("den"),
            known("free_ms"),
        ),
        value=congestion.tti(NUM, DEN),
        reason=REASON,
        attributes=("free_ms",),
    ),
    thresholds=Thresholds((1 / 0.7, 2.0, 2.5, 1 / 0.3), "V", f"{GBT} 8.1 (transcription): V_f / V at 70, 50, 40, 30 %"),
    case=Case((SLOW,), 5 / 3, "7.2.2.1: 100 s where free flow takes 60 s"),
    good="down",
    decimals=2,
)
DTP = Indicator(
    id="traffic.dtp",
    method_id=f"{GBT}/7.2.2.2",
    zh="延误时间比",
    en="Delay time proportion",
    unit="0-1",
    domain="traffic",
    window=TTI.window,
    kind=Derived((TTI.id,), congestion.dtp(pl.col(f"{TTI.id}:num"), pl.col(f"{TTI.id}:den"))),
    thresholds=Thresholds(congestion.DTP_BANDS[1:-1], "S", f"{GBT} annex C, from a secondary transcription"),
    case=Case(({TTI.id: 10 / 7, f"{TTI.id}:num": 10, f"{TTI.id}:den": 7},), 0.3, "7.2.2.2: 10 s where 7 s are free"),
    good="down",
    decimals=2,
)
TPI = Indicator(
    id="traffic.tpi",
    method_id=f"{GBT}/annex C, weight n*L",
    zh="交通运行指数",
    en="Traffic performance index",
    unit="0-10",
    domain="traffic",
    window=tumble(15 * MINUTE_MS),
    kind=Panes(
        LINKS,
        aggregate=(
            driven(VEH_TT, "free_ms", "length_m").alias("time"),
            driven(VEH * FREE_MS, "free_ms", "length_m").alias("free"),
            driven(VEH * LENGTH_M, "free_ms", "length_m").alias("weight"),
            known("free_ms", "length_m"),
        ),
        # A link's DTP is floored at 0 and rounded to 1e-9 (rule 18), then times n * L. The product is kept in 1e-6
        # vehicle-metres: in 1e-9 the sum of 50,000 links at capacity would pass 2**63.
        partial=(
            pl.when(pl.col("weight") > 0)
            .then(nanos(congestion.dtp(pl.col("time"), pl.col("free"))) * pl.col("weight") // (NANO // MILLION))
            .alias("num"),
            pl.when(pl.col("weight") > 0).then(pl.col("weight")).alias("den"),
            pl.col("known"),
        ),
        value=congestion.tpi(NUM / (MILLION * DEN)),
        reason=REASON,
        attributes=("free_ms", "length_m"),
        reduce=True,
        levels=("district", "city"),
    ),
    thresholds=Thresholds((2.0, 4.0, 6.0, 8.0), "S", f"{GBT} annex C, from a secondary transcription"),
    case=Case((SLOW, JAM), 6.8, "annex C: DTP = (5.0 - 1.8) / 5.0 = 0.64 lies in [0.6, 0.7): 6 + 2 * 0.04 / 0.1"),
    good="down",
)

STATE = Indicator(
    id="traffic.segment_state",
    method_id=f"{GBT}/8.1",
    zh="路段运行状态",
    en="Segment state",
    unit="code 1-5",
    domain="traffic",
    window=TTI.window,
    kind=Derived(
        (TTI.id,),
        congestion.level(pl.col(f"{TTI.id}:num"), pl.col(f"{TTI.id}:den")).cast(pl.Float64),
        levels=("site",),
    ),
    thresholds=Thresholds((2.0, 3.0, 4.0, 5.0), "V", f"{GBT} 8.1 (transcription): V/V_f 70, 50, 40, 30 %"),
    case=Case(({TTI.id: 2.0, f"{TTI.id}:num": 2, f"{TTI.id}:den": 1},), 3.0, "8.1: half of V_f is slight congestion"),
    good="down",
    decimals=0,
)
CONGESTED_LENGTH = congestion.level(pl.col("time"), pl.col("free")) >= congestion.CONGESTED
MILEAGE = Indicator(
    id="traffic.congested_mileage",
    method_id=f"{GBT}/7.2.2.3, levels 3 to 5",
    zh="拥堵里程比例",
    en="Congested mileage ratio",
    unit="%",
    domain="traffic",
    window=tumble(15 * MINUTE_MS),
    kind=Panes(
        LINKS,
        aggregate=(
            driven(VEH_TT, "free_ms", "length_m").alias("time"),
            driven(VEH * FREE_MS, "free_ms", "length_m").alias("free"),
            # A link that was measured anew within the window counts with its larger length.
            LENGTH_M.max().alias("length"),
            known("free_ms", "length_m"),
        ),
        partial=(
            (CONGESTED_LENGTH.cast(pl.Int64) * pl.col("length")).alias("num"),
            pl.when(CONGESTED_LENGTH.is_not_null()).then(pl.col("length")).alias("den"),
            pl.col("known"),
        ),
        value=100 * NUM / DEN,
        reason=REASON,
        attributes=("free_ms", "length_m"),
        reduce=True,
        levels=("district", "city"),
    ),
    thresholds=Thresholds((10.0, 20.0, 30.0), "P", "ours"),
    case=Case((SLOW, JAM), 100.0, "8.1: V/V_f = 1.8 / 5.0 = 36 % is moderate congestion, on all of its one link"),
    good="down",
)
SPEED = Indicator(
    id="traffic.speed",
    method_id=f"{GBT}/7.2.1.3",
    zh="路网平均速度",
    en="Network mean speed",
    unit="km/h",
    domain="traffic",
    window=tumble(5 * MINUTE_MS),
    kind=Panes(
        LINKS,
        aggregate=(
            driven(VEH * LENGTH_M, "length_m").alias("num"),
            driven(VEH_TT, "length_m").alias("den"),
            known("length_m"),
        ),
        value=3600 * NUM / DEN,
        reason=REASON,
        attributes=("length_m",),
    ),
    thresholds=Thresholds((), "P", "none: judge it against its own median of the same slot"),
    case=Case((SLOW,), 36.0, "7.2.1.3: 1 km in 100 s"),
    good="up",
)

INDICATORS: Final = (TTI, DTP, TPI, STATE, MILEAGE, SPEED)
