"""Who was present when, and when a stream was listened to: which cells exist (rule 20)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipelines.place_tree import Ints

Mask = npt.NDArray[np.bool_]
NO_RUN: Final = -(1 << 62)


class Spans:
    """Instants as times (first, last), in whatever order they come.

    A time lasts on after its last instant for as long as it has lasted, `least_ms` at least and `most_ms` at most; an
    instant later than that begins another one.
    """

    def __init__(self, least_ms: int, most_ms: int) -> None:
        self.least_ms, self.most_ms = least_ms, most_ms
        self._runs: list[tuple[int, int]] = []
        """Without a gap longer than `least_ms`."""
        self._times: list[tuple[int, int]] | None = []

    def add(self, instants: Ints) -> None:
        if not len(instants):
            return
        first, last = int(instants.min()), int(instants.max())
        if last - first <= self.least_ms:
            self.join(first, last)
            return
        instants = np.unique(instants)
        cut = np.flatnonzero(np.diff(instants) > self.least_ms) + 1
        for run in np.split(instants, cut):
            self.join(int(run[0]), int(run[-1]))

    def join(self, first: int, last: int) -> None:
        """Adds all instants from `first` to `last`."""
        _join(self._runs, first, last, self.least_ms)
        self._times = None

    def saved(self) -> list[tuple[int, int]]:
        return list(self._runs)

    def load(self, saved: list[list[int]]) -> None:
        self._runs, self._times = [(first, last) for first, last in saved], None

    @property
    def times(self) -> list[tuple[int, int]]:
        """First and last instant of each time, ascending."""
        if self._times is None:
            self._times = []
            for first, last in self._runs:
                if self._times and first <= self.ends(*self._times[-1]):
                    self._times[-1] = (self._times[-1][0], last)
                else:
                    self._times.append((first, last))
        return self._times

    def ends(self, first: int, last: int) -> int:
        """Until when a time lasts on."""
        return last + min(self.most_ms, max(self.least_ms, last - first))

    @property
    def lasting(self) -> list[tuple[int, int]]:
        """The times with what they last on."""
        return [(first, self.ends(first, last)) for first, last in self.times]

    def touching(self, since: Ints, until: Ints) -> Mask:
        """Which of the intervals [since, until) overlap a time or what it lasts on."""
        found: Mask = np.zeros(len(until), dtype=np.bool_)
        for first, end in self.lasting:
            found |= (first < until) & (end >= since)
        return found


def _join(runs: list[tuple[int, int]], first: int, last: int, gap_ms: int) -> None:
    """Adds a run to ascending ones; those that it touches are neighbours: from the first that ends late enough on."""
    begin = bisect_left(runs, first - gap_ms, key=lambda run: run[1])
    stop = bisect_right(runs, last + gap_ms, key=lambda run: run[0])
    touched = runs[begin:stop]
    runs[begin:stop] = [(min([first, *(a for a, _ in touched)]), max([last, *(b for _, b in touched)]))]


class Presence:
    """From when to when each place had events, as runs without a gap longer than `retire_after`.

    A window [start, end) has a cell at a place iff an event lies in [start - retire_after, end). Since that interval is
    longer than any gap inside a run, a run (first, last) has a cell iff first < end and last >= start - retire_after.
    """

    def __init__(self, retire_after_ms: int) -> None:
        self.retire_after = retire_after_ms
        self.first: Ints = np.zeros(0, dtype=np.int64)
        self.last: Ints = np.zeros(0, dtype=np.int64)
        self.older: dict[int, list[tuple[int, int]]] = {}
        """Earlier runs of the few places that have more than one."""
        self.unsaved = True
        """Whether anything changed since a checkpoint was made; whoever makes it says that it was."""

    def saved(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"first": self.first.copy(), "last": self.last.copy(), "older": [[p, r] for p, r in self.older.items()]}

    def load(self, saved: dict[str, Any]) -> None:
        self.first, self.last = saved["first"], saved["last"]
        self.older = {place: [(first, last) for first, last in runs] for place, runs in saved["older"]}

    def runs(self, place: int) -> list[tuple[int, int]]:
        latest = [(int(self.first[place]), int(self.last[place]))] if place < len(self.first) else []
        return [*self.older.get(place, ()), *(r for r in latest if r[1] != NO_RUN)]

    def add(self, places: Ints, panes: Ints) -> Ints:
        """Adds events (place code, pane start); returns the segments (rows of place, first, last) outside the known runs."""
        if not len(places):
            return np.zeros((0, 3), dtype=np.int64)
        if (top := int(places.max()) + 1) > len(self.first):
            more = max(top, 2 * len(self.first)) - len(self.first)
            self.first = np.concatenate([self.first, np.full(more, -NO_RUN, dtype=np.int64)])
            self.last = np.concatenate([self.last, np.full(more, NO_RUN, dtype=np.int64)])
        order = np.lexsort((panes, places))
        places, panes = places[order], panes[order]
        cut = np.flatnonzero((places[1:] != places[:-1]) | (panes[1:] - panes[:-1] > self.retire_after)) + 1
        begin, stop = np.concatenate([[0], cut]), np.concatenate([cut, [len(places)]]) - 1
        place, lo, hi = places[begin], panes[begin], panes[stop]
        outside = (lo < self.first[place]) | (hi > self.last[place])
        changed = np.stack([place[outside], lo[outside], hi[outside]], axis=1)
        self.unsaved |= bool(len(changed))
        plain = (lo <= self.last[place] + self.retire_after) & (hi >= self.first[place] - self.retire_after)
        plain |= self.last[place] == NO_RUN
        repeated = np.concatenate([[False], place[1:] == place[:-1]])
        plain &= ~repeated & ~np.concatenate([repeated[1:], [False]])
        if self.older:
            plain &= ~np.isin(place, np.fromiter(self.older, dtype=np.int64))
        at = place[plain]
        self.first[at] = np.minimum(self.first[at], lo[plain])
        self.last[at] = np.maximum(self.last[at], hi[plain])
        for p, a, b in zip(place[~plain].tolist(), lo[~plain].tolist(), hi[~plain].tolist(), strict=True):
            self._merge(p, a, b)
        return changed

    def _merge(self, place: int, lo: int, hi: int) -> None:
        if lo > self.last[place] + self.retire_after:
            if self.last[place] != NO_RUN:
                self.older.setdefault(place, []).append((int(self.first[place]), int(self.last[place])))
            self.first[place], self.last[place] = lo, hi
            return
        runs = self.runs(place)
        _join(runs, lo, hi, self.retire_after)
        self.first[place], self.last[place] = runs.pop()
        if runs:
            self.older[place] = runs
        else:
            self.older.pop(place, None)

    def cells(self, opened: Ints, closed: Ints, configured: Ints, awake: Mask) -> tuple[Ints, Ints]:
        """Pairs (place code, index of the window) that exist. Configured places exist in the windows `awake`, too."""
        known = max(len(self.first), int(configured.max()) + 1 if len(configured) else 0)
        exists = np.zeros((known, len(closed)), dtype=bool)
        n = len(self.first)
        exists[:n] = (self.first[:, None] < closed) & (self.last[:, None] >= opened - self.retire_after)
        for place, runs in self.older.items():
            spans = np.array(runs, dtype=np.int64)
            begin = np.searchsorted(closed, spans[:, 0], side="right")
            stop = np.searchsorted(opened - self.retire_after, spans[:, 1], side="right")
            for i in np.flatnonzero(begin < stop):
                exists[place, begin[i] : stop[i]] = True
        if len(configured):
            exists[np.ix_(configured, awake)] = True
        places, windows = np.nonzero(exists)
        return places, windows
