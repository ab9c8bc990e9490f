"""Every kind of measure over groups of several events, in one block and in several (rule 14)."""

from __future__ import annotations

import polars as pl
import pytest

from pipelines.engines.polars_engine import PolarsEngine
from pipelines.expr import Col, Compare, Const
from pipelines.model import Stamped
from pipelines.rollup import PACK, Measure, Rollup
from tests.conformance.toy import DEMO

ROLLUP = Rollup(
    "every",
    DEMO,
    60_000,
    (
        Measure("all", "count"),
        Measure("heavy", "count", None, Compare(">", Col("weight"), Const(2))),
        Measure("total", "sum", Col("value")),
        Measure("least", "min", Col("value")),
        Measure("most", "max", Col("value")),
        Measure("opened", "first", Col("value")),
        Measure("closed", "last", Col("value")),
    ),
)
EVENTS = [(0, 5, 1), (7, -3, 2), (7, -4, 3), (59_999, 9, 4)]
"""t, value and weight at one place, in one pane."""


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_measures_of_a_group(cut: int) -> None:
    engine = PolarsEngine([ROLLUP], ["a"])
    for first in range(0, len(EVENTS), cut):
        rows = [
            (first + n, t, -1, False, 0, 0, value, weight) for n, (t, value, weight) in enumerate(EVENTS[first:][:cut])
        ]
        schema = {
            "off": pl.Int64,
            "t": pl.Int64,
            "wm": pl.Int64,
            "late": pl.Boolean,
            "id": pl.UInt64,
            "place": pl.UInt32,
        }
        events = pl.DataFrame(rows, {**schema, "value": pl.Int64, "weight": pl.Int64}, orient="row")
        engine.add(Stamped("demo", "a", events, first, -1))
    (row,) = engine.finish()[0].rows.to_dicts()
    found = {m.name: row[m.name] for m in ROLLUP.measures} | {"n": row["n"], "as_of": row["as_of"]}
    assert found == {
        "all": 4, "heavy": 2, "total": 7, "least": -4, "most": 9, "opened": 5 + 1000, "closed": 59_999 * PACK + 9 + 1000,
        "n": 4, "as_of": 59_999,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["part", "n", "late", "frame"])
def test_a_measure_may_not_be_called_as_a_column_that_rows_have(name: str) -> None:
    with pytest.raises(ValueError, match=rf"\['{name}'\] cannot be measures"):
        Rollup("every", DEMO, 60_000, (Measure(name, "count"),))
