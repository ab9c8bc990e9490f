"""The keys of an input partition that were seen within the horizon, and when: exact and bounded.

A hash table with open addressing. Rule 5 measures age in M, so a key that is older than the horizon is never a
duplicate, stays where it is, and goes when the table is next rebuilt; a rebuild makes room for as many keys again as it
keeps.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.compiled import compiled

Index = npt.NDArray[np.int64]

SMALLEST: Final = 1 << 12
FULL: Final = 0.5
"""Share of used slots at which the table is rebuilt."""
NO_KEYS: Final[Index] = np.zeros((0, 2), dtype=np.int64)


class SeenKeys:
    """When each key of one input partition was last seen, as M at that time.

    `slots` has a row (key, seen) for each slot, so that both are in one cache line; a free one has key 0. Whoever writes
    a key into a free slot adds to `used`.
    """

    __slots__ = ("_spare", "horizon_ms", "slots", "used")

    def __init__(self, horizon_ms: int) -> None:
        self.horizon_ms = horizon_ms
        self.slots: Index = NO_KEYS
        self._spare: Index = NO_KEYS
        self._fill(NO_KEYS, 0)

    def __getstate__(self) -> tuple[int, Index]:
        return self.horizon_ms, self.slots[self.slots[:, 0] != 0]

    def __setstate__(self, state: tuple[int, Index]) -> None:
        self.horizon_ms, pairs = state
        self.slots = self._spare = NO_KEYS
        self._fill(pairs, 0)

    def __len__(self) -> int:
        """Slots, used and free."""
        return len(self.slots)

    def reserve(self, count: int, m: int) -> None:
        """Makes room for so many new keys; those that are beyond the horizon at M may go."""
        if self.used + count > FULL * len(self):
            live = self.slots[: _gather(self.slots, m - self.horizon_ms)]
            self._fill(live, count)

    def pairs(self, m: int, keys: Index | None = None) -> Index:
        """Rows (key, seen) of these keys (or of more), or of all, without those that are beyond the horizon at M."""
        rows: Index = np.empty((self.used if keys is None else min(len(keys), self.used), 2), dtype=np.int64)
        if keys is None or len(keys) >= self.used:
            found = _live(self.slots, m - self.horizon_ms, rows)
        else:
            found = _look_up(self.slots, keys, m - self.horizon_ms, rows)
        return rows[:found]

    def add(self, pairs: Index, m: int) -> None:
        """Rows (key, seen), newer than those that are there."""
        self.reserve(len(pairs), m)
        self.used += _insert(self.slots, pairs)

    def _fill(self, pairs: Index, more: int) -> None:
        """Starts a new table with these keys, with room for twice as many and `more`."""
        size = SMALLEST
        while size * FULL < 2 * len(pairs) + more:
            size *= 2
        old = self.slots
        if len(self._spare) == size:
            self.slots = self._spare
            self.slots.fill(0)
        else:
            self.slots = np.zeros((size, 2), dtype=np.int64)
        self.used = len(pairs)
        _insert(self.slots, pairs)
        self._spare = old if len(old) == size else NO_KEYS


@compiled
def find(slots: Index, key: int) -> int:
    """The slot of a key, or the free one where it belongs. The number of slots is a power of two; one is free."""
    mask = len(slots) - 1
    slot = key & mask
    while slots[slot, 0] != key and slots[slot, 0] != 0:
        slot = (slot + 1) & mask
    return slot


@compiled
def _gather(slots: Index, beyond: int) -> int:
    """Moves the keys that were seen after `beyond` to the front; returns how many they are."""
    kept = 0
    for slot in range(len(slots)):
        if slots[slot, 0] != 0 and slots[slot, 1] > beyond:
            slots[kept, 0], slots[kept, 1] = slots[slot, 0], slots[slot, 1]
            kept += 1
    return kept


@compiled
def _insert(slots: Index, pairs: Index) -> int:
    """Puts the keys into the table; returns how many slots that took."""
    taken = 0
    for i in range(len(pairs)):
        slot = find(slots, pairs[i, 0])
        if slots[slot, 0] == 0:
            taken += 1
        slots[slot, 0], slots[slot, 1] = pairs[i, 0], pairs[i, 1]
    return taken


@compiled
def _look_up(slots: Index, keys: Index, beyond: int, rows: Index) -> int:
    """Copies the slots of those keys that were seen after `beyond` to `rows`; returns how many they are."""
    found = 0
    for i in range(len(keys)):
        slot = find(slots, keys[i])
        if slots[slot, 0] != 0 and slots[slot, 1] > beyond:
            rows[found, 0], rows[found, 1] = slots[slot, 0], slots[slot, 1]
            found += 1
    return found


@compiled
def _live(slots: Index, beyond: int, rows: Index) -> int:
    """Copies the slots of all keys that were seen after `beyond` to `rows`; returns how many they are."""
    found = 0
    for slot in range(len(slots)):
        if slots[slot, 0] != 0 and slots[slot, 1] > beyond:
            rows[found, 0], rows[found, 1] = slots[slot, 0], slots[slot, 1]
            found += 1
    return found
