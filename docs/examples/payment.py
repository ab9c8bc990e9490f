"""Payments (stream `pay`): the share that succeeds, and the share that fails because a system does."""

from __future__ import annotations

from typing import Final

import polars as pl

from pipelines.expr import Col, Compare, Const
from pipelines.indicator import Case, Indicator, Panes, Thresholds
from pipelines.rollup import Measure, Rollup
from pipelines.streams import HOUR_MS, MINUTE_MS, Stream, Text
from pipelines.windows import Slide

PAY: Final = Stream(
    "pay",
    place="biz",
    columns=(Text("txn"), Text("outcome", values=("ok", "user_error", "system_error"))),
    disorder_ms=MINUTE_MS,
    period_ms=None,
    dedup=("txn",),
    horizon_ms=HOUR_MS,
)
PAYMENTS: Final = Rollup(
    "pay",
    PAY,
    MINUTE_MS,
    (
        Measure("ok", "count", None, Compare("==", Col("outcome"), Const("ok"))),
        Measure("system_errors", "count", None, Compare("==", Col("outcome"), Const("system_error"))),
    ),
)
WINDOW: Final = Slide(5 * MINUTE_MS, MINUTE_MS)
WORKED: Final = (
    {"pane_start": 0, "n": 150, "ok": 149, "system_errors": 0},
    {"pane_start": 4 * MINUTE_MS, "n": 50, "ok": 47, "system_errors": 1},
)

SUCCESS: Final = Indicator(
    id="payment.success",
    method_id="count(ok)/count",
    zh="支付成功率",
    en="Payment success",
    unit="%",
    domain="fiscal",
    window=WINDOW,
    kind=Panes(
        PAYMENTS,
        aggregate=(pl.col("ok").sum().alias("num"), pl.col("n").sum().alias("den")),
        value=100 * pl.col("num") / pl.col("den"),
    ),
    thresholds=Thresholds((98.0, 99.5), "P", "ours"),
    case=Case(WORKED, 98.0, "196 of 200 payments of five minutes"),
    good="up",
    min_samples=5,
    decimals=2,
)
SYSTEM_ERRORS: Final = Indicator(
    id="payment.system_error",
    method_id="count(system_error)/count",
    zh="支付系统错误率",
    en="Payments failed by a system",
    unit="%",
    domain="fiscal",
    window=WINDOW,
    kind=Panes(
        PAYMENTS,
        aggregate=(pl.col("system_errors").sum().alias("num"), pl.col("n").sum().alias("den")),
        value=100 * pl.col("num") / pl.col("den"),
    ),
    thresholds=Thresholds((0.5, 2.0), "P", "ours"),
    case=Case(WORKED, 0.5, "1 of the same 200; the other 3 failures are the payers' own"),
    good="down",
    min_samples=5,
    decimals=2,
)

STREAMS: Final = (PAY,)
INDICATORS: Final = (SUCCESS, SYSTEM_ERRORS)
