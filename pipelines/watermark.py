"""The watermark of each partition of the canonical log: rule 7 for events, rule 8 for ticks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from pipelines.dedup import Index
from pipelines.input_clock import InputClock
from pipelines.model import NEVER

NOBODY: Final = -NEVER
"""Stands for "no input holds the partition back"."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input partition (rule 4) and the partition of the log that it feeds.

    `disorder_ms` overrides the stream's D; an input that `joins` counts only from `Ingest.join` on.
    """

    name: str
    part: str
    disorder_ms: int | None = None
    joins: bool = False


@dataclass(slots=True)
class Feed:
    """What the watermark needs to know of one input: its M and D, and whether it counts."""

    name: str
    part: str
    order: int
    disorder_ms: int
    clock: InputClock
    known: bool
    last: int
    """The run's clock at its last accepted event, at first the start of the run."""
    floor: int = NEVER
    ended: bool = False

    def low(self) -> int:
        return max(self.floor, self.clock.m - self.disorder_ms if self.clock.m > NEVER else NEVER)


@dataclass(slots=True)
class Partition:
    """The writing end of one partition of the log. `base` is the wm when the last of its inputs fell silent."""

    name: str
    feeds: list[Feed] = field(default_factory=list)
    wm: int = NEVER
    base: int = NEVER
    next: int = 0
    """The next offset."""

    @property
    def feeding(self) -> list[Feed]:
        return [feed for feed in self.feeds if feed.known]

    @property
    def delivered(self) -> bool:
        return any(feed.clock.m > NEVER for feed in self.feeding)


@dataclass(frozen=True, slots=True)
class LiveWatermark:
    """Rules 7 and 8 for live inputs; everything is a function of the arguments."""

    disorder_ms: int
    max_lag_ms: int
    idle_timeout_ms: int

    def holding(self, partition: Partition, now: int) -> list[Feed]:
        """The inputs that hold a partition back: neither ended, nor idle, nor too far behind the largest M."""
        feeding = partition.feeding
        largest = max((feed.clock.m for feed in feeding), default=NEVER)
        return [
            feed
            for feed in feeding
            if not feed.ended
            and now - feed.last < self.idle_timeout_ms
            and not NEVER < feed.clock.m < largest - self.max_lag_ms
        ]

    def move(self, partition: Partition, now: int) -> bool:
        """Moves the watermark for a tick; returns whether an input holds it."""
        holding = self.holding(partition, now)
        if holding:
            partition.wm = partition.base = max(partition.wm, min(feed.low() for feed in holding))
        return bool(holding)

    def stamps(self, partition: Partition, source: Feed, before: Index, now: int) -> Index:
        """The wm of a run of accepted events of one input that arrived at one instant; `before` is its M before each.

        The other inputs stand still meanwhile, and M only grows, so each of them holds for a first part of the run.
        """
        others = [feed for feed in partition.feeding if feed is not source]
        largest = max((feed.clock.m for feed in others), default=NEVER)
        if source.known and not source.ended:
            lowest = np.maximum(before - source.disorder_ms, source.floor)  # floor >= NEVER
            lowest[(before > NEVER) & (before < largest - self.max_lag_ms)] = NOBODY
            if now - source.last >= self.idle_timeout_ms:
                lowest[: 1 if self.idle_timeout_ms > 0 else None] = NOBODY
        else:
            lowest = np.full(len(before), NOBODY, dtype=np.int64)
        for feed in others:
            m = feed.clock.m
            if feed.ended or now - feed.last >= self.idle_timeout_ms or NEVER < m < largest - self.max_lag_ms:
                continue
            reach = len(before)
            if m > NEVER and source.known:
                reach = int(np.searchsorted(before, m + self.max_lag_ms, side="right"))
            np.minimum(lowest[:reach], feed.low(), out=lowest[:reach])
        held = lowest != NOBODY
        if not held.all():
            lowest[~held] = NEVER
        stamps: Index = np.maximum.accumulate(np.maximum(lowest, partition.wm))
        partition.wm = int(stamps[-1])
        if held.any():
            partition.base = partition.wm
        return stamps

    def tick(self, partitions: Sequence[Partition], now: int) -> None:
        """Rule 8: one round of ticks; partitions that had an event are computed first (c6)."""
        delivered = {p.name: p.delivered for p in partitions}
        for partition in sorted(partitions, key=lambda p: not delivered[p.name]):
            if self.move(partition, now):
                continue
            if delivered[partition.name]:
                self._all_silent(partition, now)
            else:
                others = [
                    p.wm for p in partitions if p is not partition and (delivered[p.name] or self.holding(p, now))
                ]
                disorder_ms = max((feed.disorder_ms for feed in partition.feeding), default=self.disorder_ms)
                partition.wm = max(partition.wm, min(others, default=now - self.idle_timeout_ms - disorder_ms))

    def _all_silent(self, partition: Partition, now: int) -> None:
        """The input that fell silent last decides (c7): wm goes on from what it was then, by the silence since."""
        had = (feed for feed in partition.feeding if feed.clock.m > NEVER)
        last = max(had, key=lambda feed: (not feed.ended, feed.last, -feed.low()))
        partition.base = max(partition.base, last.low())
        silence = max(0, now - last.last - self.idle_timeout_ms)
        partition.wm = max(partition.wm, partition.base + silence)


@dataclass(frozen=True, slots=True)
class Share:
    """What one file gives to a run of the merged log: M before each of its records, and what it holds the log at then.

    `tail`: M before its next record, NOBODY if it ended. `mark`: the M at which it ended within the run, where its
    last record was refused and so is none of the log; else None.
    """

    disorder_ms: int
    before: Index
    tail: int
    mark: int | None = None


def file_stamps(partition: Partition, shares: Sequence[Share], merged: Index) -> Index:
    """The wm of a run of the merged log (rules 7, 9); `merged` is M before each of its records, in order.

    The file read next is always the one with the smallest M. So among files of one D the smallest M at any time is
    M before the next record that one of them gives, and with a single D that is the record being stamped.
    """
    bounds = {share.disorder_ms for share in shares}
    lowest = merged - bounds.pop() if len(bounds) == 1 else _lowest(shares)
    stamps: Index = np.maximum.accumulate(np.maximum(lowest, partition.wm))
    if len(stamps):
        partition.wm = int(stamps[-1])
    return stamps


def _lowest(shares: Sequence[Share]) -> Index:
    """The smallest M - D of the files that have not ended, before each record of the merged run."""
    marks = [np.array([] if share.mark is None else [share.mark], dtype=np.int64) for share in shares]
    m = np.concatenate([x for share, mark in zip(shares, marks, strict=True) for x in (share.before, mark)])
    counts = [len(share.before) + len(mark) for share, mark in zip(shares, marks, strict=True)]
    disorder = np.repeat([share.disorder_ms for share in shares], counts)
    recorded = np.concatenate([np.arange(n) < len(share.before) for share, n in zip(shares, counts, strict=True)])
    order = np.argsort(m, kind="stable")
    m, disorder, recorded = m[order], disorder[order], recorded[order]
    lowest = np.full(len(m), NOBODY, dtype=np.int64)
    for disorder_ms in {share.disorder_ms for share in shares}:
        tail = min(share.tail for share in shares if share.disorder_ms == disorder_ms)
        own = np.flatnonzero(disorder == disorder_ms)
        following = np.append(m[own], tail)[np.searchsorted(own, np.arange(len(m)))]
        np.minimum(lowest, np.where(following == NOBODY, NOBODY, following - disorder_ms), out=lowest)
    stamped: Index = lowest[recorded]
    return stamped
