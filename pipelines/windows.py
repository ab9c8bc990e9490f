"""Windows: panes -> windows in city time (rules 13, 20): sliding, tumbling and local calendar days.

A window is named by its end. `ends` lists the grid, `start` opens a window, `spread` says in which windows a pane lies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

from pipelines.streams import DAY_MS, HOUR_MS

LONGEST_DAY_MS = DAY_MS + 2 * HOUR_MS
"""A local day may last 23, 24 or 25 hours; nothing here relies on more than this bound."""


@dataclass(frozen=True, slots=True)
class Slide:
    """Windows of `size_ms` that end at every multiple of `step_ms` of the UTC epoch; both are multiples of the pane."""

    size_ms: int
    step_ms: int

    def __post_init__(self) -> None:
        if self.size_ms <= 0 or self.step_ms <= 0 or self.size_ms % self.step_ms:
            raise ValueError(f"a window of {self.size_ms} ms cannot step by {self.step_ms} ms: the step must divide it")


@dataclass(frozen=True, slots=True)
class Day:
    """Calendar days of the city's zone, from midnight to midnight."""


Window = Slide | Day


def tumble(size_ms: int) -> Slide:
    """Windows that follow one another without overlap."""
    return Slide(size_ms, size_ms)


def tumbling(window: Window) -> bool:
    """Tumbling and calendar windows close at the end of a finite input; sliding ones are not produced then (rule 9)."""
    return isinstance(window, Day) or window.size_ms == window.step_ms


def reach_ms(window: Window) -> int:
    """The longest that a window of this kind lasts."""
    return LONGEST_DAY_MS if isinstance(window, Day) else window.size_ms


def step_ms(window: Window) -> int:
    """How far apart window ends are (days: about)."""
    return DAY_MS if isinstance(window, Day) else window.step_ms


@lru_cache(maxsize=65536)
def midnight(t: int, zone: str, days: int = 0) -> int:
    """UTC ms at which the local day of `t`, or the one `days` later, starts."""
    tz = ZoneInfo(zone)
    day = datetime.fromtimestamp(t // 1000, tz).date() + timedelta(days)
    return int(datetime(day.year, day.month, day.day, tzinfo=tz).timestamp()) * 1000


def ends(window: Window, after: int, until: int, zone: str) -> list[int]:
    """Window ends in (after, until], ascending."""
    if isinstance(window, Slide):
        first = after // window.step_ms * window.step_ms + window.step_ms
        return list(range(first, until + 1, window.step_ms))
    out = []
    end = midnight(after, zone, 1)
    while end <= until:
        out.append(end)
        end = midnight(end, zone, 1)
    return out


def ends_near(
    window: Window, runs: Iterable[tuple[int, int]], reach_ms: int, after: int, until: int, zone: str
) -> list[int]:
    """Window ends in (after, until] that lie in (first, last + reach_ms] of one of the ascending runs, ascending."""
    found: list[int] = []
    for first, last in runs:
        if last + reach_ms > after and first < until:
            found += ends(window, max(after, first), min(until, last + reach_ms), zone)
            after = min(until, last + reach_ms)
    return found


def start(window: Window, end: int, zone: str) -> int:
    """Where the window that ends at `end` opens."""
    return end - window.size_ms if isinstance(window, Slide) else midnight(end - 1, zone)


def starts(window: Window, closed: npt.NDArray[np.int64], zone: str) -> npt.NDArray[np.int64]:
    """Where the windows with these ends open."""
    if isinstance(window, Slide):
        return closed - window.size_ms
    return np.array([midnight(int(end) - 1, zone) for end in closed], dtype=np.int64)


def next_end(window: Window, after: int, zone: str) -> int:
    """The first window end after an instant."""
    if isinstance(window, Slide):
        return after // window.step_ms * window.step_ms + window.step_ms
    return midnight(after, zone, 1)


def spread(panes: pl.DataFrame, window: Window, wanted: list[int], zone: str, lookback_ms: int = 0) -> pl.DataFrame:
    """Rows with a `pane_start`, repeated for each wanted window in which they lie, with `window_start, window_end`.

    `wanted` are window ends, ascending. With `lookback_ms` a window also receives the panes that start at most that
    long before it opens (a formula that needs predecessors filters by `window_start`).
    """
    closed = np.array(wanted, dtype=np.int64)
    opened = starts(window, closed, zone)
    at = panes["pane_start"].to_numpy()
    if not len(wanted) or not len(at):
        return panes.clear().with_columns(
            pl.lit(0, dtype=pl.Int64).alias("window_start"), pl.lit(0, dtype=pl.Int64).alias("window_end")
        )
    first = np.searchsorted(closed, at, side="right")  # the first window that ends after the pane's start
    last = np.searchsorted(opened - lookback_ms, at, side="right")  # windows that opened at or before it
    count = np.maximum(last - first, 0)
    if count.max() <= 1:
        inside = count == 1
        index = first[inside]
        rows = panes if inside.all() else panes.filter(pl.Series(inside))
    else:
        source = np.repeat(np.arange(len(at)), count)
        offset = np.arange(len(source)) - np.repeat(np.cumsum(count) - count, count)
        index = first[source] + offset
        rows = panes[source]
    return rows.with_columns(
        pl.Series("window_start", opened[index], dtype=pl.Int64), pl.Series("window_end", closed[index], dtype=pl.Int64)
    )
