"""GB/T 33171-2016: index, delay, levels and annex C, with their edges."""

from __future__ import annotations

import math

import polars as pl
import pytest

from pipelines.methods import congestion


def of(expression: pl.Expr, **columns: list[int | None] | list[float | None]) -> list[float | None]:
    return pl.DataFrame(columns, strict=False).select(expression.alias("x")).to_series().to_list()


TIME, FREE, DELAY = pl.col("time"), pl.col("free"), pl.col("delay")


def test_tti_and_dtp_have_floors_and_no_weight_is_null() -> None:
    times, free = [100, 60, 50, 0, 10], [60, 60, 60, 0, None]
    assert of(congestion.tti(TIME, FREE), time=times, free=free) == [100 / 60, 1.0, 1.0, None, None]
    assert of(congestion.dtp(TIME, FREE), time=times, free=free) == [0.4, 0.0, 0.0, None, None]


def test_dtp_is_one_minus_one_over_tti() -> None:
    times, free = list(range(100, 400, 7)), [100] * 43
    pairs = zip(
        of(congestion.tti(TIME, FREE), time=times, free=free),
        of(congestion.dtp(TIME, FREE), time=times, free=free),
        strict=True,
    )
    checked = [math.isclose(1 - 1 / t, d, abs_tol=1e-12) for t, d in pairs if t is not None and d is not None]
    assert all(checked) and len(checked) == 43


@pytest.mark.parametrize(
    ("percent_of_free", "code"),
    [(120, 1), (71, 1), (70, 2), (51, 2), (50, 3), (41, 3), (40, 4), (31, 4), (30, 5), (1, 5)],
)
def test_level_edges_are_exact(percent_of_free: int, code: int) -> None:
    """V / V_f = free / time; the intervals are open below: exactly 70 % is basically free."""
    scaled = 10**12 + 7
    assert of(congestion.level(TIME, FREE), time=[100 * scaled], free=[percent_of_free * scaled]) == [code]


def test_level_one_part_in_a_million_beside_an_edge() -> None:
    near = of(congestion.level(TIME, FREE), time=[10_000_000] * 2, free=[7_000_000, 7_000_001])
    assert near == [2, 1]
    assert of(congestion.level(TIME, FREE), time=[0, 5, None], free=[0, None, 5]) == [None, None, None]


@pytest.mark.parametrize(
    ("delay", "index"),
    [(0.0, 0.0), (0.15, 1.0), (0.3, 2.0), (0.4, 3.0), (0.5, 4.0), (0.55, 5.0), (0.6, 6.0), (0.65, 7.0), (0.7, 8.0),
     (0.85, 9.0), (1.0, 10.0)],
)  # fmt: skip
def test_tpi_of_annex_c(delay: float, index: float) -> None:
    (found,) = of(congestion.tpi(DELAY), delay=[delay])
    assert found == pytest.approx(index, abs=1e-9)


def test_tpi_edges_belong_to_the_band_above_and_it_never_falls() -> None:
    assert of(congestion.tpi(DELAY), delay=[0.3, 0.5, 0.6, 0.7]) == [2.0, 4.0, 6.0, 8.0]
    below = of(congestion.tpi(DELAY), delay=[math.nextafter(b, 0) for b in (0.3, 0.5, 0.6, 0.7)])
    assert all(x is not None and x <= edge for x, edge in zip(below, (2, 4, 6, 8), strict=True))
    steps = of(congestion.tpi(DELAY), delay=[i / 1000 for i in range(1001)])
    assert steps == sorted(steps, key=lambda x: x or 0) and len(steps) == 1001
    assert of(congestion.tpi(DELAY), delay=[None, 0.1]) == [None, pytest.approx(2 / 3)]


def test_bands_agree_with_clause_8_1() -> None:
    """DTP = 1 - V / V_f: the cross-check of annex C (reference: clause 8.1 and the bands of DTP)."""
    edges = [round(1 - level.above / 100, 9) for level in congestion.LEVELS[:-1]]
    assert edges == list(congestion.DTP_BANDS[1:-1])


def test_the_same_road_has_another_name_in_beijings_reading() -> None:
    """TTI 1.6 is basically free by annex C (index in [2, 4)), 0.6 times extra, slight congestion, in Beijing's."""
    (index,) = of(congestion.tpi(congestion.dtp(TIME, FREE)), time=[16], free=[10])
    assert index is not None and 2 <= index < 4
    assert of(congestion.level(TIME, FREE), time=[16], free=[10]) == [2]
