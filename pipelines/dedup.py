"""The keys of an input partition that were seen within the horizon, and when: exact, bounded, no Python per event.

A hash table with open addressing in two NumPy columns. A block is looked up in rounds: all its keys at their own
slot, those that met another key at the next one, and so on; with a table at most half full a round is a fraction of
the one before. Rule 5 measures age in M, so a key that is older than the horizon is never a duplicate, stays where it
is, and goes when the table is next rebuilt; a rebuild makes room for as many keys again as it keeps.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.model import NEVER

Index = npt.NDArray[np.int64]

UNSEEN: Final = 4 * NEVER
"""`seen` of a key that was never seen: further below any M than a horizon reaches; differences still fit 64 bits."""
SMALLEST: Final = 1 << 12
FULL: Final = 0.5
"""Share of used slots at which the table is rebuilt."""
PIECE: Final = 1 << 15
NONE: Final[Index] = np.zeros(0, dtype=np.int64)


class Repeats:
    """The records of a block that may be duplicates, and their neighbours of the same key, in record order.

    `record` Int64: index within the block; `before` Int64: index of the record before it with the same key, or -1
    where there is none in the block (then the table says when the key was last seen).
    """

    __slots__ = ("before", "record")

    def __init__(self, record: Index, before: Index) -> None:
        self.record, self.before = record, before


NO_REPEATS: Final = Repeats(NONE, NONE)


class SeenKeys:
    """When each key of one input partition was last seen, as M at that time.

    A slot is a pair (key, seen) in one array, so that both are in one cache line. A free slot has key 0. While a block
    is looked up, `seen` of a slot that one of its records has taken is UNSEEN - index of that record.
    """

    __slots__ = ("_pairs", "horizon_ms", "keys", "seen", "used")

    def __init__(self, horizon_ms: int) -> None:
        self.horizon_ms = horizon_ms
        self._allot(SMALLEST)

    def __getstate__(self) -> tuple[int, Index]:
        return self.horizon_ms, self._pairs.reshape(-1, 2)[self._pairs[::2] != 0]

    def __setstate__(self, state: tuple[int, Index]) -> None:
        self.horizon_ms, pairs = state
        self._fill(pairs[:, 0], pairs[:, 1], 0)

    def __len__(self) -> int:
        """Slots, used and free."""
        return len(self._pairs) // 2

    def locate(self, ids: npt.NDArray[np.uint64], m: int) -> tuple[Index, Repeats]:
        """The place of every id, new ones included, and the records that repeat an id; `m` is M before the block.

        `seen[place]` is M when the id was last seen, <= UNSEEN if never; the caller must write it for every place
        before the next block. Places are valid until the next call. Raises ValueError on id 0, which says "no key".
        """
        if len(ids) and not ids.min():
            raise ValueError(
                "event id 0 stands for 'no key'; a stream that declares a dedup key must give ids (event_ids)"
            )
        if self.used + len(ids) > FULL * len(self):
            live = np.flatnonzero((self._pairs[::2] != 0) & (m - self._pairs[1::2] < self.horizon_ms))
            self._fill(self._pairs[::2][live], self._pairs[1::2][live], len(ids))
        return self._place(ids.view(np.int64))

    def find(self, key: int) -> int:
        """The place of one key (as Int64) that is in the table."""
        mask = len(self._pairs) - 2
        place = (key << 1) & mask
        while self.keys[place] != key:
            if not self.keys[place]:
                raise LookupError(f"key {key} is not in the table")
            place = (place + 2) & mask
        return place

    def _allot(self, size: int) -> None:
        self._pairs: Index = np.zeros(2 * size, dtype=np.int64)
        self.keys, self.seen, self.used = self._pairs[:-1], self._pairs[1:], 0
        self._pairs[1::2] = UNSEEN

    def _fill(self, keys: Index, seen: Index, more: int) -> None:
        """Starts a new table with these keys, with room for twice as many and `more`."""
        size = SMALLEST
        while size * FULL < 2 * len(keys) + more:
            size *= 2
        self._allot(size)
        places, _ = self._place(keys)
        self.seen[places] = seen

    def _place(self, keys: Index) -> tuple[Index, Repeats]:
        mask = np.int64(len(self._pairs) - 2)
        places = keys << np.int64(1)
        places &= mask
        repeats: list[Index] = []
        # The first round in pieces, so that the lines of the table that a piece has touched are still in the cache.
        left = [
            self._round(keys[i : i + PIECE], places[i : i + PIECE], np.arange(i, min(i + PIECE, len(keys))), repeats)
            for i in range(0, len(keys), PIECE)
        ]
        records = np.concatenate(left) if left else NONE
        while len(records):
            at = (places[records] + 2) & mask
            places[records] = at
            records = self._round(keys[records], at, records, repeats)
        return places, self._chains(places, repeats)

    def _round(self, keys: Index, places: Index, records: Index, repeats: list[Index]) -> Index:
        """Looks `keys` up at `places` and takes free ones; returns the records that met another key there."""
        found = self.keys[places]
        free = np.flatnonzero(found == 0)
        met = NONE
        if len(free) < len(found):
            taken = np.flatnonzero(found)
            same = found[taken] == keys[taken]
            if same.any():
                repeats.append(records[taken[same]])
                taken = taken[~same]
            met = records[taken]
        if len(free):
            # Of the records that meet in a free slot the last one written takes it; others share its key or go on.
            claimed = places[free]
            claim = UNSEEN - records[free]
            self.seen[claimed] = claim
            won = self.seen[claimed] == claim
            if won.all():
                self.keys[claimed] = keys[free]
                self.used += len(free)
            else:
                self.keys[claimed[won]] = keys[free[won]]
                self.used += int(np.count_nonzero(won))
                lost = free[~won]
                same = self.keys[places[lost]] == keys[lost]
                repeats.append(records[lost[same]])
                met = np.concatenate((met, records[lost[~same]]))
        return met

    def _chains(self, places: Index, repeats: list[Index]) -> Repeats:
        again = np.concatenate(repeats) if repeats else NONE
        if not len(again):
            return NO_REPEATS
        seen = self.seen[places[again]]
        owners = UNSEEN - seen[seen <= UNSEEN]
        record = np.unique(np.concatenate((again, owners)))
        of = places[record]
        order = np.argsort(of, kind="stable")
        before = np.full(len(record), -1, dtype=np.int64)
        follows = np.flatnonzero(of[order[1:]] == of[order[:-1]])
        before[order[1:][follows]] = record[order[:-1][follows]]
        return Repeats(record, before)
