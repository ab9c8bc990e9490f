"""HJ 633: tables, golden values, exact rounding, notes, NA, primary pollutants. The twin shares no code or table."""

from __future__ import annotations

import math
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.methods import aqi_cn
from pipelines.methods.rounding import half_even, half_even_scaled

INDEX = (0, 50, 100, 150, 200, 300, 400, 500)
# Table 3 of HJ 633-2026 as printed, CO in mg/m3; None: note b or c.
PRINTED: dict[str, tuple[int | None, ...]] = {
    "so2_24h": (0, 50, 150, 475, 800, 1600, 2100, 2620),
    "so2_1h": (0, 150, 500, 650, 800, None, None, None),
    "no2_24h": (0, 40, 80, 180, 280, 565, 750, 940),
    "no2_1h": (0, 100, 200, 700, 1200, 2340, 3090, 3840),
    "co_24h": (0, 2, 4, 14, 24, 36, 48, 60),
    "co_1h": (0, 5, 10, 35, 60, 90, 120, 150),
    "o3_8h": (0, 100, 160, 215, 265, 800, None, None),
    "o3_1h": (0, 160, 200, 300, 400, 800, 1000, 1200),
    "pm10_24h": (0, 50, 120, 250, 350, 420, 500, 600),
    "pm25_24h": (0, 35, 60, 115, 150, 250, 350, 500),
}
PRINTED_2012 = PRINTED | {
    "pm10_24h": (0, 50, 150, 250, 350, 420, 500, 600),
    "pm25_24h": (0, 35, 75, 115, 150, 250, 350, 500),
}
GOLDEN = [
    *[
        ("pm25_24h", 2026, c, i)
        for c, i in ((35, 50), (45, 70), (60, 100), (61, 101), (75, 114), (115, 150), (600, 500))
    ],
    ("pm25_24h", 2012, 75, 100),
    *[("pm10_24h", 2026, c, i) for c, i in ((118, 99), (120, 100), (150, 112))],
    *[("so2_24h", 2026, c, i) for c, i in ((50, 50), (150, 100), (475, 150))],
    ("so2_1h", 2026, 801, 200),
    ("o3_8h", 2026, 900, 300),
    ("o3_1h", 2026, 201, 101),
    ("no2_1h", 2026, 101, 51),
    ("co_24h", 2026, 21, 53),
    ("co_24h", 2026, 22, 55),
]


def scale(column: str) -> int:
    return 10 if column.startswith("co") else 1


def printed(edition: int) -> dict[str, tuple[int | None, ...]]:
    return PRINTED if edition == 2026 else PRINTED_2012


def twin(concentration: int, column: str, edition: int) -> int | None:
    """The index by fractions, from the printed table."""
    table = printed(edition)[column]
    c, last = Fraction(concentration, scale(column)), 0
    for k in range(7):
        low, high = table[k], table[k + 1]
        if low is None or high is None:
            return INDEX[last] if edition == 2026 else None
        if c <= high:
            return math.ceil(Fraction(INDEX[k + 1] - INDEX[k]) / (high - low) * (c - low) + INDEX[k])
        last = k + 1
    return INDEX[last]


def in_doubles(concentration: int, column: str) -> int | None:
    """The formula 4.2.4 as one would write it, with floats."""
    table, c = PRINTED[column], concentration / scale(column)
    for k in range(7):
        low, high = table[k], table[k + 1]
        if low is not None and high is not None and c <= high:
            return math.ceil((INDEX[k + 1] - INDEX[k]) / (high - low) * (c - low) + INDEX[k])
    return None


def ours(concentrations: list[int | None], column: str, edition: aqi_cn.Edition) -> list[int | None]:
    frame = pl.DataFrame({"c": concentrations}, schema={"c": pl.Int64})
    return frame.select(aqi_cn.iaqi(pl.col("c"), column, edition)).to_series().to_list()


def test_golden_values() -> None:
    for column, edition, concentration, index in GOLDEN:
        assert ours([concentration], column, edition) == [index], (column, edition, concentration)
    print(f"{len(GOLDEN)} golden values equal")
    # Negative control: of another edition or column, golden values differ.
    assert ours([75], "pm25_24h", 2012) != ours([75], "pm25_24h", 2026)
    assert len(GOLDEN) == 20


@pytest.mark.parametrize("edition", [2012, 2026])
def test_every_rounded_concentration_equals_the_fraction(edition: aqi_cn.Edition) -> None:
    compared = 0
    for column, table in printed(edition).items():
        last = max(b for b in table if b is not None) * scale(column)
        grid = [*range(last + 50), 10 * last, 10**9]
        assert ours(grid, column, edition) == [twin(c, column, edition) for c in grid], column
        compared += len(grid)
    print(f"edition {edition}: {compared} concentrations equal")
    assert compared == 13_920


def test_doubles_are_off_by_one_at_exactly_23() -> None:
    off = []
    for column, table in PRINTED.items():
        last = max(b for b in table if b is not None) * scale(column)
        exact = ours(list(range(last + 1)), column, 2026)
        off += [(column, c, naive, exact[c]) for c in range(last + 1) if (naive := in_doubles(c, column)) != exact[c]]
    print(f"{len(off)} concentrations at which doubles are wrong: {off}")
    assert len(off) == 23
    assert all(naive - right == 1 for _, _, naive, right in off if naive is not None and right is not None)
    assert ("co_24h", 22, 56, 55) in off
    assert ("co_1h", 654, 219, 218) in off


def test_breakpoints_meet_the_index_and_null_stays_null() -> None:
    for edition in (2012, 2026):
        for column, table in printed(edition).items():
            points = [(b * scale(column), i) for b, i in zip(table, INDEX, strict=True) if b is not None]
            assert ours([b for b, _ in points], column, edition) == [i for _, i in points]
    assert ours([None], "o3_1h", 2026) == [None]


def test_notes_b_and_c_differ_between_the_editions() -> None:
    assert ours([800, 801, 5000], "so2_1h", 2026) == [200, 200, 200]
    assert ours([800, 801, 5000], "so2_1h", 2012) == [200, None, None]
    assert ours([800, 801], "o3_8h", 2026) == [300, 300]
    assert ours([800, 801], "o3_8h", 2012) == [300, None]


def test_unknown_columns_and_editions_are_named() -> None:
    with pytest.raises(LookupError, match=r"no column 'pm25_1h'; it has .*pm25_24h"):
        aqi_cn.iaqi(pl.col("c"), "pm25_1h")
    with pytest.raises(LookupError, match="no edition 2020 here; known are 2012, 2026"):
        aqi_cn.iaqi(pl.col("c"), "pm25_24h", 2020)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("so2", "pm25", "o3", "index", "primary"),
    [
        (20, 40, 50, 50, []),
        (20, 51, 50, 51, ["pm25"]),
        (20, 80, 80, 80, ["pm25", "o3"]),
        (None, 100, 80, None, []),
        (None, 101, 80, 101, ["pm25"]),
        (None, None, None, None, []),
        (0, 0, 0, 1, []),
        (500, 499, 80, 500, ["so2"]),
    ],
)
def test_na_and_primary_pollutants(
    so2: int | None, pm25: int | None, o3: int | None, index: int | None, primary: list[str]
) -> None:
    names = ("so2", "pm25", "o3")
    frame = pl.DataFrame({"so2": [so2], "pm25": [pm25], "o3": [o3]}, schema=dict.fromkeys(names, pl.Int64))
    frame = frame.with_columns(aqi_cn.aqi([pl.col(n) for n in names]).alias("aqi"))
    frame = frame.with_columns(aqi_cn.primary(pl.col("aqi"), {n: pl.col(n) for n in names}).alias("primary"))
    assert frame.select("aqi", "primary").row(0) == (index, primary)


def test_bands_cover_the_index() -> None:
    edges = {1: "优", 50: "优", 51: "良", 100: "良", 101: "轻度污染", 150: "轻度污染", 151: "中度污染", 200: "中度污染",
             201: "重度污染", 300: "重度污染", 301: "严重污染", 500: "严重污染"}  # fmt: skip
    assert {i: aqi_cn.band(i).zh for i in edges} == edges


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**61), st.integers(1, 2**40)), min_size=1, max_size=20))
def test_half_even_is_exact(pairs: list[tuple[int, int]]) -> None:
    ties = [(weight * whole + weight // 2, weight) for (_, weight), whole in zip(pairs, (0, 1, 2, 7), strict=False)]
    frame = pl.DataFrame(pairs + ties, schema={"total": pl.Int64, "weight": pl.Int64}, orient="row")
    rounded = frame.select(half_even(pl.col("total"), pl.col("weight"))).to_series().to_list()
    assert rounded == [round(Fraction(t, w)) for t, w in pairs + ties]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3_600_000_000_000_000), st.integers(1, 3_600_000))
def test_half_even_scaled_is_exact(total: int, weight: int) -> None:
    total = min(total, 10**9 * weight)
    frame = pl.DataFrame({"total": [total], "weight": [weight]})
    scaled = frame.select(half_even_scaled(pl.col("total"), pl.col("weight"), 1_000_000)).item()
    assert scaled == round(Fraction(total * 1_000_000, weight))


def test_no_weight_is_null() -> None:
    frame = pl.DataFrame({"total": [0, 3], "weight": [0, None]}, schema={"total": pl.Int64, "weight": pl.Int64})
    assert frame.select(half_even(pl.col("total"), pl.col("weight"))).to_series().to_list() == [None, None]
