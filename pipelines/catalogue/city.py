"""The city as a whole: one composite of the readings that every district has (rule 24)."""

from __future__ import annotations

from typing import Final

from pipelines.indicator import Case, Composite, Indicator, Part, Thresholds
from pipelines.streams import HOUR_MS, MINUTE_MS
from pipelines.windows import tumble

PARTS: Final = (
    Part("traffic.tpi", 20, ((0, 100), (2, 90), (4, 75), (6, 50), (8, 25), (10, 0))),
    Part("aqi.realtime", 20, ((0, 100), (50, 90), (100, 75), (150, 50), (200, 25), (300, 0))),
    Part("water.depth", 15, ((0, 100), (15, 75), (25, 50), (30, 25), (60, 0))),
    Part("http.error_ratio", 10, ((0, 100), (1, 75), (5, 25), (20, 0))),
    Part("http.apdex", 5, ((0, 0), (0.7, 50), (0.85, 75), (1, 100))),
    Part("approval.one_second", 10, ((0, 0), (80, 50), (95, 90), (100, 100))),
    Part("accident.settled_5min", 10, ((0, 0), (80, 50), (95, 90), (100, 100))),
    Part("hotline.answer_15s", 10, ((0, 0), (90, 50), (95, 90), (100, 100))),
)
"""Scores bend at the thresholds of each indicator; a city that moves a threshold moves the bend (`for_city`)."""

VITAL_SIGN = Indicator(
    id="city.vital_sign",
    method_id="weighted mean of scores, null above 30 % missing",
    zh="城市体征指数",
    en="Composite city vital sign",
    unit="0-100",
    domain="city",
    window=tumble(5 * MINUTE_MS),
    kind=Composite(PARTS, lag_ms=5 * MINUTE_MS, validity_ms=2 * HOUR_MS),
    thresholds=Thresholds((40.0, 60.0, 80.0), "P", "ours"),
    case=Case(
        (
            {"indicator": "traffic.tpi", "value": 5.0},
            {"indicator": "aqi.realtime", "value": 75.0},
            {"indicator": "water.depth", "value": 0.0},
            {"indicator": "http.error_ratio", "value": 1.0},
            {"indicator": "approval.one_second", "value": 95.0},
        ),
        6050 / 75,
        "scores 62.5, 82.5, 100, 75, 90 with weights 20, 20, 15, 10, 10; 25 of 100 are missing",
    ),
    good="up",
)

INDICATORS: Final = (VITAL_SIGN,)
