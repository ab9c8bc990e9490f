"""Which cells of a stream exist: who was present, and when the stream itself was heard (rule 20)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl

from pipelines.cells import grid
from pipelines.model import NEVER, Parts
from pipelines.place_tree import Ints, PlaceTree
from pipelines.presence import Presence, Spans
from pipelines.streams import DAY_MS, Stream
from pipelines.windows import Window, ends_near, reach_ms, starts, step_ms

MOST_CELLS = 2_000_000
"""Cells computed in one go; more windows than this are taken in several."""
ASLEEP_AFTER_MS = 7 * DAY_MS
"""A stream from which nothing was heard for so long, neither an event on time nor a tick, is asleep: its configured
places have no cells until it is heard again. One that was heard for less time before falls asleep as much earlier, but not
within a day, nor before its places retire: a silence costs no more than what was heard (docs/decisions/0011)."""
TOUCHED = {"place": pl.UInt32, "window_end": pl.Int64}


class Attendance:
    """Presence of a stream's places, and when the stream itself was heard (rule 20), shared by its tables.

    `told`: the panes of all events, and ticks. `heard`: of those on time, and ticks after the first.
    """

    def __init__(self, stream: Stream, tree: PlaceTree) -> None:
        self.stream, self.tree = stream, tree
        self.presence = Presence(stream.retire_after_ms)
        bounds = max(DAY_MS, stream.retire_after_ms), max(ASLEEP_AFTER_MS, stream.retire_after_ms)
        self.told, self.heard = Spans(*bounds), Spans(*bounds)
        self.segments: list[Ints] = []
        """Runs of places (place, first, last) outside what was known before the running step."""

    def add(self, places: Ints, panes: Ints, on_time: Ints) -> None:
        self.segments.append(self.presence.add(places, panes))
        self.told.add(panes)
        self.heard.add(on_time)

    def tick(self, since: int, until: int) -> None:
        """The stream was listened to from one instant to another, event or not (rule 8)."""
        if self.heard.times:
            self.told.join(since, until)
            self.heard.join(since, until)

    def saved(self, whole: bool) -> Parts:
        """State by name for a checkpoint: all, or what changed since the last call."""
        parts: Parts = {"times": [self.told.saved(), self.heard.saved()]}
        if whole or self.presence.unsaved:
            parts["presence"], self.presence.unsaved = self.presence.saved(), False
        return parts

    def load(self, parts: Parts) -> None:
        told, heard = parts["times"]
        self.presence.load(parts["presence"])
        self.told.load(told)
        self.heard.load(heard)

    def awake(self, after: int, longest_ms: int) -> int:
        """The first instant from `after` on at which a window, `longest_ms` at most with its step, may be open that has
        a cell; -NEVER: none is known."""
        return next((max(after, first) for first, last in self.told.lasting if last + longest_ms > after), -NEVER)

    def windows(self, window: Window, after: int, until: int, zone: str, beyond_ms: int = 0) -> list[int]:
        """Window ends in (after, until] at which a cell may exist, and the first one of each run without any.

        `beyond_ms`: how much longer than the window what it is computed from may last.
        """
        longest_ms = reach_ms(window) + step_ms(window) + beyond_ms
        return ends_near(window, self.told.lasting, longest_ms, after, until, zone)

    def cells(
        self, window: Window, wanted: list[int], zone: str, pane_ms: int
    ) -> Iterable[tuple[list[int], pl.DataFrame]]:
        """The site cells that exist in the wanted windows, in portions of windows that are not far apart."""
        configured = self.tree.configured
        many = max(1, MOST_CELLS // max(1, len(self.presence.first), len(configured)))
        for portion in _portions(wanted, many):
            closed = np.array(portion, dtype=np.int64)
            opened = starts(window, closed, zone)
            awake = self.heard.touching(opened, closed)
            places, windows = self.presence.cells(opened, closed, configured, awake)
            yield portion, grid(places, opened[windows], closed[windows], self.tree, pane_ms)

    def appeared(self, window: Window, until: int, zone: str) -> pl.DataFrame:
        """Windows up to `until` that may have gained a cell because a place was present earlier than known."""
        segments = np.concatenate([np.zeros((0, 3), dtype=np.int64), *self.segments])
        place, first, last = segments[segments[:, 1] < until].T
        if not len(place):
            return pl.DataFrame(schema=TOUCHED)
        longest_ms = self.stream.retire_after_ms + reach_ms(window)
        known = Spans(DAY_MS, DAY_MS)
        for run in np.unique(segments[:, 1:], axis=0).tolist():
            known.join(*run)
        all_ends = np.array(ends_near(window, known.times, longest_ms, NEVER, until, zone), dtype=np.int64)
        begin = np.searchsorted(all_ends, first, side="right")
        end = np.searchsorted(all_ends, last + longest_ms, side="right")
        count = end - begin
        at = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - begin, count)
        return pl.DataFrame({"place": np.repeat(place, count), "window_end": all_ends[at]}, schema=TOUCHED)


def _portions(wanted: list[int], many: int) -> Iterator[list[int]]:
    """At most so many ascending window ends at a time, none more than two days behind the one before."""
    begin = 0
    for k in range(1, len(wanted) + 1):
        if k == len(wanted) or k - begin == many or wanted[k] - wanted[k - 1] > 2 * DAY_MS:
            yield wanted[begin:k]
            begin = k
