"""M of one input partition: what each record finds it at, which records are duplicates, and when it may jump.

Rules 4 to 6, record by record as they are written; the loop is compiled.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from pipelines.compiled import compiled
from pipelines.dedup import NO_KEYS, Index, SeenKeys, find
from pipelines.model import NEVER

Mask = npt.NDArray[np.bool_]

RUN: Final = 4
"""Accepted records in a row that must be more than J ahead before M follows them (rule 6)."""


class InputClock:
    """The state of rules 4 to 6 for one input partition. `jump_ms` None: M follows every accepted record (live)."""

    __slots__ = ("_ahead", "_read_since", "_state", "jump_ms", "seen")

    def __init__(self, jump_ms: int | None, horizon_ms: int | None) -> None:
        self.jump_ms = jump_ms
        self.seen = SeenKeys(horizon_ms) if horizon_ms else None
        self._state: Index = np.array([NEVER, 0, 0], dtype=np.int64)
        self._ahead: Index = np.zeros((2 * RUN, 2), dtype=np.int64)
        self._read_since: list[Index] | None = None
        """Keys read since the last `saved`, once it was called."""

    @property
    def m(self) -> int:
        return int(self._state[0])

    @property
    def ahead(self) -> int:
        """How many records in a row were more than J ahead, or came before M started: 0 to 3."""
        return int(self._state[1])

    def read(self, t: Index, ids: npt.NDArray[np.uint64]) -> tuple[Index, Mask | None]:
        """M before each record, and which are duplicates (None: none is); the clock and the keys move on.

        Raises ValueError on id 0, which says "no key", where keys are declared.
        """
        slots, horizon_ms = NO_KEYS, 0
        if self.seen is not None:
            if len(ids) and not ids.min():
                raise ValueError(
                    "event id 0 stands for 'no key'; a stream that declares a dedup key must give ids (event_ids)"
                )
            self.seen.reserve(len(ids), self.m)
            slots, horizon_ms = self.seen.slots, self.seen.horizon_ms
            self._state[2] = self.seen.used
        before: Index = np.empty(len(t), dtype=np.int64)
        duplicate: Mask = np.zeros(len(t), dtype=np.bool_)
        jump_ms = -1 if self.jump_ms is None else self.jump_ms
        repeats = _read(t, ids.view(np.int64), slots, horizon_ms, jump_ms, self._state, self._ahead, before, duplicate)
        if self.seen is not None:
            self.seen.used = int(self._state[2])
            if self._read_since is not None:
                self._read_since.append(ids.view(np.int64))
        return before, duplicate if repeats else None

    def settle(self) -> None:
        """Rule 6 (c2): M starts at the end of a file in which it never did."""
        slots = NO_KEYS if self.seen is None else self.seen.slots
        jump_ms = -1 if self.jump_ms is None else self.jump_ms
        self._state[0], self._state[1] = _settle(slots, jump_ms, self._ahead, self._state[1])

    def saved(self, whole: bool) -> tuple[list[Index], Index]:
        """The clock, and the keys (rows of key, M when seen) within the horizon: all, or those read since the last call."""
        keys = NO_KEYS
        if self.seen is not None:
            # A run that settled changes when its keys were seen: they are in `ahead`, whenever they were read.
            since = None if whole or self._read_since is None else [*self._read_since, self._ahead[:, 1]]
            keys = self.seen.pairs(self.m, None if since is None else np.concatenate(since))
            self._read_since = []
        return [self._state[:2].copy(), self._ahead.copy()], keys

    def load(self, saved: list[Index], keys: list[Index]) -> None:
        """Into a fresh clock; of `keys` the last row of a key counts. They are saved already."""
        self._state[:2], self._ahead[:] = saved
        if self.seen is not None:
            for pairs in keys:
                self.seen.add(pairs, self.m)
            self._read_since = []


@compiled
def _read(
    t: Index,
    keys: Index,
    slots: Index,
    horizon_ms: int,
    jump_ms: int,
    state: Index,
    ahead: Index,
    before: Index,
    duplicate: Mask,
) -> int:
    """Fills `before` and `duplicate`; returns the number of duplicates. `state`: M, the records in `ahead`, slots used;
    `ahead`: t and key of the records of the run; `jump_ms` -1: there are no runs."""
    m, run, used, repeats, keyed, slot = state[0], state[1], state[2], 0, len(slots) > 0, 0
    for i in range(len(t)):
        before[i] = m
        if keyed:
            slot = find(slots, keys[i])
            if slots[slot, 0] == 0:
                slots[slot, 0] = keys[i]
                used += 1
            elif m - slots[slot, 1] < horizon_ms:
                slots[slot, 1] = m
                duplicate[i] = True
                repeats += 1
                continue
        if _follows(m, t[i], jump_ms):
            m, run = max(m, t[i]), 0
        else:
            ahead[run, 0], ahead[run, 1] = t[i], keys[i]
            run += 1
            if run == RUN:
                # The new record's key is in its slot already, so it is settled with the others.
                m, run = _settle(slots, jump_ms, ahead, run)
        if keyed:
            slots[slot, 1] = m
    state[0], state[1], state[2] = m, run, used
    return repeats


@compiled
def _follows(m: int, t: int, jump_ms: int) -> bool:
    return jump_ms < 0 or (m > NEVER and t - m <= jump_ms)


@compiled
def _settle(slots: Index, jump_ms: int, ahead: Index, count: int) -> tuple[int, int]:
    """Rule 6 (c1, c2): M goes to the smallest of the run, its records count again in order, their keys as seen now.

    Returns M and the records that are ahead of it still. The rows of `ahead` from RUN on are room to work in.
    """
    m, run = ahead[0, 0], 0
    for i in range(count):
        m = min(m, ahead[i, 0])
        ahead[RUN + i, 0], ahead[RUN + i, 1] = ahead[i, 0], ahead[i, 1]
    for i in range(RUN, RUN + count):
        if _follows(m, ahead[i, 0], jump_ms):
            m, run = max(m, ahead[i, 0]), 0
        else:
            ahead[run, 0], ahead[run, 1] = ahead[i, 0], ahead[i, 1]
            run += 1
    if len(slots):
        for i in range(RUN, RUN + count):
            slots[find(slots, ahead[i, 1]), 1] = m
    return m, run
