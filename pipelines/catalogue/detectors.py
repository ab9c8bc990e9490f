"""Traffic at detectors (stream `det`): place = lane, the next level is the site. An event covers ts_to - ts_from."""

from __future__ import annotations

from typing import Final

import polars as pl

from pipelines.catalogue.rollups import LANES
from pipelines.indicator import NANO, Case, Indicator, Panes, Thresholds, nanos
from pipelines.methods.rounding import over
from pipelines.streams import MINUTE_MS
from pipelines.windows import tumble

FLOW = Indicator(
    id="traffic.flow",
    method_id="count*3600/s per lane, summed",
    zh="流率",
    en="Flow rate",
    unit="veh/h",
    domain="traffic",
    window=tumble(5 * MINUTE_MS),
    kind=Panes(
        LANES,
        aggregate=(pl.col("veh").sum(), pl.col("duration").sum()),
        partial=(
            pl.when(pl.col("duration") > 0).then(nanos(pl.col("veh") * 3_600_000 / pl.col("duration"))).alias("rate"),
        ),
        value=over(pl.col("rate"), NANO),
        num=None,
        den=None,
        reason=pl.when(pl.col("rate").is_null()).then(pl.lit("no_weight")),
        reduce=True,
        levels=("lane", "site"),
    ),
    thresholds=Thresholds((), "P", "none"),
    case=Case(
        ({"pane_start": 0, "veh": 40, "duration": 120_000},),
        1200.0,
        "40 vehicles in 2 min; an SDM `intensity` is such a count, not a rate",
    ),
    decimals=0,
)
OCCUPANCY = Indicator(
    id="traffic.occupancy",
    method_id="time-weighted mean",
    zh="占有率",
    en="Detector occupancy",
    unit="%",
    domain="traffic",
    window=tumble(5 * MINUTE_MS),
    kind=Panes(
        LANES,
        aggregate=(pl.col("occ_duration").sum().alias("num"), pl.col("duration").sum().alias("den")),
        value=pl.col("num") / (100 * pl.col("den")),
    ),
    thresholds=Thresholds((25.0, 40.0), "P", "ours"),
    case=Case(
        ({"pane_start": 0, "occ_duration": 60_000 * 1000 + 30_000 * 4000, "duration": 90_000},),
        20.0,
        "10 % for 60 s and 40 % for 30 s; the plain mean would be 25 %",
    ),
    good="down",
)

INDICATORS: Final = (FLOW, OCCUPANCY)
