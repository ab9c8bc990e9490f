"""The rollups of the shipped indicators: one a stream, so every indicator of a stream costs one pass (rules 13, 14).

Every sum stays in Int64 at the declared ranges; the largest are `n * tt_ms` (3.6e11 an event: 2.5e7 events a sum) and
`ngm3 * covered_ms` (3.6e15 an event of a whole hour: 2,500 such hours a sum).
"""

from __future__ import annotations

from typing import Final

import polars as pl

from pipelines.expr import Arith, Col, Compare, Const
from pipelines.methods.latency import BOUNDS_US
from pipelines.rollup import PACK, Histogram, Measure, Rollup
from pipelines.streams import AIR, DET, HOUR_MS, HTTP, LINK, LVL, MINUTE_MS, PARK, POLLUTANTS, RAIN

LINKS: Final = Rollup(
    "link",
    LINK,
    5 * MINUTE_MS,
    (
        Measure("veh", "sum", Col("n")),
        Measure("veh_tt", "sum", Arith("*", Col("n"), Col("tt_ms"))),
    ),
)
LANES: Final = Rollup(
    "det",
    DET,
    5 * MINUTE_MS,
    (
        Measure("veh", "sum", Col("count")),
        Measure("duration", "sum", Col("duration_ms")),
        Measure("occ_duration", "sum", Arith("*", Col("occ_e4"), Col("duration_ms"))),
    ),
)
STATIONS: Final = Rollup(
    "air",
    AIR,
    HOUR_MS,
    tuple(
        measure
        for pollutant in POLLUTANTS
        for measure in (
            Measure(
                f"{pollutant}_sum",
                "sum",
                Arith("*", Col("ngm3"), Col("covered_ms")),
                Compare("==", Col("pollutant"), Const(pollutant)),
            ),
            Measure(
                f"{pollutant}_covered", "sum", Col("covered_ms"), Compare("==", Col("pollutant"), Const(pollutant))
            ),
        )
    ),
)
GAUGES: Final = Rollup("lvl", LVL, MINUTE_MS, (Measure("depth", "last", Col("depth_mm")),))
RAIN_GAUGES: Final = Rollup("rain", RAIN, 10 * MINUTE_MS, (Measure("fallen", "sum", Col("rain_um")),))
LOTS: Final = Rollup(
    "park",
    PARK,
    MINUTE_MS,
    (
        Measure("occupied", "last", Col("occupied")),
        Measure("total", "last", Col("total")),
        Measure("out_of_service", "last", Col("out_of_service")),
    ),
)
REQUESTS: Final = Rollup(
    "http",
    HTTP,
    MINUTE_MS,
    (Measure("failed", "count", None, Compare(">=", Col("status"), Const(500))),),
    Histogram(Col("duration_us"), BOUNDS_US),
)


def unpacked(rollup: Rollup, measure: str) -> pl.Expr:
    """The value inside a `first` or `last` measure (rule 14)."""
    of = next(m.of for m in rollup.measures if m.name == measure)
    assert isinstance(of, Col)
    return pl.col(measure) % PACK + rollup.range_minimum(of.name)


def packed(rollup: Rollup, measure: str, value: int, after_ms: int = 0) -> int:
    """A `first` or `last` measure of one event, `after_ms` after its pane's start: for worked cases."""
    of = next(m.of for m in rollup.measures if m.name == measure)
    assert isinstance(of, Col)
    return after_ms * PACK + value - rollup.range_minimum(of.name)
