"""Division by a constant gives one value, alone and in company (rule 16: how cells are cut must not matter)."""

from __future__ import annotations

import polars as pl
import pytest

from pipelines.methods.rounding import over

CONSTANTS = (10, 100, 1000, 1_000_000, 0.3, 0.7 - 0.6)


def in_company(expression: pl.Expr, values: list[int | None]) -> list[float | None]:
    return pl.DataFrame({"x": values}).select(expression).to_series().to_list()


@pytest.mark.parametrize("constant", CONSTANTS)
def test_a_quotient_is_the_nearest_double_however_many_rows_there_are(constant: float) -> None:
    values: list[int | None] = [None, *range(2000)]
    expression = over(pl.col("x"), constant)
    exact = [None if x is None else x / constant for x in values]
    assert in_company(expression, values) == exact
    assert [in_company(expression, [x])[0] for x in values[:300]] == exact[:300]
    grouped = pl.DataFrame({"x": values}).with_row_index().group_by("index", maintain_order=True)
    assert grouped.agg(over(pl.col("x").sum(), constant).alias("y"))["y"].to_list()[1:] == exact[1:]
    print(f"{len(values)} quotients by {constant} compared")


def test_negative_control() -> None:
    """Why `over` exists: if Polars comes to divide by constants as it divides by columns, it may go."""
    plain = pl.col("x") / 10
    assert in_company(plain, [3, 3]) != in_company(plain, [3]) * 2
