"""The episode automaton (rule 27): what one place of one rule does at each window end. Pure, and small to remember.

All that a rule needs to know of a value is its class: how many of the rule's thresholds it reaches. `classify` turns
values into classes with NumPy; `advance` moves the state of one place by one window.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.alerts import Rule

MISSING: Final = 0
"""No cell: the place has no further reading."""
NULL: Final = 1
"""A cell without a value: no data, whatever its state (choice 13)."""
QUIET: Final = 2
"""A value beyond no threshold; higher classes reach one threshold more each."""


class State(NamedTuple):
    """Of one place: the clocks of each level (window ends in ms, None = not running), which have fired, what is open.

    `current` and `silent` are the `started_at` of the open episode and of the open no-data episode.
    """

    pending: tuple[int | None, ...]
    clearing: tuple[int | None, ...]
    fired: tuple[bool, ...]
    current: int | None
    silent: int | None


class Change(NamedTuple):
    """A step in the trail of an episode, which (silent, start) names within its rule and place."""

    silent: bool
    start: int
    at: int
    state: str
    level: str


class Automaton:
    """Of one rule. `trigger` tells which classes can move a place out of `idle`: all others leave it there."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.names = tuple(x.level.name for x in rule.levels)
        none = (None,) * len(rule.levels)
        self.idle = State(none, none, (False,) * len(rule.levels), None, None)
        limits = sorted({rule.sign * x for level in rule.levels for x in (level.raise_, level.clear)})
        self._limits: npt.NDArray[np.float64] = np.array(limits, dtype=np.float64)
        # Per class and level: has the value reached raise, and is it not clearing? No data with `clear` is neither.
        reached = [[False] * len(rule.levels)] * 2
        held = [[False] * len(rule.levels)] * 2
        for rank in range(len(limits) + 1):
            below = limits[:rank]
            reached.append([rule.sign * x.raise_ in below for x in rule.levels])
            held.append([rule.sign * x.clear in below for x in rule.levels])
        self._reached = tuple(map(tuple, reached))
        self._held = tuple(map(tuple, held))
        self._waits = tuple(x.for_ms for x in rule.levels)
        self.trigger: npt.NDArray[np.bool_] = np.array([any(x) for x in reached], dtype=np.bool_)
        self.trigger[NULL] = rule.no_data == "raise"

    def classify(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        """The class of each value; NaN is no data."""
        ranks = np.searchsorted(self._limits, self.rule.sign * values, side="right") + QUIET
        return np.where(np.isnan(values), NULL, ranks).astype(np.uint8)

    def advance(self, state: State, seen: int, end: int, step: int, changes: list[Change]) -> State:
        """The state after the window that ends at `end`, `step` ms after the one before, whose class is `seen`."""
        if seen == MISSING:
            if state.current is not None:
                changes.append(Change(False, state.current, end, "retired", self.shown(state)))
            if state.silent is not None:
                changes.append(Change(True, state.silent, end, "retired", "no_data"))
            return self.idle
        if seen == NULL and self.rule.no_data != "clear":
            return self._no_data(state, end, step, changes)
        if state.silent is not None:
            changes.append(Change(True, state.silent, end, "resolved", "no_data"))
        pending, clearing, fired = list(state.pending), list(state.clearing), list(state.fired)
        reached, held, keep = self._reached[seen], self._held[seen], self.rule.keep_firing_for_ms
        for k, wait in enumerate(self._waits):
            if not reached[k]:
                pending[k] = None
            elif not fired[k]:
                since = pending[k]
                since = end if since is None else since
                fired[k] = end - since >= wait
                pending[k] = None if fired[k] else since
            if held[k]:
                clearing[k] = None
            elif fired[k]:
                since = clearing[k]
                since = end if since is None else since
                fired[k] = end - since < keep
                clearing[k] = since if fired[k] else None
        after = State(tuple(pending), tuple(clearing), tuple(fired), state.current, None)
        level, shown = self.shown(after), self.shown(state)
        if level and level != shown:
            after = after._replace(current=end if state.current is None else state.current)
            changes.append(Change(False, end if state.current is None else state.current, end, "firing", level))
        elif state.current is not None and not level:
            after = after._replace(current=None)
            changes.append(Change(False, state.current, end, "resolved", shown))
        return after

    def _no_data(self, state: State, end: int, step: int, changes: list[Change]) -> State:
        """Time without data counts for no clock: they move on by the window's step."""
        silent = state.silent
        if self.rule.no_data == "raise" and silent is None:
            silent = end
            changes.append(Change(True, end, end, "firing", "no_data"))
        return State(
            tuple(None if x is None else x + step for x in state.pending),
            tuple(None if x is None else x + step for x in state.clearing),
            state.fired,
            state.current,
            silent,
        )

    def shown(self, state: State) -> str:
        """The highest level that has fired; '' when none has."""
        return next((name for name, on in zip(self.names[::-1], state.fired[::-1], strict=True) if on), "")


__all__ = ["MISSING", "NULL", "QUIET", "Automaton", "Change", "State"]
