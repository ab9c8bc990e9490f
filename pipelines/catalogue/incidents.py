"""Traffic incidents: the headline service that settles a minor accident within five minutes."""

from __future__ import annotations

from typing import Final

import polars as pl

from pipelines.decisions import within
from pipelines.indicator import Case, Cases, Indicator, Thresholds
from pipelines.streams import DAY_MS, INC, MINUTE_MS
from pipelines.windows import Slide

SHARE: Final = 100 * pl.col("num") / pl.col("den")

SETTLED_5MIN: Final = Indicator(
    id="accident.settled_5min",
    method_id="clear-report<=300 s, online",
    zh="轻微事故5分钟定责率",
    en="Minor accidents settled within 5 min",
    unit="%",
    domain="traffic",
    window=Slide(DAY_MS, 5 * MINUTE_MS),
    kind=Cases(INC, within(INC, "report", "clear", 5 * MINUTE_MS, where=pl.col("channel") == "online"), SHARE),
    thresholds=Thresholds((80.0, 95.0), "P", "our proposal; the limit of 5 min is the headline service's"),
    case=Case(
        rows=(
            {"case_id": "at the limit", "report": 0, "clear": 300_000, "channel": "online"},
            {"case_id": "1 ms over", "report": 0, "clear": 300_001, "channel": "online"},
            {"case_id": "open", "report": 0, "channel": "online"},
            {"case_id": "quick", "report": 0, "clear": 60_000, "channel": "online"},
            {"case_id": "by patrol", "report": 0, "clear": 60_000, "channel": "patrol"},
        ),
        gives=50.0,
        source="limit 300 s from the report, its last millisecond included, online cases only: 2 of 4",
    ),
    good="up",
    target=95.0,
)

INDICATORS: Final = (SETTLED_5MIN,)
