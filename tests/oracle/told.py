"""What was told of a stream: its events by place and pane, which cells exist (rule 20), and up to when (rules 9, 19)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import merge
from typing import Any

from tests.oracle.arrive import Event, Tally, Terms
from tests.oracle.grid import DAY, HOUR, MINUTE, Windows
from tests.oracle.town import UNKNOWN, Town


@dataclass(frozen=True)
class Facts:
    """What a stream declares: D, H, period, the pane in which completeness counts, its levels from the site up."""

    disorder: int
    horizon: int
    period: int | None
    pane: int
    levels: tuple[str, ...] = ("site", "district", "city")

    @property
    def terms(self) -> Terms:
        return Terms(self.disorder, self.horizon, max(HOUR, 3 * (self.period or 0)))


_CASES = Facts(MINUTE, DAY, None, MINUTE, ("district", "city"))
STREAMS = {
    "link": Facts(MINUTE, 10 * MINUTE, MINUTE, 5 * MINUTE),
    "det": Facts(MINUTE, 10 * MINUTE, MINUTE, 5 * MINUTE, ("lane", "site", "district", "city")),
    "air": Facts(5 * MINUTE, 2 * HOUR, HOUR, HOUR),
    "lvl": Facts(MINUTE, 10 * MINUTE, MINUTE, MINUTE),
    "rain": Facts(2 * MINUTE, HOUR, 10 * MINUTE, 10 * MINUTE),
    "park": Facts(MINUTE, 10 * MINUTE, MINUTE, MINUTE),
    "http": Facts(10_000, 0, MINUTE, MINUTE),
    "inc": _CASES, "case": _CASES, "tkt": _CASES,
}  # fmt: skip
RETIRE = DAY
ASLEEP = 7 * DAY
"""A stream from which nothing was heard for so long, or for as long as it was heard before (a day at least), gives its
configured sites no cells until it is heard again."""
Pane = list[Any]
"""[events, newest event time, what the formulas add up]."""
Put = Callable[[Pane | None, tuple[Any, ...], int], Any]
"""(sums so far or None, what an event says, its time) -> sums."""


def near(at: list[int], windows: Windows, end: int) -> bool:
    """Whether an event lies in [begin - 24 h, end); `at` are the panes with events, ascending."""
    return bisect_left(at, end) > bisect_left(at, windows.begin(end) - RETIRE)


def awake(heard: list[int]) -> list[tuple[int, int]]:
    """From when to when a stream was awake."""
    spans: list[tuple[int, int]] = []
    begun = 0
    for t in heard:
        if not spans or t > spans[-1][1]:
            begun = t
            spans.append((t, t))
        spans[-1] = (begun, t + min(ASLEEP, max(DAY, t - begun)))
    return spans


@dataclass
class Told:
    """One stream of one run."""

    name: str
    facts: Facts
    town: Town
    panes: dict[str, dict[int, Pane]] = field(default_factory=dict)
    cases: dict[str, Any] = field(default_factory=dict)
    heard: set[int] = field(default_factory=set)
    """Panes with an event on time; of the time that `--until` lets go on, ticks an hour apart."""
    newest: int | None = None
    tally: Tally = field(default_factory=Tally)
    final: int = -(1 << 60)
    """Windows that end up to here are final."""
    tail: bool = True

    def listen(self, events: Iterable[Event], put: Put, until: int | None) -> Told:
        """Takes all events; `put` is how the stream's numbers add up within a pane."""
        pane = self.facts.pane
        for t, place, late, said in events:
            slots = self.panes.setdefault(place, {})
            at = t - t % pane
            there = slots.get(at)
            if there is None:
                slots[at] = [1, t, put(None, said, t)]
            else:
                there[0] += 1
                there[1] = max(there[1], t)
                there[2] = put(there[2], said, t)
            if not late:
                self.heard.add(at)
            if self.newest is None or t > self.newest:
                self.newest = t
        if self.tally.largest is not None:
            self.final = (self.tally.largest // pane + 1) * pane
        if until is not None:
            self.heard.update(range(self.final, until, HOUR))
            self.final, self.tail = max(self.final, until), False
        return self

    def sites(self) -> list[str]:
        return sorted({*self.panes, *self.town.configured(self.name, self.facts.levels[0] == "district")})

    def ends(self, site: str, windows: Windows) -> Iterator[int]:
        """The final windows in which a site has a cell: an event lies in [begin - 24 h, end), or the site is of the
        configuration and the stream was awake."""
        at = sorted(self.panes.get(site, ()))
        known = site in self.town.configured(self.name, self.facts.levels[0] == "district")
        heard = sorted(self.heard) if known else []
        spans = awake(heard)
        done = min([*at[:1], *heard[:1]], default=self.final)
        for t in merge(at, heard):  # by and by, for there may be decades between two panes
            reach = windows.holding(t) + ASLEEP + 2 * DAY
            for end in windows.ends(max(done, t), min(reach, self.final)):
                if any(a < end and b >= windows.begin(end) for a, b in spans) or near(at, windows, end):
                    yield end
            done = max(done, min(reach, self.final))

    def tail_ends(self, windows: Windows) -> list[int]:
        """Windows that the end of the input leaves open (rule 9), up to the one that holds the newest event."""
        if not self.tail or not windows.follows or self.newest is None:
            return []
        return list(windows.ends(self.final, windows.holding(self.newest)))

    def tail_ends_of(self, site: str, windows: Windows) -> list[int]:
        """Those in which a site has a cell. Beyond the watermark that needs an event, for configured sites too."""
        at = sorted(self.panes.get(site, ()))
        return [end for end in self.tail_ends(windows) if near(at, windows, end)]

    def period(self, site: str) -> int | None:
        place = self.town.places.get(self.name, {}).get(site)
        return place.period if place and place.period else self.facts.period

    def parent(self, level: int, place: str, child_site: str) -> str:
        """The parent of a place of `level`; `child_site` is any site below it."""
        kind = self.facts.levels[level + 1]
        site = self.town.places.get(self.name, {}).get(child_site)
        if kind == "city":
            return "city"
        if kind == "district":
            return site.district if site else UNKNOWN
        return site.parent if site and site.parent else place
