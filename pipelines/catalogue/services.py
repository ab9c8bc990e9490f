"""Online services (stream `http`): errors, 95th percentile and Apdex, all from one histogram of durations a minute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import polars as pl

from pipelines.catalogue.rollups import REQUESTS
from pipelines.indicator import Case, Indicator, Panes, Thresholds
from pipelines.methods.latency import RELATIVE_ERROR, apdex_weights, bucket_of, nearest_rank_us
from pipelines.methods.rounding import over
from pipelines.streams import MINUTE_MS
from pipelines.windows import Slide

WINDOW: Final = Slide(5 * MINUTE_MS, MINUTE_MS)
OK: Final = pl.col("n") - pl.col("failed")


def requests(ms: int | None, n: int, failed: int = 0) -> dict[str, int]:
    """A row of requests that took (at most) so long, which must be a bound; None = no duration: for worked cases."""
    return {"pane_start": 0, "bucket": -1 if ms is None else bucket_of(ms * 1000), "n": n, "failed": failed}


def apdex(t_ms: int = 500) -> Indicator:
    """(S + T/2) / N: successes up to `t_ms` satisfy, up to four times that are tolerated; failures never are.

    `t_ms` and four times it must be bounds of the histogram. A success without a duration is left out of N.
    """
    weights = apdex_weights(pl.col("bucket"), t_ms * 1000)
    untimed = pl.when(pl.col("bucket") == -1).then(OK).otherwise(0)
    return Indicator(
        id="http.apdex",
        method_id=f"Apdex, T={t_ms} ms",
        zh="应用性能指数",
        en="Apdex",
        unit="0-1",
        domain="government",
        window=WINDOW,
        kind=Panes(
            REQUESTS,
            aggregate=(
                (OK * weights).sum().alias("num"),
                (2 * (pl.col("n") - untimed)).sum().alias("den"),
            ),
            value=pl.col("num") / pl.col("den"),
        ),
        thresholds=Thresholds((0.7, 0.85), "P", "ours; T = 0.5 s is the default of SkyWalking"),
        case=Case(
            (requests(t_ms, 60), requests(4 * t_ms, 30), requests(8 * t_ms, 10), requests(t_ms, 20, 20)),
            0.625,
            "60 satisfied and 30 tolerated of 120, 20 of them failed: (60 + 30 / 2) / 120",
        ),
        good="up",
        decimals=2,
    )


ERRORS = Indicator(
    id="http.error_ratio",
    method_id="count(status>=500)/count",
    zh="服务错误率",
    en="Service error ratio",
    unit="%",
    domain="government",
    window=WINDOW,
    kind=Panes(
        REQUESTS,
        aggregate=(pl.col("failed").sum().alias("num"), pl.col("n").sum().alias("den")),
        value=100 * pl.col("num") / pl.col("den"),
    ),
    thresholds=Thresholds((1.0, 5.0), "P", "ours"),
    case=Case((requests(100, 95, 1), requests(None, 5, 2)), 3.0, "3 of 100, one of them timed"),
    good="down",
    decimals=2,
)
P95 = Indicator(
    id="http.p95",
    method_id=f"nearest rank, R40 histogram, at most {RELATIVE_ERROR:.1%} high",
    zh="95分位响应时间",
    en="p95 latency",
    unit="s",
    domain="government",
    window=WINDOW,
    kind=Panes(
        REQUESTS,
        aggregate=(pl.col("n").sum().alias("count"),),
        value=over(nearest_rank_us(pl.col("bucket"), pl.col("count"), 95), 1_000_000),
        num=None,
        den=None,
        reason=pl.when(pl.col("bucket").max() < 0).then(pl.lit("no_duration")),
        by_bucket=True,
    ),
    thresholds=Thresholds((1.0, 3.0), "P", "ours"),
    case=Case(
        (requests(100, 94), requests(250, 2), requests(1000, 4), requests(None, 50)),
        0.25,
        "rank 95 of 100 timed requests is the first of 250 ms",
    ),
    good="down",
    decimals=3,
)

INDICATORS: Final = (ERRORS, P95, apdex())
TUNABLE: Final[Mapping[str, Callable[..., Indicator]]] = {"http.apdex": apdex}
