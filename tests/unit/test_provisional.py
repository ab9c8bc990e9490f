"""Provisional readings (rule 19): the window that becomes final next, and the one that the newest events are in."""

from __future__ import annotations

import polars as pl
import pytest

from pipelines import brain
from pipelines.streams import MINUTE_MS
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
