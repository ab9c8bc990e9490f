"""Provisional readings (rule 19): the window that becomes final next, and the one that the newest events are in."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl
import pytest

from pipelines import brain
from pipelines.delivery import Run
from pipelines.streams import MINUTE_MS
from pipelines.tables import PaneTable
from tests.conformance.small_city import START, log
from tests.conformance.small_runs import arrivals, lived


def ends(minutes: float) -> list[int]:
    """Windows of the city's travel time index that have a provisional reading, in minutes after the start."""
    events = log(5, lates=False)
    _, run = lived(arrivals(events, 5), START, START + int(minutes * MINUTE_MS), step_every=1)
    found = run.provisional().filter((pl.col("indicator") == "traffic.tti") & (pl.col("place_kind") == "city"))
    return sorted(((found["window_end"] - START) // MINUTE_MS).to_list())


def test_one_window_while_it_is_the_newest() -> None:
    assert ends(4) == [5]
    assert ends(7) == [10]


def test_two_windows_between_the_end_of_one_and_its_being_final() -> None:
    assert ends(6.5) == [5, 10]


def test_negative_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """With only the next final window an event of a new pane would be seen a whole D later."""
    following = brain.next_end
    monkeypatch.setattr(brain, "next_end", lambda window, after, zone: following(window, min(after, START), zone))
    assert ends(6.5) != [5, 10]


def test_what_did_not_change_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is shown is what would be computed."""
    counted = Counter[str]()
    compute, step = PaneTable.compute, Run.step

    def counting(table: PaneTable, wanted: list[int], more: Any = None, with_data: bool = False) -> Any:
        counted["computed" if more is not None else "final"] += 1
        return compute(table, wanted, more, with_data)

    def looking(run: Run, now: int) -> Any:
        done = step(run, now)
        shown, kept = run.provisional(), run.brain._shown
        before = counted["computed"]
        run.brain._shown = {}
        key = [pl.col(c).cast(pl.String) for c in ("indicator", "place_kind", "place", "window_end")]
        assert run.provisional().sort(key).equals(shown.sort(key))
        counted["looks"] += 1
        counted["tables"] += counted["computed"] - before
        counted["computed"] = before
        run.brain._shown = kept
        return done

    monkeypatch.setattr(PaneTable, "compute", counting)
    monkeypatch.setattr(Run, "step", looking)
    lived(arrivals(log(5, lates=True), 5), START, START + 12 * MINUTE_MS, step_every=1)
    print(dict(counted))
    assert counted["looks"] > 20 and 0 < counted["computed"] < counted["tables"]
