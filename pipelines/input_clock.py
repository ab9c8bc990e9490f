"""M of one input partition: what each record finds it at, which records are duplicates, and when it may jump.

Rules 4 to 6. A block is computed with a cumulative maximum; Python looks at single records only where M has not
started yet or where records that are more than J ahead may make a run of four.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.dedup import NO_REPEATS, Index, Repeats, SeenKeys
from pipelines.model import NEVER

Mask = npt.NDArray[np.bool_]

RUN: Final = 4
"""Accepted records in a row that must be more than J ahead before M follows them (rule 6)."""
CAUTIOUS: Final = 256
"""Records tried at once after a jump; doubled with every success, so many jumps do not cost many whole blocks."""
ROUNDS: Final = 8
"""Attempts at the duplicates of a block before the part that is certain is kept and the rest begun anew."""


class InputClock:
    """The state of rules 4 to 6 for one input partition. `jump_ms` None: M follows every accepted record (live)."""

    __slots__ = ("jump_ms", "m", "run", "seen")

    def __init__(self, jump_ms: int | None, horizon_ms: int | None) -> None:
        self.jump_ms = jump_ms
        self.m = NEVER
        self.run: list[tuple[int, int]] = []
        self.seen = SeenKeys(horizon_ms) if horizon_ms else None

    def read(self, t: Index, ids: npt.NDArray[np.uint64]) -> tuple[Index, Mask | None]:
        """M before each record, and which are duplicates (None: none is); the clock and the keys move on."""
        places: Index | None = None
        repeats = NO_REPEATS
        if self.seen is not None:
            places, repeats = self.seen.locate(ids, self.m)
        block = _Block(t, ids.view(np.int64), places, repeats)
        at, n, width = 0, len(t), len(t)
        while at < n:
            if self.jump_ms is not None and (self.m == NEVER or self.run):
                at = self._one_by_one(block, at)
                continue
            end = min(at + width, n)
            at, jumps = self._at_once(block, at, end)
            width = CAUTIOUS if at < end else 2 * width
            if jumps:
                at = self._one_by_one(block, at)
        return block.before, block.duplicate if len(repeats.record) and block.duplicate.any() else None

    def settle(self) -> None:
        """Rule 6 (c1, c2): M goes to the smallest of the run, its records count again in order, their keys as seen now.

        Called after the fourth, and at the end of a file in which M never started.
        """
        run, self.run = self.run, []
        self.m = min(t for t, _ in run)
        for t, key in run:
            self._advance(t, key)
        if self.seen is not None:
            for _, key in run:
                self.seen.seen[self.seen.find(key)] = self.m

    def _advance(self, t: int, key: int) -> None:
        if self.jump_ms is None or (self.m > NEVER and t - self.m <= self.jump_ms):
            self.m = max(self.m, t)
            self.run.clear()
            return
        self.run.append((t, key))
        if len(self.run) == RUN:
            self.settle()

    def _one_by_one(self, block: _Block, at: int) -> int:
        """Reads records until M has started and no run is open; returns the index of the next one."""
        for i in range(at, len(block.t)):
            block.before[i] = self.m
            place = -1 if block.places is None else int(block.places[i])
            if self.seen is not None and self.m - int(self.seen.seen[place]) < self.seen.horizon_ms:
                block.duplicate[i] = True
                self.seen.seen[place] = self.m
                continue
            self._advance(int(block.t[i]), int(block.keys[i]))
            if self.seen is not None:
                self.seen.seen[place] = self.m
            if self.m > NEVER and not self.run:
                return i + 1
        return len(block.t)

    def _at_once(self, block: _Block, at: int, end: int) -> tuple[int, bool]:
        """Reads records up to `end`, or to the first that is more than J ahead; returns where it stopped, and if so."""
        t, before = block.t[at:end], block.before[at:end]
        after = self._maximum(t, before)
        first, last = np.searchsorted(block.repeats.record, (at, end)) if len(block.repeats.record) else (0, 0)
        stop, jumps = end, False
        if last > first:
            stop, after = self._duplicates(block, at, end, slice(int(first), int(last)), after)
        if self.jump_ms is not None and int(after[stop - at - 1]) - self.m > self.jump_ms:
            ahead = (t - before)[: stop - at] > self.jump_ms
            ahead &= ~block.duplicate[at:stop]
            if ahead.any():
                stop, jumps = at + int(ahead.argmax()), True
        if self.seen is not None and block.places is not None:
            self.seen.seen[block.places[at:stop]] = after[: stop - at]
            block.duplicate[stop:end] = False
        if stop > at:
            self.m = int(after[stop - at - 1])
        return stop, jumps

    def _maximum(self, t: Index, before: Index) -> Index:
        """M after each record if all are accepted and none jumps; `before` is filled with M before each."""
        after = np.maximum.accumulate(t)
        if after[0] < self.m:
            np.maximum(after, self.m, out=after)
        before[0] = self.m
        before[1:] = after[:-1]
        return after

    def _duplicates(self, block: _Block, at: int, end: int, which: slice, after: Index) -> tuple[int, Index]:
        """Rule 5 for the records that repeat a key: returns where the certain part ends, and M after each record.

        Which are duplicates depends on M, and M on which are accepted; but each only on earlier records. So guessing,
        computing M and deciding again makes at least one more decision right each time, usually all at once.
        """
        assert self.seen is not None and block.places is not None
        t, before, duplicate = block.t[at:end], block.before[at:end], block.duplicate[at:end]
        record, previous = block.repeats.record[which] - at, block.repeats.before[which] - at
        last = self.seen.seen[block.places[at + record]]
        inside = np.flatnonzero(previous >= 0)
        guess = np.zeros(len(record), dtype=np.bool_)
        for _ in range(ROUNDS):
            last[inside] = after[previous[inside]]
            decided = before[record] - last < self.seen.horizon_ms
            changed = np.flatnonzero(decided != guess)
            if not len(changed):
                return end, after
            moves = guess[changed].any() or (t[record[changed]] > before[record[changed]]).any()
            guess = decided
            duplicate[record] = guess
            if not moves:
                return end, after
            accepted = t.copy()
            accepted[record[guess]] = NEVER
            after = self._maximum(accepted, before)
        return at + int(record[changed[0]]) + 1, after


class _Block:
    """The records that are being read, and what is known of each so far."""

    __slots__ = ("before", "duplicate", "keys", "places", "repeats", "t")

    def __init__(self, t: Index, keys: Index, places: Index | None, repeats: Repeats) -> None:
        self.t, self.keys, self.places, self.repeats = t, keys, places, repeats
        self.before: Index = np.empty(len(t), dtype=np.int64)
        self.duplicate: Mask = np.zeros(len(t), dtype=np.bool_)
