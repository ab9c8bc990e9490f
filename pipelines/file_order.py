"""The order of several files (rule 9): always on from the one with the smallest M, ties in configuration order.

M before a record depends on the records of its own file only. So the order of the log is that of (M before the
record, file, record), and what is certain of it is what sorts before the next, unread record of every open file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl

from pipelines.dedup import Index
from pipelines.watermark import NOBODY, Feed, Share


@dataclass(slots=True)
class Pending:
    """The accepted events of one file that are not in the log yet, and whether anything of it still is to come."""

    feed: Feed
    runs: deque[tuple[Index, pl.DataFrame]] = field(default_factory=deque)
    refused_last: bool = False
    """Its last record so far was refused: then the file ends after that record's turn, not with its last event."""
    last_m: int | None = None
    """M after its last record, once it has ended; M may settle later, at the end of a file with fewer than four."""
    over: bool = False

    @property
    def next_m(self) -> int:
        """M before the next record that is not in the log."""
        return int(self.runs[0][0][0]) if self.runs else self.feed.clock.m


@dataclass(frozen=True, slots=True)
class Taken:
    """Runs of events of one file that are certain to be next, with M before each event."""

    feed: Feed
    runs: list[tuple[Index, pl.DataFrame]]
    share: Share


class FileOrder:
    """Holds the events of each file until their place in the log is certain."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self.files = {feed.name: Pending(feed) for feed in feeds}

    def saved(self) -> dict[str, list[Any]]:
        """What is held of each file, for a checkpoint."""
        return {
            name: [[list(run) for run in file.runs], file.refused_last, file.last_m, file.over]
            for name, file in self.files.items()
        }

    def load(self, saved: dict[str, list[Any]]) -> None:
        for name, (runs, refused_last, last_m, over) in saved.items():
            file = self.files[name]
            file.runs = deque((before, events) for before, events in runs)
            file.refused_last, file.last_m, file.over = refused_last, last_m, over

    def wanted(self) -> str | None:
        """The open file with the smallest M, which is the one to read on from; None when all have ended."""
        first = self._first()
        return None if first is None else first.feed.name

    def _first(self) -> Pending | None:
        files = (file for file in self.files.values() if not file.feed.ended)
        return min(files, key=lambda file: (file.feed.clock.m, file.feed.order), default=None)

    def add(self, feed: Feed, before: Index, events: pl.DataFrame, refused_last: bool | None) -> None:
        """Events of the file's next records; `refused_last` None: there were no records at all."""
        file = self.files[feed.name]
        if len(before):
            file.runs.append((before, events))
        if refused_last is not None:
            file.refused_last = refused_last

    def end(self, feed: Feed) -> None:
        """The file's last record was added; to be called before M settles."""
        self.files[feed.name].last_m = feed.clock.m
        feed.ended = True

    def take(self) -> list[Taken]:
        """What is certain now, file by file; within a partition the order is that of `merge_order`."""
        first = self._first()
        return [self._take(file, first) for file in self.files.values()]

    def _take(self, file: Pending, first: Pending | None) -> Taken:
        runs: list[tuple[Index, pl.DataFrame]] = []
        while file.runs:
            before, events = file.runs[0]
            n = len(before)
            if first is not None and file is not first:
                side: Literal["left", "right"] = "right" if file.feed.order < first.feed.order else "left"
                n = int(np.searchsorted(before, first.feed.clock.m, side=side))
            if n:
                runs.append((before[:n], events[:n]))
            if n < len(before):
                file.runs[0] = (before[n:], events[n:])
                break
            file.runs.popleft()
        taken = np.concatenate([before for before, _ in runs]) if runs else np.zeros(0, dtype=np.int64)
        return Taken(file.feed, runs, self._share(file, first, taken))

    def _share(self, file: Pending, first: Pending | None, taken: Index) -> Share:
        feed, m = file.feed, file.last_m
        if file.runs or m is None:
            return Share(feed.disorder_ms, taken, file.next_m)
        if file.over or not file.refused_last:
            return Share(feed.disorder_ms, taken, NOBODY)
        if first is not None and (m, feed.order) > (first.feed.clock.m, first.feed.order):
            return Share(feed.disorder_ms, taken, m)
        file.over = True
        return Share(feed.disorder_ms, taken, NOBODY, mark=m)


def merge_order(shares: Sequence[Share]) -> Index | None:
    """What sorts the concatenated records of several files into the order of the log; None if they are in order."""
    given = [share.before for share in shares if len(share.before)]
    # A stable sort of sorted runs is a merge, and keeps the files' order where M is the same.
    return np.argsort(np.concatenate(given), kind="stable") if len(given) > 1 else None
