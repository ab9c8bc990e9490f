"""Rows are kept for `fine_for`, then dropped by whole months; what comes for them later is counted (rule 26)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from pipelines.model import NEVER, Rows
from pipelines.retention import Retention, month_start
from pipelines.streams import DAY_MS, HOUR_MS
from sinks.difference import compare_readings
from sinks.memory import MemorySink
from tests.conformance.small_city import START
from tests.conformance.small_runs import How, city_run, sink
from tests.fakes.listed import DirectStore, Record

DAYS, STEP_MS = 75, 50 * 60_000
FINE_FOR_MS = 35 * DAY_MS
SITE = "l1"


def at(*date: int) -> int:
    return int(datetime(*date, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize("date", [(2024, 2, 29, 23, 59, 59), (2026, 1, 1), (1999, 12, 31)])
def test_months_are_those_of_the_store(date: tuple[int, ...]) -> None:
    assert month_start(at(*date)) == at(date[0], date[1], 1)


def test_a_month_goes_when_no_window_reads_it() -> None:
    kept = Retention({"short": HOUR_MS, "long": 10 * DAY_MS}, FINE_FOR_MS)
    assert kept.due(NEVER) == []
    assert kept.due(at(2026, 3, 9)) == [("short", at(2026, 2, 1)), ("long", at(2026, 1, 1))]
    assert kept.due(at(2026, 3, 10)) == []
    assert kept.due(at(2026, 3, 19)) == [("long", at(2026, 2, 1))]
    assert Retention({"short": HOUR_MS}, None).due(at(2026, 3, 8)) == []


def test_a_row_counts_while_its_longest_window_is_whole() -> None:
    kept = Retention({"r": 2 * HOUR_MS}, FINE_FOR_MS)
    kept.due(at(2026, 3, 9))
    panes = [at(2026, 1, 31, 23), at(2026, 2, 1, 0), at(2026, 2, 1, 1), at(2026, 2, 1, 2)]
    rows = pl.DataFrame({"pane_start": panes, "n": [1, 1, 2, 1]})
    some, unapplied = kept.applied(Rows("r", rows, pl.DataFrame(), NEVER))
    assert some.rows["pane_start"].to_list() == panes[3:] and unapplied == 4


def link(t: int, n: int) -> Record:
    return {"t": t, "place": SITE, "link": SITE, "tt_ms": 60_000 + n, "arrival": t}


def replayed(records: list[dict[str, Any]], fine_for_ms: int | None) -> tuple[MemorySink, Any]:
    kept = sink()
    run = city_run({"link": {"a": records}}, How(200, 40), DirectStore(kept), 1, fine_for_ms=fine_for_ms)
    run.replay()
    return kept, run


def test_late_rows_of_dropped_panes_are_counted_and_change_nothing() -> None:
    """Kept rows answer the same late events; a run without retention shows what the dropped ones would have done."""
    calm = [link(START + n * STEP_MS, n % 50) for n in range(DAYS * DAY_MS // STEP_MS)]
    fresh, old = link(START + 60 * DAY_MS + 7, 40_000), link(START + 3 * DAY_MS + 7, 40_000)
    kept, run = replayed([*calm[:-1], fresh, old, calm[-1]], FINE_FOR_MS)
    other, _ = replayed([*calm[:-1], fresh, calm[-1]], None)
    everything, all_kept = replayed([*calm[:-1], fresh, old, calm[-1]], None)
    assert run.counts.late_unapplied == 1 and all_kept.counts.late_unapplied == 0
    assert run.counts.counters["late"] == 2 and run.counts.counters["accepted"] == len(calm) + 2
    assert not compare_readings(kept.newest_readings(), other.newest_readings())
    assert compare_readings(everything.newest_readings(), other.newest_readings()), "an applied late event must be seen"
    left = kept.panes("link", 0, 10**15)
    assert left["pane_start"].min() >= at(2026, 4, 1) and len(left) < len(other.panes("link", 0, 10**15))  # type: ignore[operator]
    print(f"{len(kept.newest_readings()):,} readings compared, {len(left):,} rows kept")
