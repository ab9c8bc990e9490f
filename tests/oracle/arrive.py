"""Rules 4 to 7 and 9 for files, one event at a time."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

Raw = tuple[int, str, Hashable, tuple[object, ...]]
"""Event time, place, dedup key (None: the stream has none), what it says."""
Event = tuple[int, str, bool, tuple[object, ...]]
"""Event time, place, whether it is late, what it says."""


@dataclass
class Terms:
    """D, H (0: no dedup) and J of a stream, ms."""

    disorder: int
    horizon: int
    jump: int


@dataclass
class Tally:
    """What came of the records (rule 11), and the largest M at the end."""

    rejected: int = 0
    duplicate: int = 0
    on_time: int = 0
    late: int = 0
    largest: int | None = None

    @property
    def counters(self) -> dict[str, int]:
        accepted = self.on_time + self.late
        received = accepted + self.duplicate + self.rejected
        named = {"received": received, "accepted": accepted, "duplicate": self.duplicate, "rejected": self.rejected}
        return named | {"on_time": self.on_time, "late": self.late}


@dataclass
class File:
    events: Iterator[Raw]
    terms: Terms
    m: int | None = None
    ahead: list[tuple[int, Hashable]] = field(default_factory=list)
    seen: dict[Hashable, int | None] = field(default_factory=dict)

    def repeated(self, key: Hashable) -> bool:
        """Rule 5; a key that is seen again is seen now."""
        if not self.terms.horizon or key not in self.seen:
            return False
        before = self.seen[key]
        near = self.m is None or (before is not None and self.m - before < self.terms.horizon)
        if near:
            self.seen[key] = self.m
        return near

    def take(self, t: int, key: Hashable) -> None:
        """Rules 4 and 6."""
        if self.m is not None and t - self.m <= self.terms.jump:
            self.ahead.clear()
            self.m = max(self.m, t)
        else:
            self.ahead.append((t, key))
            if len(self.ahead) == 4:
                self.settle()
        if self.terms.horizon:
            self.seen[key] = self.m
            if len(self.seen) > 400_000 and self.m is not None:
                m, h = self.m, self.terms.horizon
                self.seen = {k: at for k, at in self.seen.items() if at is None or m - at < h}

    def settle(self) -> None:
        held, self.ahead = self.ahead, []
        self.m = min(t for t, _ in held)
        for t, key in held:
            self.take(t, key)
        if self.terms.horizon:
            self.seen |= {key: self.m for _, key in held}


def arrive(files: Sequence[Iterator[Raw]], terms: Terms, tally: Tally) -> Iterator[Event]:
    """Accepted events, always from the file with the smallest M; files of one stream have one D here, so what the file
    that is read holds the watermark at is what all hold it at."""
    unknown = -(1 << 60)
    waiting = [(unknown, k, File(events, terms)) for k, events in enumerate(files)]
    ended: list[File] = []
    wm = unknown
    while waiting:
        m, k, file = heapq.heappop(waiting)
        stop = waiting[0][:2] if waiting else (1 << 62, 0)
        while (m, k) < stop:
            event = next(file.events, None)
            if event is None:
                if file.m is None and file.ahead:
                    file.settle()
                ended.append(file)
                break
            t, place, key, said = event
            if file.repeated(key):
                tally.duplicate += 1
                continue
            if file.m is not None:
                wm = max(wm, file.m - terms.disorder)
            late = t < wm
            tally.late += late
            tally.on_time += not late
            yield t, place, late, said
            file.take(t, key)
            m = unknown if file.m is None else file.m
        else:
            heapq.heappush(waiting, (m, k, file))
    tally.largest = max((file.m for file in ended if file.m is not None), default=None)
