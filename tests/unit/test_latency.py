"""The histogram of response times: bounds, error, nearest rank, Apdex."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import polars as pl
import pytest

from pipelines.methods.latency import BOUNDS_US, LONGEST_US, RELATIVE_ERROR, apdex_weights, bucket_of, nearest_rank_us


def histogram(durations_us: list[int | None]) -> pl.DataFrame:
    index = [-1 if d is None else next(i for i, b in enumerate(BOUNDS_US) if b >= d) for d in durations_us]
    frame = pl.DataFrame({"bucket": index}, schema={"bucket": pl.Int32})
    return frame.group_by("bucket").agg(pl.len().cast(pl.Int64).alias("count")).sort("bucket")


def percentile(durations_us: list[int | None], percent: int) -> int | None:
    value: int | None = (
        histogram(durations_us).select(nearest_rank_us(pl.col("bucket"), pl.col("count"), percent)).item()
    )
    return value


def test_bounds_ascend_and_hold_the_limits_of_apdex() -> None:
    assert list(BOUNDS_US) == sorted(set(BOUNDS_US))
    assert BOUNDS_US[-1] == LONGEST_US
    for t_ms in (100, 200, 250, 400, 500, 1000, 2000):
        assert {t_ms * 1000, 4 * t_ms * 1000} <= set(BOUNDS_US)
    assert max(b / a for a, b in pairwise(BOUNDS_US)) == 1 + RELATIVE_ERROR
    assert RELATIVE_ERROR < 0.0715


def test_percentile_is_never_low_and_high_by_at_most_the_stated_error() -> None:
    rng = random.Random(5)
    checked = 0
    for _ in range(60):
        durations: list[int | None] = [int(math.exp(rng.gauss(11, 1.5))) for _ in range(rng.randrange(1, 200))]
        for percent in (50, 95, 100):
            exact = sorted(d for d in durations if d is not None)[math.ceil(percent * len(durations) / 100) - 1]
            found = percentile(durations, percent)
            assert found is not None
            assert exact <= found <= max(exact * (1 + RELATIVE_ERROR), BOUNDS_US[0])
            checked += 1
    print(f"{checked} percentiles within {RELATIVE_ERROR:.2%}")
    assert checked == 180


@pytest.mark.parametrize(
    ("durations", "percent", "expected"),
    [
        ([100_000] * 94 + [250_000] * 2 + [1_000_000] * 4, 95, 250_000),
        ([100_000] * 95 + [1_000_000] * 5, 95, 100_000),
        ([100_000], 95, 100_000),
        ([None, None, 500_000], 95, 500_000),
        ([None], 95, None),
        ([], 95, None),
        ([3_600_000_000], 95, LONGEST_US),
        ([0], 95, BOUNDS_US[0]),
    ],
)
def test_nearest_rank(durations: list[int | None], percent: int, expected: int | None) -> None:
    assert percentile(durations, percent) == expected


def test_many_cells_at_once() -> None:
    cells = pl.concat(
        histogram(d).with_columns(pl.lit(name).alias("cell"))
        for name, d in (("a", [100_000] * 3), ("b", [None]), ("c", [250_000, 1_000_000]))
    )
    found = cells.group_by("cell").agg(nearest_rank_us(pl.col("bucket"), pl.col("count"), 95).alias("p")).sort("cell")
    assert found["p"].to_list() == [100_000, None, 1_000_000]


@pytest.mark.parametrize(
    ("us", "weight"), [(1, 2), (500_000, 2), (500_001, 1), (2_000_000, 1), (2_000_001, 0), (None, 0), (LONGEST_US, 0)]
)
def test_apdex_limits_are_inclusive(us: int | None, weight: int) -> None:
    assert histogram([us]).select(apdex_weights(pl.col("bucket"), 500_000)).item() == weight


def test_a_limit_that_is_no_bound_names_the_nearest() -> None:
    with pytest.raises(
        ValueError, match="300500 us is no bound of the histogram; the nearest are 300000 and 315000 us"
    ):
        bucket_of(300_500)
    with pytest.raises(ValueError, match="1200000 us is no bound"):
        apdex_weights(pl.col("bucket"), 300_000)
