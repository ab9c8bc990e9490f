"""Response times from a histogram: log-spaced integer bounds, nearest-rank percentile and Apdex.

The bounds are the preferred numbers R40 (ISO 3:1973) times powers of ten, from 100 us to an hour: decimal, so limits
that people choose (100, 250, 500 ms, 1, 2 s) are bounds themselves. A percentile is given as the upper bound of its
bucket: never too low, and too high by at most `RELATIVE_ERROR` above the first bound.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import polars as pl

R40: Final = (
    100, 106, 112, 118, 125, 132, 140, 150, 160, 170, 180, 190, 200, 212, 224, 236, 250, 265, 280, 300,
    315, 335, 355, 375, 400, 425, 450, 475, 500, 530, 560, 600, 630, 670, 710, 750, 800, 850, 900, 950,
)  # fmt: skip
LONGEST_US: Final = 3_600_000_000
BOUNDS_US: Final[tuple[int, ...]] = (
    *(b for decade in range(8) for m in R40 if (b := m * 10**decade) < LONGEST_US),
    LONGEST_US,
)
"""Ascending; bucket i holds (BOUNDS_US[i - 1], BOUNDS_US[i]], bucket -1 the requests without a duration."""
RELATIVE_ERROR: Final = max(b / a for a, b in pairwise(BOUNDS_US)) - 1
"""1.5 / 1.4 - 1, about 7.2 %."""


def nearest_rank_us(bucket: pl.Expr, count: pl.Expr, percent: int) -> pl.Expr:
    """Aggregation over the buckets of one cell, in their order: the upper bound (us) of the bucket that holds the value
    of rank ceil(percent / 100 * N); null when N = 0. Requests without a duration have no rank."""
    ranked = pl.when(bucket >= 0).then(count).otherwise(0)
    rank = (ranked.sum() * percent + 99) // 100
    index = bucket.filter((ranked.cum_sum() >= rank) & (ranked > 0)).first()
    return index.replace_strict(range(len(BOUNDS_US)), BOUNDS_US, default=None, return_dtype=pl.Int64)


def bucket_of(bound_us: int) -> int:
    """The bucket whose upper bound this is; ValueError names the nearest bounds."""
    if bound_us in BOUNDS_US:
        return BOUNDS_US.index(bound_us)
    near = sorted(sorted(BOUNDS_US, key=lambda b: abs(b - bound_us))[:2])
    raise ValueError(f"{bound_us} us is no bound of the histogram; the nearest are {near[0]} and {near[1]} us")


def apdex_weights(bucket: pl.Expr, t_us: int) -> pl.Expr:
    """What one success adds to 2S + T: 2 up to T, 1 up to 4T, 0 beyond (Apdex; `t_us` and four times it are bounds)."""
    satisfied, tolerated = bucket_of(t_us), bucket_of(4 * t_us)
    return (
        pl.when(bucket.is_between(0, satisfied)).then(2).when(bucket.is_between(0, tolerated)).then(1).otherwise(0)
    ).cast(pl.Int64)
